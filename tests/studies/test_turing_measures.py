"""Figures of a reader study against hand computation and other implementations; what is read and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from fundusforge.studies.turing.agreement import between, cohen_kappa, fleiss_kappa, within
from fundusforge.studies.turing.answers import (
    ANSWERS,
    READERS,
    Answer,
    Answers,
    AnswersError,
    Grid,
    Reader,
    read_answers,
    write_answers,
)
from fundusforge.studies.turing.crossed import crossed, estimate, mean, scores_of
from fundusforge.studies.turing.equivalence import equivalence, p_values
from fundusforge.studies.turing.groups import groupings
from fundusforge.studies.turing.measures import (
    condition_difference,
    convincing,
    fidelity,
    measured,
    median_seconds,
    reader_scores,
    scores,
    share,
    signal,
)
from fundusforge.studies.turing.simulation import Group, Spread, draw_correct, simulate


def grid_of(said_real: list[list[float]], synthetic: list[int], **cells: list[list[float]]) -> Grid:
    """A study of given answers; readers r1, r2, ... and images i0, i1, ..."""
    said = np.array(said_real, float)
    nothing = np.full(said.shape, np.nan)
    people = tuple(
        Reader(reader=f"r{number + 1}", specialty="resident", years=1, started="", finished="")
        for number in range(len(said))
    )
    return Grid(
        readers=people, images=tuple(f"i{n}" for n in range(said.shape[1])), said_real=said,
        synthetic=np.array(synthetic, bool), seconds=np.array(cells.get("seconds", nothing), float),
        fidelity=np.array(cells.get("fidelity", nothing), float),
    )  # fmt: skip


def random_grid(readers: int, real: int, synthetic: int, *, seed: int, missing: float = 0.0) -> Grid:
    rng = np.random.default_rng(seed)
    said = (rng.random((readers, real + synthetic)) < 0.6).astype(float)
    said[rng.random(said.shape) < missing] = np.nan
    return grid_of(said.tolist(), [0] * real + [1] * synthetic)


SMALL = grid_of(
    [[1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]],
    [0, 0, 0, 1, 1, 1],
)


def test_a_real_image_is_the_positive_case() -> None:
    """Sensitivity is of real images, as the paper defines it."""
    first = reader_scores(SMALL)[0]
    assert (first.sensitivity.hits, first.sensitivity.n) == (2, 3)  # two of three real ones called real
    assert (first.specificity.hits, first.specificity.n) == (1, 3)  # one of three synthetic ones recognised
    assert first.accuracy.value == pytest.approx(3 / 6)
    assert measured(SMALL, "sensitivity").value == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert measured(SMALL, "specificity").value == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


def test_balanced_accuracy_of_a_constant_answer_is_one_half_and_accuracy_is_not() -> None:
    said = [[1.0] * 8, [0.0] * 8]
    grid = grid_of(said, [0] * 6 + [1] * 2)
    assert scores(grid, "balanced").values == pytest.approx([0.5, 0.5])
    assert scores(grid, "accuracy").values == pytest.approx([0.75, 0.25])


def test_share_has_wilsons_interval_as_statsmodels_has_it() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for hits, n in ((0, 12), (7, 40), (40, 40)):
        low, high = proportion.proportion_confint(hits, n, method="wilson")
        one = share(hits, n)
        assert (one.low, one.high) == pytest.approx((low, high), abs=1e-12)


def test_d_prime_and_criterion_by_hand() -> None:
    d, c = signal(40, 50, 20, 50)
    hit, alarm = 40.5 / 51, 20.5 / 51
    assert d.value == pytest.approx(norm.ppf(hit) - norm.ppf(alarm))
    assert c.value == pytest.approx(-0.5 * (norm.ppf(hit) + norm.ppf(alarm)))
    variance = sum(p * (1 - p) / (50 * norm.pdf(norm.ppf(p)) ** 2) for p in (hit, alarm))
    assert d.high is not None and c.high is not None
    assert d.high - d.value == pytest.approx(1.96 * math.sqrt(variance), rel=1e-4)
    assert c.high - c.value == pytest.approx(0.98 * math.sqrt(variance), rel=1e-4)
    perfect, _ = signal(50, 50, 0, 50)
    assert perfect.value == pytest.approx(2 * norm.ppf(50.5 / 51))  # finite, thanks to the correction
    assert signal(5, 5, 0, 0)[0].value is None


def test_influence_of_d_prime_is_its_derivative() -> None:
    """Weighing one image a little more moves every reader's d' by its influence."""
    grid = random_grid(6, 12, 10, seed=3)
    found = scores(grid, "d_prime")
    step, image = 1e-5, 15
    weights = np.ones(22)
    weights[image] += step

    def d_prime(weights: np.ndarray) -> np.ndarray:
        z = []
        for kind, n in ((False, 12), (True, 10)):
            w = weights * (grid.synthetic == kind)
            z.append(norm.ppf((n * (grid.said_real @ w) / w.sum() + 0.5) / (n + 1)))
        return z[0] - z[1]

    moved = (d_prime(weights) - d_prime(np.ones(22))) / step
    assert moved == pytest.approx(found.influence[:, image], abs=1e-4)


def test_variance_of_a_share_is_that_of_the_analysis_of_variance() -> None:
    """Two-way mean squares by hand: (readers + images - cells) / (R N), and Satterthwaite's degrees."""
    rng = np.random.default_rng(5)
    cells = (rng.random((9, 30)) < 0.3 + 0.4 * rng.random((9, 1)) * rng.random((1, 30)) * 2).astype(float)
    rows, columns = cells.mean(1), cells.mean(0)
    left = cells - rows[:, None] - columns + cells.mean()
    readers, images = 30 * rows.var(ddof=1), 9 * columns.var(ddof=1)
    both = (left**2).sum() / (8 * 29)
    found = mean(scores_of(cells, np.zeros(30, int)))
    expected = (readers + images - both) / 270
    assert expected > max(readers, images) / 270  # else the floor would hide the sum
    assert found.variance == pytest.approx(expected)
    assert found.reader == pytest.approx(readers / 270)
    parts = readers**2 / 8 + images**2 / 29 + both**2 / (8 * 29)
    assert found.degrees == pytest.approx((270 * expected) ** 2 / parts)


