"""The drawn eyes that other tests rely on are what they claim to be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fundusforge.prepare.split import check_splits
from fundusforge.records import read_folder


def test_drawing_is_an_eye_inside_its_field_of_view(fundus: Callable[..., dict[str, np.ndarray]]) -> None:
    drawing = fundus(96, seed=3)
    outside = drawing["field_of_view"] == 0
    assert drawing["image"].shape == (96, 96, 3)
    assert not drawing["image"][outside].any()
    for name in ("vessels", "disc"):
        assert set(np.unique(drawing[name])) == {0, 255}
        assert not drawing[name][outside].any()
    green = drawing["image"][..., 1]
    vessels, disc = drawing["vessels"] > 0, drawing["disc"] > 0
    retina = ~vessels & ~disc & ~outside
    assert green[vessels & ~disc].mean() < green[retina].mean() < green[disc & ~vessels].mean()


def test_drawing_depends_on_its_seed_only(fundus: Callable[..., dict[str, np.ndarray]]) -> None:
    assert np.array_equal(fundus(seed=1)["image"], fundus(seed=1)["image"])
    assert not np.array_equal(fundus(seed=1)["vessels"], fundus(seed=2)["vessels"])


def test_folder_reads_strictly_and_splits_by_patient(drawn_folder: Callable[..., Path]) -> None:
    folder = drawn_folder(10)
    records = read_folder(folder)
    check_splits((folder, records))
    assert {record.split for record in records} == {"train", "val", "test"}
    assert len({record.patient for record in records}) == 5
