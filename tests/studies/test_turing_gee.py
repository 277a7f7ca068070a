"""Comparisons of groups against closed forms and other parametrisations, and what is not compared."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.stats import t

from fundusforge.studies.turing import gee
from fundusforge.studies.turing.answers import AnswersError, Grid, Reader
from fundusforge.studies.turing.gee import Comparison, Fit, compare, corrected, fit, welch
from fundusforge.studies.turing.groups import Grouping, groupings
from fundusforge.studies.turing.simulation import Group, Spread, conditional, draw_correct, marginal, simulate

pytest.importorskip("statsmodels.genmod.generalized_estimating_equations")
PEOPLE = (
    Group(specialty="resident", readers=8, sensitivity=0.69, specificity=0.33, seconds=8),
    Group(specialty="retinal specialist", readers=6, sensitivity=0.7, specificity=0.5, years=3, seconds=12),
    Group(specialty="retinal specialist", readers=5, sensitivity=0.8, specificity=0.6, years=9, seconds=16),
)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return simulate(PEOPLE, real=16, synthetic=12, seed=5).grid()


@pytest.fixture(scope="module")
def parted(grid: Grid) -> Grouping:
    return groupings(grid.readers, reference="resident", years=5)[0]


def masked(grid: Grid, change: np.ndarray) -> Grid:
    """Answers taken away where `change` is true."""
    return replace(
        grid, said_real=np.where(change, np.nan, grid.said_real),
        seconds=np.where(change, np.nan, grid.seconds),
    )  # fmt: skip


@pytest.mark.parametrize("outcome", ["accuracy", "sensitivity", "specificity"])
def test_complete_answers_have_a_closed_form(grid: Grid, parted: Grouping, outcome: gee.Outcome) -> None:
    """The fit of statsmodels with Mancl's and DeRouen's covariance, and Welch's on readers' shares, agree."""
    columns = {"accuracy": grid.synthetic >= 0, "sensitivity": ~grid.synthetic, "specificity": grid.synthetic}
    shares = grid.correct[:, columns[outcome]].mean(1)
    found = compare(grid, parted, outcome)
    assert [one.group for one in found] == [name for name, _ in parted.groups[1:]]
    for one, (_, rows) in zip(found, parted.groups[1:], strict=True):
        effect, variance, degrees = welch(shares[rows], shares[parted.groups[0][1]])
        assert one.value == pytest.approx(math.exp(effect), rel=1e-6)
        assert one.degrees == pytest.approx(degrees, rel=1e-5)
        assert one.p == pytest.approx(2 * t.sf(abs(effect) / math.sqrt(variance), degrees), rel=1e-4)
        reach = t.ppf(0.975, degrees) * math.sqrt(variance)
        assert (one.low, one.high) == pytest.approx(
            (math.exp(effect - reach), math.exp(effect + reach)), rel=1e-5
        )


def test_variance_of_a_group_is_that_of_mancl_and_derouen_by_hand() -> None:
    """n readers of one size: sum of squared deviations / (n - 1)^2, on the logit scale over (p q)^2."""
    shares = np.array([0.4, 0.5, 0.75, 0.55])
    other = np.array([0.3, 0.5, 0.4])
    effect, variance, degrees = welch(shares, other)
    p, q = 0.55, 0.4
    v = (0.15**2 + 0.05**2 + 0.2**2) / 9 / (p * (1 - p)) ** 2
    w = (0.1**2 + 0.1**2) / 4 / (q * (1 - q)) ** 2
    assert effect == pytest.approx(math.log(p / (1 - p) * (1 - q) / q))
    assert variance == pytest.approx(v + w)
    assert degrees == pytest.approx((v + w) ** 2 / (v**2 / 3 + w**2 / 2))


def test_times_are_compared_by_their_means(grid: Grid, parted: Grouping) -> None:
    means = grid.seconds.mean(1)
    reference = means[parted.groups[0][1]]
    for one, (_, rows) in zip(compare(grid, parted, "seconds"), parted.groups[1:], strict=True):
        assert one.effect == "difference in seconds"
        assert one.value == pytest.approx(means[rows].mean() - reference.mean())
        parts = [((v - v.mean()) ** 2).sum() / (len(v) - 1) ** 2 for v in (means[rows], reference)]
        assert one.high is not None and one.value is not None and one.degrees is not None
        reach = t.ppf(0.975, one.degrees) * math.sqrt(sum(parts))
        assert one.high - one.value == pytest.approx(reach, rel=1e-5)


def test_missing_answers_are_fitted_as_statsmodels_fits_group_means(grid: Grid, parted: Grouping) -> None:
    """Another parametrisation (one mean for each group, no intercept) of the same model, by hand."""
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    holes = masked(grid, rng.random(grid.said_real.shape) < 0.2)
    found = compare(holes, parted, "accuracy")
    cells = holes.correct
    readers, images = np.nonzero(~np.isnan(cells))
    member = np.array([[rows[r] for _, rows in parted.groups] for r in readers], float)
    result = sm.GEE(
        cells[readers, images], member, groups=readers, family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Exchangeable(),
    ).fit(cov_type="bias_reduced")  # fmt: skip
    for place, one in enumerate(found, 1):
        contrast = result.params[place] - result.params[0]
        error = math.sqrt(result.cov_params()[place, place] + result.cov_params()[0, 0])
        assert one.value == pytest.approx(math.exp(contrast), rel=1e-5)
        assert one.p is not None and one.degrees is not None
        assert one.p == pytest.approx(2 * t.sf(abs(contrast) / error, one.degrees), rel=1e-3)


def test_a_known_effect_is_found_and_is_the_marginal_one() -> None:
    groups = (
        Group(specialty="resident", readers=150, sensitivity=0.5, specificity=0.5),
        Group(specialty="retinal", readers=150, sensitivity=0.75, specificity=0.75),
    )
    spread = Spread(reader=1.5, leaning=0.5, image=0.5)
    correct = draw_correct(groups, spread, real=40, synthetic=40, rng=np.random.default_rng(1))[0]
    synthetic = np.arange(80) >= 40
    people = tuple(
        Reader(
            reader=f"r{n}", specialty="resident" if n < 150 else "retinal", years=1, started="", finished=""
        )
        for n in range(300)
    )
    cells = correct.astype(float)
    study = Grid(
        readers=people, images=tuple(map(str, range(80))), synthetic=synthetic, seconds=cells, fidelity=cells,
        said_real=np.where(synthetic, 1 - cells, cells),
    )  # fmt: skip
    (one,) = compare(study, groupings(people, reference="resident", years=5)[1], "accuracy")
    assert one.low is not None and one.high is not None and one.p is not None
    assert one.low < 3.0 < one.high  # odds 0.75 / 0.25 against 1
    within = math.exp(conditional(0.75, spread.total))
    assert within > one.high  # the odds ratio of one reader and image is another, and larger
    assert one.p < 1e-6


def test_marginal_shares_by_simulation() -> None:
    rng = np.random.default_rng(2)
    logits = 0.8 + 1.3 * rng.normal(size=200_000)
    assert marginal(0.8, 1.3) == pytest.approx(np.mean(1 / (1 + np.exp(-logits))), abs=0.003)
    for share in (0.02, 0.5, 0.9):
        assert marginal(conditional(share, 1.7), 1.7) == pytest.approx(share, abs=1e-9)


def test_default_readers_differ_as_those_of_the_paper_do() -> None:
    """Standard deviations over readers of 12.3 % (accuracy), 18.8 % and 25.5 % (sensitivity, specificity)."""
    group = [Group(specialty="all", readers=1500, sensitivity=0.711, specificity=0.369)]
    correct = draw_correct(group, Spread(), real=50, synthetic=50, rng=np.random.default_rng(3))[0]
    assert correct.mean(1).std() == pytest.approx(0.123, abs=0.01)
    both = (correct[:, :50].mean(1).std() + correct[:, 50:].mean(1).std()) / 2
    assert both == pytest.approx((0.188 + 0.255) / 2, abs=0.015)


def test_clusters_of_images_miss_how_readers_differ(grid: Grid, parted: Grouping) -> None:
    """Readers who lean apart: p of clustered images is far too small, that of both is like readers'."""
    for one in compare(grid, parted, "specificity"):
        assert one.p is not None and one.p_images is not None and one.p_both is not None
        assert one.p_images < 0.5 * one.p
        assert 0.3 < one.p_both / one.p < 3


