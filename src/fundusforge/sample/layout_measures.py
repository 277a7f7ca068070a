"""Measure how lesions are laid out in the masks of dataset folders, for `layout_statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusforge.images import read_mask
from fundusforge.records import DatasetError, Record, Split, read_folder
from fundusforge.sample.frame import Frame, Points
from fundusforge.sample.layout_statistics import EDGES, Count, Kind, LayoutStatistics
from fundusforge.sample.lesions import Spot, places_of, spots_of
from fundusforge.severity import GRADES, LESIONS, SEVERE_HAEMORRHAGES

GROUND = 3000
"""Places of an eye that stand for its retina."""
ROUNDS = 60
"""Of iterative scaling."""
CAUTION = 3.0
"""Lesions' worth of doubt in every step of a factor: with few lesions it stays near 1."""
LONG = 0.6
"""Aspect below which a lesion has a direction."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Eye:
    """One eye, measured. Never stored."""

    frame: Frame
    spots: dict[str, list[Spot]]
    """Of every kind that somebody looked for."""
    grade: int | None
    predicted: bool
    """Whether a model found the lesions."""
    source: str
    patient: str


def measure_layouts(
    folders: Sequence[Path], *, labelled: Sequence[Path] = (), splits: Sequence[Split] | None = ("train",),
    least: int = 5,
) -> LayoutStatistics:  # fmt: skip
    """Measure how lesions are laid out.

    Places need `disc` and `vessels`; `fovea` is taken where there is a mask of it, and else expected by
    anatomy. Grades come from the records: eyes without one count for sizes, shapes and places alone.

    Args:
        folders: Dataset folders with lesion masks, a human's or a model's.
        labelled: Dataset folders of which only grade and oedema risk are read: how many eyes of a grade have
            no hard exudates, which sets made for outlining lesions cannot tell, is known from many more.
        splits: Which to measure; all if None.
        least: Eyes that a stored number has at least.

    Raises:
        DatasetError: A broken folder, or too few eyes for some kind; the message says which.
    """
    eyes = [eye for folder in folders for eye in read_eyes(folder, splits=splits)]
    told = [record for folder in labelled for record in read_folder(folder, splits=splits, check_files=False)]
    return statistics_of(eyes, least=least, told=told)


def read_eyes(folder: Path, *, splits: Sequence[Split] | None = None) -> list[Eye]:
    """Read the eyes of a folder that have a disc and the mask of some lesion.

    Raises:
        DatasetError: A broken folder, or no such eye in it.
    """
    folder = Path(folder)
    eyes = [
        _read(folder, record)
        for record in read_folder(folder, splits=splits)
        if "disc" in record.masks and set(LESIONS) & record.masks.keys()
    ]
    if not eyes:
        raise DatasetError(
            f"{folder}: no record has a disc and lesions; "
            "`fundusforge annotate --vessels --disc --lesions` finds them"
        )
    return eyes


def _read(folder: Path, record: Record) -> Eye:
    names = [name for name in ("disc", "vessels", "fovea") if name in record.masks]
    masks = {name: read_mask(folder / record.masks[name].path) for name in names}
    whole = np.full_like(masks["disc"], 255)
    inside = read_mask(folder / record.field_of_view) if record.field_of_view else whole
    try:
        frame = Frame.of_masks(masks, inside, eye=record.eye)
    except DatasetError as error:
        raise DatasetError(f"{folder / record.image}: {error}") from None
    found = [name for name in LESIONS if name in record.masks]
    spots = {
        name: spots_of(read_mask(folder / record.masks[name].path), frame, lesion=name) for name in found
    }
    return Eye(
        frame=frame,
        spots=spots,
        grade=record.grade,
        predicted=any(record.masks[name].origin == "predicted" for name in found),
        source=_source(record),
        patient=record.patient,
    )


def statistics_of(eyes: Sequence[Eye], *, least: int = 5, told: Sequence[Record] = ()) -> LayoutStatistics:
    """Fit statistics to eyes.

    Args:
        eyes: Measured eyes.
        least: Eyes that a stored number has at least.
        told: Records whose grade and oedema risk say how many eyes of a grade have no hard exudates.

    Raises:
        DatasetError: Fewer than `least` eyes have some kind, or none of the grades that show it is known.
    """
    # A model's outlines are not a person's: they count where nothing else is known of a grade.
    drawn = [eye for eye in eyes if not eye.predicted]
    shaped = drawn if len(drawn) >= least else list(eyes)
    counts = [
        _count(eyes, name, grade, least)
        for name in LESIONS
        for grade in GRADES[1:]
        if grade > 1 or name == "microaneurysms"
    ]
    counts = [_told(count, told, least) for count in counts]
    severe = [eye for eye in shaped if eye.grade == 3 and "haemorrhages" in eye.spots]
    met = sum(bool((_per_quadrant(eye, "haemorrhages") > SEVERE_HAEMORRHAGES).all()) for eye in severe)
    return LayoutStatistics(
        sources=tuple(sorted({eye.source for eye in eyes} | {_source(record) for record in told})),
        eyes=len(eyes),
        least=least,
        counts=tuple(counts),
        kinds=tuple(_kind(shaped, name, least) for name in LESIONS),
        severe_by_count=_short((met + 0.5) / (len(severe) + 1)) if len(severe) >= least else 0.5,
    )


def _source(record: Record) -> str:
    return f"{record.source}: {record.terms or 'no terms given'}"


def _told(count: Count, told: Sequence[Record], least: int) -> Count:
    """Correct how many eyes of a grade have no hard exudates by the oedema risk of more eyes."""
    risks = [r.oedema_risk for r in told if r.grade == count.grade and r.oedema_risk is not None]
    if count.lesion != "hard_exudates" or len(risks) < least:
        return count
    return replace(count, absent=_short(risks.count(0) / len(risks)))


def _per_quadrant(eye: Eye, lesion: str) -> NDArray[np.int64]:
    places = places_of(eye.spots[lesion])
    return np.bincount(eye.frame.quadrants(places), minlength=4)[:4]


def _count(eyes: Sequence[Eye], lesion: str, grade: int, least: int) -> Count:
    """Fit a hurdle: none at all, or one and a negative binomial, by moments."""
    pooled, cell = [grade], list[Eye]()
    # Neighbours are joined, the sicker first, until there are enough; grade 1 joins nobody's.
    others = [g for gap in (1, 2, 3) for g in (grade + gap, grade - gap) if 1 < g < 5]
    while True:
        known = [eye for eye in eyes if eye.grade in pooled and lesion in eye.spots]
        drawn = [eye for eye in known if not eye.predicted]
        cell = drawn if len(drawn) >= least else known
        if len(cell) >= least or not others:
            break
        pooled.append(others.pop(0))
    if len(cell) < least:
        raise DatasetError(
            f"{lesion} in grade {grade}: {len(cell)} graded eyes with their neighbours, need {least}"
        )
    numbers = np.array([len(eye.spots[lesion]) for eye in cell], np.float64)
    some = numbers[numbers > 0]
    mean = float(some.mean()) if len(some) else 1.0
    beyond = float(some.var(ddof=1)) - (mean - 1) if len(some) > 1 else 0.0
    return Count(
        lesion=lesion,
        grade=grade,
        eyes=len(cell),
        predicted=sum(eye.predicted for eye in cell),
        grades=tuple(sorted(pooled)),
        absent=_short(1 - len(some) / len(numbers)),
        mean=_short(mean),
        spread=_short(max(0.0, beyond / (mean - 1) ** 2)) if mean > 1 else 0.0,
    )


def _kind(eyes: Sequence[Eye], lesion: str, least: int) -> Kind:
    having = [eye for eye in eyes if eye.spots.get(lesion)]
    if len(having) < least:
        raise DatasetError(f"{lesion}: {len(having)} eyes have any, need {least}")
    spots = [spot for eye in having for spot in eye.spots[lesion]]
    logs = [np.log([spot.diameter for spot in eye.spots[lesion]]) for eye in having]
    size = float(np.concatenate(logs).mean())
    apart = np.concatenate([own - own.mean() for own in logs])
    within = float(np.sqrt((apart**2).sum() / max(1, len(apart) - len(logs))))
    # Means of few lesions spread by chance alone; what is left is between eyes.
    chance = np.mean([within**2 / len(own) for own in logs])
    between = float(np.sqrt(max(0.0, np.var([own.mean() for own in logs], ddof=1) - chance)))
    aspects = np.quantile([spot.aspect for spot in spots], [0.02, *np.linspace(0.1, 0.9, 9), 0.98])
    shares = np.array([_per_quadrant(eye, lesion) for eye in having], np.float64)
    factors = _factors(having, lesion)
    q = shares.sum(axis=0) + 1
    a, b, c, d = (_short(value) for value in q / q.sum())
    return Kind(
        lesion=lesion,
        eyes=len(having),
        lesions=len(spots),
        size=_short(size),
        between=_short(between),
        within=_short(within),
        aspects=tuple(_short(value) for value in aspects),
        fill=_short(float(np.median([spot.fill for spot in spots]))),
        along=_short(_along(having, lesion)),
        quadrants=(a, b, c, d),
        evenness=_short(_evenness(shares, q / q.sum())),
        disc=factors["disc"],
        fovea=factors["fovea"],
        vessel=factors["vessel"],
        own=factors["own"],
    )


def _along(eyes: Sequence[Eye], lesion: str) -> float:
    """Return the mean cosine of twice the angle of long lesions with the nearest vessel."""
    cosines = [0.0]
    for eye in eyes:
        long = [spot for spot in eye.spots[lesion] if spot.aspect < LONG]
        if not long or not eye.frame.vessels.any():
            continue
        directions = vessel_angles(eye.frame, places_of(long))
        cosines += np.cos(2 * (np.array([spot.angle for spot in long]) - directions)).tolist()
    return float(np.mean(cosines))


def vessel_angles(frame: Frame, places: Points) -> Floats:
    """Return (N,) the direction, radians from temporal towards superior, of the vessel nearest to each place.

    The vessel's wall is where its distance grows, so its direction is across that of the distance.
    """
    reach = 0.02
    steps = np.array([[reach, 0], [-reach, 0], [0, reach], [0, -reach]])
    east, west, north, south = (frame.at(frame.to_vessel, places + step).astype(np.float64) for step in steps)
    return np.arctan2(north - south, east - west) + np.pi / 2


def _evenness(shares: Floats, mean: Floats) -> float:
    """Return the concentration of a Dirichlet-multinomial by moments, of eyes with four lesions or more."""
    totals = shares.sum(axis=1)
    rows = shares[totals >= 4]
    if len(rows) < 3:
        return 10.0
    n = rows.sum(axis=1)
    squares = ((rows - n[:, None] * mean) ** 2 / (n[:, None] * mean * (1 - mean))).mean(axis=1)
    # Expected: (n + c) / (1 + c) for concentration c.
    beyond = float(np.clip(((squares - 1) / (n - 1)).mean(), 1 / 200, 0.9))
    return 1 / beyond - 1


def distances(frame: Frame, places: Points, own: Points) -> dict[str, Floats]:
    """Return the distances (N,) in disc diameters of places (N, 2), by the names of `EDGES`.

    Args:
        frame: Of the eye.
        places: (N, 2).
        own: (M, 2) lesions of the same kind; a place that is one of them is not its own neighbour.
    """
    apart = np.full(len(places), np.inf)
    for start in range(0, len(own), 64):
        gaps = np.linalg.norm(places[:, None] - own[None, start : start + 64], axis=2)
        gaps[gaps < 1e-9] = np.inf
        apart = np.minimum(apart, gaps.min(axis=1, initial=np.inf))
    return {
        "disc": np.linalg.norm(places, axis=1),
        "fovea": np.linalg.norm(places - frame.fovea, axis=1),
        "vessel": frame.at(frame.to_vessel, places).astype(np.float64),
        "own": apart,
    }


def _factors(eyes: Sequence[Eye], lesion: str) -> dict[str, tuple[float, ...]]:
    """Fit the factors of the density by iterative scaling."""
    ground_steps, lesion_steps, cells, weight = [], [], [], []
    for number, eye in enumerate(eyes):
        places = places_of(eye.spots[lesion])
        ground = eye.frame.ground(np.random.default_rng(number), GROUND)
        numbers = _per_quadrant(eye, lesion)
        for points, steps in ((ground, ground_steps), (places, lesion_steps)):
            away = distances(eye.frame, points, places)
            steps.append({name: np.digitize(away[name], edges) for name, edges in EDGES.items()})
        quadrant = eye.frame.quadrants(ground)
        cells.append(4 * number + quadrant)
        size = np.bincount(quadrant, minlength=4)
        weight.append(np.where(size > 0, numbers, 0))
    owed = np.concatenate(weight).astype(np.float64)
    cell = np.concatenate(cells)
    steps = {name: np.concatenate([one[name] for one in ground_steps]) for name in EDGES}
    seen = {
        name: np.bincount(np.concatenate([one[name] for one in lesion_steps]), minlength=len(edges) + 1)
        for name, edges in EDGES.items()
    }
    factors = {name: np.ones(len(edges) + 1) for name, edges in EDGES.items()}
    density = np.ones(len(cell))
    for _ in range(ROUNDS):
        for name in EDGES:
            total = np.bincount(cell, weights=density, minlength=len(owed))
            expected_each = density * (owed / np.maximum(total, 1e-12))[cell]
            expected = np.bincount(steps[name], weights=expected_each, minlength=len(factors[name]))
            # A Poisson number with a gamma prior about 1: few lesions leave a step near 1.
            exposed = expected / factors[name]
            change = (seen[name] + CAUTION) / (exposed + CAUTION) / factors[name]
            factors[name] = factors[name] * change
            density *= change[steps[name]]
    return {name: tuple(_short(value) for value in values / values.max()) for name, values in factors.items()}


def _short(value: float) -> float:
    """Return a number to four significant digits."""
    return float(f"{value:.4g}")
