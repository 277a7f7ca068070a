"""Table II of the paper: Frechet and sliced Wasserstein distance, by grade and over all.

Both distances grow when images are few, so they are never read alone. The patients are halved again and
again, grade by grade; the paintings of the one half are compared with the photographs of the other, and so
are the photographs of the one half, which is the floor. Both have the same number of images, no eye stands
on both sides, and the ratio of the two is 1 for paintings that cannot be told from photographs.

Intervals are by jackknife: a tenth of the patients is left out at a time (Shao and Tu, The Jackknife and
Bootstrap, 1995, section 2.3). A bootstrap would draw images twice, which alone widens such distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.features import Extractor
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.statistics import Floor
from fundusforge.severity import GRADES
from fundusforge.studies.drgan.eyes import LEAST, Bench, Places
from fundusforge.studies.drgan.paper import FULL, TUB_SGAN
from fundusforge.studies.drgan.result import Result, Table, shown
from fundusforge.studies.drgan.rulers import Ruler, frechet_ruler, swd_ruler

_GROUPS = 10
"""Groups of patients of the jackknife."""
Halves = Sequence[tuple[Places, Places]]
"""Places of eyes, one half and the other, once for every repeat."""
Pair = tuple[float, float]
"""Distance of paintings, and of photographs, from the other half's photographs."""


@dataclass(frozen=True, kw_only=True)
class FidelityConfig:
    """How to compare."""

    repeats: int = 20
    """Random halves of the patients."""
    least: int = 10
    """Eyes below which a grade has no distance."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.repeats < 1 or self.least < LEAST:
            raise ValueError(f"expected 1 repeat or more, and at least {LEAST} eyes of a grade")


def fidelity(bench: Bench, extractor: Extractor, config: FidelityConfig | None = None) -> Result:
    """Compare the paintings with photographs of other eyes, and write `fidelity.json`.

    Figures: `drgan_frechet` over all eyes, `drgan_frechet_grade_0` and so on, `drgan_frechet_grades` their
    mean; each with `..._over_floor`; the same of `drgan_swd`.

    Args:
        bench: Photographs and paintings.
        extractor: Turns pictures into the vectors of the Frechet distance.
        config: How to compare.

    Raises:
        DatasetError: A picture cannot be read.
        OSError: The folder of the study cannot be written.
    """
    config = config or FidelityConfig()
    scopes, missing = scopes_of(bench, config.least)
    halves = [halved(bench, seed=[bench.config.seed, repeat]) for repeat in range(config.repeats)]
    found: list[Figure] = []
    for ruler in (frechet_ruler(bench, extractor), swd_ruler(bench)):
        bench.tell(f"{ruler.title}: {len(bench.painted)} paintings of {len(bench.real)} eyes")
        found += _figures(bench, ruler, scopes, missing, halves)
    return bench.result(
        "fidelity", tables=(_table(bench, found, scopes), _paper()), figures=found,
        sentences=_sentences(bench, found), warnings=[*missing.values()],
        repeats=config.repeats, least=config.least,
    )  # fmt: skip


def scopes_of(bench: Bench, least: int) -> tuple[dict[str, Places], dict[str, str]]:
    """Return the places of all eyes (under an empty name) and of each grade, and why grades are missing."""
    found, missing = {"": np.arange(len(bench.real))}, dict[str, str]()
    for grade in GRADES:
        own, name = np.flatnonzero(bench.grades == grade), f"grade_{grade}"
        patients = len({bench.real.records[place].patient for place in own.tolist()})
        if len(own) >= least and patients >= LEAST:
            found[name] = own
        else:
            missing[name] = (
                f"Grade {grade} has {len(own)} held-out eyes of {patients} patients; {least} eyes of {LEAST} "
                "patients are needed."
            )
    return found, missing


def halved(bench: Bench, *, seed: Sequence[int]) -> tuple[Places, Places]:
    """Return the eyes of a random half of the patients and of the others; each grade is halved by itself."""
    rng, grade_of = np.random.default_rng(seed), dict[str, int]()
    for record, grade in zip(bench.real.records, bench.grades, strict=True):
        grade_of.setdefault(record.patient, int(grade))
    chosen: set[str] = set()
    for grade in GRADES:
        own = sorted(patient for patient, told in grade_of.items() if told == grade)
        # Of an odd number now the smaller part, now the larger, lest one side always have more eyes.
        half = (len(own) + int(rng.integers(2))) // 2
        chosen |= {own[place] for place in rng.permutation(len(own))[:half]}
    first = np.array([record.patient in chosen for record in bench.real.records])
    return np.flatnonzero(first), np.flatnonzero(~first)


# ---- figures -----------------------------------------------------------------------------------------------


def pairs_of(ruler: Ruler, scopes: Mapping[str, Places], halves: Halves, kept: Places) -> NDArray[np.float64]:
    """Return (scopes, repeats, 2): of each scope and half the distance of paintings and of photographs.

    Args:
        ruler: How to compare.
        scopes: Eyes of each scope.
        halves: Halves of all eyes.
        kept: Eyes that count; fewer than two of them on a side are no set.
    """
    rows: list[list[Pair]] = []
    for members in scopes.values():
        inside = np.intersect1d(members, kept)
        row: list[Pair] = []
        for turn, (first, second) in enumerate(halves):
            eyes, others = np.intersect1d(first, inside), np.intersect1d(second, inside)
            if min(len(eyes), len(others)) < 2:
                row.append((np.nan, np.nan))
                continue
            row.append((ruler.painted(eyes, others, turn), ruler.real(eyes, others)))
        rows.append(row)
    return np.array(rows)


def summed(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (scopes + 1, 3): mean distance of paintings and of photographs and their ratio, by scope.

    The last row is of the mean over the grades, the scopes after the first; NaN if there are none.
    """
    means = pairs.mean(axis=1)
    grades = means[1:].mean(axis=0) if len(means) > 1 else np.full(2, np.nan)
    means = np.concatenate([means, grades[None]])
    return np.column_stack([means, means[:, 0] / np.maximum(means[:, 1], 1e-12)])


