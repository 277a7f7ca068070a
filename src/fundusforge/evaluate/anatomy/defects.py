"""Defects of the vessel tree that the readers of Kim et al. (Scientific Reports 12, 2022) named.

*Broken vessels*, where contours are interrupted: two end points that face each other across a short gap.
*Orphan vessels*, of unclear origin: parts of the tree that neither reach the disc or the edge of the
picture nor face such a part across a gap. *Vessels across the disc*: segments that enter the disc and
leave it again on another side without ending or branching in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import Disc
from fundusforge.evaluate.anatomy.skeleton import Floats, Graph, Segment

WIDEST_GAP = 4.0
"""Longest gap from wall to wall, in calibres."""
SHARPEST = 30.0
"""Largest angle in degrees between a vessel's end and the line across the gap."""
SHORTEST = 0.04
"""Length of the shortest part that can be an orphan, in diameters of the field of view."""
_EDGE = 0.03
"""How near the edge of the field of view counts as reaching it, in its diameters."""
_NEAR_DISC = 0.75
"""How near the disc's centre counts as reaching the disc, in disc diameters (0.5 is its margin)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gap:
    """A broken vessel: two tips that face each other."""

    first: Floats
    """(2,) position of one tip."""
    second: Floats
    """(2,) position of the other."""
    components: tuple[int, int]
    """Parts of the tree that it separates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tip:
    """A free end of a segment."""

    place: Floats
    outward: Floats
    """(2,) unit vector in which the vessel would go on."""
    segment: Segment


def broken_vessels(graph: Graph, mask: NDArray[Any]) -> list[Gap]:
    """Return the gaps of the tree; each end point closes one gap at most, the shortest first.

    Args:
        graph: Of the mask.
        mask: (H, W), vessel where not 0; no vessel may lie in the middle of a gap.
    """
    tips = _tips(graph)
    if len(tips) < 2:
        return []
    place = np.array([tip.place for tip in tips])
    outward = np.array([tip.outward for tip in tips])
    calibre = np.array([tip.segment.calibre for tip in tips])
    across = place[None] - place[:, None]
    distance = np.hypot(across[..., 0], across[..., 1])
    facing = np.einsum("ijk,ik->ij", across, outward) >= math.cos(math.radians(SHARPEST)) * distance
    width = (calibre[:, None] + calibre[None]) / 2
    # Thinning takes half a calibre off each end.
    fits = facing & facing.T & (distance <= (WIDEST_GAP + 1) * width) & (distance > 0)
    fits &= np.maximum(calibre[:, None], calibre[None]) <= 2 * np.minimum(calibre[:, None], calibre[None])
    pairs = np.argwhere(np.triu(fits, 1))
    used: set[int] = set()
    found: list[Gap] = []
    nearest = np.argsort(distance[pairs[:, 0], pairs[:, 1]], kind="stable")
    for pair in nearest.tolist():
        i, j = int(pairs[pair, 0]), int(pairs[pair, 1])
        column, row = np.rint((place[i] + place[j]) / 2).astype(int).tolist()
        if i in used or j in used or tips[i].segment is tips[j].segment or mask[row, column]:
            continue
        used |= {i, j}
        parts = (tips[i].segment.component, tips[j].segment.component)
        found.append(Gap(first=place[i], second=place[j], components=parts))
    return found


def _tips(graph: Graph) -> list[_Tip]:
    """Return the free ends of all segments that are longer than they are wide."""
    degrees = graph.degrees
    tips: list[_Tip] = []
    for segment in graph.segments:
        if segment.length < 2 * segment.calibre:
            continue
        back = max(6, round(3 * segment.calibre))
        for end, path in zip(segment.ends, (segment.path, segment.path[::-1]), strict=True):
            outward = path[0] - path[min(back, len(path) - 1)]
            norm = float(np.hypot(*outward))
            if degrees[end] == 1 and norm > 0:
                tips.append(_Tip(place=path[0], outward=outward / norm, segment=segment))
    return tips


def orphan_length(graph: Graph, gaps: list[Gap], *, disc: Disc | None, field_of_view: NDArray[Any]) -> float:
    """Return the length in pixels of the parts of the tree that hang on nothing.

    Args:
        graph: Of the vessel mask.
        gaps: Its broken vessels; what they join is one part.
        disc: Where the tree begins; without it, what holds on to the longest part is the tree.
        field_of_view: (H, W), inside where not 0; a vessel may enter over its edge.
    """
    diameter = 2 * math.sqrt(np.count_nonzero(field_of_view) / math.pi)
    part = {segment.component: segment.component for segment in graph.segments}
    for gap in gaps:
        first, second = (part[component] for component in gap.components)
        part = {component: first if root == second else root for component, root in part.items()}
    lengths: dict[int, float] = {}
    held: set[int] = set()
    near_edge = _near_edge(field_of_view, _EDGE * diameter)
    for segment in graph.segments:
        root = part[segment.component]
        lengths[root] = lengths.get(root, 0.0) + segment.length
        columns, rows = np.rint(segment.path).astype(int).T
        if near_edge[rows, columns].any() or (disc and _reach(segment.path, disc) <= _NEAR_DISC):
            held.add(root)
    if disc is None and lengths:
        held.add(max(lengths, key=lambda root: lengths[root]))
    return sum(
        length for root, length in lengths.items() if root not in held and length >= SHORTEST * diameter
    )


def _near_edge(field_of_view: NDArray[Any], reach: float) -> NDArray[np.bool_]:
    """Return (H, W) whether a pixel is no farther than `reach` pixels from where the field of view ends."""
    import cv2

    inside = np.pad((field_of_view != 0).astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance)[1:-1, 1:-1] <= reach


def _reach(path: Floats, disc: Disc) -> float:
    """Return how near a path (N, 2) comes to the disc's centre, in disc diameters."""
    return float(np.hypot(*(path - disc.centre).T).min()) / disc.diameter


def across_disc(graph: Graph, disc: Disc) -> int:
    """Return the number of segments that pass through the disc, over at least half of its diameter."""
    found = 0
    for segment in graph.segments:
        inside = np.hypot(*(segment.path - disc.centre).T) < disc.diameter / 2
        if inside[0] or inside[-1] or not inside.any():
            continue
        edges = np.flatnonzero(np.diff(inside))
        chords = segment.path[edges[1::2]] - segment.path[edges[::2]]
        found += int((np.hypot(*chords.T) >= disc.diameter / 2).any())
    return found
