"""The look into a folder: counts, every kind of problem, and the contact sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusforge.images import read_image, write_image
from fundusforge.inspection import InspectConfig, Inspection, inspect_folder, outlined
from fundusforge.records import DatasetError, Mask, Record, read_folder, write_metadata


def change(folder: Path, index: int, **values) -> Record:
    records = read_folder(folder, check_files=False)
    records[index] = replace(records[index], **values)
    write_metadata(folder, records)
    return records[index]


def look(folder: Path, **options) -> Inspection:
    return inspect_folder(InspectConfig(folder=folder, **options))


def kinds(found: Inspection) -> list[str]:
    return [problem.kind for problem in found.problems]


def test_counts_of_a_sound_folder(dataset_folder: Path) -> None:
    found = look(dataset_folder)
    assert (found.images, found.patients, found.problems) == (6, 3, ())
    assert found.counts["split"] == {"test": 2, "train": 2, "val": 2}
    assert found.counts["masks"] == {"disc (phantom)": 6, "vessels (phantom)": 6}
    assert found.counts["eye"] == {"left": 3, "right": 3}
    assert found.sizes == {"64x64": 6}
    assert "no problems found" in found.text()
    assert found.to_dict()["counts"]["grade"]["0"] == 2


def test_damaged_pixels_are_all_listed(dataset_folder: Path) -> None:
    """Two damaged pictures and a missing mask are found in one look."""
    records = read_folder(dataset_folder)
    first = dataset_folder / records[0].image
    first.write_bytes(first.read_bytes()[:300])
    (dataset_folder / records[1].image).write_bytes(b"")
    (dataset_folder / records[2].masks["disc"].path).unlink()
    found = look(dataset_folder)
    assert [problem.where for problem in found.faults] == [record.image for record in records[:3]]
    assert set(kinds(found)) == {"unreadable"}
    assert found.sizes == {"64x64": 4, "unreadable": 2}


@pytest.mark.parametrize(
    ("name", "pixels", "kind"),
    [
        ("vessels", np.full((64, 64), 128, np.uint8), "mask_values"),
        ("vessels", np.zeros((64, 64), np.uint8), "empty_mask"),
        ("disc", np.zeros((32, 64), np.uint8), "mask_size"),
        ("field_of_view", np.zeros((64, 64), np.uint8), "field_of_view"),
    ],
)
def test_unfit_masks(dataset_folder: Path, name: str, pixels: np.ndarray, kind: str) -> None:
    write_image(dataset_folder / name / "000.png", pixels)
    assert kinds(look(dataset_folder)) == [kind]


def test_an_empty_lesion_mask_is_no_problem(dataset_folder: Path) -> None:
    """It says that there is no such lesion, and is not counted."""
    masks = read_folder(dataset_folder)[0].masks
    change(dataset_folder, 0, masks={**masks, "drusen": Mask(path="drusen.png", origin="phantom")})
    write_image(dataset_folder / "drusen.png", np.zeros((64, 64), np.uint8))
    found = look(dataset_folder)
    assert found.problems == ()
    assert set(found.counts["masks"]) == {"disc (phantom)", "vessels (phantom)"}


def test_blank_picture(dataset_folder: Path) -> None:
    write_image(dataset_folder / "images" / "000.png", np.full((64, 64, 3), 90, np.uint8))
    assert kinds(look(dataset_folder)) == ["blank"]


def test_words_of_the_records(dataset_folder: Path) -> None:
    change(dataset_folder, 0, synthetic=True)
    change(dataset_folder, 1, structure_from_patient=True)
    record = change(dataset_folder, 2, split="train")
    found = look(dataset_folder)
    assert kinds(found) == ["split_overlap", "provenance", "patient_structure"]
    assert record.patient in found.problems[0].where
    assert len(found.faults) == 2
    assert "note: patient structure (1)" in found.text()


def test_broken_lines_are_named_and_the_rest_is_read(dataset_folder: Path) -> None:
    path = dataset_folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{not json", lines[0], *lines[1:]]) + "\n")
    found = look(dataset_folder)
    assert [problem.where for problem in found.problems] == ["metadata.jsonl:2", "metadata.jsonl:3"]
    assert found.images == 6
    path.write_text("{}\n")
    with pytest.raises(DatasetError, match="no readable records"):
        look(dataset_folder)
    path.unlink()
    with pytest.raises(DatasetError, match="has no metadata.jsonl"):
        look(dataset_folder)


def test_contact_sheet(dataset_folder: Path, tmp_path: Path) -> None:
    """Five tiles of six images, three a row, over a legend; the same seed draws the same sheet."""
    for name in ("one.png", "two.png"):
        look(dataset_folder, sheet=tmp_path / name, images=5, tile=64, columns=3)
    sheet = read_image(tmp_path / "one.png")
    assert sheet.shape[1] == 3 * 64 + 2 * 4
    assert sheet.shape[0] > 2 * 64 + 4 + 20
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"do not share" in (tmp_path / "one.png").read_bytes()


def test_outlines_surround_and_do_not_fill() -> None:
    """A square mask is drawn as its edge; a wide picture is fitted, not squashed."""
    image, mask = np.full((100, 200, 3), 60, np.uint8), np.zeros((100, 200), np.uint8)
    cv2.rectangle(mask, (60, 20), (140, 80), 255, -1)
    tile = outlined(image, {"disc": mask}, tile=200)
    assert tile.shape == (200, 200, 3)
    assert (tile[100, 100] == 60).all()
    assert tile[100, 60, 0] > 140
    assert not tile[:49].any()