def jackknife(
    bench: Bench, ruler: Ruler, scopes: Mapping[str, Places], halves: Halves
) -> tuple[NDArray[np.float64], int]:
    """Return by what everything in `summed` is divided and multiplied for its 95 % interval, and the groups.

    The logarithm is what varies evenly, and what is had from less of each picture varies by the same factor.
    """
    ruler, some = ruler.thin or ruler, halves[: ruler.thin_halves]
    names = sorted({record.patient for record in bench.real.records})
    order = np.random.default_rng([bench.config.seed, 7]).permutation(len(names))
    count = min(_GROUPS, len(names))
    group_of = {names[int(place)]: rank % count for rank, place in enumerate(order)}
    member = np.array([group_of[record.patient] for record in bench.real.records])
    left = [summed(pairs_of(ruler, scopes, some, np.flatnonzero(member != group))) for group in range(count)]
    logs = np.log(np.maximum(np.stack(left), 1e-12))
    error = np.sqrt((count - 1) / count * ((logs - logs.mean(axis=0)) ** 2).sum(axis=0))
    quantile = float(import_module("scipy.stats").t.ppf(0.975, count - 1))
    return np.exp(quantile * error), count


def _figures(
    bench: Bench, ruler: Ruler, scopes: Mapping[str, Places], missing: Mapping[str, str], halves: Halves
) -> list[Figure]:
    """Return distance and ratio of every scope, of grades that are missing the reason, and of their mean."""
    pairs = pairs_of(ruler, scopes, halves, np.arange(len(bench.real)))
    values = summed(pairs)
    factors, groups = jackknife(bench, ruler, scopes, halves)
    mean = pairs[1:].mean(axis=0, keepdims=True) if len(pairs) > 1 else np.full((1, len(halves), 2), np.nan)
    floors = np.quantile(np.concatenate([pairs, mean])[:, :, 1], [0.025, 0.5, 0.975], axis=1)
    places = {name: row for row, name in enumerate((*scopes, "grades"))}
    found: list[Figure] = []
    for name in ("", *(f"grade_{grade}" for grade in GRADES), "grades"):
        eyes = _members(bench, name, scopes)
        common = _common(bench, ruler, name, len(eyes))
        row = places.get(name)
        if row is None or not np.isfinite(values[row]).all():
            reason = missing.get(name, "no grade has enough held-out eyes")
            found.append(Figure(**common, value=None, reason=reason))
            continue
        low, middle, high = (float(value) for value in floors[:, row])
        people = len({bench.real.records[int(place)].patient for place in eyes})
        floor = Floor(value=middle, low=low, high=high, repeats=len(halves), patients=people)
        notes = (f"Means over {len(halves)} halves of the patients, each of about {len(eyes) // 2} eyes.",)
        for end, which in (("", 0), ("_over_floor", 2)):
            own = dict(common, name=common["name"] + end, notes=notes)
            if end:
                own |= {"title": f"{common['title']}, over that of photographs", "unit": "ratio"}
            found.append(
                Figure(**own, **_interval(values[row, which], factors[row, which], groups),
                       floor=None if end else floor)
            )  # fmt: skip
    return found


