"""The dataset folder: what is written comes back, and what is broken is refused by file and line."""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fundusforge import records
from fundusforge.images import write_image
from fundusforge.prepare.split import check_splits
from fundusforge.records import (
    MASKS,
    Contrast,
    DatasetError,
    Mask,
    Provenance,
    Record,
    from_line,
    read_folder,
    to_line,
    with_mask,
    write_bytes,
    write_metadata,
    write_text,
)

FULL = Record(
    image="images/left eye ö.png",
    patient="3f2a",
    source="drive",
    masks={
        "vessels": Mask(path="vessels/a.png", origin="human"),
        "cup": Mask(path="cup/a.png", origin="predicted"),
        "laser_marks": Mask(path="laser/a.png", origin="predicted", soft=True),
    },
    field_of_view="fov/a.png",
    visit=1,
    eye="left",
    age=63.5,
    sex="female",
    camera="Canon CR5",
    terms="CC BY 4.0",
    split="train",
    grade=0,
    oedema_risk=0,
    labels=("cataract", "line\u2028separator\x85"),
    predicted=("grade",),
    confidences={"grade": 0.5, "cup": 1.0},
    synthetic=True,
    structure_from_patient=True,
    provenance=Provenance(model="pix2pix-1f", seed=7, index=0, condition="phantom:3", code=(0.5, -1.0)),
)
MINIMAL = Record(image="a.png", patient="p", source="s")
SLICE = Record(
    image="t1.png",
    patient="p",
    source="brats",
    contrasts={
        "t1": Contrast(path="t1.png", scale=0.1, offset=-3.0),
        "flair": Contrast(path="f.png", scale=1, offset=0),
    },
)


def line(**changes: Any) -> str:
    return json.dumps({"file_name": "a.png", "patient": "p", "source": "s"} | changes)


@pytest.mark.parametrize("record", [FULL, MINIMAL, SLICE], ids=["full", "minimal", "contrasts"])
def test_line_comes_back_equal(record: Record) -> None:
    text = to_line(record)
    assert "\n" not in text
    assert from_line(text) == record


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    patient=TEXT,
    labels=st.lists(TEXT, max_size=3).map(tuple),
    grade=st.none() | st.integers(0, 4),
    age=st.none() | st.floats(0, 150),
    masks=st.dictionaries(
        st.sampled_from(MASKS), st.sampled_from(["human", "predicted", "generated", "phantom"]), max_size=4
    ),
    synthetic=st.booleans(),
)
def test_any_record_comes_back_equal(
    patient: str, labels: tuple[str, ...], grade: int | None, age: float | None, masks: dict, synthetic: bool
) -> None:
    record = Record(
        image="i/a.png",
        patient=patient,
        source="s",
        labels=labels,
        grade=grade,
        age=age,
        synthetic=synthetic,
        masks={name: Mask(path=f"{name}/a.png", origin=origin) for name, origin in masks.items()},
    )
    assert from_line(to_line(record)) == record


def test_a_line_leaves_out_what_is_unknown_but_keeps_zero() -> None:
    assert json.loads(to_line(MINIMAL)) == {"file_name": "a.png", "patient": "p", "source": "s"}
    row = json.loads(to_line(replace(MINIMAL, grade=0, oedema_risk=0, age=0.0)))
    assert (row["grade"], row["oedema_risk"], row["age"]) == (0, 0, 0)
    assert from_line(json.dumps(row)).grade == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "object with a file_name"),
        ('{"patient": "p"}', "file_name"),
        (line(colour="red"), "unknown field 'colour'"),
        (line(hair_file_name="h.png"), "unknown field 'hair_file_name'"),
        (line(image="/etc/passwd"), "unknown field 'image'"),
        (line(field_of_view="../f.png"), "unknown field 'field_of_view'"),
        (line(masks={"vessels": {"path": "/v.png", "origin": "human"}}), "unknown field 'masks'"),
        (line(contrasts={"t1": {"path": "/v.png", "scale": 1, "offset": 0}}), "unknown field 'contrasts'"),
        ('{"file_name": "a.png", "patient": "p", "patient": "q", "source": "s"}', "'patient' stands twice"),
        (line(age=float("nan")), "NaN"),
        (line(age=float("inf")), "Infinity"),
        (line(file_name="/a.png"), "absolute"),
        (line(file_name="x/../../a.png"), "leaves the folder"),
        (line(file_name="..\\a.png"), "leaves the folder"),
        (line(file_name="C:/a.png"), "absolute"),
        (line(file_name="a\0.png"), "file name"),
        (line(file_name=3), "file name"),
        (line(file_name=""), "file name"),
        (line(vessels_file_name="/v.png", mask_origins={"vessels": "human"}), "absolute"),
        (line(field_of_view_file_name="../v.png"), "leaves the folder"),
        (line(t1_file_name="../v.png", contrast_scales={"t1": {"scale": 1, "offset": 0}}), "leaves"),
        (line(t1_file_name="v.png", contrast_scales={"t1": {"path": "/x", "scale": 1}}), "offset"),
        (line(vessels_file_name="v.png"), "masks.vessels.origin"),
        (line(vessels_file_name="v.png", mask_origins={"vessels": "me"}), "masks.vessels.origin"),
        (line(mask_origins={"vessels": "human"}), "no such file"),
        (line(contrast_scales={"t1": {"scale": 1, "offset": 0}}), "no such file"),
        (line(soft_masks={"vessels": True}), "no such file"),
        (line(soft_masks=["vessels"]), "soft_masks: expected an object"),
        (line(confidences={"grade": 1.5}), "confidence of 'grade' must be between 0 and 1"),
        (line(confidences={"grade": "high"}), "confidences.grade"),
        (line(mask_origins=["vessels"]), "mask_origins: expected an object"),
        (line(t1_file_name="v.png", contrast_scales={"t1": 3}), "t1: expected an object"),
        (line(grade=5), "grade must be between 0 and 4"),
        (line(grade="3"), "grade"),
        (line(grade=True), "grade"),
        (line(oedema_risk=3), "oedema_risk must be"),
        (line(visit=0), "visit must be"),
        (line(age=-1), "age must be"),
        (line(synthetic="yes"), "synthetic"),
        (line(eye="middle"), "eye"),
        (line(split="training"), "split"),
        (line(patient=None), "patient"),
        (line(labels="cataract"), "labels"),
        (line(provenance={"model": "m"}), "provenance.seed"),
    ],
)  # fmt: skip
def test_a_broken_line_is_refused_by_place_and_fault(text: str, named: str) -> None:
    with pytest.raises(DatasetError, match=r"^m\.jsonl:3: ") as error:
        from_line(text, where="m.jsonl:3")
    assert named in str(error.value)


