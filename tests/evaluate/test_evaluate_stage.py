"""The stage on two drawn folders: every figure, strict JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusforge.config import ConfigError
from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.figures import Figure, Results, read_results
from fundusforge.evaluate.stage import EvaluateConfig, evaluate
from fundusforge.evaluate.statistics import Floor
from fundusforge.images import read_image, write_image
from fundusforge.records import DatasetError, Provenance, read_folder, write_metadata

Make = Callable[..., Path]


def make_synthetic(folder: Path, *, real: Path | None = None) -> Path:
    """Turn a drawn folder into a synthetic one, painted on phantoms or on the real folder's masks."""
    records = read_folder(folder)
    painted = read_folder(real) if real else []
    write_metadata(
        folder,
        [
            replace(
                record,
                synthetic=True,
                split=None,
                structure_from_patient=bool(real),
                patient=painted[index].patient if real else record.patient,
                provenance=Provenance(
                    model="pix2pix-0123456789ab", seed=7, index=index,
                    condition=painted[index].image if real else f"phantom:{index}",
                ),
            )
            for index, record in enumerate(records)
        ],
    )  # fmt: skip
    return folder


def dark(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
    green = image[..., 1].astype(np.float32)
    return (1 / (1 + np.exp(-(cv2.GaussianBlur(green, (0, 0), 4) - green) / 8))).astype(np.float32)


JUDGE = Judge(name="reader", segment=dark, threshold=0.55, patients=frozenset({"somebody"}))


def config(synthetic: Path, real: Path, out: Path, **options) -> EvaluateConfig:
    return EvaluateConfig(
        synthetic=synthetic, against=real, out=out, size=64, draws=100, floor_repeats=20, **options
    )


@pytest.fixture(scope="module")
def folders(drawn_folder: Make) -> tuple[Path, Path]:
    return make_synthetic(drawn_folder(8, seed=100)), drawn_folder(10, seed=200)


@pytest.fixture(scope="module")
def results(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("judged")
    return evaluate(config(*folders, out), judge=JUDGE, generator_patients=["nobody"])


def test_every_figure_is_there_with_its_circumstances(results: Results) -> None:
    for name in (
        "agreement_auc", "agreement_f1", "vessel_fraction", "vessel_fraction_d", "vessel_length_d",
        "mask_fraction", "mask_fraction_d", "ssim_reference_photographs", "ssim_reference_vessels",
    ):  # fmt: skip
        figure = results.figure(name)
        assert figure.value is not None, figure.reason
        assert figure.low <= figure.value <= figure.high, name
        assert figure.floor is not None, name
        assert figure.extractor and figure.resize and figure.interval
        assert (figure.n, figure.seed) == (8, 0)
    assert results.figure("agreement_auc").real is not None
    assert results.judge.shared_with_generator == "none"
    with pytest.raises(KeyError, match="agreement_auc"):
        results.figure("agreement")


def test_likeness_lies_within_the_floor(results: Results) -> None:
    """Both folders are drawn by one function, so the standardised difference is of the floor's order."""
    figure = results.figure("mask_fraction_d")
    assert figure.low - 1 < figure.floor.high
    assert figure.high + 1 > figure.floor.low


def test_results_are_strict_json_and_read_back(
    results: Results, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(config(*folders, tmp_path), judge=JUDGE, generator_patients=["nobody"])
    path = tmp_path / "results.json"
    stored = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in results.json"))
    assert {"synthetic", "against", "figures", "command", "version"} <= set(stored)
    assert read_results(path) == found
    assert found.figures == results.figures  # the same seed gives the same figures
    assert not list(tmp_path.glob("*.partial"))
    path.write_text(path.read_text().replace('"command"', '"commando"'))
    with pytest.raises(ConfigError, match=r"results.json.*commando|results.json.*command"):
        read_results(path)


def test_painted_on_patients_masks(drawn_folder: Make, tmp_path: Path) -> None:
    """Pairs are found by their condition; the near copy is far above the floor; the biometric is named."""
    real = drawn_folder(8, seed=300)
    synthetic = make_synthetic(drawn_folder(8, seed=300), real=real)
    for record in read_folder(synthetic):
        image = read_image(synthetic / record.image)
        write_image(synthetic / record.image, cv2.GaussianBlur(image, (0, 0), 0.7))
    found = evaluate(config(synthetic, real, tmp_path, metrics=("ssim",)))
    paired = found.figure("ssim_paired")
    assert paired.value > paired.floor.high
    assert found.figure("ssim_paired_inside").value < 1.0
    assert any("biometric" in warning for warning in found.warnings)
    assert found.synthetic.conditions == {"record": 8}


def test_more_vessels_are_seen(drawn_folder: Make, tmp_path: Path) -> None:
    """Thickened vessels raise the amount beyond its interval and the floor."""
    synthetic = make_synthetic(drawn_folder(10, seed=400))
    for record in read_folder(synthetic):
        path = synthetic / record.masks["vessels"].path
        mask = read_image(path)[..., 0]
        write_image(path, cv2.dilate(mask, np.ones((3, 3), np.uint8)))
    found = evaluate(config(synthetic, drawn_folder(10, seed=500), tmp_path, metrics=("amount",)))
    figure = found.figure("mask_fraction_d")
    assert figure.low > 1.0
    assert figure.value > figure.floor.high
    assert found.figure("mask_fraction").value > found.figure("mask_fraction").real_high


def test_without_a_judge_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate(config(*folders, tmp_path, metrics=("agreement", "amount")))
    figure = found.figure("agreement_auc")
    assert figure.value is None
    assert "no segmenter" in figure.reason
    assert found.judge is None


def test_real_images_the_judge_learnt_from_are_left_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    seen = frozenset({read_folder(folders[1])[0].patient})
    found = evaluate(config(*folders, tmp_path, metrics=("agreement",)), judge=replace(JUDGE, patients=seen))
    figure = found.figure("agreement_auc")
    assert figure.n_real == 8
    assert any("left out" in note for note in figure.notes)
    assert any("unknown whether the segmenter" in warning for warning in found.warnings)


def test_refuses(folders: tuple[Path, Path], drawn_folder: Make, tmp_path: Path) -> None:
    synthetic, real = folders
    with pytest.raises(DatasetError, match="swapped"):
        evaluate(config(real, synthetic, tmp_path))
    with pytest.raises(DatasetError, match="trained on 1 patients"):
        evaluate(config(*folders, tmp_path), judge=JUDGE, generator_patients=["somebody"])
    torn = drawn_folder(4, seed=100)
    records = read_folder(torn)
    write_metadata(torn, [replace(records[0], split="train"), replace(records[1], split="test")])
    with pytest.raises(DatasetError, match="more than one split"):
        evaluate(config(synthetic, torn, tmp_path))
    with pytest.raises(ValueError, match="max_images"):
        config(*folders, tmp_path, max_images=0)
    assert not (tmp_path / "results.json").exists()


def test_an_empty_field_of_view_is_named(
    folders: tuple[Path, Path], drawn_folder: Make, tmp_path: Path
) -> None:
    real = drawn_folder(4, seed=600)
    write_image(real / "field_of_view" / "002.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(DatasetError, match=r"field_of_view/002.png: the field of view is empty"):
        evaluate(config(folders[0], real, tmp_path, metrics=("amount",)))


def test_a_seeded_draw_of_many(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = evaluate(config(*folders, tmp_path, metrics=("ssim",), max_images=5))
    assert (found.synthetic.images, found.against.images) == (5, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_refuses_what_is_not_a_number(value: float) -> None:
    with pytest.raises(ValueError, match="give None and a reason"):
        Figure(name="x", title="X", value=value, n=1, extractor="none", resize="none", seed=0)
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        Figure(name="x", title="X", value=None, n=1, extractor="none", resize="none", seed=0)


def test_what_is_held_against_the_floor() -> None:
    """The value, unless it is known at the floor's size; both are in the words."""
    floor = Floor(value=5.0, low=4.0, high=6.0, repeats=9, patients=9)
    plain = Figure(name="x", title="X", value=3.0, floor=floor, n=1, extractor="none", resize="none", seed=0)
    assert plain.held == 3.0 and plain.within_floor is False
    assert plain.words() == "3; real halves 4 to 6"
    sized = replace(plain, matched=4.5)
    assert sized.held == 4.5 and sized.within_floor is True
    assert sized.words() == "3; real halves 4 to 6, at their size 4.5"
    assert replace(sized, floor=None).within_floor is None
    with pytest.raises(ValueError, match="matched is nan"):
        replace(plain, matched=float("nan"))


def test_figures_stand_by_subgroup_and_small_ones_are_hidden(drawn_folder: Make, tmp_path: Path) -> None:
    """Eyes and grades of the synthetic set; a grade of three patients is not shown."""
    synthetic = make_synthetic(drawn_folder(16, seed=300))
    records = read_folder(synthetic)
    write_metadata(
        synthetic,
        [
            replace(r, eye="left" if i % 2 else "right", grade=4 if i < 3 else 0)
            for i, r in enumerate(records)
        ],
    )
    found = evaluate(config(synthetic, drawn_folder(8, seed=400), tmp_path), judge=JUDGE)
    rows = {
        (row.attribute, row.group): row
        for row in found.subgroups
        if row.figure == "mask_fraction" and not row.real
    }
    assert rows["eye", "left"].patients == rows["eye", "right"].patients == 8
    halves = [rows["eye", side].value for side in ("left", "right")]
    assert np.mean(halves) == pytest.approx(found.figure("mask_fraction").value)
    assert rows["grade", "4"].value is None and "fewer than 5" in rows["grade", "4"].reason
    assert {row.figure for row in found.subgroups} >= {"agreement_auc", "mask_fraction", "vessel_calibre"}
    assert read_results(tmp_path / "results.json") == found and found.schema == 3
    assert len(found.atlas.least) == len(found.atlas.most) == 8
    plain = config(synthetic, drawn_folder(8, seed=400), tmp_path, subgroups=False, atlas=False)
    assert (without := evaluate(plain, judge=JUDGE)).subgroups == () and without.atlas.least == ()