def test_what_cannot_be_compared_has_a_reason(grid: Grid) -> None:
    """Empty groups, single readers, perfect ones and a reference that is not there; never NaN."""
    right = np.where(grid.synthetic, 0.0, 1.0)
    said = grid.said_real.copy()
    said[8:10] = right
    study = replace(grid, said_real=said)
    rows = partial(np.isin, np.arange(19))
    grouping = Grouping(
        name="odd", title="odd",
        groups=(("resident", rows(range(8))), ("nobody", rows([])), ("one", rows([18])),
                ("perfect", rows([8, 9])), ("fine", rows(range(10, 18)))),
    )  # fmt: skip
    nobody, one, perfect, fine = compare(study, grouping, "accuracy")
    assert nobody.reason == "no reader" and "one reader" in one.reason
    assert perfect.reason == "every answer is right"
    assert all(each.value is None and each.p is None for each in (nobody, one, perfect))
    alone = welch(grid.correct[10:18].mean(1), grid.correct[:8].mean(1))
    assert fine.value == pytest.approx(math.exp(alone[0]), rel=1e-6)  # the others do not disturb it
    absent = replace(grouping, groups=(("professor", rows([])), *grouping.groups[1:]))
    assert [each.reason for each in compare(study, absent, "seconds")] == [
        "the reference, professor: no reader"
    ] * 4
    wrong = replace(study, said_real=np.vstack([np.tile(1 - right, (8, 1)), said[8:]]))
    assert compare(wrong, grouping, "sensitivity")[3].reason == "the reference, resident: no answer is right"


