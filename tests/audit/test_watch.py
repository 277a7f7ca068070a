"""Copies counted while a generator trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fundusforge.audit.watch import SIDE, Watch
from fundusforge.cli.fitting import located
from fundusforge.images import read_image, read_mask, resize
from fundusforge.records import Record, read_folder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    from conftest import write_drawn_folder

    folder = write_drawn_folder(tmp_path_factory.mktemp("watch") / "eyes", 18, size=128)
    return [located(record, folder) for record in read_folder(folder)]


def shown(record: Record) -> tuple[np.ndarray, np.ndarray]:
    return read_image(Path(record.image)), read_mask(Path(str(record.field_of_view)))


def test_copies_are_counted_and_strangers_are_not(records: list[Record]) -> None:
    watch = Watch.of(records[:8], records[8:14])
    assert watch is not None
    strangers, copies = [shown(record) for record in records[14:]], [shown(record) for record in records[:4]]
    mirrored = [(np.ascontiguousarray(a[:, ::-1]), np.ascontiguousarray(b[:, ::-1])) for a, b in copies]
    assert watch.leaked(strangers) == 0.0
    assert watch.leaked([*copies, *strangers]) == 0.5
    assert watch.leaked(mirrored) == 1.0


def test_noise_and_small_pictures_are_nobody_s(records: list[Record]) -> None:
    watch = Watch.of(records[:8], records[8:14])
    assert watch is not None
    image, field = shown(records[0])
    small = resize(image, SIDE // 2), resize(field, SIDE // 2)
    assert watch.leaked([(image, None), small]) == 0.0
    assert watch.leaked([]) == 0.0


def test_without_held_out_patients_nothing_can_be_told(records: list[Record]) -> None:
    assert Watch.of(records, records[:3]) is None and Watch.of(records, []) is None
    assert Watch.of([], records) is None
