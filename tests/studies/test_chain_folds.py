"""Folds by patient, three arms, resumption, and figures whose signs say what they claim."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.vessels import vessel_scores
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.studies.chain.folds import FOLDS, Folds, FoldsConfig, folds
from fundusforge.studies.chain.parting import folds_of, write_part

NOISE = {"real": 0.2, "synthetic": 0.4, "both": 0.1}
"""How far the segmenter of each arm is off, so that both < real < synthetic is known beforehand."""


class Trainer:
    """Stands in for the chain and for training a segmenter; notes what it was asked."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.trained: list[tuple[list[Path], Path]] = []
        self.stop_at: int | None = None

    def make(self, known: Path, out: Path) -> Path:
        self.made.append(known)
        shutil.copytree(known, out, dirs_exist_ok=True)
        drawn = [replace(r, synthetic=True, patient=f"drawn-{i}") for i, r in enumerate(read_folder(known))]
        write_metadata(out, drawn)
        return out

    def train(self, learnt: Sequence[Path], run: Path) -> None:
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt
        self.trained.append((list(learnt), run))
        run.mkdir(parents=True, exist_ok=True)

    def load(self, run: Path) -> Judge:
        off = NOISE[run.name]

        def segment(image: np.ndarray, field: np.ndarray | None) -> np.ndarray:
            # Vessels of the drawn eyes are darker than their surroundings.
            noise = np.random.default_rng(image.shape[0]).uniform(-off, off, image.shape[:2])
            return np.clip(1 - image[..., 0] / 255.0 + noise, 0, 1).astype(np.float32)

        return Judge(name=run.name, segment=segment, threshold=0.45)


@pytest.fixture
def config(drawn_folder: Callable[..., Path], tmp_path: Path) -> FoldsConfig:
    external = tmp_path / "chase"
    shutil.copytree(drawn_folder(4, seed=50), external)
    real = drawn_folder(12, seed=3)
    return FoldsConfig(
        real=real, out=tmp_path / "study", external=(external,), splits=(), folds=3, draws=100
    )  # fmt: skip


def run(config: FoldsConfig, trainer: Trainer) -> Folds:
    return folds(config, make=trainer.make, train=trainer.train, load=trainer.load, settings={"images": 8})


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_stands_on_both_sides(seed: int) -> None:
    patients = [f"p{i // 2}" for i in range(14)]
    parts = folds_of(patients, folds=3, seed=seed)
    assert sorted(name for part in parts for name in part) == sorted(set(patients))
    assert {len(part) for part in parts} == {2, 3}
    assert parts == folds_of(patients[::-1], folds=3, seed=seed)
    assert any(folds_of(patients, folds=3, seed=other) != parts for other in range(5))


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(DatasetError, match="a patient for each"):
        folds_of(["a", "a", "b"], folds=3, seed=0)


def test_every_arm_learns_from_its_folders_and_from_nobody_held_out(config: FoldsConfig) -> None:
    trainer = Trainer()
    run(config, trainer)
    assert len(trainer.trained) == 9
    for fold in range(3):
        place = config.out / f"fold-{fold}"
        held = {record.patient for record in read_folder(place / "held")}
        arms = {where.name: learnt for learnt, where in trainer.trained if where.parent == place}
        assert arms == {
            "real": [place / "real"], "synthetic": [place / "chain"],
            "both": [place / "real", place / "chain"],
        }  # fmt: skip
        for folder in arms["both"]:
            records = read_folder(folder)
            assert {record.split for record in records} == {"train"}
            assert not held & {record.patient for record in records}
        assert {r.split for r in read_folder(place / "held")} == {"test"}
    assert trainer.made == [config.out / f"fold-{fold}" / "real" for fold in range(3)]


