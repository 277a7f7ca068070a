"""BraTS: z-scored contrasts, labels of the older and newer years, orientation."""

import re
from pathlib import Path

import layouts
import numpy as np
import pytest

from fundusforge.sources import Item, Reject, Unreadable
from fundusforge.sources.brats import Brats, z_score


def read(root: Path, **options: object) -> list[Item]:
    found = list(Brats(root=root, **options).items())  # type: ignore[arg-type]
    assert not [thing for thing in found if isinstance(thing, Reject)]
    return [thing for thing in found if isinstance(thing, Item)]


@pytest.mark.parametrize(("newer", "labels"), [(False, (1, 2, 4)), (True, (1, 2, 3)), (False, (1, 2, 3))])
def test_labels_of_both_generations(newer: bool, labels: tuple[int, ...], tmp_path: Path) -> None:
    items = read(layouts.build_brats(tmp_path, newer=newer, labels=labels))
    assert [item.key[-3:] for item in items] == ["001", "002", "003", "004"], "slices with brain"
    for index, name in enumerate(("necrosis", "oedema", "enhancing")):
        expected = np.zeros((12, 16), np.uint8)
        expected[3:6, 4 + 2 * index : 6 + 2 * index] = 255
        assert np.array_equal(items[1].masks[name].load(), expected), name
        assert not items[0].masks[name].load().any()


def test_the_resection_cavity_of_newer_cases_is_no_tumour(tmp_path: Path) -> None:
    items = read(layouts.build_brats(tmp_path, newer=True, labels=(1, 2, 4)))
    assert not items[1].masks["enhancing"].load().any() and items[1].masks["oedema"].load().any()


def test_volumes_are_z_scored_over_the_brain(tmp_path: Path) -> None:
    items = read(layouts.build_brats(tmp_path))
    for name in ("t1", "t1c", "t2", "flair"):
        slices = np.stack([item.contrasts[name]() for item in items])
        inside = slices[:, 2:10, 3:13]
        assert abs(inside.mean()) < 1e-5 and abs(inside.std() - 1) < 1e-5
        assert slices.dtype == np.float32 and len(np.unique(slices[:, 0, 0])) == 1
    preview = items[0].load()
    assert preview.shape == (12, 16, 3) and preview.dtype == np.uint8 and not preview[0, 0].any()


def test_anterior_is_up_and_the_patients_right_is_left(tmp_path: Path) -> None:
    values = np.zeros((16, 12, 6), np.int16)
    values[3:13, 2:10, 1:5] = np.random.default_rng(0).integers(50, 90, (10, 8, 4))
    values[3, 2] = 900  # x and y point to the left and back (LPS): this is right and anterior
    names = ("t1", "t1ce", "t2", "flair")
    layouts.save_nifti(tmp_path, {f"case_{name}": values for name in names})
    top, left = np.argwhere(read(tmp_path)[1].contrasts["t1"]() > 3)[0]
    assert (top, left) == (2, 3)


def test_slices_can_be_thinned_and_limited_to_the_tumour(tmp_path: Path) -> None:
    root = layouts.build_brats(tmp_path)
    assert [item.key[-3:] for item in read(root, step=2)] == ["001", "003"]
    assert [item.key[-3:] for item in read(root, only_tumour=True)] == ["002", "003"]


def test_a_case_without_segmentation_and_visits_of_newer_cases(tmp_path: Path) -> None:
    root = layouts.build_brats(tmp_path, newer=True)
    next(root.rglob("*-seg.nii.gz")).unlink()
    item = read(root)[0]
    assert not item.masks and (item.patient, item.visit) == ("brats-BraTS-GLI-00005", 2)


def test_broken_cases_are_rejected_with_the_reason(tmp_path: Path) -> None:
    missing = layouts.build_brats(tmp_path / "a")
    next(missing.rglob("*_t2.nii.gz")).unlink()
    cut = layouts.build_brats(tmp_path / "b")
    path = next(cut.rglob("*_flair.nii.gz"))
    path.write_bytes(path.read_bytes()[:200])
    empty = layouts.build_brats(tmp_path / "c")
    case = "BraTS20_Training_001"
    layouts.save_nifti(empty / case, {f"{case}_t1": np.zeros((16, 12, 6), np.int16)})
    reasons = [
        thing.reason
        for root in (missing, cut, empty)
        for thing in Brats(root=root).items()
        if isinstance(thing, Reject)
    ]
    assert [re.sub(r" \(\w+\)$", "", reason) for reason in reasons] == [
        "the case has no t2 volume",
        "BraTS20_Training_001_flair.nii.gz: not a readable NIfTI volume",
        "BraTS20_Training_001_t1.nii.gz: the volume is empty or constant",
    ]


def test_z_score_refuses_a_constant_volume() -> None:
    with pytest.raises(Unreadable, match="empty or constant"):
        z_score(np.ones(4), np.ones(4, bool))


def test_real_case_and_slices(data_root: Path) -> None:
    items = read(data_root / "brats_met_case", step=40)
    assert len(items) == 3 and not items[0].masks and set(items[0].contrasts) == {"t1", "t1c", "t2", "flair"}
    slices = read(data_root / "brats21_slices")
    assert len(slices) == 20 and set(slices[0].masks) == {"whole_tumour"}
    assert slices[0].contrasts["flair"]().shape == slices[0].masks["whole_tumour"].load().shape == (256, 256)