def test_standard_error_with_images_random_is_that_of_repeated_studies() -> None:
    """Over many studies the variance of the mean is what each study estimates, not that of readers."""
    rng = np.random.default_rng(17)
    group = [Group(specialty="all", readers=30, sensitivity=0.6, specificity=0.5)]
    correct = draw_correct(
        group, Spread(image=1.0), real=15, synthetic=15, rng=rng, studies=1500
    ).astype(float)  # fmt: skip
    found = mean(scores_of(correct, np.repeat([0, 1], 15), balanced=True))
    true = found.value.var(ddof=1)
    assert found.variance.mean() == pytest.approx(true, rel=0.1)
    assert found.reader.mean() < 0.6 * true


def test_a_mean_needs_readers_and_images() -> None:
    assert "one reader" in estimate(scores_of(np.array([[1.0, 0.0, 1.0]]), np.zeros(3, int))).reason
    assert "two images" in estimate(scores_of(np.array([[1.0], [0.0]]), np.zeros(1, int))).reason
    full = estimate(scores_of(np.ones((3, 4)), np.zeros(4, int)))
    assert (full.value, full.low, full.reason) == (1.0, None, "every answer is right")
    none = measured(SMALL, "accuracy", np.zeros(3, bool))
    assert (none.value, none.reason) == (None, "no reader")
    real_only = grid_of([[1, 0, 1], [1, 1, 0]], [0, 0, 0])
    assert measured(real_only, "specificity").reason == "no reader judged synthetic images"
    assert measured(real_only, "balanced").reason == "no reader judged real and synthetic images"
    assert measured(real_only, "d_prime").value is None


def test_missing_answers_leave_the_other_readers_as_they_are() -> None:
    grid = random_grid(8, 20, 20, seed=4, missing=0.1)
    assert grid.missing > 10
    shares = [np.nanmean(row) for row in grid.correct]
    found = measured(grid, "accuracy")
    assert found.value == pytest.approx(np.mean(shares))
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    whole = measured(replace(grid, said_real=np.nan_to_num(grid.said_real, nan=1.0)), "accuracy")
    assert whole.error is not None and found.error == pytest.approx(whole.error, rel=0.5)


def test_difference_of_groups_ignores_what_images_do_to_both() -> None:
    """Images that are hard for everybody widen the interval of a mean, not of a difference."""
    rng = np.random.default_rng(6)
    hard = rng.random((1, 40)) < 0.5
    cells = (rng.random((20, 40)) < np.where(hard, 0.1, 0.9)).astype(float)
    every, groups = scores_of(cells, np.zeros(40, int)), np.repeat([0, 1], 10)
    difference = crossed(every, np.where(groups == 0, 0.1, -0.1), groups)
    assert difference.variance < 0.3 * mean(every).variance