def _members(bench: Bench, name: str, scopes: Mapping[str, Places]) -> Places:
    """Return the places of the eyes that enter a figure, or would if they were enough."""
    if name == "grades":
        every = [places for key, places in scopes.items() if key]
        return np.concatenate(every) if every else np.empty(0, np.intp)
    return scopes[name] if name in scopes else np.flatnonzero(bench.grades == int(name[-1]))


def _common(bench: Bench, ruler: Ruler, name: str, eyes: int) -> dict[str, Any]:
    of = {"": "", "grades": ", mean over the grades"}.get(name, f" among eyes of {name.replace('_', ' ')}")
    return {
        "name": "_".join(part for part in (bench.config.name, ruler.name, name) if part),
        "title": f"{ruler.title}{of}", "unit": ruler.unit, "better": "lower",
        "n": eyes * len(bench.turns), "n_real": eyes, "extractor": ruler.extractor, "resize": ruler.resize,
        "seed": bench.config.seed,
    }  # fmt: skip


def _interval(value: float, factor: float, groups: int) -> dict[str, Any]:
    found: dict[str, Any] = {"value": float(value)}
    if not np.isfinite(factor):
        return found | {"interval": "no interval: without a group too few eyes are left"}
    how = f"95 % jackknife of the logarithm over {groups} groups of patients"
    return found | {"low": float(value / factor), "high": float(value * factor), "interval": how}


def _table(bench: Bench, figures: Sequence[Figure], scopes: Mapping[str, Places]) -> Table:
    by_name = {figure.name: figure for figure in figures}
    head = ["Held-out eyes", "Number"]
    for title in ("Frechet", "SWD x 10^3"):
        head += [title, "of photographs", "ratio"]
    rows = [tuple(head)]
    for name in ("", *(f"grade_{grade}" for grade in GRADES), "grades"):
        cells = [{"": "all", "grades": "mean of the grades"}.get(name, name.replace("_", " "))]
        cells.append(str(len(_members(bench, name, scopes))))
        for kind in ("frechet", "swd"):
            stem = "_".join(part for part in (bench.config.name, kind, name) if part)
            one, ratio = by_name[stem], by_name.get(f"{stem}_over_floor")
            floor = shown(one.floor.value, one.floor.low, one.floor.high) if one.floor else "-"
            cells += [shown(one.value, one.low, one.high), floor]
            cells.append(shown(ratio.value, ratio.low, ratio.high) if ratio else "-")
        rows.append(tuple(cells))
    return Table(title=f"Distance of {bench.model} from photographs of other eyes", rows=tuple(rows))


def _paper() -> Table:
    rows = [("Zhou et al., Table II", "FID, mean of the grades", "SWD x 10^3")]
    rows += [(one.title, f"{one.frechet:.2f}", f"{one.swd:.2f}") for one in (FULL, TUB_SGAN)]
    return Table(title="As printed, of 10,000 images a grade: values do not compare", rows=tuple(rows))


def _sentences(bench: Bench, figures: Sequence[Figure]) -> tuple[str, ...]:
    by_name = {figure.name: figure for figure in figures}
    found: list[str] = []
    for kind in ("frechet", "swd"):
        stem = f"{bench.config.name}_{kind}"
        one, ratio = by_name[stem], by_name.get(f"{stem}_over_floor")
        if ratio is None:
            continue
        found.append(
            f"{one.title} ({one.extractor}; {one.resize}): half of the eyes painted again is "
            f"{shown(ratio.value, ratio.low, ratio.high)} times as far from the photographs of the other "
            "half as its own photographs are; 1 is a perfect painter."
        )
    return tuple(found)
