"""The embedded weights: each with its card, small, safe to open, and trained on data whose terms allow it."""

import json
from pathlib import Path

import pytest

from fundusforge.records import DatasetError
from fundusforge.severity import LESIONS
from fundusforge.weights import FOLDER, catalogue, default, judge, name_of, named, read_metadata

EMBEDDED = sorted(FOLDER.glob("*.safetensors"))
LIMITS = {
    "unet": 3 * 2**20, "pix2pix": 16 * 2**20, "flow": 12 * 2**20, "selfsupervised": 6 * 2**20,
    "classifier": 6 * 2**20,
}  # fmt: skip
"""Bytes that one model of a family may take."""


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_every_embedded_model_is_described_and_small(path: Path) -> None:
    one = next(one for one in catalogue() if one.path == path)
    assert one.card.is_file(), "a model card must stand beside its weights"
    assert one.sha256[:12] in name_of(path)
    assert one.bytes <= LIMITS[one.family]
    assert one.terms and one.figures
    assert one.masks or one.family == "selfsupervised"
    assert read_metadata(path)["format"].startswith("fundusforge")


def test_all_embedded_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED) < 40 * 2**20


@pytest.mark.parametrize("masks", [("vessels",), ("disc",), LESIONS])
def test_a_structure_chooses_its_model(masks: tuple[str, ...]) -> None:
    assert next(one for one in catalogue() if one.path == default("unet", masks=masks)).masks == masks
    with pytest.raises(DatasetError, match="no embedded unet model for vessels and disc"):
        default("unet", masks=["vessels", "disc"])


def test_the_judge_of_vessels_is_not_the_annotator() -> None:
    """It shares no patient with the embedded generator; a structure with one model has one for both."""
    judge_patients = set(json.loads(read_metadata(judge("vessels"))["patients"]))
    painter = set(json.loads(read_metadata(default("pix2pix"))["patients"]))
    assert judge_patients and painter and not judge_patients & painter
    assert judge("vessels") != default("unet")
    assert judge("disc") == default("unet", masks=("disc",))


def test_weights_are_found_by_name_and_by_family(tmp_path: Path) -> None:
    assert named("painter-512") == default("pix2pix") == named("pix2pix")
    with pytest.raises(DatasetError, match=r"family 'paintr'; there are .*painter-512 \(pix2pix\)"):
        named("paintr")
    with pytest.raises(DatasetError, match="there are none"):
        named("flow", folder=tmp_path)


def test_absent_and_broken_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no embedded unet model for vessels"):
        default("unet", folder=tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"{")
    with pytest.raises(DatasetError, match="broken.safetensors: not a whole"):
        catalogue(tmp_path)
