"""From what an auto-encoder draws to outlines: the blur is taken back, then vessels become connected lines.

Sengupta et al. 2019 clean what their auto-encoder draws by deconvolution before they paint on it. Here the
blur is measured on the training pictures (how wide a Gaussian makes of them what the network makes of them)
and taken back by Richardson and Lucy's iteration. What is left of the network's doubt are gaps: a vessel is
kept where it is likely, followed where it is fainter, and bridged where a likely path leads on to the tree.
What then still hangs on nothing is no vessel.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey

Map = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""
COVERED = 0.25
"""Share of a pixel above which a structure is there. Half would lose vessels thinner than a pixel."""
ITERATIONS = 12
"""Of the deconvolution."""
FAINTER = 0.6
"""Share of the threshold down to which a vessel is followed from where it is above it."""
WIDEST_GAP = 0.06
"""Longest bridge, in diameters of the field of view."""
SHORTEST = 0.04
"""Length of the shortest part of a tree that may stand alone, in diameters of the field of view: below, it is
no part that a reader would call an orphan, but still none that begins anywhere."""
_RIM = 0.03
"""How near the edge of the field of view a vessel may enter over it, in diameters."""
_LIKELY = 0.35
"""Least mean probability along a bridge, as a share of the threshold."""


def deblurred(probability: Map, blur: float) -> Map:
    """Take a Gaussian blur back (Richardson 1972, Lucy 1974, as scikit-image has it).

    Args:
        probability: (H, W) in [0, 1].
        blur: Standard deviation in pixels; 0 leaves the map as it is.

    Returns:
        (H, W) in [0, 1].
    """
    if blur <= 0:
        return probability
    reach = max(1, int(np.ceil(3 * blur)))
    line = cv2.getGaussianKernel(2 * reach + 1, blur)
    restore: Any = import_module("skimage.restoration").richardson_lucy
    # A border of the same values keeps the edges of the picture from ringing.
    padded = np.pad(probability.astype(np.float64), reach, mode="edge")
    found = restore(padded, line @ line.T, num_iter=ITERATIONS, clip=True)
    return np.asarray(found[reach:-reach, reach:-reach].clip(0, 1), np.float32)


def connected(probability: Map, field_of_view: Grey, *, threshold: float) -> Grey:
    """Make outlines of a map of vessels so that the tree stays one.

    Args:
        probability: (H, W) in [0, 1], its blur taken back.
        field_of_view: (H, W) uint8, inside where not 0.
        threshold: Probability from which a pixel is vessel, whatever is around it.

    Returns:
        (H, W) uint8 of 0 and 255: every part either holds the longest vessels, or enters over the edge.
    """
    inside = field_of_view > 0
    vessels = followed(probability * inside, threshold)
    if not vessels.any():
        return np.zeros(vessels.shape, np.uint8)
    diameter = 2 * float(np.sqrt(np.count_nonzero(inside) / np.pi))
    vessels = _bridged(vessels, probability, inside, threshold=threshold, longest=WIDEST_GAP * diameter)
    return np.where(_held(vessels, inside, diameter), np.uint8(255), np.uint8(0))


def _bridged(
    vessels: NDArray[np.bool_], probability: Map, inside: NDArray[np.bool_], *, threshold: float,
    longest: float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Join parts to the largest by the likeliest path, if it is short and likely enough."""
    paths: Any = import_module("skimage.graph").MCP_Geometric
    count, labels = _parts(vessels)
    if count < 2:
        return vessels
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    tree = labels == 1 + int(sizes.argmax())
    costs = np.where(inside, 1 / (probability / threshold + 0.05), np.inf)
    costs[vessels] = 0.05
    found = paths(costs)
    reach, _ = found.find_costs([tuple(place) for place in np.argwhere(tree)])
    joined = vessels.copy()
    for part in range(1, count + 1):
        own = np.argwhere(labels == part)
        if tree[tuple(own[0])]:
            continue
        distances = reach[tuple(own.T)]
        nearest = own[int(distances.argmin())]
        if not np.isfinite(distances.min()):
            continue
        path = np.array(found.traceback(tuple(nearest)))
        gap = path[~vessels[tuple(path.T)]]
        if len(gap) <= longest and probability[tuple(gap.T)].mean() >= _LIKELY * threshold:
            joined[tuple(gap.T)] = True
    return joined


def _held(vessels: NDArray[np.bool_], inside: NDArray[np.bool_], diameter: float) -> NDArray[np.bool_]:
    """Keep the largest part, and those that are long and reach the edge of the field of view."""
    count, labels = _parts(vessels)
    if count < 2:
        return vessels
    distance = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rim = np.asarray(distance)[1:-1, 1:-1] <= _RIM * diameter
    thin: Any = import_module("skimage.morphology").skeletonize
    lengths = np.bincount(labels[np.asarray(thin(vessels), bool)], minlength=count + 1)
    at_rim = np.bincount(labels[rim & vessels], minlength=count + 1) > 0
    keep = at_rim & (lengths >= SHORTEST * diameter)
    keep[1 + int(np.bincount(labels.ravel(), minlength=count + 1)[1:].argmax())] = True
    keep[0] = False
    return keep[labels]


def _parts(vessels: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32]]:
    """Return the number of connected parts and (H, W) their numbers from 1 on, 0 elsewhere."""
    count, labels = cv2.connectedComponents(vessels.astype(np.uint8), connectivity=8)
    return count - 1, np.asarray(labels, np.int32)


def blur_of(pictures: list[Map], drawn: list[Map]) -> float:
    """Return the standard deviation in pixels of the Gaussian that best makes `drawn` of `pictures`.

    Args:
        pictures: (H, W) each, in [0, 1].
        drawn: What an auto-encoder makes of them.
    """
    candidates = np.arange(0, 3.01, 0.25)

    def error(blur: float) -> float:
        made = [cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture for picture in pictures]
        return sum(float(np.square(a - b).mean()) for a, b in zip(made, drawn, strict=True))

    return float(min(candidates.tolist(), key=error))


def threshold_of(pictures: list[Map], drawn: list[Map]) -> float:
    """Return the threshold of `connected` at which as much is drawn as there is in `pictures`.

    The threshold of most overlap would be low where the network is in doubt, and fill the picture.

    Args:
        pictures: (H, W) each, in [0, 1]: covered shares.
        drawn: What an auto-encoder makes of them, its blur taken back.
    """
    wanted = sum(np.count_nonzero(picture > COVERED) for picture in pictures)

    def surplus(threshold: float) -> int:
        return abs(sum(int(np.count_nonzero(followed(one, threshold))) for one in drawn) - int(wanted))

    return float(min(np.arange(0.05, 0.96, 0.025).tolist(), key=surplus))


def followed(probability: Map, threshold: float) -> NDArray[np.bool_]:
    """Return (H, W) where a map is above the threshold, or above `FAINTER` of it and connected to such."""
    follow: Any = import_module("skimage.filters").apply_hysteresis_threshold
    return np.asarray(follow(probability, FAINTER * threshold, threshold), bool)
