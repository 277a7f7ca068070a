"""Every public layout, built from drawn arrays as its publisher lays it out."""

import pickle  # noqa: TID251 - loads must travel to worker processes
import re
from pathlib import Path

import layouts
import numpy as np
import pytest

from fundusforge.config import from_json, to_json
from fundusforge.records import CONTRASTS, MASKS, DatasetError
from fundusforge.sources import SOURCES, Item, Reject, Source, Unreadable, recognise

COUNTS = {
    "drive": 3, "chase": 4, "hrf": 4, "idrid": 6, "eyepacs": 4, "odir": 3, "fives": 4, "hvdropdb": 6,
    "brats": 4, "folder": 3,
}  # fmt: skip


def read(kind: str, root: Path, **options: object) -> dict[str, Item]:
    """Return a source's items by key; a reject fails the test."""
    found = list(SOURCES[kind](root=root, **options).items())
    assert [thing for thing in found if isinstance(thing, Reject)] == []
    return {item.key: item for item in found}


def rejects(kind: str, root: Path, **options: object) -> list[Reject]:
    return [thing for thing in SOURCES[kind](root=root, **options).items() if isinstance(thing, Reject)]


@pytest.mark.parametrize("kind", layouts.BUILDERS)
def test_every_layout_yields_what_it_holds(kind: str, tmp_path: Path) -> None:
    items = read(kind, layouts.BUILDERS[kind](tmp_path / "root"))
    assert len(items) == COUNTS[kind]
    again = list(SOURCES[kind](root=tmp_path / "root").items())
    assert [item.key for item in again] == list(items), "the order is not fixed"
    for item in items.values():
        assert re.fullmatch(r"[\w.-]+", item.key) and not item.file.is_absolute()
        assert set(item.masks) <= set(MASKS) and set(item.contrasts) <= set(CONTRASTS)
        image = pickle.loads(pickle.dumps(item.load))()  # noqa: S301
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        loads = [mask.load for mask in item.masks.values()]
        for load in loads + [item.field_of_view] * (item.field_of_view is not None):
            mask = pickle.loads(pickle.dumps(load))()  # noqa: S301
            assert mask.shape == image.shape[:2] and mask.dtype == np.uint8
            assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("kind", layouts.BUILDERS)