def test_paths_are_spelt_plainly() -> None:
    assert from_line(line(file_name="./i//a.png")).image == "i/a.png"


def test_nulls_of_a_rewritten_folder_count_as_unknown() -> None:
    """Hugging Face and pandas write a null where a column has no value."""
    text = line(
        grade=None,
        vessels_file_name="v.png",
        disc_file_name=None,
        mask_origins={"vessels": "human", "disc": None},
        soft_masks={"vessels": None, "disc": None},
        confidences={"grade": None, "eye": 0.5},
    )
    record = from_line(text)
    assert set(record.masks) == {"vessels"} and not record.masks["vessels"].soft
    assert record.confidences == {"eye": 0.5}
    assert record.grade is None


def test_records_refuse_what_they_cannot_mean() -> None:
    with pytest.raises(DatasetError, match="unknown mask 'vesels'"):
        replace(MINIMAL, masks={"vesels": Mask(path="v.png", origin="human")})
    with pytest.raises(DatasetError, match="unknown contrast"):
        replace(MINIMAL, contrasts={"dwi": Contrast(path="v.png", scale=1, offset=0)})
    with pytest.raises(DatasetError, match="age"):
        replace(MINIMAL, age=float("nan"))
    with pytest.raises(DatasetError, match=r"a\.png: a number"):
        to_line(replace(MINIMAL, contrasts={"t1": Contrast(path="v.png", scale=float("inf"), offset=0)}))


def test_with_mask_adds_and_replaces() -> None:
    one = with_mask(MINIMAL, "vessels", "v.png", "human")
    two = with_mask(one, "vessels", "w.png", "predicted")
    assert MINIMAL.masks == {}
    assert two.masks == {"vessels": Mask(path="w.png", origin="predicted")}
    assert one.files() == {"image": "a.png", "vessels": "v.png"}


def test_folder_comes_back_and_splits_select(dataset_folder: Path) -> None:
    found = read_folder(dataset_folder)
    assert len(found) == 6
    assert {record.split for record in found} == {"train", "val", "test"}
    assert [r for r in found if r.split == "val"] == read_folder(dataset_folder, splits=["val"])
    before = (dataset_folder / records.METADATA).read_bytes()
    write_metadata(dataset_folder, found)
    assert (dataset_folder / records.METADATA).read_bytes() == before


