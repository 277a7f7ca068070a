"""Distances beside those of photographs: halves without a shared eye, a ratio of 1, intervals that hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drgan_bench import repainted, write_eyes

from fundusforge.evaluate.extractors import load_extractor
from fundusforge.evaluate.features import Extractor
from fundusforge.evaluate.frechet import frechet_distance
from fundusforge.studies.drgan.eyes import Bench
from fundusforge.studies.drgan.fidelity import (
    FidelityConfig,
    fidelity,
    halved,
    jackknife,
    pairs_of,
    scopes_of,
    summed,
)  # fmt: skip
from fundusforge.studies.drgan.result import Result
from fundusforge.studies.drgan.rulers import Ruler, frechet_ruler, swd_ruler

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = FidelityConfig(repeats=4, least=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("fidelity") / "real", 20, grades=2)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("random", device="cpu")


@pytest.fixture(scope="module")
def copied(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return repainted(folder, tmp_path_factory.mktemp("copied"))


@pytest.fixture(scope="module")
def result(copied: Bench, extractor: Extractor) -> Result:
    return fidelity(copied, extractor, QUICK)


def test_copies_are_as_far_as_photographs(result: Result) -> None:
    frechet, swd = (result.figure(f"drgan_{kind}_over_floor") for kind in ("frechet", "swd"))
    assert frechet.value == pytest.approx(1, abs=1e-9)
    assert swd.value == pytest.approx(1, abs=0.1), "other patches of the same pictures"
    for kind in ("frechet", "swd"):
        figure = result.figure(f"drgan_{kind}")
        assert figure.low < figure.value < figure.high
        assert (figure.n, figure.n_real) == (40, 20) and figure.floor.patients == 20
    assert result.figure("drgan_frechet").within_floor
    assert result.figure("drgan_frechet_grade_0").n_real == 10
    assert result.figure("drgan_frechet_grade_4").value is None
    assert "0 held-out eyes" in result.figure("drgan_frechet_grade_4").reason


def test_worse_paintings_are_farther(folder: Path, tmp_path: Path, extractor: Extractor) -> None:
    little, much = (
        fidelity(repainted(folder, tmp_path / str(noise), noise=noise), extractor, QUICK)
        for noise in (15.0, 40.0)
    )
    for kind in ("frechet", "swd"):
        for scope in ("", "_grade_1", "_grades"):
            values = [each.figure(f"drgan_{kind}{scope}_over_floor").value for each in (little, much)]
            assert 1.1 < values[0] < values[1] - 0.1
        sure = much.figure(f"drgan_{kind}_over_floor")
        assert sure.low > 1, "an interval that excludes a perfect painter"


def test_the_mean_over_grades_is_that(result: Result) -> None:
    for kind in ("frechet", "swd"):
        each = [result.figure(f"drgan_{kind}_grade_{grade}").value for grade in (0, 1)]
        assert result.figure(f"drgan_{kind}_grades").value == pytest.approx(np.mean(each))


def test_what_is_written_can_be_recorded(result: Result, copied: Bench) -> None:
    out = copied.config.out
    assert json.loads((out / "fidelity.json").read_text("utf-8")) == result.to_dict()
    rows = [json.loads(row) for row in (out / "fidelity.jsonl").read_text("utf-8").splitlines()]
    names = {row["name"]: row for row in rows}
    assert {"drgan_frechet", "drgan_frechet_floor", "drgan_frechet_over_floor", "drgan_swd_grades"} <= set(
        names
    )
    assert "drgan_frechet_grade_4" not in names
    assert set(names["drgan_swd"]) == {"name", "value", "low", "high", "n", "unit", "command"}
    text = result.text()
    assert "4.24" in text and "random-" in text
    assert "| all | 20 |" in result.markdown() and "| grade 4 | 0 | - | - | - |" in result.markdown()


def test_halves_share_no_patient_and_have_all_grades(copied: Bench) -> None:
    grades = copied.grades
    seen = set()
    for seed in range(5):
        first, second = halved(copied, seed=[0, seed])
        assert sorted([*first, *second]) == list(range(20)) and not set(first) & set(second)
        for grade in (0, 1):
            assert (grades[first] == grade).sum() == 5
        seen.add(tuple(first))
    assert len(seen) > 1


def test_two_eyes_of_a_patient_stay_together(copied: Bench) -> None:
    from dataclasses import replace

    records = [replace(r, patient=f"p{i // 2}") for i, r in enumerate(copied.real.records)]
    paired = replace(copied, real=replace(copied.real, records=records))
    for seed in range(5):
        first, _ = halved(paired, seed=[0, seed])
        assert len({place // 2 for place in first.tolist()}) == len(first) / 2


def test_grades_with_few_eyes_are_named(copied: Bench) -> None:
    scopes, missing = scopes_of(copied, 11)
    assert list(scopes) == [""] and set(missing) == {f"grade_{grade}" for grade in range(5)}
    assert "10 held-out eyes of 10 patients; 11 eyes" in missing["grade_0"]


def test_rulers_compare_the_named_eyes(copied: Bench, extractor: Extractor) -> None:
    eyes, others = np.array([0, 3, 5]), np.array([1, 2, 4])
    ruler = frechet_ruler(copied, extractor)
    own, real = (
        np.concatenate([extractor([images.image(int(place))]) for place in places])
        for images, places in ((copied.painted, copied.turns[1, eyes]), (copied.real, others))
    )
    assert ruler.painted(eyes, others, 3) == pytest.approx(frechet_distance(own, real), rel=1e-5)
    swd = swd_ruler(copied)
    assert swd.painted(eyes, others, 0) != swd.painted(others, eyes, 0)
    assert swd.thin is not None and "32 patches" in swd.thin.extractor


def test_the_jackknife_of_a_mean_is_its_standard_error(copied: Bench) -> None:
    values = np.random.default_rng(4).lognormal(2, 0.3, 20)
    ruler = Ruler(
        name="mean", title="Mean", unit="", extractor="none", resize="none",
        painted=lambda eyes, others, turn: float(values[[*eyes, *others]].mean()), real=lambda a, b: 1.0,
    )  # fmt: skip
    scopes, halves = {"": np.arange(20)}, [halved(copied, seed=[0, 0])]
    factors, groups = jackknife(copied, ruler, scopes, halves)
    assert groups == 10
    from scipy.stats import t

    expected = t.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(20) / values.mean()
    assert np.log(factors[0, 2]) == pytest.approx(expected, rel=0.35), "ten groups of two, by chance"
    assert factors[0, 0] == factors[0, 2] and factors[0, 1] == 1.0
    assert np.isnan(summed(pairs_of(ruler, scopes, halves, np.arange(20)))[1]).all(), "no grades, no mean"


def test_refused_settings() -> None:
    for wrong in ({"repeats": 0}, {"least": 3}):
        with pytest.raises(ValueError, match="eyes of a grade"):
            FidelityConfig(**wrong)