def test_readers_who_are_all_alike_have_no_standard_error() -> None:
    said = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]] * 3)
    people = tuple(
        Reader(reader=f"r{n}", specialty="ab"[n // 3], years=1, started="", finished="") for n in range(6)
    )
    study = Grid(readers=people, images=("p", "q", "r", "s"), synthetic=np.zeros(4, bool), said_real=said,
                 seconds=said, fidelity=said)  # fmt: skip
    (one,) = compare(study, groupings(people, reference="a", years=5)[1], "accuracy")
    assert "no standard error" in one.reason and one.p is None


def test_a_fit_that_does_not_converge_is_said(
    grid: Grid, parted: Grouping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gee, "fit", lambda *_, **__: "the fit did not converge")
    assert {one.reason for one in compare(grid, parted, "accuracy")} == {"the fit did not converge"}


def test_fit_gives_effects_and_covariance(grid: Grid, parted: Grouping) -> None:
    found = fit(grid.correct, [rows for _, rows in parted.groups], clusters="reader", binary=True)
    assert isinstance(found, Fit)
    shares = [grid.correct[rows].mean() for _, rows in parted.groups]
    logits = [math.log(p / (1 - p)) for p in shares]
    assert found.effects == pytest.approx([logits[0], logits[1] - logits[0], logits[2] - logits[0]], abs=1e-6)
    assert found.covariance[0, 1] == pytest.approx(-found.covariance[0, 0], rel=1e-6)


def test_holm_is_that_of_statsmodels_and_skips_what_was_not_compared() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    values = [0.04, None, 0.001, 0.03, None, 0.5]
    family = [
        Comparison(grouping="g", outcome="accuracy", group=str(n), reference="r", readers=5,
                   reference_readers=5, effect="odds ratio", p=p)
        for n, p in enumerate(values)
    ]  # fmt: skip
    found = [one.p_holm for one in corrected(family)]
    expected = multitest.multipletests([p for p in values if p is not None], method="holm")[1]
    assert [p for p in found if p is not None] == pytest.approx(expected)
    assert [place for place, p in enumerate(found) if p is None] == [1, 4]


def test_without_statsmodels_it_is_said_what_is_missing(
    grid: Grid, parted: Grouping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.genmod.generalized_estimating_equations", None)
    with pytest.raises(AnswersError, match=r"need statsmodels: fundusforge\[study\]"):
        compare(grid, parted, "accuracy")
