"""Arterial and venous trees of the phantom eye, grown from the optic disc.

Frame: millimetres on the retina, origin at the centre of the optic disc, +x temporal, +y superior. Left
and right eyes, torsion and magnification are a matter of the projection (`eye.py`), not of the tree.

Growth, per tree:
1. Four arcades (superior and inferior, temporal and nasal) leave the disc; the temporal ones arch round
   the macula.
2. Branches are inserted one by one, each towards the point of the retina that is worst supplied so far,
   so that long branches come first and twigs fill in. This is constrained constructive optimisation
   (Schreiner & Buxbaum, IEEE Trans Biomed Eng 1993;40:482) with a farthest-point order in place of a
   volume target. A branch leaves its parent at an angle drawn about 75-85 degrees between the daughters
   (Zamir et al., J Gen Physiol 1979;74:537).
3. Radii follow Murray's law, r0^g = r1^g + r2^g (Murray, PNAS 1926;12:207), g about 3, from the tips to
   the disc.
4. A smooth displacement makes the tree mildly tortuous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEP = 0.12
"""Distance between neighbouring nodes of a tree, mm."""


@dataclass(frozen=True)
class TreeConfig:
    """What sets one vascular tree apart from the other; lengths in mm, angles in degrees."""

    trunk_diameter: tuple[float, float] = (0.120, 0.150)
    """Calibre of the largest temporal arcade just outside the disc."""
    murray_exponent: tuple[float, float] = (2.7, 3.0)
    branch_angle: tuple[float, float] = (68.0, 88.0)
    """Angle between the two daughters of a bifurcation."""
    spacing: float = 1.4
    """A point of the retina farther than this from every vessel of the tree receives a branch."""
    twig_spacing: tuple[float, float] = (0.55, 1.0)
    """The same for twigs, the thinnest vessels a grader still draws."""
    tortuosity: tuple[float, float] = (0.05, 0.12)
    """Amplitude of the smooth lateral displacement."""
    arcade_shift: float = 0.0
    """Outward shift of the arcades, which keeps artery and vein of a pair apart."""


@dataclass(frozen=True)
class Territory:
    """Where a tree may grow: a circle of view and the foveal avascular zone, in mm."""

    centre: NDArray[np.float64]
    radius: float
    fovea: NDArray[np.float64]
    avascular_radius: float
    arcade_heights: tuple[float, float]
    """How far above and below the fovea the temporal arcades pass."""


@dataclass(frozen=True)
class Tree:
    """One vascular tree. Nodes are ordered so that a parent precedes its children; node 0 is the root.

    points: (N, 2) mm; parent: (N,) index, -1 at the root; radius: (N,) mm of the segment that ends at the
    node.
    """

    points: NDArray[np.float64]
    parent: NDArray[np.int64]
    radius: NDArray[np.float64]
    exponent: float
    """Of Murray's law, in this tree."""


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) squared distance from each point (N, 2) to the nearest of `others` (M, 2)."""
    dx = points[:, None, 0] - others[None, :, 0]
    dy = points[:, None, 1] - others[None, :, 1]
    dx *= dx
    dy *= dy
    dx += dy
    return dx.min(1)


class _Grower:
    """The growing tree: arrays with room to spare, and what choosing the next branch needs."""

    def __init__(self, capacity: int = 8000) -> None:
        self.points = np.zeros((capacity, 2))
        self.direction = np.zeros((capacity, 2))
        self.parent = np.full(capacity, -1, dtype=np.int64)
        self.blocked = np.zeros(capacity, dtype=bool)
        self.is_tip = np.zeros(capacity, dtype=bool)
        self.count = 0

    def add_path(self, parent: int, path: NDArray[np.float64]) -> NDArray[np.int64]:
        """Append a polyline (n, 2) that hangs from node `parent` (-1: it starts the tree)."""
        n = len(path)
        new = np.arange(self.count, self.count + n)
        before = np.vstack([self.points[parent] if parent >= 0 else path[0], path[:-1]])
        step = path - before
        self.points[new] = path
        self.direction[new] = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
        self.parent[new] = np.r_[parent, new[:-1]]
        self.is_tip[new[-1]] = True
        if parent >= 0:
            self.is_tip[parent] = False
        self.count += n
        return new

    def block_near(self, node: int, reach: float) -> None:
        """Forbid further branches within `reach` mm of a bifurcation."""
        gap = self.points[: self.count] - self.points[node]
        self.blocked[: self.count] |= (gap**2).sum(1) < reach**2


def _resample(control: NDArray[np.float64], step: float = STEP) -> NDArray[np.float64]:
    """Smooth (Catmull-Rom) curve through control points (n, 2), at even spacing."""
    padded = np.vstack([2 * control[0] - control[1], control, 2 * control[-1] - control[-2]])
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    curve = np.vstack([*pieces, control[-1:]])
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))]
    wanted = np.arange(0, along[-1], step)
    return np.column_stack([np.interp(wanted, along, curve[:, axis]) for axis in (0, 1)])


def _arcades(rng: np.random.Generator, territory: Territory, shift: float) -> list[list[NDArray[np.float64]]]:
    """Control points: for superior and inferior, [fork in the disc, temporal arcade, nasal arcade]."""
    fovea = territory.fovea
    halves = []
    for side, height in zip((1.0, -1.0), territory.arcade_heights, strict=True):
        h = height + shift + rng.normal(0, 0.1)
        lateral = 0.8 * shift
        fork = np.array([-0.08 - lateral + rng.normal(0, 0.07), side * rng.uniform(0.3, 0.75)])
        temporal = np.array([
            [0.3 - lateral, 1.35], [1.15 - lateral, 1.35 + 0.55 * (h - 1.35)], [2.7, 0.93 * h],
            [4.7, h], [7.2, 0.93 * h], [10.0, 0.75 * h], [13.0, 0.55 * h],
        ])  # fmt: skip
        temporal = temporal * [fovea[0] / 4.5, side]
        temporal[:, 1] += fovea[1] * np.clip(temporal[:, 0] / fovea[0], 0, 1) * 0.7
        temporal[1:] += rng.normal(0, 1, (6, 2)) * (0.04 + 0.04 * np.arange(6))[:, None]
        nasal = np.array([[-0.55, 1.25], [-1.7, 2.7], [-3.4, 4.2], [-6.0, 6.0], [-9.5, 8.0]]) * [1.0, side]
        turn = np.radians(rng.normal(0, 10) + 25 * shift) * side
        nasal = nasal @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        nasal[1:] += rng.normal(0, 1, (4, 2)) * (0.06 + 0.06 * np.arange(4))[:, None]
        halves.append([fork, temporal, nasal])
    return halves


def _add_arcades(tree: _Grower, rng: np.random.Generator, territory: Territory, config: TreeConfig) -> None:
    root = np.array([-0.15 - 0.8 * config.arcade_shift, 0.0]) + rng.normal(0, [0.05, 0.12])
    root_node = int(tree.add_path(-1, root[None])[0])
    for fork, temporal, nasal in _arcades(rng, territory, config.arcade_shift):
        fork[1] += root[1]
        bow = (root + fork) / 2 + [rng.normal(0, 0.07), 0.0]
        stem = tree.add_path(root_node, _resample(np.vstack([root, bow, fork]), STEP / 2)[1:])
        for arcade in (temporal, nasal):
            lead = tree.points[stem[-2]]
            path = _resample(np.vstack([lead, fork, arcade]))
            path = path[np.linalg.norm(path - lead, axis=1) > np.linalg.norm(fork - lead) + 0.5 * STEP]
            outside = np.linalg.norm(path - territory.centre, axis=1) > territory.radius
            end = int(np.argmax(outside)) if outside.any() else len(path)
            if end > 1:
                tree.add_path(int(stem[-1]), path[:end])
        tree.block_near(int(stem[-1]), 0.3)
    tree.block_near(root_node, 0.2)


def _scatter(
    rng: np.random.Generator, territory: Territory, spacing: float, clearance: float
) -> NDArray[np.float64]:
    """Evenly scattered points at least `clearance` mm from the fovea (additive recurrence, random offset)."""
    n = int(5 * (2 * territory.radius / spacing) ** 2)
    lattice = (rng.random(2) + np.arange(n)[:, None] * [0.7548776662466927, 0.5698402909980532]) % 1.0
    points = territory.centre + (2 * lattice - 1) * territory.radius
    inside = np.linalg.norm(points - territory.centre, axis=1) < territory.radius
    clear = np.linalg.norm(points - territory.fovea, axis=1) > clearance + 0.12
    off_disc = np.linalg.norm(points, axis=1) > 1.4
    return points[inside & clear & off_disc]


def _choose_parent(tree: _Grower, target: NDArray[np.float64], territory: Territory) -> int:
    """The node a branch towards `target` should leave: near, upstream, and on the same side of the raphe."""
    n = tree.count
    gap = target - tree.points[:n]
    distance = np.sqrt((gap**2).sum(1)) + 1e-9
    forward = (gap * tree.direction[:n]).sum(1) / distance
    cost = distance * (1.0 + 0.9 * (1.0 - forward) ** 1.3 + 2.0 * np.maximum(-forward, 0))
    cost += 2.0 * distance * (tree.is_tip[:n] & (forward < 0.7))
    if target[0] > 0.6 * territory.fovea[0]:
        cost = cost + 3.0 * (
            ((tree.points[:n, 1] - territory.fovea[1]) * (target[1] - territory.fovea[1])) < 0
        )
    cost[tree.blocked[:n]] = np.inf
    return int(np.argmin(cost))


def _branch_path(
    rng: np.random.Generator, start: NDArray[np.float64], heading: NDArray[np.float64],
    target: NDArray[np.float64], angle: float, is_tip: bool,
) -> NDArray[np.float64]:  # fmt: skip
    """Curve from `start` to `target`: goes on from a tip, or leaves a vessel at 0.6 to 1 `angle`, rad."""
    gap = target - start
    length = float(np.hypot(*gap))
    turn = np.arctan2(heading[0] * gap[1] - heading[1] * gap[0], heading @ gap)
    leave = np.clip(turn, -angle, angle)
    if abs(leave) < 0.6 * angle and not is_tip:
        leave = np.copysign(0.6 * angle, turn)
    c, s = np.cos(leave), np.sin(leave)
    tangent = np.array([c * heading[0] - s * heading[1], s * heading[0] + c * heading[1]])
    control = start + tangent * length * rng.uniform(0.35, 0.5)
    t = np.linspace(0, 1, max(3, int(np.ceil(1.1 * length / STEP)) + 1))[1:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * target


def _admissible(
    tree: _Grower, parent: int, path: NDArray[np.float64], fovea: NDArray[np.float64], clearance: float
) -> NDArray[np.float64]:
    """The part of a path before it meets its own tree or comes within `clearance` of the fovea."""
    others = tree.points[: tree.count]
    low, high = path.min(0) - 0.25, path.max(0) + 0.25
    others = others[((others > low) & (others < high)).all(1)]
    others = others[_nearest(others, tree.points[parent][None]) > 0.3**2]
    if len(others) == 0:
        others = tree.points[:1]
    from_start = _nearest(path, tree.points[parent][None])
    clear = (_nearest(path, others) > 0.22**2) | (from_start < 0.3**2)
    clear &= np.linalg.norm(path - fovea, axis=1) > clearance
    stop = len(path) if clear.all() else int(np.argmin(clear))
    return path[: max(0, stop - (stop < len(path)))]


def _fill(
    tree: _Grower, rng: np.random.Generator, territory: Territory, spacing: float, config: TreeConfig, *,
    clearance: float, longest: float = np.inf,
) -> None:  # fmt: skip
    """Insert branches until no point of the territory is farther than `spacing` mm from the tree.

    No branch comes within `clearance` mm of the fovea. A branch is cut off after `longest` mm: twigs
    point to where they are needed without getting there.
    """
    targets = _scatter(rng, territory, spacing, clearance)
    weight = rng.uniform(0.7, 1.0, len(targets))
    ring = np.linalg.norm(targets - territory.fovea, axis=1)
    weight *= 1.0 + 0.7 * np.exp(-((ring / 1.4) ** 2))
    supply = np.sqrt(_nearest(targets, tree.points[: tree.count]))
    while tree.count < len(tree.points) - 200:
        i = int(np.argmax(supply * weight))
        if supply[i] * weight[i] < spacing:
            return
        supply[i] = 0.0
        parent = _choose_parent(tree, targets[i], territory)
        gap, heading = targets[i] - tree.points[parent], tree.direction[parent]
        if gap @ heading < 0.3 * np.hypot(*gap):
            continue
        angle = np.radians(rng.uniform(*config.branch_angle)) * rng.uniform(0.6, 0.9)
        path = _branch_path(
            rng, tree.points[parent], tree.direction[parent], targets[i], angle, bool(tree.is_tip[parent])
        )
        reach = len(path) if np.isinf(longest) else int(longest * rng.uniform(0.5, 1.2) / STEP)
        path = _admissible(tree, parent, path[:reach], territory.fovea, clearance)
        if len(path) < 3:
            continue
        new = tree.add_path(parent, path)
        tree.block_near(parent, 0.3)
        tree.blocked[np.r_[new[:2], new[-3:-1]]] = True
        np.minimum(supply, np.sqrt(_nearest(targets, path[::2])), out=supply)


def _displacement(
    rng: np.random.Generator, points: NDArray[np.float64], amplitude: float, territory: Territory
) -> NDArray[np.float64]:
    """Smooth random displacement (N, 2) of `points`, fading at the disc and the fovea."""
    waves = 14
    wavelength = rng.uniform(0.9, 3.0, waves)
    bearing = rng.uniform(0, 2 * np.pi, waves)
    frequency = 2 * np.pi / wavelength * np.vstack([np.cos(bearing), np.sin(bearing)])
    phase = points @ frequency + rng.uniform(0, 2 * np.pi, waves)
    push = rng.normal(0, 1, (waves, 2)) * (wavelength / 3.0)[:, None]
    fade = 1 - np.exp(-((np.linalg.norm(points - territory.fovea, axis=1) / 0.9) ** 2))
    fade *= 1 - np.exp(-((np.linalg.norm(points, axis=1) / 0.8) ** 2))
    return amplitude * np.sqrt(2 / waves) * 1.6 * fade[:, None] * (np.sin(phase) @ push)


def _radii(parent: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    """Relative radii (N,) by Murray's law, 1 where a last branch begins, tapering to 0.45 at its tip."""
    flow = [0.0] * len(parent)
    beyond = [0] * len(parent)
    parents = parent.tolist()
    for node in range(len(parents) - 1, -1, -1):
        flow[node] = flow[node] or 1.0
        if (above := parents[node]) >= 0:
            flow[above] += flow[node]
            beyond[above] = beyond[node] + 1
    radius = np.asarray(flow) ** (1.0 / exponent)
    last = np.asarray(flow) == 1.0
    length = np.asarray(beyond, dtype=np.float64)
    whole = length.copy()
    for node in np.flatnonzero(last).tolist():
        if flow[parents[node]] == 1.0:
            whole[node] = whole[parents[node]]
    taper = 0.45 + 0.55 * np.sqrt(np.where(whole > 0, length / np.maximum(whole, 1.0), 1.0))
    return np.where(last, taper, radius)