def test_figures_have_the_signs_and_values_of_their_segmenters(config: FoldsConfig) -> None:
    result = run(config, Trainer())
    gap, gain = result.figure("chain_synthetic_only_f1_gap"), result.figure("chain_added_f1_gain")
    assert gap.value > 0 and gain.value > 0
    assert (gap.n, gain.n) == (12, 4)
    assert gap.low <= gap.value <= gap.high
    assert result.figure("chain_added_f1_gain_chase").value == gain.value
    assert result.figure("chain_added_auc_gain").value is not None
    cell = json.loads((config.out / "fold-1" / "real.json").read_text("utf-8"))
    eye = next(each for each in cell["eyes"] if each["where"] == "held-out")
    record = next(r for r in read_folder(config.real) if r.image == eye["image"])
    from fundusforge.images import read_image, read_mask

    image, field = read_image(config.real / record.image), read_mask(config.real / record.field_of_view)
    map_ = Trainer().load(Path("real")).segment(image, field)
    mask = read_mask(config.real / record.masks["vessels"].path)
    expected = vessel_scores([map_], [mask], [field], threshold=0.45)
    assert (eye["f1"], eye["auc"]) == pytest.approx((expected.f1, expected.auc))
    mean = next(each for each in result.means if (each.arm, each.where) == ("real", "held-out"))
    assert mean.eyes == 12 and mean.pooled_f1 is not None
    assert "not within 0.05" in result.verdicts[0] or "within 0.05" in result.verdicts[0]
    assert ": above training on real eyes alone" in result.verdicts[1]
    assert {row["name"] for row in result.lines()} >= {gap.name, gain.name}
    assert "chain_added_f1_gain" in result.text() and "| real | held-out | 12 |" in result.markdown()
    assert json.loads((config.out / FOLDS).read_text("utf-8")) == result.to_dict()


def test_a_study_goes_on_where_it_stopped(config: FoldsConfig, tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        run(config, trainer)
    trainer.stop_at = None
    resumed = run(config, trainer)
    assert len(trainer.trained) == 9 and len(trainer.made) == 3, "no cell and no drawing twice"
    again = Trainer()
    assert run(config, again) == resumed and not again.trained and not again.made
    whole = run(replace(config, out=tmp_path / "whole"), Trainer())
    assert whole.figures == resumed.figures


def test_another_study_in_the_same_folder_is_refused(config: FoldsConfig) -> None:
    run(config, Trainer())
    with pytest.raises(DatasetError, match="other folders or settings"):
        run(replace(config, seed=1), Trainer())
    trainer = Trainer()
    with pytest.raises(DatasetError, match="other folders or settings"):
        folds(config, make=trainer.make, train=trainer.train, load=trainer.load, settings={"images": 9})


def test_unfit_drawn_eyes_are_refused(config: FoldsConfig) -> None:
    trainer = Trainer()
    with pytest.raises(DatasetError, match="expected synthetic eyes"):
        folds(config, make=lambda known, out: known, train=trainer.train, load=trainer.load)

    def leaky(known: Path, out: Path) -> Path:
        shutil.copytree(known.parent / "held", out)
        write_metadata(out, [replace(r, synthetic=True, split="train") for r in read_folder(out)])
        return out

    other = replace(config, out=config.out.with_name("other"))
    with pytest.raises(DatasetError, match="held-out patients stand among"):
        folds(other, make=leaky, train=trainer.train, load=trainer.load)


def test_shared_patients_are_refused(config: FoldsConfig, tmp_path: Path) -> None:
    shutil.copytree(config.real, tmp_path / "hrf")
    with pytest.raises(DatasetError, match="stand in"):
        run(replace(config, external=(tmp_path / "hrf",)), Trainer())


def test_a_part_is_written_once(config: FoldsConfig, tmp_path: Path) -> None:
    records = read_folder(config.real)
    out = write_part(config.real, records[:4], tmp_path / "part", split="train")
    file = out / records[0].image
    assert file.read_bytes() == (config.real / records[0].image).read_bytes()
    before = file.stat().st_mtime_ns
    assert write_part(config.real, records[:4], out, split="train") == out
    assert file.stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="holds other images"):
        write_part(config.real, records[:5], out, split="train")
