"""Planning: power against the tests themselves, the search, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fundusforge.studies.turing import power
from fundusforge.studies.turing.answers import Grid, Reader
from fundusforge.studies.turing.equivalence import equivalence
from fundusforge.studies.turing.gee import compare
from fundusforge.studies.turing.groups import groupings
from fundusforge.studies.turing.power import PlanConfig, plan, power_of
from fundusforge.studies.turing.simulation import Group, Spread, simulate

QUICK = PlanConfig(group_readers=8, images=40, studies=200, most=60, seed=4)


def grids(correct: np.ndarray, real: int) -> list[Grid]:
    """Studies of the given right answers; the second half of the readers are `b`."""
    studies, readers, images = correct.shape
    synthetic = np.arange(images) >= real
    people = tuple(
        Reader(reader=f"r{n}", specialty="ab"[2 * n // readers], years=1, started="", finished="")
        for n in range(readers)
    )
    return [
        Grid(readers=people, images=tuple(map(str, range(images))), synthetic=synthetic, seconds=one,
             fidelity=one, said_real=np.where(synthetic, 1 - one, one))
        for one in correct
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the simulation drew, batch by batch."""
    kept: list[np.ndarray] = []
    draw = power.draw_correct

    def draw_and_keep(*args: object, **named: object) -> np.ndarray:
        kept.append(draw(*args, **named))  # pyright: ignore[reportArgumentType]
        return kept[-1]

    monkeypatch.setattr(power, "draw_correct", draw_and_keep)
    return kept


def test_power_of_equivalence_is_the_share_of_studies_that_the_test_passes(drawn: list[np.ndarray]) -> None:
    config = replace(QUICK, prevalence=0.4, studies=120, margin=0.12)
    found = power_of(config)
    correct = np.concatenate(drawn).astype(float)
    assert correct.shape == (120, 8, 40)
    shown = [equivalence(grid, group="all", margin=0.12).equivalent for grid in grids(correct, 24)]
    assert 0.1 < np.mean(shown) < 0.9
    assert found.power == pytest.approx(np.mean(shown))


def test_power_of_a_difference_is_the_share_of_studies_in_which_the_gee_finds_it(
    drawn: list[np.ndarray],
) -> None:
    pytest.importorskip("statsmodels.genmod.generalized_estimating_equations")
    config = replace(
        QUICK, goal="difference", accuracy=(0.5, 0.62), outcome="specificity", lean=0.1, studies=100
    )
    found = power_of(config)
    studies = grids(np.concatenate(drawn).astype(float)[:15], 20)
    _, by_specialty = groupings(studies[0].readers, reference="a", years=5)
    mine = power._shown(config, np.stack([one.correct for one in studies]), 20)
    p = [compare(one, by_specialty, "specificity")[0].p for one in studies]
    assert mine.tolist() == [value is not None and value < 0.05 for value in p]
    assert 0.05 < found.power < 0.95


def test_readers_at_the_margin_are_seldom_called_equivalent() -> None:
    """At the edge of the margin the test's power is its level."""
    config = PlanConfig(group_readers=20, images=60, accuracy=(0.6,), studies=1500, image_sd=1.0, seed=21)
    found = power_of(config)
    assert found.low < 0.05 < found.high
    assert found.power < 0.07


def test_equal_groups_are_seldom_found_to_differ() -> None:
    config = PlanConfig(
        goal="difference", group_readers=12, images=60, accuracy=(0.55, 0.55), studies=1500, seed=22
    )
    assert 0.02 < power_of(config).power < 0.06


def test_more_readers_and_more_images_give_more_power() -> None:
    few, many = power_of(QUICK), power_of(replace(QUICK, group_readers=20))
    assert few.high < many.low
    assert power_of(replace(QUICK, images=12)).high < few.low
    assert power_of(replace(QUICK, image_sd=2.0, images=12)).power < 0.2  # few images that differ much