@pytest.mark.parametrize(
    ("value", "variance", "degrees"), [(0.5, 0.001, 30.0), (0.57, 0.0009, 12.5), (0.7, 0.002, 8.0)]
)
def test_two_one_sided_tests_by_hand(value: float, variance: float, degrees: float) -> None:
    p, other = p_values(value, variance, degrees, margin=0.1)
    error = math.sqrt(variance)
    assert p == pytest.approx(
        max(t.sf((value - 0.4) / error, degrees), t.cdf((value - 0.6) / error, degrees))
    )
    assert other == pytest.approx(2 * t.sf(abs(value - 0.5) / error, degrees))


def test_equivalence_says_which_of_four() -> None:
    """Equivalent or not, different or not: in words, and the 90 % interval decides."""
    kinds = {
        (True, False): (0.5, 40, 100, "no difference from 50 % is found"),
        (False, True): (0.8, 40, 100, "not equivalent and different: readers do better"),
        (False, False): (0.5, 3, 8, "not equivalent, not different"),
        (True, True): (0.545, 120, 400, "a true and small difference"),
    }
    for verdict, (chance, readers, images, words) in kinds.items():
        rng = np.random.default_rng(8)
        correct = rng.random((readers, images)) < chance
        synthetic = np.arange(images) >= images // 2
        grid = grid_of(np.where(synthetic, ~correct, correct).astype(float).tolist(), synthetic.tolist())
        one = equivalence(grid, group="all readers")
        assert (one.equivalent, one.different) == verdict
        assert words in one.sentence()
        assert one.low is not None and one.high is not None
        assert (one.low > 0.4 and one.high < 0.6) == one.equivalent
    assert "better" in one.sentence()
    lone = equivalence(grid, np.arange(120) == 0, group="x")
    assert lone.equivalent is None and "one reader" in lone.sentence()


def test_fleiss_kappa_by_hand_and_by_statsmodels() -> None:
    # Four images, three readers: agreement 1, 1/3, 1/3, 1; shares 7/12 and 5/12.
    counts = np.array([[3, 0], [2, 1], [2, 1], [0, 3]], float)
    chance = (7 / 12) ** 2 + (5 / 12) ** 2
    assert fleiss_kappa(counts) == pytest.approx((2 / 3 - chance) / (1 - chance))
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    grid = random_grid(7, 15, 12, seed=9)
    expected = rater.fleiss_kappa(rater.aggregate_raters(grid.said_real.T.astype(int))[0])
    found = between(grid, draws=200, seed=0)
    assert found.value == pytest.approx(expected)
    assert found.low is not None and found.high is not None and found.low < expected < found.high
    doubled = np.repeat(counts, [2, 1, 1, 1], axis=0)
    assert fleiss_kappa(counts, np.array([2.0, 1, 1, 1])) == pytest.approx(fleiss_kappa(doubled))


def test_fleiss_kappa_counts_images_that_all_have_judged() -> None:
    grid = random_grid(5, 10, 10, seed=2)
    said = grid.said_real.copy()
    said[0, 3] = np.nan
    found = between(replace(grid, said_real=said), draws=200, seed=0)
    assert found.images == 19
    assert between(grid, np.arange(5) == 1, draws=200, seed=0).reason == "fewer than two readers"
    same = replace(grid, said_real=np.ones_like(grid.said_real))
    assert between(same, draws=200, seed=0).reason == "all answers are the same"


def test_agreement_of_readers_with_themselves_by_hand() -> None:
    """2 x 2 table 20, 5, 10, 15: agreement 0.7, chance 0.5, kappa 0.4 (a textbook's example)."""
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 5, 10, 15])
    second = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 5, 10, 15])
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    assert rater.cohens_kappa(np.array([[20, 5], [10, 15]])).kappa == pytest.approx(0.4)
    pairs = [
        tuple(
            Answer(reader=f"r{place % 5}", position=2 * place + showing, image=f"i{place}", truth="real",
                   condition="full", showing=showing, answer="real" if said else "synthetic", seconds=2)
            for showing, said in ((1, a), (2, b))
        )
        for place, (a, b) in enumerate(zip(first, second, strict=True))
    ]  # fmt: skip
    found = within(pairs, draws=200, seed=0)  # pyright: ignore[reportArgumentType]
    assert found is not None and found.percent.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4) and found.kappa.images == 50
    assert found.kappa.low is not None and found.kappa.low < 0.4
    assert [name for name, _, _ in found.by_reader] == ["r0", "r1", "r2", "r3", "r4"]
    assert sum(one.hits for _, one, _ in found.by_reader) == 35
    assert within([], draws=200, seed=0) is None