def grow_tree(rng: np.random.Generator, territory: Territory, config: TreeConfig) -> Tree:
    """Grow one vascular tree.

    Args:
        rng: source of every random choice.
        territory: circle of view and avascular zone, mm.
        config: calibre, density, angles.

    Returns:
        A tree whose radii satisfy Murray's law at every bifurcation; no node lies in the avascular zone.
    """
    tree = _Grower()
    _add_arcades(tree, rng, territory, config)
    _fill(tree, rng, territory, config.spacing, config, clearance=1.0)
    twigs = rng.uniform(*config.twig_spacing)
    _fill(tree, rng, territory, twigs, config, clearance=territory.avascular_radius, longest=0.9)
    points, parent = tree.points[: tree.count], tree.parent[: tree.count]
    exponent = float(rng.uniform(*config.murray_exponent))
    radius = _radii(parent, exponent)
    from_disc = np.linalg.norm(points, axis=1)
    trunk = radius[(from_disc > 0.9) & (from_disc < 1.6)].max()
    radius = radius * (0.5 * rng.uniform(*config.trunk_diameter) / trunk)
    points = points + _displacement(rng, points, rng.uniform(*config.tortuosity), territory)
    gap = points - territory.fovea
    distance = np.linalg.norm(gap, axis=1, keepdims=True)
    least = territory.avascular_radius + 0.04
    points = np.where(distance < least, territory.fovea + gap * (least / np.maximum(distance, 1e-9)), points)
    return Tree(points=points, parent=parent, radius=radius, exponent=exponent)