def test_line_separators_inside_text_do_not_end_a_line(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    record = replace(MINIMAL, labels=("a\u2028b", "c\x85d\x0c\x1e"))
    write_metadata(tmp_path, [record])
    assert read_folder(tmp_path) == [record]


def _spoil(folder: Path, number: int, **changes: Any) -> None:
    path = folder / records.METADATA
    rows = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    rows[number - 1] = {k: v for k, v in (rows[number - 1] | changes).items() if v is not None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _refused(folder: Path, *named: str, **options: Any) -> None:
    with pytest.raises(DatasetError) as error:
        read_folder(folder, **options)
    for text in named:
        assert text in str(error.value)


def test_folder_without_metadata_or_no_folder(tmp_path: Path) -> None:
    _refused(tmp_path, "has no metadata.jsonl", "fundusforge prepare")
    _refused(tmp_path / "none", "is not a folder")
    (tmp_path / "file").write_text("x")
    _refused(tmp_path / "file", "is not a folder")
    write_metadata(tmp_path, [])
    _refused(tmp_path, "no records")


def test_no_records_of_a_split(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    write_metadata(tmp_path, [MINIMAL])
    _refused(tmp_path, "no records of split val or test", splits=["val", "test"])


def test_blank_line_and_other_encodings(dataset_folder: Path) -> None:
    path = dataset_folder / records.METADATA
    good = path.read_bytes()
    path.write_bytes(good.replace(b"\n", b"\n\n", 1))
    _refused(dataset_folder, "metadata.jsonl:2: not JSON")
    path.write_bytes(good.replace(b"drawn", b"dr\xffwn", 1))
    _refused(dataset_folder, "metadata.jsonl", "not UTF-8")
    path.write_bytes(good.replace(b"\n", b"\r\n"))
    assert len(read_folder(dataset_folder)) == 6


def test_the_same_image_twice(dataset_folder: Path) -> None:
    _spoil(dataset_folder, 5, file_name="images/./000.png")
    _refused(dataset_folder, "metadata.jsonl:5", "'images/000.png' stands twice")


def test_missing_and_unreadable_files(dataset_folder: Path) -> None:
    mask = dataset_folder / "vessels" / "003.png"
    data = mask.read_bytes()
    mask.unlink()
    _refused(dataset_folder, "metadata.jsonl:4", "missing file 'vessels/003.png' (vessels)")
    assert len(read_folder(dataset_folder, check_files=False)) == 6
    for bad in (b"", b"no picture", data[:20]):
        mask.write_bytes(bad)
        _refused(dataset_folder, "metadata.jsonl:4", "unreadable image 'vessels/003.png'")
        with pytest.raises(DatasetError, match="^((?!0x).)*$"):  # no address of an object in the message
            read_folder(dataset_folder)
    mask.unlink()
    mask.mkdir()
    _refused(dataset_folder, "metadata.jsonl:4", "unreadable image 'vessels/003.png'")


def test_a_header_of_absurd_size(dataset_folder: Path) -> None:
    path = dataset_folder / "images" / "001.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _refused(dataset_folder, "metadata.jsonl:2", "unreadable image 'images/001.png'")


def test_mask_of_another_size(dataset_folder: Path) -> None:
    write_image(dataset_folder / "disc" / "002.png", np.zeros((32, 64), np.uint8))
    _refused(dataset_folder, "metadata.jsonl:3", "disc 'disc/002.png' is 64x32 pixels", "64x64")


def test_sizes_are_compared_upright(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    write_image(tmp_path / "v.png", np.zeros((8, 4), np.uint8))
    record = with_mask(replace(MINIMAL, image="a.jpg"), "vessels", "v.png", "human")
    write_metadata(tmp_path, [record])
    assert read_folder(tmp_path) == [record]


def test_links_must_stay_inside(dataset_folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    inside = dataset_folder / "images" / "000.png"
    outside.write_bytes(inside.read_bytes())
    inside.unlink()
    inside.symlink_to(outside)
    _refused(dataset_folder, "metadata.jsonl:1", "link that leaves the folder")
    inside.unlink()
    inside.symlink_to(dataset_folder / "images" / "001.png")
    assert len(read_folder(dataset_folder)) == 6


def test_a_link_to_the_whole_folder_is_fine(dataset_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset_folder)
    assert len(read_folder(tmp_path / "link")) == 6


def test_writing_replaces_at_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "ö\n")
    assert path.read_bytes() == "ö\n".encode()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == "ö\n".encode()
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.bin", b"new")
    assert list(tmp_path.iterdir()) == []


def test_writing_where_one_cannot_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        write_bytes(tmp_path / "file" / "a.bin", b"new")


def test_patients_stay_in_one_split(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    train = replace(MINIMAL, split="train")
    check_splits((here, [train, replace(train, image="b.png")]), (there, [train]))
    check_splits((here, [train, replace(MINIMAL, split=None, image="b.png")]))
    torn = [replace(train, patient=f"p{n}") for n in range(7)]
    with pytest.raises(DatasetError, match="7 patients") as error:
        check_splits((here, torn), (there, [replace(record, split="test") for record in torn]))
    message = str(error.value)
    assert f"p0: test in {there}, train in {here}" in message
    assert "p4" in message
    assert "p5" not in message
    with pytest.raises(DatasetError, match="1 patients"):
        check_splits((here, [train, replace(train, image="b.png", split="val")]))


@pytest.mark.slow
def test_hugging_face_opens_the_folder(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With records that lack some masks, the first one included, and synthetic beside real ones."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = read_folder(dataset_folder)
    found[0] = replace(found[0], masks={}, field_of_view=None, grade=None)
    found[1] = replace(found[1], masks={"vessels": found[1].masks["vessels"]}, age=50)
    found[2] = replace(found[2], synthetic=True, provenance=FULL.provenance, labels=("a", "b"))
    write_metadata(dataset_folder, found)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(dataset_folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 6
    for row, record in zip(loaded, found, strict=True):
        assert row["patient"] == record.patient
        assert row["image"].size == (64, 64)
        for what in ("vessels", "disc", "field_of_view"):
            assert (row[what] is not None) == (what in record.files())
        assert row["grade"] == record.grade
    assert loaded[2]["provenance"]["condition"] == "phantom:3"
