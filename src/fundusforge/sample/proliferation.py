"""Signs of proliferation and scars of laser on any eye: the phantom's shapes, led by a mask's vessels.

No public data set outlines these, so there are no statistics of them: how often, how large and where is the
phantom's choice (`fundusforge.sources.phantom.lesions`), not measured.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.records import DatasetError
from fundusforge.sample.frame import Frame
from fundusforge.severity import Findings, is_proliferative
from fundusforge.sources.phantom.anatomy import Anatomy
from fundusforge.sources.phantom.lesions import place_lesions
from fundusforge.sources.phantom.vessels import Territory, Tree

MM = 1.8
"""Of a disc diameter, in the phantom's frame."""
TRIES = 6
_AVASCULAR, _ARCADES = 0.28, 3.2
"""Of the phantom, mm: radius of the avascular zone, and how far the arcades pass from the fovea."""
_SHOWN = 0.4
"""Share of a pixel from which it belongs to a lesion, as in the phantom."""


def proliferation(signs: Findings, frame: Frame, *, seed: int) -> tuple[dict[str, Grey], Findings]:
    """Draw new vessels, membranes, blood before the retina and laser marks.

    Args:
        signs: What to draw; counts are not looked at.
        frame: The eye.
        seed: Decides everything.

    Returns:
        Masks (H, W) uint8 by name, none on the disc or outside the field of view, blood among the
        `haemorrhages`; and the signs that could be drawn.

    Raises:
        DatasetError: None of the signs of proliferation finds a place in view.
    """
    anatomy, tree = _anatomy(frame), tree_of(frame)
    for trial in range(TRIES):
        rng = np.random.default_rng([seed, 7, trial])
        layers = place_lesions(rng, signs, anatomy, tree, tree).coverage(anatomy.projection)
        height, width = frame.disc.shape
        drawn = {
            name: frame.cut(np.where(layer[:height, :width] > 255 * _SHOWN, 255, 0).astype(np.uint8))
            for name, layer in layers.items()
            if name != "irma"
        }
        shown = {name for name, mask in drawn.items() if mask.any()}
        found = replace(
            signs,
            elsewhere_neovascularisation=signs.elsewhere_neovascularisation and "neovascularisation" in shown,
            proliferative_membranes=signs.proliferative_membranes and "proliferative_membranes" in shown,
            preretinal_haemorrhage=signs.preretinal_haemorrhage and "haemorrhages" in shown,
            vitreous_haemorrhage=signs.vitreous_haemorrhage and "vitreous_haemorrhage" in shown,
            laser_marks=signs.laser_marks and "laser_marks" in shown,
        )
        if is_proliferative(found):
            if "vitreous_haemorrhage" in drawn:
                cloud = drawn.pop("vitreous_haemorrhage")
                drawn["haemorrhages"] = drawn.get("haemorrhages", np.zeros_like(cloud)) | cloud
            return {name: mask for name, mask in drawn.items() if mask.any()}, found
    raise DatasetError("no sign of proliferation finds a place in the retina in view")


def _anatomy(frame: Frame) -> Anatomy:
    """Describe the eye as the phantom describes its own."""
    rows, columns = np.nonzero(frame.field_of_view)
    radius = (float(np.ptp(columns)) + 1) / 2
    height = (float(np.ptp(rows)) + 1) / 2
    reach = radius / frame.diameter * MM
    territory = Territory(frame.middle * MM, reach, frame.fovea * MM, _AVASCULAR, (_ARCADES, _ARCADES))
    half = MM / 2
    return Anatomy(
        eye=frame.eye, age=60, disc_radii=(half, half), cup_radii=(half / 2, half / 2),
        cup_centre=np.zeros(2), territory=territory, projection=frame.projection(unit=MM),
        field_radius=radius, field_height=min(1.0, height / radius), drusen=False, epiretinal_membrane=False,
    )  # fmt: skip


def tree_of(frame: Frame) -> Tree:
    """Return the centre lines of a vessel mask as nodes with directions and radii; connections are not told.

    Node 0 is the disc's centre. The parent of a node is another point of its own vessel, on its disc's side,
    which is all that lesions ask of a tree: where vessels run, how wide and in which direction.
    """
    thin: Any = import_module("skimage.morphology").skeletonize
    lines = np.asarray(thin(frame.vessels), bool)
    rows, columns = np.nonzero(lines)
    wide = np.asarray(
        cv2.distanceTransform(np.asarray(frame.vessels, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE),
        np.float64,
    )
    pixels = np.stack([columns, rows], axis=1).astype(np.float64)
    points = frame.points(pixels).reshape(-1, 2) * MM
    order = np.argsort(np.linalg.norm(points, axis=1), kind="stable")
    points, radii = points[order], wide[rows, columns][order] * MM / frame.diameter
    # About one node in a twelfth of a millimetre.
    every = max(1, round(0.08 * frame.diameter / MM))
    points, radii = points[::every], radii[::every]
    nodes = np.concatenate([np.zeros((1, 2)), points])
    return Tree(nodes, _parents(nodes), np.concatenate([[0.05], radii]), 3.0)


def _parents(nodes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (N,) the nearest node that lies before each in the order, -1 for the first."""
    parents = np.full(len(nodes), -1, np.int64)
    if len(nodes) < 2:
        return parents
    tree: Any = import_module("scipy.spatial").cKDTree
    near = np.asarray(tree(nodes).query(nodes, k=min(9, len(nodes)))[1], np.int64)
    for node in range(1, len(nodes)):
        before = near[node][near[node] < node]
        parents[node] = before[0] if len(before) else 0
    return parents
