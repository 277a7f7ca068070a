"""A vessel mask as a graph: segments of centre line between end points and branch points.

The mask is thinned (Zhang and Suen, Communications of the ACM 27, 1984, as scikit-image has it), pixels with
three or more neighbours are gathered into nodes, and the chains between them are followed. Twigs shorter than
the vessel they stand on is wide come from its uneven wall and are pruned. The calibre is twice the distance
from the centre line to the wall.

Positions are (x, y) in pixels; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SMOOTH = 2.0
"""Standard deviation in pixels of the filter that takes the pixel steps out of a centre line."""
_HOLE = 9
_AROUND = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
"""The eight neighbours as (row, column)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """A piece of vessel without a branch."""

    path: Floats
    """(N, 2) smoothed centre line from one node to the other."""
    ends: tuple[int, int]
    """Its nodes; a closed ring has one twice."""
    calibre: float
    """Median diameter in pixels."""
    component: int
    """Of the connected parts of the mask, the one it belongs to."""

    @property
    def length(self) -> float:
        """Length of the centre line in pixels."""
        return float(np.hypot(*np.diff(self.path, axis=0).T).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """The vessels of one mask."""

    nodes: Floats
    """(K, 2) positions of end points and branch points."""
    widths: Floats
    """(K,) diameter in pixels of the vessel at each node."""
    segments: tuple[Segment, ...]

    @property
    def degrees(self) -> NDArray[np.int64]:
        """(K,) segments that meet at each node: 1 at an end point, 3 and more at a branch point."""
        ends = np.array([end for segment in self.segments for end in segment.ends], np.int64)
        return np.bincount(ends, minlength=len(self.nodes))

    @property
    def length(self) -> float:
        """Length of all centre lines in pixels."""
        return sum(segment.length for segment in self.segments)


def vessel_graph(mask: NDArray[Any], *, prune: bool = True) -> Graph:
    """Return the graph of a vessel mask.

    Args:
        mask: (H, W), vessel where not 0.
        prune: Remove twigs shorter than the vessel they stand on is wide.

    Raises:
        ValueError: Not a (H, W) array.
    """
    if mask.ndim != 2:
        raise ValueError(f"expected a (H, W) vessel mask, got {mask.shape}")
    vessels = _filled(np.pad(mask != 0, 1))
    width = _widths(vessels)
    thin = _thinned(vessels)
    for _ in range(3 if prune else 0):
        spurs = [chain for chain in _chains(thin) if _is_spur(chain, width)]
        if not spurs:
            break
        for spur in spurs:
            thin[tuple(spur.pixels.T)] = False
        thin = _thinned(thin)
    return _graph(thin, width)


def branch_points(graph: Graph) -> tuple[int, int]:
    """Return the numbers of bifurcations and of crossings.

    Thinning draws a crossing as two bifurcations side by side, so branch points that are no farther from
    each other than the vessel is wide count as one; where four or more segments meet it is a crossing.
    """
    degrees = graph.degrees.copy()
    group = np.arange(len(degrees))
    for segment in graph.segments:
        first, second = (int(group[end]) for end in segment.ends)
        near = segment.length <= max(graph.widths[first], graph.widths[second])
        if near and first != second and min(degrees[first], degrees[second]) >= 3:
            degrees[first] += degrees[second] - 2
            degrees[second] = 0
            group[group == second] = first
    return int((degrees == 3).sum()), int((degrees > 3).sum())


def smooth(path: Floats, deviation: float) -> Floats:
    """Return a path (N, 2) of unit steps smoothed by a Gaussian of so many pixels; its ends stay in place."""
    reach = int(np.ceil(3 * deviation))
    if len(path) < 3:
        return path
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    smoothed = np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in (0, 1)], axis=1)
    return np.asarray(smoothed, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chain:
    """Pixels of a segment in order, nodes apart."""

    pixels: NDArray[np.int64]
    """(N, 2) rows and columns."""
    ends: tuple[int, int]
    """Label of the branch point at each end, 0 where the vessel ends."""
    junctions: NDArray[np.int32]
    """(H, W) labels of the branch points, shared by all chains."""


def _widths(vessels: NDArray[np.bool_]) -> Floats:
    """Return (H, W) the diameter of the vessel whose middle a pixel is; exact for bars of any whole width."""
    # At twice the size the middle of an odd and of an even number of pixels lie alike.
    double = vessels.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    distance = np.asarray(cv2.distanceTransform(double, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float64)
    height, width = vessels.shape
    return distance.reshape(height, 2, width, 2).max(axis=(1, 3))


def _filled(vessels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close holes of fewer than `_HOLE` pixels, which are noise: where two vessels touch, for one."""
    background = (~vessels).astype(np.uint8)
    labels, areas = cv2.connectedComponentsWithStats(background, connectivity=4)[1:3]
    small = np.asarray(areas, np.int64)[:, cv2.CC_STAT_AREA] < _HOLE
    return vessels | small[np.asarray(labels, np.int64)]


def _thinned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin to one pixel, and cut corners, so that three neighbours mean a branch."""
    skeletonize: Any = import_module("skimage.morphology").skeletonize
    thin: NDArray[np.bool_] = np.array(skeletonize(mask), bool)
    for turn in range(4):
        # View: the corner's two arms point up and right; nothing lies down, left or between these.
        view = np.rot90(thin, turn)
        centre = view[1:-1, 1:-1]
        corner = centre & view[:-2, 1:-1] & view[1:-1, 2:]
        corner &= ~(view[2:, 1:-1] | view[1:-1, :-2] | view[2:, :-2])
        centre[corner] = False
    return thin


def _chains(thin: NDArray[np.bool_]) -> Iterator[_Chain]:
    """Follow every chain of pixels between branch points."""
    neighbours = cv2.filter2D(thin.astype(np.uint8), -1, np.ones((3, 3)), borderType=cv2.BORDER_CONSTANT)
    crossing = thin & (np.asarray(neighbours) > 3)
    junctions = np.asarray(cv2.connectedComponents(crossing.astype(np.uint8), connectivity=8)[1], np.int32)
    pixels = np.argwhere(thin & ~crossing)
    place = np.full(thin.shape, -1, np.int64)
    place[tuple(pixels.T)] = np.arange(len(pixels))
    beside = np.stack([place[tuple((pixels + step).T)] for step in _AROUND], axis=1)
    nodes = np.stack([junctions[tuple((pixels + step).T)] for step in _AROUND], axis=1)
    # Off the branch points a pixel has two neighbours at most: the two largest numbers, or -1.
    links = np.sort(beside, axis=1)[:, -2:].tolist()
    seen = [False] * len(pixels)
    # Tips first; rings, which have none, come last.
    for start in np.argsort((beside >= 0).sum(axis=1), kind="stable").tolist():
        if seen[start]:
            continue
        chain = _follow(start, links, seen)
        first, last = (np.unique(nodes[i][nodes[i] > 0]).tolist() for i in (chain[0], chain[-1]))
        if len(chain) == 1:  # one pixel touches both of its branch points
            ends = (first[0] if first else 0, first[-1] if len(first) > 1 else 0)
        else:
            ends = (first[0] if first else 0, last[0] if last else 0)
        yield _Chain(pixels=pixels[chain], ends=ends, junctions=junctions)


def _follow(start: int, links: list[list[int]], seen: list[bool]) -> list[int]:
    """Return the pixels from `start` to the other end of its chain; a ring returns to its start."""
    chain, here = [start], start
    seen[start] = True
    while True:
        here = next((n for n in links[here] if n >= 0 and not seen[n]), -1)
        if here < 0:
            break
        seen[here] = True
        chain.append(here)
    if len(chain) > 2 and start in links[chain[-1]]:
        chain.append(start)
    return chain


def _is_spur(chain: _Chain, width: Floats) -> bool:
    """Whether a chain hangs on a branch point and is shorter than the vessel there is wide."""
    first, last = chain.ends
    if (first == 0) == (last == 0):
        return False
    rows, columns = (chain.pixels[0] if first else chain.pixels[-1]).tolist()
    reach = (slice(rows - 1, rows + 2), slice(columns - 1, columns + 2))
    at_branch = width[reach][chain.junctions[reach] > 0]
    return len(chain.pixels) < float(at_branch.max())


def _graph(thin: NDArray[np.bool_], width: Floats) -> Graph:
    """Return the graph of a thinned, padded mask; positions are those before the padding."""
    components = np.asarray(cv2.connectedComponents(thin.astype(np.uint8), connectivity=8)[1])
    chains = list(_chains(thin))
    nodes, widths = _junctions(chains, width)
    segments: list[Segment] = []
    for chain in chains:
        rows, columns = chain.pixels.T
        path = np.stack([columns, rows], axis=1) - 1.0
        ends: list[int] = []
        for label, at in zip(chain.ends, (0, -1), strict=True):
            if label == 0 and at == -1 and len(path) > 1 and (path[0] == path[-1]).all():
                ends.append(ends[0])  # a ring ends where it began
            elif label == 0:
                ends.append(len(nodes))
                nodes.append(path[at])
                widths.append(float(width[rows[at], columns[at]]))
            else:
                ends.append(label - 1)
        first, last = ([nodes[end]] if label else [] for end, label in zip(ends, chain.ends, strict=True))
        joined = np.array([*first, *path, *last])
        segments.append(
            Segment(
                path=smooth(joined, _SMOOTH),
                ends=(ends[0], ends[1]),
                calibre=float(np.median(width[rows, columns])),
                component=int(components[rows[0], columns[0]]),
            )
        )
    return Graph(nodes=np.array(nodes).reshape(-1, 2), widths=np.array(widths), segments=tuple(segments))


def _junctions(chains: list[_Chain], width: Floats) -> tuple[list[Floats], list[float]]:
    """Return position and width of every branch point, in the order of their labels."""
    if not chains:
        return [], []
    labels = chains[0].junctions
    rows, columns = np.nonzero(labels)
    member = labels[rows, columns] - 1
    count = np.bincount(member)
    centre = np.stack([np.bincount(member, weights=axis) / count for axis in (columns, rows)], axis=1) - 1
    widest = np.zeros(len(count))
    np.maximum.at(widest, member, width[rows, columns])
    return list(centre), widest.tolist()
