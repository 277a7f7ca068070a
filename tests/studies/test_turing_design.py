"""A study is drawn by seed, shows no training image, and nothing but the picture tells what is synthetic."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turing_study import Folders, change, truths, two_folders

from fundusforge.cli import main
from fundusforge.images import SYNTHETIC_XMP, read_image, read_mask, write_image
from fundusforge.records import DatasetError, Mask, read_folder
from fundusforge.studies.turing.design import spaced
from fundusforge.studies.turing.study import StudyError, read_key, read_study

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def shared(drawn_folder: Folder) -> Folders:
    """Folders that no test changes."""
    return two_folders(drawn_folder)


@pytest.fixture
def own(drawn_folder: Folder) -> Folders:
    """Folders of this test alone."""
    return two_folders(drawn_folder)


def chunks(data: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of every chunk of a PNG."""
    place, found = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8].decode(), data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Return marker and content of every segment of a JPEG before its scan."""
    place, found = 2, []
    while data[place + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        found.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    return found


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kinds(folder: Path) -> dict[str, list[Path]]:
    """Return the files of pictures by what they are."""
    known, found = truths(folder), {"real": [], "synthetic": []}
    for picture in read_study(folder).pictures:
        found[known[picture.image]].append(folder / picture.file)
    return found


# ---- what is drawn -----------------------------------------------------------------------------------------


def test_the_seed_decides(shared: Folders, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"repeats": 2, "orders": 3, "conditions": ("full", "crop")}
    first, again, other = (tmp_path / name for name in ("a", "b", "c"))
    shared.design(first, **settings)
    shared.design(again, **settings)
    shared.design(other, seed=1, **settings)
    assert everything(first) == everything(again)
    assert not set(everything(first)) & set(everything(other)) - {"study.json", "key.json"}
    assert read_study(first).orders != read_study(other).orders


def test_no_training_image_is_shown_unless_asked(shared: Folders, tmp_path: Path) -> None:
    for seed in range(3):
        shared.design(tmp_path / str(seed), seed=seed)
        key = read_key(tmp_path / str(seed))
        splits = {one.record["split"] for one in key.images.values() if one.truth == "real"}
        assert splits <= {"val", "test"}
        assert Counter(one.truth for one in key.images.values()) == {"real": 4, "synthetic": 3}
    made = shared.design(tmp_path / "asked", splits=("train",))
    records = [one.record for one in read_key(tmp_path / "asked").images.values() if one.truth == "real"]
    assert {record["split"] for record in records} == {"train"}
    assert any("generators may have learnt" in warning for warning in made.warnings)


def test_patients_come_once_before_any_comes_twice(shared: Folders, tmp_path: Path) -> None:
    shared.design(tmp_path / "a")  # four patients of val and test have two eyes each
    made = shared.design(tmp_path / "b", real_images=6)
    for name, patients in (("a", 4), ("b", 4)):
        key = read_key(tmp_path / name)
        assert len({e.record["patient"] for e in key.images.values() if e.truth == "real"}) == patients
    assert "several real images are of one patient" in made.warnings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"real_images": 9}, "expected 9 images of split val or test, found 8"),
        ({"synthetic_images": 7}, "expected 7 images, found 6"),
        ({"conditions": ("mask",), "masks": ("cup",)}, "with masks cup, found 0"),
        ({"repeats": 8}, "at most 7 repeats"),
        ({"repeats": 7, "gap": 12}, "smaller --gap"),
        ({"conditions": ("full", "full")}, "each once"),
        ({"crop": 1.0}, "between 0.1 and 0.9"),
        ({"side": 8}, "between 32 and 4096"),
        ({"orders": 0}, "orders must be 1 or more"),
    ],
)
def test_what_cannot_be_is_said(shared: Folders, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        shared.design(tmp_path / "study", **settings)
    assert not (tmp_path / "study").exists()


def test_kinds_are_not_mixed_up(shared: Folders, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="are synthetic"):
        Folders(shared.synthetic, shared.synthetic).design(tmp_path / "study")
    with pytest.raises(StudyError, match="are real"):
        Folders(shared.real, shared.real).design(tmp_path / "study")


def test_a_patient_in_two_splits_stops_it(own: Folders, tmp_path: Path) -> None:
    change(own.real, lambda record: replace(record, patient="same"))
    with pytest.raises(DatasetError, match="stand in more than one split"):
        own.design(tmp_path / "study")


def test_a_frozen_study_is_never_written_over(shared: Folders, tmp_path: Path) -> None:
    shared.design(tmp_path / "study")
    before = everything(tmp_path / "study")
    with pytest.raises(StudyError, match="studies are frozen"):
        shared.design(tmp_path / "study", seed=1)
    assert everything(tmp_path / "study") == before


# ---- what may tell them apart ------------------------------------------------------------------------------


def test_pngs_differ_in_nothing_but_pixels(own: Folders, tmp_path: Path) -> None:
    """Synthetic images carry marks of their origin, which must not reach the reader."""
    for record in read_folder(own.synthetic):
        path = own.synthetic / record.image
        write_image(path, read_image(path), text={"Comment": "synthetic"}, xmp=SYNTHETIC_XMP)
    own.design(tmp_path / "study")
    found = kinds(tmp_path / "study")
    heads = set()
    for path in [*found["real"], *found["synthetic"]]:
        names = [name for name, _ in chunks(path.read_bytes())]
        assert set(names) == {"IHDR", "IDAT", "IEND"}, names
        heads.add(chunks(path.read_bytes())[0][1])
    assert len(heads) == 1 and len(found["real"]) == 4 and len(found["synthetic"]) == 3


def test_jpegs_differ_in_nothing_but_pixels(shared: Folders, tmp_path: Path) -> None:
    shared.design(tmp_path / "study", encoding="jpg")
    heads = {
        tuple((marker, content) for marker, content in segments(path.read_bytes()) if marker != 0xC4)
        for paths in kinds(tmp_path / "study").values() for path in paths
    }  # fmt: skip
    assert len(heads) == 1, "frame, quantisation or anything else differs"
    assert {marker for marker, _ in heads.pop()} <= {0xE0, 0xDB, 0xC0}


def test_all_show_the_same_field_of_view(own: Folders, tmp_path: Path) -> None:
    """A cut-off field in one kind alone would tell; what lies outside of it is black in both."""
    for number, record in enumerate(read_folder(own.real)):
        path = own.real / str(record.field_of_view)
        mask = read_mask(path)
        mask[: 5 + number % 2] = 0
        write_image(path, mask)
        image = read_image(own.real / record.image)
        image[mask == 0] = 90  # a grey frame, and letters in it
        write_image(own.real / record.image, image)
    own.design(tmp_path / "common")
    shown = {kind: [read_image(p) for p in paths] for kind, paths in kinds(tmp_path / "common").items()}
    union = {kind: np.max([image.max(2) for image in images], 0) > 0 for kind, images in shown.items()}
    assert not union["real"][:6].any() and not union["synthetic"][:6].any()
    assert (union["real"] != union["synthetic"]).mean() < 0.002
    own.design(tmp_path / "own", field="own")
    assert any(read_image(path)[5].any() for path in kinds(tmp_path / "own")["synthetic"])


def test_fields_that_hardly_overlap_are_refused(own: Folders, tmp_path: Path) -> None:
    for record in read_folder(own.synthetic):
        path = own.synthetic / str(record.field_of_view)
        mask = read_mask(path)
        mask[:24] = 0
        write_image(path, mask)
    with pytest.raises(StudyError, match=r"only \d+% of its field of view"):
        own.design(tmp_path / "study")


def test_a_field_that_nobody_recorded_is_found(own: Folders, tmp_path: Path) -> None:
    change(own.real, lambda record: replace(record, field_of_view=None))
    own.design(tmp_path / "study")
    corners = [read_image(path)[:4, :4].max() for path in kinds(tmp_path / "study")["real"]]
    assert max(corners) == 0


def test_sizes_become_one_and_their_differences_are_said(drawn_folder: Folder, tmp_path: Path) -> None:
    folders = two_folders(drawn_folder, size=64, synthetic_size=48)
    made = folders.design(tmp_path / "small")
    assert {(p.width, p.height) for p in made.study.pictures} == {(48, 48)}
    assert any("64 to 64 px" in warning and "48 to 48 px" in warning for warning in made.warnings)
    large = folders.design(tmp_path / "large", side=64)
    assert any("enlarged to 64 px" in warning for warning in large.warnings)
    assert not any("enlarged" in warning for warning in made.warnings)


def test_names_tell_nothing(shared: Folders, tmp_path: Path) -> None:
    """Sorted by name, kinds alternate as chance would have it; and readers never see the names anyway."""
    study = shared.design(tmp_path / "study", conditions=("full", "crop"), assign="each").study
    files = [picture.file for picture in study.pictures]
    assert files == sorted(files) and len(set(files)) == 14
    assert Counter(Counter(p.image for p in study.pictures).values()) == {2: 7}
    known = truths(tmp_path / "study")
    assert set(known) == {picture.image for picture in study.pictures}
    text = (tmp_path / "study" / "study.json").read_text()
    for telling in ("truth", "real_images", "synthetic_images", "phantom", "drawn-", "record"):
        assert telling not in text


def test_warnings_name_what_stands_against_it(own: Folders, tmp_path: Path) -> None:
    change(own.real, lambda record: replace(record, terms="not to be redistributed"))

    def structured(record: Any) -> Any:
        masks = {name: Mask(path=mask.path, origin="generated") for name, mask in record.masks.items()}
        return replace(record, structure_from_patient=True, masks=masks)

    change(own.synthetic, structured)
    warnings = " | ".join(own.design(tmp_path / "study", conditions=("mask",)).warnings)
    for said in ("forbids passing it on", "vessels of patients", "masks of real images are phantom"):
        assert said in warnings
    change(own.real, lambda record: replace(record, terms="CC BY 4.0"))
    assert "terms of the real" not in " | ".join(own.design(tmp_path / "free").warnings)


# ---- orders and conditions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_repeats_stand_apart_and_are_spread_over_the_kinds(
    shared: Folders, tmp_path: Path, seed: int
) -> None:
    study = shared.design(tmp_path / "study", synthetic_images=4, repeats=4, gap=3, orders=6, seed=seed).study
    assert study.total == 12 and len(study.orders) == 6 and len(set(study.orders)) == 6
    known = truths(tmp_path / "study")
    for reader in range(1, 7):
        order = study.order(reader)
        for place, one in enumerate(order):
            assert one not in order[max(0, place - 3) : place]
        showings = [study.showing(reader, position) for position in range(1, 13)]
        assert Counter(showings) == {1: 8, 2: 4}
        again = {study.picture(reader, p).image for p, s in enumerate(showings, 1) if s == 2}
        assert Counter(known[image] for image in again) == {"real": 2, "synthetic": 2}
        seen: set[str] = set()
        for position, showing in enumerate(showings, 1):
            image = study.picture(reader, position).image
            assert (image in seen) == (showing == 2)
            seen.add(image)
    assert study.order(7) == study.order(1)


def test_one_order_is_the_same_for_all(shared: Folders, tmp_path: Path) -> None:
    study = shared.design(tmp_path / "study").study
    assert len({study.order(reader) for reader in range(1, 30)}) == 1


def test_an_order_is_no_sorting_by_kind(shared: Folders, tmp_path: Path) -> None:
    patterns = set()
    for seed in range(6):
        study = shared.design(tmp_path / str(seed), seed=seed).study
        known = truths(tmp_path / str(seed))
        patterns.add("".join(known[study.picture(1, p).image][0] for p in range(1, 8)))
    assert len(patterns) > 3


@pytest.mark.parametrize("images", [["a"], ["a", "b", "a"], list("abcabcabc")])
def test_the_gap_is_kept_where_it_can_be(images: list[str]) -> None:
    for seed in range(20):
        order = spaced(images, gap=1, rng=np.random.default_rng(seed))
        names = [images[place] for place in order]
        assert sorted(order) == list(range(len(images)))
        assert all(one != other for one, other in zip(names, names[1:], strict=False))


def test_conditions_are_each_or_one(shared: Folders, tmp_path: Path) -> None:
    every = ("full", "crop", "mask")
    study = shared.design(tmp_path / "each", conditions=every, assign="each", real_images=3, gap=1).study
    assert Counter(picture.condition for picture in study.pictures) == dict.fromkeys(every, 6)
    sizes = {p.condition: (p.width, p.height) for p in study.pictures}
    assert sizes == {"full": (48, 48), "crop": (24, 24), "mask": (97, 48)}
    one = shared.design(tmp_path / "one", conditions=every, real_images=6, gap=1).study
    known = truths(tmp_path / "one")
    spread = Counter((known[p.image], p.condition) for p in one.pictures)
    assert spread == {(k, c): n for k, n in (("real", 2), ("synthetic", 1)) for c in every}


def test_a_crop_is_a_part_and_a_mask_stands_beside(shared: Folders, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"conditions": ("full", "crop", "mask"), "assign": "each", "gap": 1}
    study = shared.design(tmp_path / "study", **settings).study
    by = {(p.image, p.condition): read_image(tmp_path / "study" / p.file) for p in study.pictures}
    for image in {picture.image for picture in study.pictures}:
        full, crop, both = (by[image, condition] for condition in settings["conditions"])
        windows = np.lib.stride_tricks.sliding_window_view(full, crop.shape).reshape(-1, crop.size)
        assert (windows == crop.ravel()).all(1).any()
        assert np.array_equal(both[:, :48], full)
        assert ((both[:, 49:] == (90, 230, 255)).all(2)).any(), "vessels in their colour"


# ---- what is frozen ----------------------------------------------------------------------------------------


def test_any_change_is_noticed(shared: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    study = shared.design(folder, repeats=1).study
    assert read_study(folder) == study
    for path in sorted(folder.rglob("*.*")):
        data = path.read_bytes()
        digits = data.replace(b"1", b"2", 1) if path.suffix == ".json" else data[:-1] + b"?"
        path.write_bytes(digits)
        with pytest.raises(StudyError, match=path.name):
            read_study(folder)
        path.write_bytes(data)
    picture = folder / study.pictures[0].file
    picture.unlink()
    with pytest.raises(StudyError, match="no such file"):
        read_study(folder)


def test_the_seal_is_that_of_the_file(shared: Folders, tmp_path: Path) -> None:
    shared.design(tmp_path / "study")
    text = (tmp_path / "study" / "study.json").read_text()
    told = json.loads(text)
    bare = text.rstrip("\n").replace(told["sha256"], "")
    assert hashlib.sha256(bare.encode()).hexdigest() == told["sha256"]
    for picture in told["pictures"]:
        data = (tmp_path / "study" / picture["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == picture["sha256"]
    key = (tmp_path / "study" / "key.json").read_bytes()
    assert hashlib.sha256(key).hexdigest() == told["key_sha256"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s["pictures"][0].update(file="../key.json"), "file"),
        (lambda s: s["pictures"][0].update(file="images/../../x.png"), "file"),
        (lambda s: s.update(schema=2), "schema"),
        (lambda s: s.update(extra=1), "extra"),
        (lambda s: s["orders"][0].append(99), "every order"),
        (lambda s: s["orders"][0].pop(), "every order"),
    ],
)
def test_a_made_up_study_is_refused(
    shared: Folders, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], said: str
) -> None:
    shared.design(tmp_path / "study")
    path = tmp_path / "study" / "study.json"
    told = json.loads(path.read_text())
    edit(told)
    path.write_text(json.dumps(told))
    with pytest.raises(StudyError, match=said):
        read_study(tmp_path / "study")


def test_the_folder_is_for_its_owner_alone(shared: Folders, tmp_path: Path) -> None:
    shared.design(tmp_path / "study")
    assert (tmp_path / "study").stat().st_mode & 0o077 == 0
    assert (tmp_path / "study" / "key.json").stat().st_mode & 0o077 == 0


def test_the_command_designs(shared: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["turing", "design", "--real", str(shared.real), "--synthetic", str(shared.synthetic)]
    counts = ["--real-images", "4", "--synthetic-images", "4", "--repeats", "2", "--gap", "2", "--json"]
    assert main([*words, *counts, "--out", str(tmp_path / "study")]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["pictures"] == 10 and told["sha256"] == read_study(tmp_path / "study").sha256
    assert "keep it private" in printed.err and "warning: terms of the real images" in printed.err
    assert main([*words, *counts, "--out", str(tmp_path / "study")]) == 2
    assert "studies are frozen" in capsys.readouterr().err
    assert main(["turing", "design", "--out", str(tmp_path / "other")]) == 2
    assert "--real FOLDER" in capsys.readouterr().err