@pytest.mark.parametrize("start", [2, 9, 60])
def test_search_finds_the_smallest_number_wherever_it_starts(start: int) -> None:
    for answer in range(2, 61):
        asked: list[int] = []

        def enough(size: int, answer: int = answer, asked: list[int] = asked) -> bool:
            asked.append(size)
            return size >= answer

        assert power._smallest(enough, 2, 60, start=start) == answer
        assert len(asked) < 20 and min(asked) >= 2 and max(asked) <= 60
    assert power._smallest(lambda _: False, 2, 60, start=start) is None


def test_plan_says_what_is_needed_with_its_monte_carlo_error() -> None:
    told: list[str] = []
    found = plan(QUICK, progress=told.append)
    assert found.smallest is not None and found.asked.readers == 8
    size = found.smallest.readers
    by_size = {one.readers: one for one in found.tried}
    assert by_size[size].power >= 0.8 > by_size[size - 1].power
    assert len(told) == len(found.tried)
    assert found.smallest.power != by_size[size].power  # simulated anew
    error = math.sqrt(found.asked.power * (1 - found.asked.power) / 200)
    assert f"Monte-Carlo standard error {error:.3f}" in found.sentences()[0]
    assert f"The smallest number of readers found for 80% is {size}" in found.text()
    names = [line["name"] for line in found.lines()]
    assert names == ["turing_power_equivalence", "turing_power_equivalence_smallest"]
    assert all(line["low"] <= line["value"] <= line["high"] and line["n"] == 200 for line in found.lines())
    assert found.command == (
        "fundusforge turing plan --group-readers 8 --images 40 --most 60 --studies 200 --seed 4"
    )
    assert plan(QUICK).to_dict() == found.to_dict()


def test_plan_says_when_no_number_of_images_suffices() -> None:
    config = PlanConfig(group_readers=3, images=20, vary="images", most=80, studies=100, seed=1)
    found = plan(config)
    assert found.smallest is None and max(one.images for one in found.tried) == 80
    assert "No number of images up to 80 reaches 80%: take more readers" in found.text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"goal": "difference"}, "difference needs 2 values of accuracy, not 1"),
        ({"accuracy": (0.9,)}, "with lean 0.17 gives shares outside"),
        ({"margin": 0.5}, "margin and level"),
        ({"images": 3}, "3 images do not give two or more of each kind"),
        ({"group_readers": 1}, "two readers or more"),
        ({"prevalence": 1.0}, r"must be in \(0, 1\)"),
        ({"image_sd": -1.0}, "image must be 0 or more"),
    ],
)
def test_plans_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlanConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_simulated_studies_are_as_they_were_asked_for() -> None:
    groups = [
        Group(specialty="resident", readers=60, sensitivity=0.7, specificity=0.4, seconds=5),
        Group(specialty="retinal", readers=60, sensitivity=0.9, specificity=0.8, years=8, seconds=20),
    ]
    spread = Spread(reader=0.3, leaning=0.3, image=0.2, reader_seconds=0.2, seconds=0.3)
    study = simulate(groups, real=60, synthetic=40, repeated=5, spread=spread, condition="crop", seed=7)
    grid = study.grid("crop")
    assert grid.said_real.shape == (120, 100) and int(grid.synthetic.sum()) == 40 and grid.missing == 0
    for rows, group in ((slice(0, 60), groups[0]), (slice(60, 120), groups[1])):
        assert grid.correct[rows][:, ~grid.synthetic].mean() == pytest.approx(group.sensitivity, abs=0.06)
        assert grid.correct[rows][:, grid.synthetic].mean() == pytest.approx(group.specificity, abs=0.06)
        assert np.median(grid.seconds[rows]) == pytest.approx(group.seconds, rel=0.1)
    assert len(study.repeats()) == 600
    assert (
        simulate(groups, real=60, synthetic=40, repeated=5, spread=spread, condition="crop", seed=7) == study
    )
    with pytest.raises(ValueError, match="one reader or more"):
        Group(specialty="x", readers=0)
