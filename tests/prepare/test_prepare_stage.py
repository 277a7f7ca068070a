import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fundusforge.images import read_contrast, read_image, read_mask, write_image
from fundusforge.prepare import PrepareConfig, prepare, stage
from fundusforge.prepare.patients import hash_patient
from fundusforge.prepare.produce import produce
from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, read_folder
from fundusforge.sources import SOURCES, Item, MaskSource

CONFIG = PrepareConfig(size=64, val=0.25, test=0.25)
KEY = "a-key-for-these-tests"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FUNDUSFORGE_PATIENT_KEY", KEY)


@pytest.fixture
def source(tmp_path, fundus):
    """Six eyes of three people with vessels, one exact copy, one broken file, one black picture."""
    root = tmp_path / "öffentlich und privat"
    (root / "vessels").mkdir(parents=True)
    rows = ["image,patient,grade"]
    for index in range(8):
        drawing = fundus(256, seed=index)
        write_image(root / f"eye {index}.png", drawing["image"])
        write_image(root / "vessels" / f"eye {index}.png", drawing["vessels"])
        rows.append(f"eye {index}.png,person {index // 2},{index % 5}")
    write_image(root / "eye 9.png", fundus(256, seed=0)["image"])
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    write_image(root / "black.png", np.zeros((256, 256, 3), np.uint8))
    rows += ["eye 9.png,person 3,1", "broken.jpg,person 8,0", "black.png,person 9,0"]
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return SOURCES["folder"](root=root)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejected(folder: Path) -> dict[str, str]:
    rows = map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    return {row["file"]: row["reason"] for row in rows}


def test_writes_a_dataset_folder(source, tmp_path):
    out = tmp_path / "out"
    summary = prepare(source, out, CONFIG)
    records = read_folder(out)
    assert summary.kept == len(records) == 8 and summary.rejected == 3
    reasons = rejected(out)
    assert "dark" in reasons["black.png"] or "not found" in reasons["black.png"]
    assert reasons["broken.jpg"] and str(tmp_path) not in str(reasons)
    assert [reason for reason in reasons.values() if "duplicate of images/eye_0.png" in reason]
    check_splits((out, records))
    assert len({record.patient for record in records}) == 4 == summary.patients
    assert (
        records[0].patient == hash_patient(KEY.encode(), "folder", "person 0")
        or len(records[0].patient) == 16
    )
    assert {record.split for record in records} == {"train", "val", "test"}
    first = records[0]
    assert read_image(out / first.image).shape == (64, 64, 3)
    assert read_mask(out / first.masks["vessels"].path).any() and read_mask(out / first.field_of_view).any()
    assert first.grade == 0 and first.masks["vessels"].origin == "human"
    written = "".join(path.read_text() for path in out.glob("*.json*"))
    assert "person" not in written and str(source.root) not in written and KEY not in written
    assert not (out / ".journal.jsonl").exists() and not list(out.rglob("*.partial"))


def test_shared_picture_joins_patients(source, tmp_path):
    for seed in range(4):
        config = replace(CONFIG, seed=seed)
        prepare(source, tmp_path / str(seed), config)
        splits = {r.image: r.split for r in read_folder(tmp_path / str(seed))}
        assert splits["images/eye_0.png"] == splits["images/eye_7.png"]


def test_duplicates_can_be_kept(source, tmp_path):
    prepare(source, tmp_path / "out", replace(CONFIG, duplicates="keep"))
    assert len(read_folder(tmp_path / "out")) == 9


def test_same_bytes_with_any_number_of_jobs(source, tmp_path):
    prepare(source, tmp_path / "one", CONFIG)
    prepare(source, tmp_path / "two", replace(CONFIG, jobs=2))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_killed_run_goes_on(source, tmp_path, monkeypatch):
    prepare(source, tmp_path / "whole", CONFIG)
    out, calls = tmp_path / "out", []

    def dies(job):
        calls.append(job.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return produce(job)

    monkeypatch.setattr(stage, "produce", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, CONFIG)
    journal = out / ".journal.jsonl"
    assert not (out / "metadata.jsonl").exists()
    with open(journal, "ab") as file:
        file.write(b'{"name": "cut off')
    with pytest.raises(DatasetError, match="unfinished run with other settings"):
        prepare(source, out, replace(CONFIG, size=32))
    before = list(calls)
    prepare(source, out, CONFIG)
    assert not set(before[:4]) & set(calls[5:])
    assert tree(out) == tree(tmp_path / "whole")


def test_a_finished_folder_stays_unless_overwritten(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = prepare(source, out, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "produce", None)
        assert prepare(source, out, CONFIG) == first
    with pytest.raises(DatasetError, match="other settings"):
        prepare(source, out, replace(CONFIG, seed=9))
    prepare(source, out, replace(CONFIG, size=32, overwrite=True))
    assert read_image(out / read_folder(out)[0].image).shape == (32, 32, 3)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"notes\.txt"):
        prepare(source, out, replace(CONFIG, overwrite=True))


def test_foreign_folders_are_left_alone(source, tmp_path):
    out = tmp_path / "work"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="is not empty"):
        prepare(source, out, CONFIG)
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        prepare(source, out, replace(CONFIG, overwrite=True))
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("jobs", [1, 2])
def test_full_disk_names_the_folder(source, tmp_path, monkeypatch, jobs):
    out = tmp_path / "out"
    prepare(source, out, CONFIG)
    for name in ("metadata.jsonl", "prepare.json", "rejected.jsonl"):
        (out / name).unlink()
    for path in out.rglob("*.png"):
        path.unlink()
    for folder in ("images", "field_of_view", "masks/vessels", "masks"):
        (out / folder).rmdir()
    (out / "images").write_text("a file where a folder should be")
    (out / ".journal.jsonl").write_text("")
    with pytest.raises(DatasetError, match=f"{out}: cannot be written"):
        prepare(source, out, replace(CONFIG, jobs=jobs))


