"""Membership inference: leaks that it must find, splits that must not pass for leaks, areas by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from fundusforge.audit.membership import (
    Space,
    Splits,
    Trial,
    attack,
    by_distance,
    leaks,
    probe,
    stand_in,
    told_apart,
)
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.records import Record

DIMENSIONS = 16


class Population:
    """Patients as clouds in a vector space: two images each, alike; a camera moves all of them."""

    def __init__(self) -> None:
        self.vectors: dict[str, np.ndarray] = {}

    def patients(self, name: str, count: int, *, seed: int, camera: float = 0.0) -> ImageSet:
        rng = np.random.default_rng(seed)
        records = []
        for patient in range(count):
            centre = rng.normal(size=DIMENSIONS) + camera
            for image in range(2):
                key = f"{name}-{patient}-{image}.png"
                self.vectors[key] = centre + rng.normal(scale=0.3, size=DIMENSIONS)
                records.append(Record(image=key, patient=f"{name}-{patient}", source="cloud"))
        return ImageSet(folder=Path(name), records=records)

    def copies(self, members: ImageSet) -> ImageSet:
        rng = np.random.default_rng(9)
        records = []
        for record in members.records:
            key = f"copy-{record.image}"
            self.vectors[key] = self.vectors[record.image] + rng.normal(scale=0.02, size=DIMENSIONS)
            records.append(Record(image=key, patient=f"phantom-{key}", source="cloud", synthetic=True))
        return ImageSet(folder=Path("copies"), records=records)

    def matrix(self, images: ImageSet) -> np.ndarray:
        return np.array([self.vectors[record.image] for record in images.records])

    def distances(self, first: ImageSet, second: ImageSet) -> np.ndarray:
        a, b = self.matrix(first), self.matrix(second)
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    def space(self) -> Space:
        return Space(name="cloud", title="clouds", extractor="none", resize="none", distances=self.distances)


def judged(population: Population, splits: Splits) -> dict[str, Figure]:
    return {
        figure.name.removeprefix("membership_cloud_"): figure
        for figure in by_distance(splits, population.space())
    }


def splits(synthetic: ImageSet, members: ImageSet, holdout: ImageSet, **rest: object) -> Splits:
    return Splits(synthetic=synthetic, members=members, holdout=holdout, draws=200, **rest)


def test_a_generator_that_copies_is_found() -> None:
    world = Population()
    members, holdout = world.patients("m", 60, seed=1), world.patients("h", 60, seed=2)
    found = judged(world, splits(world.copies(members), members, holdout))
    assert found["auc"].value > 0.99
    assert found["auc"].real == pytest.approx(0.5, abs=0.1)
    assert found["advantage"].low > 0.3
    assert found["tpr_1"].value > 0.95 and found["tpr_1"].real < 0.2
    assert found["tpr_01"].value is None and "1000 held-out" in found["tpr_01"].reason
    assert leaks(list(found.values()), tolerance=0.05) == [found["advantage"]]


def test_a_generator_of_new_patients_is_not_accused() -> None:
    world = Population()
    members, holdout = world.patients("m", 60, seed=1), world.patients("h", 60, seed=2)
    found = judged(world, splits(world.patients("s", 60, seed=3), members, holdout))
    assert found["auc"].low < 0.5 < found["auc"].high
    assert found["advantage"].low < 0 < found["advantage"].high
    assert leaks(list(found.values()), tolerance=0.0) == []


def test_splits_of_different_cameras_show_in_the_controls_and_are_no_leak() -> None:
    """Fresh patients in the training camera's colours: the attack succeeds, and so do both controls."""
    world = Population()
    members = world.patients("m", 60, seed=1)
    holdout = world.patients("h", 60, seed=2, camera=0.6)
    made = splits(world.patients("s", 60, seed=3), members, holdout)
    found = judged(world, made)
    assert found["auc"].low > 0.5 and found["auc"].real_low > 0.5
    assert found["advantage"].low < 0.0 < found["advantage"].high
    seen = told_apart(made, world.space(), _probe(world, members, holdout))
    assert seen.low > 0.7


def test_splits_that_differ_too_much_to_tell_anything_say_so() -> None:
    world = Population()
    members = world.patients("m", 20, seed=1)
    for camera, crowded in ((0.0, False), (5.0, True)):
        holdout = world.patients(f"h{camera}", 20, seed=2, camera=camera)
        found = judged(world, splits(world.copies(members), members, holdout))
        assert any("could not show" in note for note in found["advantage"].notes) == crowded


def test_a_copying_generator_is_found_in_spite_of_different_cameras() -> None:
    world = Population()
    members = world.patients("m", 60, seed=1)
    holdout = world.patients("h", 60, seed=2, camera=0.15)
    found = judged(world, splits(world.copies(members), members, holdout))
    assert found["advantage"].low > 0.1