def test_times_have_mean_and_median() -> None:
    seconds = [[1.0, 2, 3, 4], [2, 4, 6, 50], [3, 3, 3, 3]]
    grid = grid_of([[1, 0, 1, 0]] * 3, [0, 0, 1, 1], seconds=seconds)
    assert measured(grid, "seconds").value == pytest.approx((2.5 + 15.5 + 3) / 3)
    found = median_seconds(grid, draws=300, seed=0)
    assert found.value == 3.0
    assert found.low is not None and found.high is not None and 1 <= found.low <= 3 <= found.high <= 50
    assert [one.seconds_median for one in reader_scores(grid)] == [2.5, 5.0, 3.0]


def test_fidelity_by_truth_and_their_difference() -> None:
    rng = np.random.default_rng(1)
    scored = np.concatenate([rng.integers(6, 10, (12, 20)), rng.integers(3, 7, (12, 20))], 1).astype(float)
    scored[0, :5] = np.nan
    grid = grid_of(np.ones((12, 40)).tolist(), [0] * 20 + [1] * 20, fidelity=scored.tolist())
    found = fidelity(grid)
    by_reader = [np.nanmean(row[:20]) - np.nanmean(row[20:]) for row in scored]
    assert found["real_less_synthetic"].value == pytest.approx(np.mean(by_reader))
    assert found["real_less_synthetic"].low is not None and found["real_less_synthetic"].low > 2
    assert found["synthetic"].value == pytest.approx(scored[:, 20:].mean())
    assert fidelity(SMALL) == {}


def test_most_and_least_convincing_are_synthetic_and_apart() -> None:
    said = np.zeros((10, 8))
    for column, called in enumerate((10, 10, 9, 1, 5, 7, 0, 3)):
        said[:called, column] = 1
    grid = grid_of(said.tolist(), [0, 1, 1, 1, 1, 1, 1, 1])
    most, least = convincing(grid)
    assert [one.image for one in most] == ["i1", "i2", "i5"]
    assert [one.image for one in least] == ["i6", "i3", "i7"]
    assert (most[1].called_real.hits, most[1].called_real.n) == (9, 10)
    few = convincing(grid_of(said[:, 5:].tolist(), [0, 1, 1]))
    assert [len(each) for each in few] == [1, 1]


def test_conditions_are_compared_on_the_same_readers() -> None:
    """An image shown in both conditions is one image: its difficulty cancels."""
    rng = np.random.default_rng(12)
    easy = np.where(rng.random(40) < 0.5, 0.95, 0.15)
    synthetic = [0] * 20 + [1] * 20
    said = [
        np.where(np.array(synthetic) == 1, rng.random((15, 40)) >= easy, rng.random((15, 40)) < easy)
        for _ in range(2)
    ]
    first, second = (grid_of(one.astype(float).tolist(), synthetic) for one in said)
    paired = condition_difference(first, second)
    apart = condition_difference(first, replace(second, images=tuple(f"x{n}" for n in range(40))))
    gap = scores(second, "balanced").values.mean() - scores(first, "balanced").values.mean()
    assert paired.value == pytest.approx(gap) == apart.value
    assert paired.error is not None and apart.error is not None and paired.error < 0.7 * apart.error
    strangers = replace(second, readers=tuple(replace(r, reader="z" + r.reader) for r in second.readers))
    assert condition_difference(first, strangers).value is None


def test_groups_are_those_of_the_paper() -> None:
    people = [("resident", 2), ("retinal", 4.9), ("retinal", 5), ("non-retinal", 1), ("resident", 9)]
    readers = [
        Reader(reader=f"r{n}", specialty=name, years=years, started="", finished="")
        for n, (name, years) in enumerate(people)
    ]
    parted, whole = groupings(readers, reference="resident", years=5)
    assert [(name, rows.nonzero()[0].tolist()) for name, rows in parted.groups] == [
        ("resident", [0, 4]), ("non-retinal, under 5 years", [3]), ("non-retinal, 5 years or more", []),
        ("retinal, under 5 years", [1]), ("retinal, 5 years or more", [2]),
    ]  # fmt: skip
    assert [name for name, _ in whole.groups] == ["resident", "non-retinal", "retinal"]


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    study = simulate([Group(specialty="resident", readers=2)], real=3, synthetic=2, repeated=2, seed=1)
    told = replace(study.answers[0], fidelity=7, marks=([0.25, 0.5, "edge"],))
    study = replace(study, answers=(told, *study.answers[1:]))
    write_answers(tmp_path, study)
    assert read_answers(tmp_path) == study == read_answers(tmp_path / READERS, tmp_path / ANSWERS)
    assert len(study.repeats()) == 4
    grid = study.grid()
    assert grid.said_real.shape == (2, 5) and grid.missing == 0  # second showings do not enter
    row = next(place for place, one in enumerate(grid.readers) if one.reader == told.reader)
    assert grid.fidelity[row, grid.images.index(told.image)] == 7


