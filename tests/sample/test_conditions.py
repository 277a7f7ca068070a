"""Structure for synthetic images: from phantoms and from folders, and whose it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusforge.records import DatasetError, Mask, read_folder, write_metadata
from fundusforge.sample.conditions import FolderConditions, PhantomConditions, draw_seed
from fundusforge.sample.supply import supply_of

Folder = Callable[..., Path]
NAMES = ("vessels", "disc")


def drawn_by(folder: Path, origin: str, **changes: object) -> Path:
    """Say of every mask in a folder who drew it."""
    records = [
        replace(
            record,
            masks={name: Mask(path=mask.path, origin=origin) for name, mask in record.masks.items()},
            **changes,
        )
        for record in read_folder(folder)
    ]
    write_metadata(folder, records)
    return folder


def test_phantoms_are_varied_repeatable_and_of_nobody() -> None:
    supply = PhantomConditions(masks=NAMES, seed=7)
    eyes = [supply.at(index, size=64) for index in range(8)]
    assert {eye.eye for eye in eyes} == {"left", "right"}
    assert len({eye.masks["vessels"].tobytes() for eye in eyes}) == 8
    assert all(not eye.from_patient and set(eye.origins.values()) == {"phantom"} for eye in eyes)
    assert all(eye.grade is None for eye in eyes)
    again = supply.at(3, size=64)
    np.testing.assert_array_equal(again.masks["vessels"], eyes[3].masks["vessels"])
    assert again.name == eyes[3].name == f"phantom:{draw_seed(7, 3)}"


def test_neighbouring_seeds_share_no_eye() -> None:
    one = {PhantomConditions(masks=NAMES, seed=7).at(i, size=64).name for i in range(4)}
    two = {PhantomConditions(masks=NAMES, seed=8).at(i, size=64).name for i in range(4)}
    assert not one & two


def test_lesions_come_with_a_grade() -> None:
    supply = PhantomConditions(masks=("vessels", "haemorrhages"), seed=1)
    eyes = [supply.at(index, size=128) for index in range(10)]
    assert len({eye.grade for eye in eyes}) > 2
    assert all(eye.masks["haemorrhages"].any() for eye in eyes if (eye.grade or 0) >= 3)
    assert not any(eye.masks["haemorrhages"].any() for eye in eyes if eye.grade == 0)


def test_a_mask_that_no_phantom_has_is_refused() -> None:
    with pytest.raises(DatasetError, match="draws no 'ridge'"):
        PhantomConditions(masks=("vessels", "ridge"), seed=0).at(0, size=64)


def test_a_folder_is_gone_through_before_it_repeats(dataset_folder: Path) -> None:
    supply = FolderConditions.read(dataset_folder, masks=NAMES, seed=3)
    count = len(supply.records)
    first = [supply.at(index, size=64).name for index in range(count)]
    second = [supply.at(index, size=64).name for index in range(count, 2 * count)]
    assert sorted(first) == sorted(second) == sorted(record.image for record in supply.records)
    assert first != second


@pytest.mark.parametrize(
    ("origin", "changes", "from_patient"),
    [
        ("phantom", {}, False),
        ("human", {}, True),
        ("predicted", {}, True),
        ("human", {"synthetic": True}, False),
        ("human", {"synthetic": True, "structure_from_patient": True}, True),
        ("predicted", {"synthetic": True, "structure_from_patient": True}, True),
    ],
)
def test_structure_of_a_patient_is_known_as_such(
    dataset_folder: Path, origin: str, changes: dict[str, bool], from_patient: bool
) -> None:
    folder = drawn_by(dataset_folder, origin, **changes)
    condition = FolderConditions.read(folder, masks=NAMES, seed=0).at(0, size=64)
    assert condition.from_patient is from_patient
    record = next(r for r in read_folder(folder) if r.image == condition.name)
    assert (condition.patient, condition.split) == (record.patient, record.split)


def test_a_split_can_be_chosen(dataset_folder: Path) -> None:
    supply = supply_of(dataset_folder, names=NAMES, seed=0, splits=("val",))
    assert {supply.at(index, size=64).split for index in range(4)} == {"val"}


def test_a_folder_without_a_needed_mask_is_refused(dataset_folder: Path) -> None:
    with pytest.raises(DatasetError, match="has the mask 'cup'"):
        supply_of(dataset_folder, names=("vessels", "cup"), seed=0)
    records = read_folder(dataset_folder)
    half = [
        replace(r, masks={name: r.masks[name] for name in (("vessels",) if i % 2 else ("disc",))})
        for i, r in enumerate(records)
    ]
    write_metadata(dataset_folder, half)
    with pytest.raises(DatasetError, match="all of the masks vessels, disc"):
        supply_of(dataset_folder, names=NAMES, seed=0)