def test_a_layout_is_recognised_and_named_when_the_format_is_wrong(kind: str, tmp_path: Path) -> None:
    root = layouts.BUILDERS[kind](tmp_path)
    assert recognise(root) == [kind]
    other = "chase" if kind != "chase" else "drive"
    hint = f"looks like format {kind}" if kind != "folder" else "looks like format folder"
    with pytest.raises(DatasetError, match=f"nothing of format {other}; expected .*{hint}"):
        list(SOURCES[other](root=root).items())


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "phantom"])
def test_an_empty_or_missing_folder_is_an_error_that_names_it(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{re.escape(str(tmp_path))}: holds nothing of format {kind}"):
        list(SOURCES[kind](root=tmp_path).items())
    with pytest.raises(DatasetError, match="nowhere: is not a folder"):
        list(SOURCES[kind](root=tmp_path / "nowhere").items())


@pytest.mark.parametrize("kind", SOURCES)
def test_a_config_survives_json(kind: str, tmp_path: Path) -> None:
    config = SOURCES[kind](root=tmp_path)
    assert from_json(Source, to_json(config, kind=Source)) == config


def test_drive(tmp_path: Path) -> None:
    root = layouts.build_drive(tmp_path / "DRIVE")
    items = read("drive", root)
    assert {key: item.split for key, item in items.items()} == {
        "21_training": "train", "22_training": "train", "01_test": "test",
    }  # fmt: skip
    item = items["21_training"]
    assert np.array_equal(item.load(), layouts.draw(21))
    assert np.array_equal(item.masks["vessels"].load(), layouts.draw_mask(21))
    assert item.field_of_view is not None and item.field_of_view().all()
    assert len({item.patient for item in items.values()}) == 3
    second = read("drive", root, observer="second")
    assert not second["21_training"].masks
    assert np.array_equal(second["01_test"].masks["vessels"].load(), layouts.draw_mask(4))
    assert len(read("drive", root / "training")) == 2, "the part itself may be given"
    assert len(read("drive", tmp_path)) == 3, "so may the folder above"


def test_chase_knows_subjects_and_eyes(tmp_path: Path) -> None:
    root = layouts.build_chase(tmp_path)
    items = read("chase", root)
    assert [item.eye for item in items.values()] == ["left", "right"] * 2
    assert items["Image_01L"].patient == items["Image_01R"].patient != items["Image_02L"].patient
    assert np.array_equal(items["Image_02L"].masks["vessels"].load(), layouts.draw_mask(2))
    second = read("chase", root, observer="second")["Image_02L"]
    assert np.array_equal(second.masks["vessels"].load(), layouts.draw_mask(5))


def test_a_missing_mask_leaves_the_item(tmp_path: Path) -> None:
    root = layouts.build_chase(tmp_path)
    (root / "Image_01L_1stHO.png").unlink()
    items = read("chase", root)
    assert not items["Image_01L"].masks and items["Image_01R"].masks


def test_an_unreadable_mask_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    root = layouts.build_chase(tmp_path)
    (root / "Image_01L_1stHO.png").write_bytes(b"\x89PNG no")
    with pytest.raises(Unreadable, match="^not a readable mask"):
        read("chase", root)["Image_01L"].masks["vessels"].load()


def test_hrf_reads_classes_in_any_spelling(tmp_path: Path) -> None:
    items = read("hrf", layouts.build_hrf(tmp_path))
    assert {key: item.labels for key, item in items.items()} == {
        "01_dr": ("diabetic_retinopathy",), "01_g": ("glaucoma",), "01_h": ("healthy",), "10_h": ("healthy",),
    }  # fmt: skip
    assert all(item.masks and item.field_of_view is not None for item in items.values())
    assert len({item.patient for item in items.values()}) == 4


def test_idrid_masks_grades_and_twins(tmp_path: Path) -> None:
    items = read("idrid", layouts.build_idrid(tmp_path))
    first, other = items["segmentation_IDRiD_01"], items["segmentation_IDRiD_43"]
    assert np.array_equal(first.masks["haemorrhages"].load(), layouts.draw_mask(1))
    assert not first.masks["soft_exudates"].load().any(), "looked for and not found"
    assert "haemorrhages" not in other.masks, "unknown, not absent"
    assert np.array_equal(other.masks["soft_exudates"].load(), layouts.draw_mask(2))
    assert "soft_exudates" not in items["segmentation_IDRiD_55"].masks, "nobody drew any in this part"
    assert (first.grade, first.oedema_risk, other.grade) == (3, 2, None)
    assert first.patient == items["grading_train_IDRiD_002"].patient
    assert len({item.patient for item in items.values()}) == 5
    test = items["grading_test_IDRiD_001"]
    assert (test.grade, test.oedema_risk, test.split) == (4, 1, "test")
    assert items["grading_train_IDRiD_001"].patient != test.patient, "numbers start anew in the test part"


def test_idrid_tasks_alone(tmp_path: Path) -> None:
    root = layouts.build_idrid(tmp_path / "IDRiD", grades=False)
    assert len(read("idrid", root, task="segmentation")) == 3
    assert len(read("idrid", root, task="grading")) == 3
    assert len(read("idrid", root / "B. Disease Grading")) == 3
    assert len({item.patient for item in read("idrid", tmp_path).values()}) == 6


def test_eyepacs_grades_both_parts(tmp_path: Path) -> None:
    root = layouts.build_eyepacs(tmp_path)
    items = read("eyepacs", root)
    assert [(k, i.grade, i.eye, i.split) for k, i in items.items()] == [
        ("1_right", 3, "right", "test"), ("2_left", 2, "left", "train"),
        ("10_left", 0, "left", "train"), ("10_right", 4, "right", "train"),
    ]  # fmt: skip
    assert items["10_left"].patient == items["10_right"].patient
    layouts.write_csv(root / "more.csv", "image,level", "2_left,3")
    with pytest.raises(DatasetError, match="2_left has level .* elsewhere"):
        read("eyepacs", root)
    layouts.write_csv(root / "more.csv", "image,level", "5_left,7")
    with pytest.raises(DatasetError, match="level of 5_left is '7'; expected 0 to 4"):
        read("eyepacs", root)


def test_odir_takes_findings_of_each_eye(tmp_path: Path) -> None:
    items = read("odir", layouts.build_odir(tmp_path))
    left, right = items["0_left"], items["0_right"]
    assert (left.labels, right.labels) == (("cataract",), ("normal",))
    assert items["7_left"].labels == ("erm", "laser")
    assert (left.age, left.sex, left.eye, left.patient) == (69.0, "female", "left", right.patient)
    assert left.file.parts[0] == "Training Images", "the original, not the cropped copy"


def test_odir_one_row_an_image(tmp_path: Path) -> None:
    items = read("odir", layouts.build_odir_labels(tmp_path))
    assert (items["3_left"].labels, items["3_left"].age) == (("erm",), 70.0)
    assert (items["3_right"].labels, items["3_right"].age) == (("normal",), None), (
        "an age of 1 is not credible"
    )


def test_fives_keeps_parts_apart(tmp_path: Path) -> None:
    items = read("fives", layouts.build_fives(tmp_path))
    assert {key: item.labels[0] for key, item in items.items()} == {
        "train_1_A": "macular_degeneration", "train_2_N": "normal", "test_1_D": "diabetic_retinopathy",
        "test_2_G": "glaucoma",
    }  # fmt: skip
    assert items["test_1_D"].split == "test" and "vessels" in items["test_1_D"].masks


def test_hvdropdb_structures_and_distorted_copies(tmp_path: Path) -> None:
    items = read("hvdropdb", layouts.build_hvdropdb(tmp_path / "a"))
    assert (
        sorted(name for item in items.values() for name in item.masks)
        == ["disc"] * 2 + ["ridge"] * 2 + ["vessels"] * 2
    )
    assert {item.camera for item in items.values()} == {"Forus 3nethra Neo", "RetCam"}
    for warp in (1001, 1002):
        layouts.save(
            tmp_path / "b" / "images" / f"barrdistorted_{warp}_0.3_0.3_Neo_5.png", layouts.draw(warp)
        )
        layouts.save(
            tmp_path / "b" / "ridge" / f"barrdistorted_{warp}_0.3_0.3_Neo_5.png", layouts.draw_mask()
        )
    copies = read("hvdropdb", tmp_path / "b").values()
    assert {item.patient for item in copies} == {"hvdropdb-neo-5"} and len(copies) == 2
    assert all(item.masks["ridge"].load().any() for item in copies)


def test_phantoms_are_drawn_by_seed() -> None:
    first, second = read_phantoms(seed=3), read_phantoms(seed=3)
    assert [item.key for item in first] == [item.key for item in second] == ["eye_3_000000", "eye_3_000001"]
    assert [item.grade for item in first] == [0, 3]
    assert {mask.origin for item in first for mask in item.masks.values()} == {"phantom"}
    item = first[0]
    assert np.array_equal(item.load(), second[0].load())
    assert item.load().shape == (96, 96, 3) and item.masks["vessels"].load().any()
    assert item.field_of_view is not None and item.field_of_view().any()
    assert not np.array_equal(item.masks["vessels"].load(), read_phantoms(seed=4)[0].masks["vessels"].load())
    with pytest.raises(DatasetError, match="grades 0 to 4"):
        list(SOURCES["phantom"](grades=(5,)).items())


def test_phantom_brains_have_contrasts_and_tumour() -> None:
    """Normalised as a scan's are: zero mean and unit variance over the brain, in every contrast."""
    first, second = (list(SOURCES["phantom"](organ="brain", count=2, pixels=96).items()) for _ in range(2))
    assert len({item.patient for item in first}) == len({item.key for item in first}) == 2
    item = first[0]
    assert set(item.contrasts) == {"t1", "t1c", "t2", "flair"}
    assert {name: mask.origin for name, mask in item.masks.items()} == dict.fromkeys(
        ("necrosis", "oedema", "enhancing"), "phantom"
    )
    inside = item.load()[..., 0] > 0
    for name, load in item.contrasts.items():
        values = load()
        assert np.array_equal(values, second[0].contrasts[name]())
        assert values.shape == (96, 96) and abs(values[inside].mean()) < 0.1
        assert values[inside].std() == pytest.approx(1, abs=0.1)
    rim = item.masks["enhancing"].load() > 0
    assert item.contrasts["t1c"]()[rim].mean() > item.contrasts["t1"]()[rim].mean() + 1
    assert not np.array_equal(first[1].load(), item.load())


def read_phantoms(*, seed: int) -> list[Item]:
    return [i for i in SOURCES["phantom"](count=2, seed=seed, pixels=96, grades=(0, 3)).items()]


@pytest.mark.parametrize(
    ("place", "kind", "count", "masked"),
    [
        ("DRIVE", "drive", 20, 20), ("CHASE_DB1", "chase", 20, 20), ("HRF", "hrf", 24, 24),
        ("IDRiD", "idrid", 446, 51), ("ODIR-5K", "odir", 925, 0), ("FIVES_mini", "fives", 8, 8),
        ("HVDROPDB_ridge", "hvdropdb", 24, 24), ("brats21_slices", "brats", 20, 20),
    ],
)  # fmt: skip
def test_real_data(place: str, kind: str, count: int, masked: int, data_root: Path) -> None:
    if not (data_root / place).is_dir():
        pytest.skip(f"no {place} here")
    items = read(kind, data_root / place)
    assert len(items) == count and sum(bool(item.masks) for item in items.values()) == masked
    assert recognise(data_root / place) == [kind]
    item = next(iter(items.values()))
    shape = item.load().shape[:2]
    assert all(mask.load().shape == shape for mask in item.masks.values())


def test_real_findings(data_root: Path) -> None:
    odir = read("odir", data_root / "ODIR-5K").values()
    counts = {name: sum(name in item.labels for item in odir) for name in ("erm", "laser", "normal")}
    assert counts == {"erm": 246, "laser": 34, "normal": 650}
    assert len({item.patient for item in odir}) == 765
    idrid = read("idrid", data_root / "IDRiD")
    lesions = [item for key, item in idrid.items() if key.startswith("segmentation")]
    assert len({item.patient for item in idrid.values()}) == 446 - 42
    assert sum(item.grade is not None for item in lesions) == 42
    assert [key for key, i in idrid.items() if i.masks and "haemorrhages" not in i.masks] == [
        "segmentation_IDRiD_43"
    ]
    drawn = [item.masks["soft_exudates"].load.func.__name__ == "load_mask" for item in lesions]  # type: ignore
    files = (data_root / "IDRiD" / "A. Segmentation").rglob("*_SE.tif")
    assert len(drawn) == 51 and sum(drawn) == len(list(files))