def test_unfinished_readers_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    study = simulate([Group(specialty="resident", readers=3)], real=2, synthetic=2, seed=1)
    people = (*study.readers[:2], replace(study.readers[2], finished=""))
    write_answers(tmp_path, Answers(readers=people, answers=study.answers[:-1]))
    found = read_answers(tmp_path)
    assert [one.reader for one in found.left_out] == ["r03"] and len(found.answers) == 8
    every = read_answers(tmp_path, unfinished=True)
    assert len(every.answers) == 11 and every.grid().missing == 1 and every.left_out == ()


HEAD = "reader,position,image,truth,condition,showing,answer,seconds,fidelity,marks\n"
PEOPLE = "reader,specialty,years,started,finished\nr01,resident,2,,2024-05-31T09:00:00\n"
LINE = "r01,1,a,real,full,1,real,2.5,,\n"
KNOWN = HEAD + LINE


@pytest.mark.parametrize(
    ("people", "said", "message"),
    [
        (PEOPLE, "reader,image\n", r"answers\.csv, line 1: expected the columns reader,position"),
        (PEOPLE, KNOWN + "r02,2,b,real,full,1,real,2,,\n", r"line 3: reader 'r02' is not in .*csv"),
        (PEOPLE, KNOWN + "r01,2,a,synthetic,full,1,real,2,,\n", "line 3: image 'a' is real in an earlier"),
        (PEOPLE, KNOWN + "r01,2,a,real,full,1,real,2,,\n", "line 3: r01 has answered showing 1 of a"),
        (PEOPLE, KNOWN + "r01,1,b,real,full,1,real,2,,\n", "line 3: r01 has answered position 1 before"),
        (PEOPLE, HEAD + "r01,1,a,real,full,2,real,2,,\n", "line 2: a is shown a second time without a first"),
        (PEOPLE, HEAD + "r01,1,a,true,full,1,real,2,,\n", "line 2: truth must be real or synthetic"),
        (PEOPLE, HEAD + "r01,1,../a,real,full,1,real,2,,\n", "line 2: image must be letters"),
        (PEOPLE, HEAD + "r01,1,a,real,full,1,real,-2,,\n", "line 2: seconds must be a number"),
        (PEOPLE, HEAD + "r01,1,a,real,full,1,real,nan,,\n", "line 2: seconds must be a number"),
        (PEOPLE, HEAD + "r01,1,a,real,full,1,real,2,11,\n", "line 2: fidelity must be 1 to 10 or empty"),
        (PEOPLE, HEAD + 'r01,1,a,real,full,1,real,2,,"{}"\n', "line 2: marks must be a JSON list"),
        (PEOPLE, HEAD + "r01,1,a,real,full,1,real,2\n", "line 2: expected 10 cells, not 8"),
        (PEOPLE, HEAD, r"answers\.csv: holds no answer"),
        (PEOPLE.replace("2024-05-31T09:00:00", ""), KNOWN, "who have finished; of 1 nobody has"),
        (PEOPLE.replace("2024-05-31T09:00:00", "noon"), KNOWN, r"line 2: finished must be"),
        (PEOPLE.replace(",2,", ",two,"), KNOWN, r"readers\.csv, line 2: years must be a number"),
        (PEOPLE.replace("resident", ""), KNOWN, r"readers\.csv, line 2: specialty must be words"),
        (PEOPLE + PEOPLE.splitlines()[1], KNOWN, "r01 stands in more than one line"),
    ],
)  # fmt: skip
def test_what_no_study_writes_is_refused(tmp_path: Path, people: str, said: str, message: str) -> None:
    (tmp_path / READERS).write_text(people, "utf-8")
    (tmp_path / ANSWERS).write_text(said, "utf-8")
    with pytest.raises(AnswersError, match=message):
        read_answers(tmp_path)


def test_other_encodings_and_unknown_conditions_are_refused(tmp_path: Path) -> None:
    (tmp_path / READERS).write_text(PEOPLE.replace("resident", "Ärztin"), "latin-1")
    (tmp_path / ANSWERS).write_text(HEAD + LINE, "utf-8")
    with pytest.raises(AnswersError, match=r"readers\.csv: expected UTF-8"):
        read_answers(tmp_path)
    (tmp_path / READERS).write_text(PEOPLE, "utf-8")
    with pytest.raises(AnswersError, match="expected one condition of"):
        read_answers(tmp_path).grid("crop")
