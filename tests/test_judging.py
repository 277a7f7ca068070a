"""What `evaluate` hands to the metrics: the right embedded segmenter, none where none is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusforge import weights
from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.cli import main
from fundusforge.cli.judging import NONE, disc_judge, judge
from fundusforge.evaluate.figures import read_results
from fundusforge.images import read_image, write_image
from fundusforge.records import DatasetError, Mask, Provenance, Record, read_folder, write_metadata
from fundusforge.sources.phantom import draw_eye

Make = Callable[..., Path]
QUICK = (
    "--segmenter", "none", "--metrics", "agreement", "anatomy", "--draws", "100", "--floor-repeats", "5",
    "--no-subgroups", "--device", "cpu", "--quiet",
)  # fmt: skip


def embedded(mask: str) -> Path:
    return weights.judge(mask)


@pytest.mark.parametrize("mask", ["vessels", "disc"])
def test_a_structure_has_its_embedded_segmenter(drawn_folder: Make, mask: str) -> None:
    found = judge(None, folders=[drawn_folder(2)], mask=mask, device="cpu")
    assert found is not None and found.name == weights.name_of(embedded(mask))
    assert found.patients and found.threshold == Segmenter.load(embedded(mask)).threshold_of(mask)
    drawing = np.full((64, 64, 3), 90, np.uint8), np.full((64, 64), 255, np.uint8)
    assert found.segment(*drawing).shape == (64, 64)


def test_none_is_nobody(drawn_folder: Make) -> None:
    folders = [drawn_folder(2)]
    assert judge(NONE, folders=folders) is None
    assert disc_judge(Path("none"), folders=folders, generator=None) is None


def test_a_segmenter_of_something_else_is_refused(drawn_folder: Make) -> None:
    with pytest.raises(DatasetError, match=r"vessels-unet.safetensors: finds vessels, not disc"):
        judge(embedded("vessels"), folders=[drawn_folder(2)], mask="disc")


def test_the_embedded_disc_judge_steps_back(drawn_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Unasked, it does not read the images of a generator whose patients it knows; asked, it is refused."""
    folders = [drawn_folder(2)]
    seen = frozenset(sorted(Segmenter.load(embedded("disc")).patients)[:2])
    assert disc_judge(None, folders=folders, generator=known_patients(["a"])) is not None
    assert not capsys.readouterr().err
    assert disc_judge(None, folders=folders, generator=seen) is None
    assert "shares 2 patients with the generator" in capsys.readouterr().err
    assert disc_judge(embedded("disc"), folders=folders, generator=seen) is not None


def test_judges_and_generator_that_come_with_the_package_share_nobody() -> None:
    painter = json.loads(weights.read_metadata(weights.default("pix2pix"))["patients"])
    for mask in ("vessels", "disc"):
        reader = json.loads(weights.read_metadata(embedded(mask))["patients"])
        assert painter and reader and not set(painter) & set(reader)


def write_phantoms(folder: Path, seeds: range, *, synthetic: bool = False) -> Path:
    """Write a dataset folder of phantoms of 256 px with vessels and disc."""
    records = []
    for name in ("images", "vessels", "disc", "field_of_view"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        eye = draw_eye(seed, size=256)
        pictures = {"images": eye.image, "field_of_view": eye.field_of_view}
        for name, picture in (pictures | {m: eye.masks[m] for m in ("vessels", "disc")}).items():
            write_image(folder / name / f"{seed}.png", picture)
        made = Provenance(model="m-0123456789ab", seed=1, index=seed, condition=f"phantom:{seed}")
        records.append(
            Record(
                image=f"images/{seed}.png", patient=f"phantom-{seed}", source="phantom", eye=eye.eye,
                field_of_view=f"field_of_view/{seed}.png", synthetic=synthetic,
                masks={m: Mask(path=f"{m}/{seed}.png", origin="phantom") for m in ("vessels", "disc")},
                provenance=made if synthetic else None,
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


def paint_over_disc(folder: Path, record: Record) -> None:
    """Fill the disc and its surroundings from what is near; the mask stays."""
    assert record.field_of_view is not None
    disc = read_image(folder / record.masks["disc"].path)[..., 0]
    grown = cv2.dilate(disc, np.ones((15, 15), np.uint8))
    write_image(
        folder / record.image, cv2.inpaint(read_image(folder / record.image), grown, 3, cv2.INPAINT_TELEA)
    )


def test_a_disc_that_was_painted_over_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, with the embedded segmenter: two of four images lose their disc; only these are told.

    Without the segmenter the masks are believed, and nothing is noticed.
    """
    folder = write_phantoms(tmp_path / "painted", range(300, 304), synthetic=True)
    real = write_phantoms(tmp_path / "real", range(310, 314))
    records = read_folder(folder)
    for record in records[:2]:
        paint_over_disc(folder, record)
    words = ["evaluate", str(folder), "--against", str(real), *QUICK]
    assert main([*words, "--out", str(tmp_path / "results")]) == 0
    found = read_results(tmp_path / "results" / "results.json")
    assert found.judges["disc"].name == weights.name_of(embedded("disc")) and found.judge is None
    told = {
        Path(each.image).name: [text for text in each.violations if "optic disc" in text]
        for each in (*found.atlas.least, *found.atlas.most)
    }
    assert {name for name, texts in told.items() if texts} == {"300.png", "301.png"}
    assert found.figure("agreement_disc_f1").value < found.figure("agreement_disc_f1").real
    assert found.figure("disc_found").real == 1
    assert main([*words, "--disc-segmenter", "none", "--out", str(tmp_path / "blind")]) == 0
    blind = read_results(tmp_path / "blind" / "results.json")
    assert blind.judges == {} and blind.figure("disc_found").value == 1
    capsys.readouterr()
