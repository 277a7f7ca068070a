"""Figures by subgroup: by hand, against pandas, and what must stay hidden."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fundusforge.evaluate.subgroups import ATTRIBUTES, Subgroup, age_band, divided, subgroups
from fundusforge.records import Record


def people(*, count: int = 40, seed: int = 0) -> list[Record]:
    """Two images each; sex, age and camera drawn, some ages unknown."""
    rng = np.random.default_rng(seed)
    records = []
    for patient in range(count):
        age = None if patient % 7 == 0 else float(rng.integers(10, 90))
        sex, camera = ("female", "male")[patient % 2], ("one", "two", "three")[patient % 3]
        for eye in ("left", "right"):
            records.append(
                Record(
                    image=f"{patient}-{eye}.png",
                    patient=f"p{patient}",
                    source="made",
                    eye=eye,
                    age=age,
                    sex=sex,
                    camera=camera,
                    grade=patient % 5,
                )  # fmt: skip
            )
    return records


def of(found: tuple[Subgroup, ...], attribute: str) -> dict[str, Subgroup]:
    return {each.group: each for each in found if each.attribute == attribute}


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (39.99, "18-39"), (60, "60-74"), (75, "75+"), (110, "75+")],
)
def test_bands_of_age(age: float, band: str) -> None:
    assert age_band(age) == band


def test_means_and_counts_agree_with_pandas() -> None:
    records = people()
    values = np.random.default_rng(1).normal(size=len(records))
    found = subgroups({"value": values}, records, seed=0, draws=100)
    frame = pd.DataFrame(
        {
            "value": values,
            "patient": [r.patient for r in records],
            **{name: [read(r) or "unknown" for r in records] for name, read in ATTRIBUTES.items()},
        }  # fmt: skip
    )
    for attribute in ("age", "sex", "eye", "camera", "grade"):
        expected = frame.groupby(attribute).agg(value=("value", "mean"), n=("value", "size"),
                                                patients=("patient", "nunique"))  # fmt: skip
        shown = of(found, attribute)
        assert set(shown) == set(expected.index)
        for group, each in shown.items():
            if each.value is not None:
                row = expected.loc[group]
                assert each.value == pytest.approx(row["value"])
                assert (each.images, each.patients) == (row["n"], row["patients"])
                assert each.low < each.value < each.high and "bootstrap" in each.interval
    assert not of(found, "source"), "one source for all divides nothing"


def test_a_figure_that_is_poor_for_one_camera_shows_there() -> None:
    records = people(count=60)
    values = np.array([0.2 if record.camera == "two" else 0.9 for record in records])
    values += np.random.default_rng(2).normal(scale=0.05, size=len(values))
    found = of(subgroups({"f1": values}, records, seed=0, draws=100), "camera")
    assert found["two"].high < 0.3 < 0.8 < min(found["one"].low, found["three"].low)


def test_pooled_figures_are_recomputed_and_not_averaged() -> None:
    """A ratio of sums: the subgroup's own sums, not the mean of ratios."""
    records = people(count=20)
    hits, all_of = np.arange(40.0), np.arange(40.0) ** 2 + 1

    def pooled(weights):
        return float(weights[0] @ hits / (weights[0] @ all_of))

    found = of(subgroups({"pooled": pooled}, records, seed=0, draws=100), "eye")
    left = np.array([record.eye == "left" for record in records])
    assert found["left"].value == pytest.approx(hits[left].sum() / all_of[left].sum())


def rare(few: int, *, others: tuple[int, ...] = (20, 10)) -> list[Record]:
    sizes = {"rare": few, **{f"camera{place}": size for place, size in enumerate(others)}}
    return [
        Record(image=f"{name}{i}.png", patient=f"{name}{i // 2}", source="made", camera=name)
        for name, size in sizes.items()
        for i in range(2 * size)
    ]


def shown_cameras(records: list[Record]) -> set[str]:
    found = of(subgroups({"x": np.ones(len(records))}, records, seed=0, draws=100), "camera")
    for each in found.values():
        hidden = each.value is None
        assert hidden == (each.images is None) == (each.patients is None) == (each.low is None)
        assert hidden == bool(each.reason)
    return {group for group, each in found.items() if each.value is not None}


def test_few_patients_are_hidden_and_cannot_be_computed_from_the_rest() -> None:
    assert shown_cameras(rare(5)) == {"rare", "camera0", "camera1"}
    assert shown_cameras(rare(4)) == {"camera0"}, "the smallest other one would give the rare one away"
    assert shown_cameras(rare(4, others=(20, 10, 3))) == {"camera0", "camera1"}, "seven hidden patients"


def test_images_without_a_value_do_not_count_among_the_patients() -> None:
    """Ten men, but the figure is of one of them: it must not be shown for all ten."""
    records = people(count=40)
    values = np.ones(len(records))
    values[[place for place, r in enumerate(records) if r.sex == "male" and r.patient != "p1"]] = np.nan
    found = of(subgroups({"x": values}, records, seed=0, draws=100), "sex")
    assert found["male"].value is None and found["female"].value is None
    with pytest.raises(ValueError):
        subgroups({"x": values[1:]}, records, seed=0)


def test_a_figure_that_cannot_be_had_says_so() -> None:
    records = people(count=20)
    found = of(subgroups({"x": lambda weights: None}, records, seed=0, draws=100), "sex")
    assert found["male"].value is None and "cannot be computed" in found["male"].reason


def test_unknown_comes_last_and_nothing_is_lost() -> None:
    records = people()
    groups = divided(records, "age")
    assert list(groups)[-1] == "unknown"
    assert sorted(sum(groups.values(), [])) == list(range(len(records)))