def test_the_probe_is_blind_where_splits_do_not_differ() -> None:
    """Over many pairs of like splits the mean is one half: comparing within folds leaves no bias."""
    areas = []
    for seed in range(40):
        world = Population()
        members, holdout = world.patients("m", 20, seed=2 * seed), world.patients("h", 12, seed=2 * seed + 1)
        trial = _probe(world, members, holdout)
        areas.append(trial.area()([np.ones(40), np.ones(24)]))
    assert np.mean(areas) == pytest.approx(0.5, abs=3 * np.std(areas) / np.sqrt(40))


def test_the_control_is_fair_where_splits_do_not_differ() -> None:
    """Leaving a member's patient out for both sides keeps one half, with few patients too."""
    areas = []
    for seed in range(60):
        world = Population()
        members, holdout = world.patients("m", 6, seed=2 * seed), world.patients("h", 9, seed=2 * seed + 1)
        trial = stand_in(
            (world.distances(members, members), world.distances(holdout, members)),
            (members.patients, holdout.patients), members.patients,
        )  # fmt: skip
        areas.append(trial.area()([np.ones(12), np.ones(18)]))
    assert np.mean(areas) == pytest.approx(0.5, abs=3 * np.std(areas) / np.sqrt(60))


def _probe(world: Population, members: ImageSet, holdout: ImageSet) -> Trial:
    vectors = world.matrix(members), world.matrix(holdout)
    trial = probe(vectors, (members.patients, holdout.patients), seed=0)
    assert trial is not None
    return trial


def test_areas_and_hits_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    members, holdout = np.round(rng.normal(0.5, 1, 80), 1), np.round(rng.normal(0, 1, 150), 1)
    trial = Trial(members=members, holdout=holdout[:, None], column=np.zeros(80, np.intp))
    truth, scores = np.repeat([1, 0], [80, 150]), np.concatenate([members, holdout])
    for weights in (
        [np.ones(80), np.ones(150)],
        [rng.integers(0, 3, 80) * 1.0, rng.integers(0, 3, 150) * 1.0],
    ):
        both = np.concatenate(weights)
        assert trial.area()(weights) == pytest.approx(roc_auc_score(truth, scores, sample_weight=both))
        false, true, _ = roc_curve(truth, scores, sample_weight=both, drop_intermediate=False)
        for rate in (0.01, 0.1):
            assert trial.hits(rate)(weights) == pytest.approx(true[false <= rate + 1e-12].max())


def test_the_control_by_hand() -> None:
    """Two members' patients on a line at 0 and 10, a held-out image at 4: each member sees the other only."""
    members, holdout = np.array([0.0, 1.0, 10.0]), np.array([4.0])
    patients = ["a", "a", "b"]
    trial = stand_in(
        (abs(members[:, None] - members), abs(holdout[:, None] - members)), (patients, ["c"]), patients
    )
    assert trial.members.tolist() == [-10.0, -9.0, -9.0]
    assert trial.holdout[0, trial.column].tolist() == [-6.0, -6.0, -3.0]
    assert trial.area()([np.ones(3), np.ones(1)]) == 0.0


def test_other_real_images_may_stand_in() -> None:
    world = Population()
    members, holdout = world.patients("m", 40, seed=1), world.patients("h", 40, seed=2)
    others = world.patients("o", 40, seed=5)
    found = judged(world, splits(world.copies(members), members, holdout, stand_ins=others))
    plain = roc_auc_score(
        np.repeat([1, 0], 80),
        -np.concatenate([world.distances(each, others).min(axis=1) for each in (members, holdout)]),
    )
    assert found["auc"].real == pytest.approx(plain)
    assert "80 real images" in found["auc"].notes[0]


def test_attack_takes_the_nearest() -> None:
    trial = attack((np.array([[3.0, 1.0], [2.0, 5.0]]), np.array([[4.0, 4.0]])))
    assert trial.members.tolist() == [-1.0, -2.0] and trial.holdout.tolist() == [[-4.0]]


def test_too_few_patients_are_said() -> None:
    world = Population()
    members, holdout = world.patients("m", 1, seed=1), world.patients("h", 5, seed=2)
    made = splits(world.patients("s", 3, seed=3), members, holdout)
    with pytest.raises(ValueError, match="at least two patients"):
        by_distance(made, world.space())
    assert (
        probe((world.matrix(members), world.matrix(holdout)), (members.patients, holdout.patients), seed=0)
        is None
    )
    assert told_apart(made, world.space(), None).value is None
    empty = splits(ImageSet(folder=Path(), records=[]), members, holdout)
    with pytest.raises(ValueError, match="synthetic, training and held-out"):
        by_distance(empty, world.space())


def test_intervals_draw_patients() -> None:
    """Doubling every image adds no patient and narrows no interval."""
    world = Population()
    members, holdout = world.patients("m", 30, seed=1), world.patients("h", 30, seed=2)
    synthetic = world.patients("s", 30, seed=3)

    def doubled(images: ImageSet) -> ImageSet:
        twice: Sequence[Record] = [*images.records, *images.records]
        return ImageSet(folder=images.folder, records=twice)

    once = judged(world, splits(synthetic, members, holdout))["auc"]
    twice = judged(world, splits(synthetic, doubled(members), doubled(holdout)))["auc"]
    assert twice.value == pytest.approx(once.value)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
