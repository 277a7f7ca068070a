"""Imitated lesions: layouts drawn from the statistics of real ones, for any vessels, disc and grade.

DR-GAN (Zhou et al. 2020) paints on lesion masks that are "imitated" for a vessel mask, and does not say how.
Here they are sampled (`imitate`) from `LayoutStatistics`, numbers of a population. The rules of `severity`
decide: the findings of every layout have exactly the grade that was asked for. What real counts would not
give is drawn again, and after `TRIES` times repaired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.records import DatasetError, Eye
from fundusforge.sample.frame import Frame, Points
from fundusforge.sample.layout_measures import LONG, distances, vessel_angles
from fundusforge.sample.layout_statistics import EDGES, Count, Kind, LayoutStatistics
from fundusforge.sample.lesions import Spot, counts_of, findings_of_spots, places_of
from fundusforge.sample.proliferation import proliferation
from fundusforge.severity import (
    GRADES,
    LESIONS,
    SEVERE_HAEMORRHAGES,
    Findings,
    Quadrant,
    grade,
    meets_four_two_one,
    sample_findings,
)  # fmt: skip

TRIES = 20
"""Draws of counts before they are repaired."""
PLACES = 6000
"""Places that are tried for the lesions of an eye."""
LEAST_GAP = 0.012
"""Least gap between two lesions of a kind, disc diameters."""
CLEAR_GAP = 0.07
"""The same of haemorrhages that shall show grade 3: they must be counted even in a picture of 256 px."""
DRAWN = ("neovascularisation", "proliferative_membranes", "laser_marks")
"""Masks beside those of `severity.LESIONS` that a layout has."""

Counts = dict[str, NDArray[np.int64]]
"""Per kind (4,) lesions in each of `severity.QUADRANTS`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The lesions of one eye."""

    spots: tuple[Spot, ...]
    """Of the kinds of `severity.LESIONS`."""
    findings: Findings
    """What a grader would note; `severity.grade` of it is the grade asked for."""
    masks: Mapping[str, Grey]
    """(H, W) uint8 of 0 and 255, of every kind in `severity.LESIONS` and `DRAWN`, empty or not."""
    extra: Mapping[str, Grey] = field(default_factory=dict[str, Grey])
    """(H, W) what no spots describe: new vessels, membranes, laser marks, and blood before the retina."""

    @property
    def grade(self) -> int:
        """Grade of the findings."""
        return grade(self.findings)


def imitate(
    statistics: LayoutStatistics, asked: int, frame: Frame, *, seed: int, visible: bool = False,
    keep: Layout | None = None,
) -> Layout:  # fmt: skip
    """Draw the lesions of an eye.

    Args:
        statistics: How real ones are laid out.
        asked: Grade, 0 to 4.
        frame: The eye: its disc, field of view, vessels and fovea (`Frame.of`).
        seed: Decides everything; the same seed and eye give the same layout, at any size but for a pixel.
        visible: Let the masks alone show grade 3, by more than 20 haemorrhages in each quadrant. If not, as
            many layouts as real eyes are of grade 3 by beading or IRMA, which stand in `findings` alone.
        keep: Layout of the same eye of a lower grade; all of it stays, and more is added.

    Raises:
        ValueError: A grade outside 0 to 4, or one below that of `keep`.
        DatasetError: The retina that is seen has no room for the lesions of this grade.
    """
    if asked not in GRADES:
        raise ValueError(f"grade must be 0 to 4, not {asked!r}")
    if keep is not None and keep.grade > asked:
        raise ValueError(f"a layout of grade {keep.grade} cannot be kept in one of grade {asked}")
    signs = _signs(asked, seed, statistics, visible=visible, keep=keep)
    kept = keep.spots if keep else ()
    counts = _counts(statistics, asked, signs, seed, counts_of(kept, frame), visible=visible)
    spots = tuple(_placed(statistics, counts, frame, seed, kept, visible=visible))
    extra = dict(keep.extra) if keep else {}
    if asked == 4 and not (keep and keep.grade == 4):
        drawn, signs = proliferation(signs, frame, seed=seed)
        extra |= {name: mask | extra[name] if name in extra else mask for name, mask in drawn.items()}
    findings = findings_of_spots(spots, frame, signs=signs)
    if (found := grade(findings)) != asked:
        raise DatasetError(
            f"no room for lesions of grade {asked} in view: those that fit are of grade {found}"
        )
    return Layout(spots=spots, findings=findings, masks=rendered(spots, frame, extra), extra=extra)


def rendered(spots: Sequence[Spot], frame: Frame, extra: Mapping[str, Grey] | None = None) -> dict[str, Grey]:
    """Return the masks (H, W) of every kind, empty or not.

    Args:
        spots: What to draw.
        frame: Of the eye; its own pixels.
        extra: Masks that are added to.
    """
    masks = {name: frame.draw([s.outline() for s in spots if s.lesion == name]) for name in LESIONS}
    masks |= {name: np.zeros(frame.disc.shape, np.uint8) for name in DRAWN}
    return masks | {name: masks[name] | frame.cut(mask) for name, mask in (extra or {}).items()}


def masks_of(
    statistics: LayoutStatistics, asked: int, *, vessels: Grey, disc: Grey, field_of_view: Grey, seed: int,
    fovea: Grey | tuple[float, float] | None = None, eye: Eye | None = None,
) -> tuple[Mapping[str, Grey], Findings]:  # fmt: skip
    """Draw the lesions of an eye given as masks; see `imitate` and `Frame.of`."""
    frame = Frame.of(disc=disc, field_of_view=field_of_view, vessels=vessels, fovea=fovea, eye=eye)
    layout = imitate(statistics, asked, frame, seed=seed)
    return layout.masks, layout.findings


def more_of(
    statistics: LayoutStatistics, lesion: str, count: int, frame: Frame, taken: Sequence[Spot], *, seed: int,
    quadrant: int | None = None, within: tuple[Points, float] | None = None,
) -> list[Spot]:  # fmt: skip
    """Place more lesions of one kind, as large and where real ones are.

    Args:
        statistics: How real ones are laid out.
        lesion: The kind.
        count: How many; fewer are returned where there is no room.
        frame: Of the eye.
        taken: Lesions that are there.
        seed: Decides everything.
        quadrant: Place in `severity.QUADRANTS`; drawn by the statistics if None.
        within: Place (2,) and radius in disc diameters of a circle that all shall lie in.
    """
    kind = statistics.kind(lesion)
    ground = frame.ground(_stream(seed, 4), PLACES)
    if within is not None:
        # A small circle holds few of the places of a whole retina: draw it its own.
        around = _stream(seed, 8).uniform(-1, 1, (PLACES // 4, 2)) * within[1] + within[0]
        near = np.linalg.norm(around - within[0], axis=1) <= within[1]
        ground = around[near & (frame.at(frame.room, around) > 0)]
    at = frame.quadrants(ground)
    shares = np.array(kind.quadrants) * (np.bincount(at, minlength=4)[:4] > 0)
    shares = shares if quadrant is None else np.eye(4)[quadrant]
    if not len(ground) or not shares.sum():
        return []
    pool = _Pool(kind, ground, at, frame, taken, LEAST_GAP)
    rng = _stream(seed, 9)
    owed = rng.multinomial(count, shares / shares.sum())
    drawn = _sized(kind, owed, rng, eye=float(rng.normal(0, kind.between)))
    new = [put for where, spot in drawn if (put := pool.place(spot, where, rng)) is not None]
    return _turned(new, kind, frame, rng)


def _stream(seed: int, *part: int) -> np.random.Generator:
    return np.random.default_rng([seed, *part])


def _signs(
    asked: int, seed: int, statistics: LayoutStatistics, *, visible: bool, keep: Layout | None
) -> Findings:
    """Draw what no spot shows: in grade 3 beading or IRMA, in grade 4 signs of proliferation."""
    before = replace(keep.findings, exudate_distance=None, quadrants=_bare(keep.findings)) if keep else None
    rng = _stream(seed, 0, asked)
    if asked == 3 and not visible and rng.random() >= statistics.severe_by_count:
        while True:
            drawn = Findings(quadrants=_bare(sample_findings(3, rng)))
            if meets_four_two_one(drawn):
                return _joined(before, drawn)
    if asked == 4:
        drawn = sample_findings(4, rng)
        # Nothing is ever drawn on the disc, so new vessels of the disc lie elsewhere.
        elsewhere = drawn.elsewhere_neovascularisation or drawn.disc_neovascularisation
        drawn = replace(
            drawn, quadrants=_bare(drawn), exudate_distance=None, disc_neovascularisation=False,
            elsewhere_neovascularisation=elsewhere,
        )  # fmt: skip
        return _joined(before, replace(drawn, quadrants=_bare(Findings())))
    return before or Findings()


def _bare(findings: Findings) -> tuple[Quadrant, Quadrant, Quadrant, Quadrant]:
    """Return the quadrants without their counts."""
    a, b, c, d = (Quadrant(venous_beading=q.venous_beading, irma=q.irma) for q in findings.quadrants)
    return a, b, c, d


def _joined(before: Findings | None, drawn: Findings) -> Findings:
    """Return what either has; neither has counts."""
    if before is None:
        return drawn
    a, b, c, d = (
        Quadrant(venous_beading=p.venous_beading or q.venous_beading, irma=p.irma or q.irma)
        for p, q in zip(before.quadrants, drawn.quadrants, strict=True)
    )
    return replace(drawn, quadrants=(a, b, c, d))


def _counts(
    statistics: LayoutStatistics, asked: int, signs: Findings, seed: int, kept: Counts, *, visible: bool
) -> Counts:
    """Draw counts that give the grade, beyond those that are kept."""
    counts = {name: kept[name].copy() for name in LESIONS}
    if asked == 0:
        return counts
    for trial in range(TRIES):
        for place, name in enumerate(LESIONS):
            if asked > 1 or name == "microaneurysms":
                rng = _stream(seed, 1, place, trial)
                drawn = _drawn(
                    statistics.count(name, asked), statistics.kind(name), rng, _share_stream(seed, place)
                )
                counts[name] = np.maximum(kept[name], drawn)
        if _gives(counts, signs, asked, visible=visible):
            return counts
    return _repaired(counts, asked, signs, _stream(seed, 2), visible=visible)


def _share_stream(seed: int, place: int) -> np.random.Generator:
    """The quadrants that an eye's lesions prefer are the eye's, whatever its grade."""
    return _stream(seed, 3, place)


def _drawn(count: Count, kind: Kind, rng: np.random.Generator, own: np.random.Generator) -> NDArray[np.int64]:
    """Draw (4,) lesions of a kind by quadrant."""
    total = 0
    if rng.random() >= count.absent:
        more = count.mean - 1
        rate = rng.gamma(1 / count.spread, count.spread * more) if count.spread > 0 and more > 0 else more
        # Beyond four deviations is a tail that no eye has shown.
        most = count.mean + 4 * np.sqrt(more + count.spread * more**2)
        total = 1 + min(int(rng.poisson(rate)), int(most))
    shares = own.dirichlet(np.maximum(np.array(kind.quadrants) * kind.evenness, 1e-3))
    return rng.multinomial(total, shares / shares.sum())


def _findings(counts: Counts, signs: Findings) -> Findings:
    """Return findings of counts, the exudates somewhere."""
    a, b, c, d = (
        replace(q, **{name: int(counts[name][i]) for name in LESIONS}) for i, q in enumerate(signs.quadrants)
    )
    somewhere = 1.5 if counts["hard_exudates"].any() else None
    return replace(signs, quadrants=(a, b, c, d), exudate_distance=somewhere)


def _gives(counts: Counts, signs: Findings, asked: int, *, visible: bool) -> bool:
    if asked == 3 and visible:
        return bool((counts["haemorrhages"] > SEVERE_HAEMORRHAGES).all())
    return grade(_findings(counts, signs)) == asked


def _repaired(
    counts: Counts, asked: int, signs: Findings, rng: np.random.Generator, *, visible: bool
) -> Counts:
    """Change as few counts as the grade needs."""
    blood = counts["haemorrhages"]
    if asked == 1:
        counts["microaneurysms"][rng.integers(4)] += 1
    elif asked == 2:
        if (blood > SEVERE_HAEMORRHAGES).all():
            fewest = int(np.argmin(blood))
            blood[fewest] = SEVERE_HAEMORRHAGES
        elif not any(counts[name].any() for name in LESIONS[1:]):
            blood[rng.integers(4)] += 1
    elif asked == 3 and (visible or not meets_four_two_one(signs)):
        owed = SEVERE_HAEMORRHAGES + 1 + rng.integers(0, 6, 4)
        counts["haemorrhages"] = np.where(blood > SEVERE_HAEMORRHAGES, blood, owed)
    return counts


def _placed(
    statistics: LayoutStatistics, counts: Counts, frame: Frame, seed: int, kept: Sequence[Spot], *,
    visible: bool,
) -> list[Spot]:  # fmt: skip
    """Place what is owed beside what is kept, kind after kind, large lesions first."""
    ground = frame.spread(_stream(seed, 4), PLACES)
    quadrant = frame.quadrants(ground)
    spots = list(kept)
    owned = counts_of(kept, frame)
    for number, name in enumerate(LESIONS):
        owed = counts[name] - owned[name]
        if not owed.any():
            continue
        kind = statistics.kind(name)
        gap = CLEAR_GAP if visible and name == "haemorrhages" else LEAST_GAP
        pool = _Pool(kind, ground, quadrant, frame, spots, gap)
        rng = _stream(seed, 5, number, len(kept))
        drawn = _sized(kind, owed, rng, eye=float(_stream(seed, 6, number).normal(0, kind.between)))
        new = [put for where, spot in drawn if (put := pool.place(spot, where, rng)) is not None]
        spots += _turned(new, kind, frame, rng)
    return spots


def _sized(
    kind: Kind, owed: NDArray[np.int64], rng: np.random.Generator, *, eye: float
) -> list[tuple[int, Spot]]:
    """Draw sizes and shapes; returns (quadrant, spot) from large to small."""
    quadrants = np.repeat(np.arange(4), np.maximum(owed, 0))
    sizes = np.exp(kind.size + eye + rng.normal(0, kind.within, len(quadrants)))
    aspects = np.interp(rng.random(len(quadrants)), [0.02, *np.linspace(0.1, 0.9, 9), 0.98], kind.aspects)
    seeds = rng.integers(0, 2**31, len(quadrants))
    order = np.argsort(-sizes, kind="stable")
    return [
        (
            int(quadrants[i]),
            Spot(
                lesion=kind.lesion, place=(0.0, 0.0), diameter=float(sizes[i]), aspect=float(aspects[i]),
                fill=kind.fill, seed=int(seeds[i]),
            ),
        )
        for i in order
    ]  # fmt: skip


class _Pool:
    """Places for the lesions of one kind."""

    def __init__(
        self, kind: Kind, ground: Points, quadrant: NDArray[np.int64], frame: Frame, taken: Sequence[Spot],
        gap: float,
    ) -> None:  # fmt: skip
        self.own, self.gap = np.array(kind.own), gap
        self.ground, self.quadrant = np.asfortranarray(ground), quadrant
        self.room = frame.at(frame.room, ground).astype(np.float64)
        away = distances(frame, ground, np.empty((0, 2)))
        self.density = np.ones(len(ground))
        for what in ("disc", "fovea", "vessel"):
            self.density *= np.array(getattr(kind, what))[np.digitize(away[what], EDGES[what])]
        self.free = np.full(len(ground), np.inf)
        self.apart, self.near = np.full(len(ground), np.inf), np.ones(len(ground))
        for spot in taken:
            self._take(spot, own=spot.lesion == kind.lesion)

    def _take(self, spot: Spot, *, own: bool) -> None:
        right, up = self.ground[:, 0] - spot.place[0], self.ground[:, 1] - spot.place[1]
        away = np.sqrt(right * right + up * up)
        np.minimum(self.free, away - (spot.reach + (self.gap if own else 0.0)), out=self.free)
        if own:
            closer = np.flatnonzero(away < self.apart)
            self.apart[closer] = away[closer]
            self.near[closer] = self.own[np.digitize(away[closer], EDGES["own"])]

    def place(self, spot: Spot, quadrant: int, rng: np.random.Generator) -> Spot | None:
        """Place a spot in a quadrant; smaller where there is no room for it, None where there is none."""
        # A race of places: the winner changes only where its own weight or that of a better one does.
        race = rng.standard_exponential(len(self.ground))
        weight = self.density * self.near * (self.quadrant == quadrant) / race
        for _ in range(6):
            fits = weight * ((self.free > spot.reach) & (self.room > spot.reach))
            chosen = int(np.argmax(fits))
            if fits[chosen] > 0:
                x, y = self.ground[chosen].tolist()
                placed = replace(spot, place=(x, y))
                self._take(placed, own=True)
                return placed
            spot = replace(spot, diameter=0.75 * spot.diameter)
        return None


def _turned(spots: Sequence[Spot], kind: Kind, frame: Frame, rng: np.random.Generator) -> list[Spot]:
    """Turn long lesions along (or across) vessels as often as real ones are; others anyhow."""
    if not spots:
        return []
    angles = rng.uniform(0, np.pi, len(spots))
    guided = rng.random(len(spots)) < abs(kind.along)
    if frame.vessels.any():
        along = vessel_angles(frame, places_of(spots)) + (np.pi / 2 if kind.along < 0 else 0.0)
        angles = np.where(guided & np.array([s.aspect < LONG for s in spots]), along, angles)
    return [replace(spot, angle=float(a)) for spot, a in zip(spots, angles, strict=True)]