def test_no_space_left(source, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fundusforge.prepare.produce.write_image", full)
    with pytest.raises(DatasetError, match="out: cannot be written .No space left on device"):
        prepare(source, tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").rglob("*.png*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output(source, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(DatasetError, match="cannot be written"):
        prepare(source, tmp_path / "out", CONFIG)


def test_nothing_passes(tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(DatasetError, match="no picture passed"):
        prepare(SOURCES["folder"](root=tmp_path / "in"), tmp_path / "out", CONFIG)


def slice_of(seed: int) -> np.ndarray:
    values = np.full((48, 40), -0.5, np.float32)
    values[8:40, 8:32] = np.random.default_rng(seed).normal(0, 1, (32, 24))
    return values


def preview_of(seed: int) -> np.ndarray:
    grey = np.clip(slice_of(seed) * 40 + 128, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def tumour(size: tuple[int, int] = (48, 40)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[20:24, 20:24] = 255
    return mask


@dataclass(frozen=True)
class Given:
    """A source of given items."""

    given: tuple[Item, ...]
    root: Path | None = None

    def items(self):
        return iter(self.given)


def brain(seed: int, **options) -> Item:
    return Item(
        key=f"case {seed}/slice",
        file=Path(f"case{seed}.nii"),
        load=partial(preview_of, seed),
        patient=f"case {seed}",
        source="brain",
        contrasts={name: partial(slice_of, seed + place) for place, name in enumerate(("t1", "flair"))},
        **{"masks": {"oedema": MaskSource(load=tumour)}, **options},
    )


def test_magnetic_resonance(tmp_path):
    out = tmp_path / "out"
    prepare(Given((brain(0), brain(10), brain(20))), out, replace(CONFIG, size=48))
    records = read_folder(out)
    assert len(records) == 3 and records[0].field_of_view is None
    flair = records[0].contrasts["flair"]
    values = read_contrast(out / flair.path, scale=flair.scale, offset=flair.offset)
    np.testing.assert_allclose(values[:, 4:44], slice_of(1), atol=flair.scale)
    assert (read_mask(out / records[0].masks["oedema"].path)[20:24, 24:28] == 255).all()


def test_a_mask_of_another_size_rejects_its_picture(tmp_path):
    wrong = brain(5, masks={"oedema": MaskSource(load=partial(tumour, (30, 30)))})
    prepare(Given((brain(0), brain(10), wrong)), tmp_path, replace(CONFIG, size=48))
    assert rejected(tmp_path) == {"case5.nii": "oedema: mask is 30x30 pixels, the picture 40x48"}


def test_names_are_safe_and_unique(tmp_path):
    keys = ("../../etc", "Ärztin 1", "ärztin 1", ".hidden", "x" * 300, "a/b", "a b")
    given = tuple(replace(brain(10 * place), key=key) for place, key in enumerate(keys))
    prepare(Given(given), tmp_path, replace(CONFIG, size=48))
    names = [Path(record.image).stem for record in read_folder(tmp_path)]
    assert len(names) == 7 and names[:4] == ["etc", "Ärztin_1", "ärztin_1-2", "hidden"]
    assert names[5:] == ["a_b", "a_b-2"] and len(names[4]) <= 120


def test_several_sources_share_one_folder(source, tmp_path):
    drawn = SOURCES["phantom"](count=2, pixels=256)
    prepare([source, drawn], tmp_path / "out", CONFIG)
    names = {record.source: record.image for record in read_folder(tmp_path / "out")}
    assert set(names) == {"folder", "phantom"} and names["phantom"].startswith("images/phantom_")


def test_jpeg_and_no_metadata_survives(source, tmp_path):
    from PIL import Image

    prepare(source, tmp_path / "out", replace(CONFIG, format="jpeg"))
    record = read_folder(tmp_path / "out")[0]
    assert record.image.endswith(".jpg")
    with Image.open(tmp_path / "out" / record.image) as picture:
        assert not picture.getexif() and "icc_profile" not in picture.info and "comment" not in picture.info


def test_settings_are_checked():
    for wrong in ({"size": 4}, {"val": 0.6, "test": 0.5}, {"gamma": 0.0}, {"jobs": 0}, {"jpeg_quality": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PrepareConfig(**wrong)
