"""Lesions of the phantom eye: where each kind lies and what shape it has, in millimetres.

How many of which kind is `fundusforge.severity`'s business. Places and sizes follow the ETDRS definitions
(Early Treatment Diabetic Retinopathy Study reports 10 and 12, Ophthalmology 1991;98:786 and 823):
microaneurysms are under 125 um and sit on the capillary bed, hard exudates ring leaking spots,
cotton-wool spots and flame haemorrhages lie in the nerve-fibre layer along the arcades, laser scars of
200-500 um fill the ground outside the arcades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fundusforge.severity import Findings
from fundusforge.sources.phantom.anatomy import Anatomy
from fundusforge.sources.phantom.canvas import Canvas, Projection, ellipse
from fundusforge.sources.phantom.vessels import Tree

Points = NDArray[np.float64]
_Shape = Callable[[np.random.Generator, Points, Points], Points]
"""Outline (N, 2) from a place (2,) and the direction (2,) of the nerve fibres there."""


@dataclass
class Lesions:
    """Shapes by layer, mm: filled outlines, and strokes as (starts, ends, diameters)."""

    outlines: dict[str, list[Points]] = field(default_factory=dict)
    strokes: dict[str, tuple[Points, Points, Points]] = field(default_factory=dict)

    def coverage(self, projection: Projection) -> dict[str, NDArray[np.uint8]]:
        """Antialiased (S, S) picture 0-255 of every layer that is not empty."""
        found = {}
        for name in sorted(self.outlines.keys() | self.strokes.keys()):
            canvas = Canvas(projection)
            canvas.fill(self.outlines.get(name, []))
            if name in self.strokes:
                canvas.strokes(*self.strokes[name], thinnest=1.15)
            found[name] = canvas.coverage()
        return found


class _Site:
    """The visible retina as a pool of places to put lesions."""

    def __init__(self, rng: np.random.Generator, anatomy: Anatomy, artery: Tree, vein: Tree) -> None:
        self.rng, self.anatomy = rng, anatomy
        self.fovea = anatomy.territory.fovea
        spread = np.sqrt(rng.random(6000)) * anatomy.territory.radius
        bearing = rng.uniform(0, 2 * np.pi, 6000)
        points = (
            anatomy.territory.centre + np.column_stack([np.cos(bearing), np.sin(bearing)]) * spread[:, None]
        )
        self.ground = points[self.usable(points)]
        self.arteries, self.veins = _Courses(artery), _Courses(vein)
        self.origin = quadrant_origin(anatomy)

    def usable(self, points: Points) -> NDArray[np.bool_]:
        """Places in view that are neither on the disc nor in the avascular zone."""
        a, b = self.anatomy.disc_radii
        off_disc = (points[:, 0] / a) ** 2 + (points[:, 1] / b) ** 2 > 1.5
        off_fovea = (
            np.linalg.norm(points - self.fovea, axis=1) > self.anatomy.territory.avascular_radius + 0.05
        )
        return off_disc & off_fovea & self.anatomy.visible(points, margin=0.15)

    def near(self, courses: Points, low: float, high: float) -> Points:
        """Usable places between `low` and `high` mm from points (N, 2) of vessels."""
        bearing = self.rng.uniform(0, 2 * np.pi, len(courses))
        offset = self.rng.uniform(low, high, len(courses))[:, None]
        points = courses + offset * np.column_stack([np.cos(bearing), np.sin(bearing)])
        return points[self.usable(points)]

    def quadrant(self, pool: Points, index: int) -> Points:
        """The places of a pool in one quadrant; any visible place there if the pool has none."""
        chosen = pool[_quadrant(pool, self.origin) == index]
        return chosen if len(chosen) else self.ground[_quadrant(self.ground, self.origin) == index]

    def pick(
        self, pool: Points, count: int, separation: float, taken: list[Points], *, closer: bool = True
    ) -> list[Points]:
        """`count` places of a pool at least `separation` mm apart, also from `taken`.

        Where there is no room for that many, they come closer together; they are fewer where that does not
        help either, or if not `closer`.
        """
        chosen: list[Points] = []
        pool = self.rng.permutation(pool)
        while len(pool) and len(chosen) < count:
            free = np.ones(len(pool), dtype=bool)
            for other in taken + chosen:
                free &= ((pool - other) ** 2).sum(1) > separation**2
            while free.any() and len(chosen) < count:
                place = pool[int(np.argmax(free))]
                chosen.append(place)
                free &= ((pool - place) ** 2).sum(1) > separation**2
            if not closer or separation < 0.02:
                break
            separation *= 0.6
        return chosen

    def fibre(self, place: Points) -> Points:
        """Unit direction of the nerve fibres at a place: along the nearest large artery or vein."""
        return self.arteries.direction_at(place)


class _Courses:
    """Nodes of a tree, and those of its larger vessels."""

    def __init__(self, tree: Tree) -> None:
        step = tree.points - tree.points[np.maximum(tree.parent, 0)]
        self.points = tree.points
        self.direction = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
        self.large = (tree.radius > 0.45 * np.percentile(tree.radius, 97)) & (
            np.linalg.norm(tree.points, axis=1) > 1.2
        )
        self.small = ~self.large

    def direction_at(self, place: Points) -> Points:
        if not self.large.any():
            return place / max(float(np.hypot(*place)), 1e-9)
        nearest = int(np.argmin(((self.points[self.large] - place) ** 2).sum(1)))
        return self.direction[self.large][nearest]


def quadrant_origin(anatomy: Anatomy) -> Points:
    """Where the quadrants meet, (2,) mm: the fovea, or mid-field where that leaves one out of view."""
    axis = np.linspace(-1, 1, 41) * anatomy.territory.radius
    grid = anatomy.territory.centre + np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    seen = grid[anatomy.visible(grid)]
    share = np.bincount(_quadrant(seen, anatomy.territory.fovea), minlength=4) / len(seen)
    return anatomy.territory.fovea if share.min() > 0.08 else anatomy.territory.centre


def _quadrant(points: Points, origin: Points) -> NDArray[np.int64]:
    """Index into `severity.QUADRANTS` of each point."""
    return 2 * (points[:, 1] < origin[1]).astype(np.int64) + (points[:, 0] < origin[0])


def _wobble(rng: np.random.Generator, amplitude: float, orders: int) -> Points:
    return rng.normal(0, amplitude, (orders, 2)) / np.sqrt(np.arange(1, orders + 1))[:, None]


def _blob(
    rng: np.random.Generator, place: Points, radii: tuple[float, float], *,
    along: Points, amplitude: float, orders: int = 4,
) -> Points:  # fmt: skip
    """Irregular outline whose first axis lies along a direction."""
    shape = ellipse(np.zeros(2), radii, wobble=_wobble(rng, amplitude, orders))
    return place + shape @ np.array([along, [-along[1], along[0]]])


def _round(low: float, high: float, amplitude: float) -> _Shape:
    def shape(rng: np.random.Generator, place: Points, fibre: Points) -> Points:
        radius = low + (high - low) * rng.random() ** 1.6
        return _blob(rng, place, (radius, radius * rng.uniform(0.75, 1.0)), along=fibre, amplitude=amplitude)

    return shape


def _haemorrhage(rng: np.random.Generator, place: Points, fibre: Points) -> Points:
    """Dot, blot, or (in the posterior pole) flame."""
    kind = rng.random()
    if kind < 0.3 and np.hypot(*place) < 6.0:
        length = rng.uniform(0.16, 0.42)
        return _blob(
            rng, place, (length, length * rng.uniform(0.2, 0.38)), along=fibre, amplitude=0.06, orders=11
        )
    low, high = (0.05, 0.11) if kind < 0.75 else (0.11, 0.24)
    return _round(low, high, 0.075)(rng, place, fibre)


def _cotton_wool(rng: np.random.Generator, place: Points, fibre: Points) -> Points:
    width = rng.uniform(0.14, 0.34)
    across = np.array([-fibre[1], fibre[0]])
    return _blob(rng, place, (width, width * rng.uniform(0.5, 0.85)), along=across, amplitude=0.09, orders=5)


def _boat(rng: np.random.Generator, place: Points) -> Points:
    """Preretinal blood that has sunk: flat on top, round below."""
    outline = ellipse(place, (rng.uniform(0.7, 1.3), rng.uniform(0.6, 1.0)), wobble=_wobble(rng, 0.03, 4))
    outline[:, 1] = np.minimum(outline[:, 1], place[1] + 0.12)
    return outline


def _frond(
    rng: np.random.Generator, place: Points, reach: float, twigs: int
) -> tuple[Points, Points, Points]:
    """A tuft of fine, curling new vessels: wandering lines that leave one place in all directions."""
    steps = max(8, int(reach / 0.05))
    heading = rng.uniform(0, 2 * np.pi, (twigs, 1)) + np.cumsum(rng.normal(0, 0.5, (twigs, steps)), axis=1)
    stride = 0.05 * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    path = place + np.concatenate([np.zeros((twigs, 1, 2)), np.cumsum(stride, axis=1)], axis=1)
    kept = np.arange(steps) < rng.integers(steps // 2, steps + 1, (twigs, 1))
    diameter = np.broadcast_to(rng.uniform(0.02, 0.036, (twigs, 1)), (twigs, steps))
    return path[:, :-1][kept], path[:, 1:][kept], diameter[kept]


def _join(parts: list[tuple[Points, Points, Points]]) -> tuple[Points, Points, Points]:
    starts, ends, diameters = (np.concatenate(group) for group in zip(*parts, strict=True))
    return starts, ends, diameters


def _per_quadrant(
    site: _Site, findings: Findings, lesion: str, pool: Points, separation: float, shape: _Shape
) -> list[Points]:
    places: list[Points] = []
    for index, quadrant in enumerate(findings.quadrants):
        count = getattr(quadrant, lesion)
        places += site.pick(site.quadrant(pool, index), count, separation, places)
    return [shape(site.rng, place, site.fibre(place)) for place in places]


def _hard_exudates(site: _Site, findings: Findings) -> list[Points]:
    """Small yellow deposits in arcs round leaks; the nearest is as far from the fovea as the findings say."""
    if findings.exudate_distance is None:
        return []
    rng, nearest = site.rng, findings.exudate_distance * 2 * site.anatomy.disc_radii[1]
    places: list[Points] = []
    owed = True
    for index, quadrant in enumerate(findings.quadrants):
        count = quadrant.hard_exudates
        ground = site.quadrant(site.ground, index)
        from_fovea = np.linalg.norm(ground - site.fovea, axis=1)
        ground, from_fovea = ground[from_fovea >= nearest], from_fovea[from_fovea >= nearest]
        if count == 0 or len(ground) == 0:
            continue
        if owed:
            places.append(ground[int(np.argmin(from_fovea))])
            count, owed = count - 1, False
        hub = ground[int(rng.choice(np.argsort(from_fovea)[: max(20, len(ground) // 3)]))]
        ring = np.abs(np.linalg.norm(ground - hub, axis=1) - rng.uniform(0.35, 0.8))
        bearing = np.arctan2(ground[:, 1] - hub[1], ground[:, 0] - hub[0]) - rng.uniform(0, 2 * np.pi)
        rank = ring + 0.25 * (np.cos(bearing) < -0.3) + 0.12 * rng.random(len(ground))
        places += site.pick(ground[np.argsort(rank)[: 6 * count + 6]], count, 0.11, places)
    return [_round(0.025, 0.085, 0.16)(rng, place, np.array([1.0, 0.0])) for place in places]


def _laser_marks(site: _Site) -> list[Points]:
    """Scattered scars outside the arcades and away from the disc."""
    heights = site.anatomy.territory.arcade_heights
    gap = site.ground - site.fovea
    limit = np.where(gap[:, 1] > 0, heights[0], heights[1]) + 0.35
    outside = (np.abs(gap[:, 1]) > limit) | (site.ground[:, 0] < -1.7) | (gap[:, 0] > 3.4)
    pool = site.ground[outside & (np.linalg.norm(site.ground, axis=1) > 1.9)]
    full = site.pick(pool, 220, float(site.rng.uniform(0.55, 0.9)), [], closer=False)
    return [_round(0.11, 0.21, 0.05)(site.rng, place, np.array([1.0, 0.0])) for place in full]


def _proliferation(site: _Site, findings: Findings, lesions: Lesions) -> None:
    """New vessels, membranes, preretinal and vitreous blood."""
    rng = site.rng
    along_veins = site.near(site.veins.points[site.veins.large], 0.1, 0.4)
    along_veins = along_veins if len(along_veins) else site.ground
    fronds = []
    if findings.disc_neovascularisation:
        rim = ellipse(np.zeros(2), site.anatomy.disc_radii)[rng.integers(0, 96, 3)] * 0.7
        fronds += [_frond(rng, place, rng.uniform(0.7, 1.4), 9) for place in rim]
    if findings.elsewhere_neovascularisation:
        places = site.pick(along_veins, int(rng.integers(1, 4)), 2.0, [])
        fronds += [_frond(rng, place, rng.uniform(0.5, 1.1), 12) for place in places]
    if fronds:
        lesions.strokes["neovascularisation"] = _join(fronds)
    if findings.proliferative_membranes:
        sheets = site.pick(along_veins, int(rng.integers(1, 3)), 2.5, [])
        lesions.outlines["proliferative_membranes"] = [
            _blob(
                rng,
                p,
                (rng.uniform(0.7, 1.5), rng.uniform(0.3, 0.6)),
                along=site.veins.direction_at(p),
                amplitude=0.12,
            )
            for p in sheets
        ]
    blood = lesions.outlines.setdefault("haemorrhages", [])
    if findings.preretinal_haemorrhage:
        blood += [_boat(rng, place) for place in site.pick(site.ground, int(rng.integers(1, 3)), 2.5, [])]
    if findings.vitreous_haemorrhage:
        place = site.pick(site.ground, 1, 0.1, [])[0]
        size = (rng.uniform(1.0, 2.0), rng.uniform(0.7, 1.4))
        lesions.outlines["vitreous_haemorrhage"] = [
            _blob(rng, place, size, along=np.array([1.0, 0.0]), amplitude=0.14)
        ]


def place_lesions(
    rng: np.random.Generator, findings: Findings, anatomy: Anatomy, artery: Tree, vein: Tree, *,
    drusen: bool = False, epiretinal_membrane: bool = False,
) -> Lesions:  # fmt: skip
    """Lay out every lesion of some findings on an eye.

    Layers bear mask names, but for `irma` and `vitreous_haemorrhage`, which are painted and have no mask
    of their own.
    """
    site = _Site(rng, anatomy, artery, vein)
    small = np.vstack([courses.points[courses.small] for courses in (site.arteries, site.veins)])
    arcades = site.near(site.arteries.points[site.arteries.large], 0.2, 0.9)
    lesions = Lesions()
    lesions.outlines = {
        "microaneurysms": _per_quadrant(
            site, findings, "microaneurysms", site.near(small, 0.06, 0.25), 0.22, _round(0.028, 0.055, 0.03)
        ),
        "haemorrhages": _per_quadrant(site, findings, "haemorrhages", site.ground, 0.38, _haemorrhage),
        "hard_exudates": _hard_exudates(site, findings),
        "soft_exudates": _per_quadrant(site, findings, "soft_exudates", arcades, 0.9, _cotton_wool),
    }
    _proliferation(site, findings, lesions)
    abnormal = [i for i, quadrant in enumerate(findings.quadrants) if quadrant.irma]
    spots = [
        p for i in abnormal for p in site.pick(site.quadrant(site.near(small, 0.05, 0.2), i), 3, 0.8, [])
    ]
    if spots:
        lesions.strokes["irma"] = _join([_frond(rng, p, rng.uniform(0.3, 0.6), 4) for p in spots])
    if findings.laser_marks:
        lesions.outlines["laser_marks"] = _laser_marks(site)
    if drusen:
        lesions.outlines["drusen"] = _drusen(site)
    if epiretinal_membrane:
        place = site.fovea + rng.normal(0, 0.4, 2)
        size = (rng.uniform(0.9, 2.0), rng.uniform(0.8, 1.6))
        lesions.outlines["epiretinal_membrane"] = [
            _blob(rng, place, size, along=site.fibre(place), amplitude=0.12)
        ]
    lesions.outlines = {name: shapes for name, shapes in lesions.outlines.items() if shapes}
    return lesions


def _drusen(site: _Site) -> list[Points]:
    """Pale deposits under the macula, denser towards the fovea, few of them large."""
    rng = site.rng
    places = site.fovea + rng.normal(0, rng.uniform(0.6, 1.1), (int(rng.integers(25, 120)), 2))
    places = places[site.usable(places)]
    return [_round(0.02, 0.1, 0.08)(rng, place, np.array([1.0, 0.0])) for place in places]


def bead_veins(vein: Tree, findings: Findings, origin: Points) -> Tree:
    """The venous tree with its larger vessels strung like beads in the quadrants with venous beading."""
    beaded = np.array([quadrant.venous_beading for quadrant in findings.quadrants])
    if not beaded.any():
        return vein
    order = np.zeros(len(vein.parent))
    for node in range(1, len(order)):
        order[node] = order[vein.parent[node]] + 1
    large = (vein.radius > 0.35 * vein.radius.max()) & (np.linalg.norm(vein.points, axis=1) > 1.3)
    chosen = beaded[_quadrant(vein.points, origin)] & large
    swell = 1 + 0.38 * np.sin(2 * np.pi * order / 4.0)
    return replace(vein, radius=np.where(chosen, vein.radius * swell, vein.radius))
