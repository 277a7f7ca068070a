"""Everything that is measured of the anatomy of one image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import Disc, find_disc, geometry
from fundusforge.annotate.fovea import Search, find_fovea
from fundusforge.evaluate.anatomy.defects import across_disc, broken_vessels, orphan_length
from fundusforge.evaluate.anatomy.fractal import fractal_dimension
from fundusforge.evaluate.anatomy.skeleton import Graph, branch_points, vessel_graph
from fundusforge.evaluate.anatomy.snr import ZONES, vessel_snr
from fundusforge.evaluate.anatomy.tortuosity import tortuosity
from fundusforge.records import Eye


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Measures of one image; None where an image does not have what they speak of, or nobody looked."""

    vessel_fraction: float
    """Part of the field of view that is vessel."""
    calibre: float | None
    """Mean diameter of the vessels, weighted by length, in thousandths of the field of view's diameter."""
    arc_over_chord: float | None
    curvature: float | None
    """Radians per diameter of the field of view."""
    bifurcations: float | None
    """Per length of vessel of one diameter of the field of view; crossings apart."""
    fractal_dimension: float | None
    broken_vessels: int
    orphan_share: float | None
    """Of the vessels' length, the part that hangs on nothing."""
    across_disc: int | None
    disc_found: bool | None
    """None if there is neither a mask of the disc nor a segmenter that looks for it."""
    disc_diameter: float | None
    """In diameters of the field of view."""
    disc_offset: float | None
    """From the centre of the disc that was painted to that of the disc found, in diameters of the former."""
    fovea_found: bool | None
    """None without a disc, or if the place where a fovea is expected is not in view."""
    fovea_confidence: float | None
    fovea_distance: float | None
    """From the disc's centre, in disc diameters."""
    fovea_drop: float | None
    """Below the horizontal through the disc, in degrees."""
    snr_kim: float | None
    """Decibels, in zone B as Kim et al. have it."""
    snr_usual: float | None
    """Decibels, in zone B as elsewhere."""


def measure(
    image: NDArray[np.uint8], vessels: NDArray[Any], *, disc: NDArray[Any] | None = None,
    painted_disc: NDArray[Any] | None = None, field_of_view: NDArray[Any] | None = None,
    eye: Eye | None = None,
) -> Anatomy:  # fmt: skip
    """Measure one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        vessels: (H, W), vessel where not 0.
        disc: (H, W), disc where not 0 (an empty one means that none was found); None if nobody looked.
        painted_disc: (H, W), where a mask says that the disc is, if `disc` is what somebody found without it.
        field_of_view: (H, W), inside where not 0; None for the whole image.
        eye: Where temporal is, for the fovea; None looks on both sides.

    Raises:
        ValueError: Other shapes or an empty field of view.
    """
    inside = np.ones(image.shape[:2], bool) if field_of_view is None else field_of_view != 0
    shapes = [mask.shape for mask in (vessels, inside, disc, painted_disc) if mask is not None]
    if any(shape != image.shape[:2] for shape in shapes) or not inside.any():
        raise ValueError(
            f"expected masks of {image.shape[:2]} like the image and a field of view that is not empty, "
            f"got {shapes}"
        )
    drawn = (vessels != 0) & inside
    graph = vessel_graph(drawn)
    place = None if disc is None else find_disc(disc)
    diameter = 2 * math.sqrt(np.count_nonzero(inside) / math.pi)
    gaps = broken_vessels(graph, drawn)
    lonely = orphan_length(graph, gaps, disc=place, field_of_view=inside)
    return Anatomy(
        vessel_fraction=np.count_nonzero(drawn) / np.count_nonzero(inside),
        fractal_dimension=fractal_dimension(_drawn(graph, drawn.shape), inside),
        broken_vessels=len(gaps),
        orphan_share=lonely / graph.length if graph.length else None,
        across_disc=None if place is None else across_disc(graph, place),
        disc_found=None if disc is None else place is not None,
        disc_diameter=None if place is None else place.diameter / diameter,
        disc_offset=_offset(place, None if painted_disc is None else find_disc(painted_disc)),
        **_of_vessels(graph, diameter),
        **_of_fovea(image, drawn, place, inside, eye),
        **_of_noise(image, drawn, graph, place, inside),
    )


def _offset(found: Disc | None, painted: Disc | None) -> float | None:
    """Return how far a disc lies from where it was painted, in diameters of that; None without both."""
    return math.dist(found.centre, painted.centre) / painted.diameter if found and painted else None


def _of_vessels(graph: Graph, diameter: float) -> dict[str, Any]:
    length = graph.length
    winding = tortuosity(graph.segments, diameter=diameter)
    mean = sum(s.calibre * s.length for s in graph.segments) / length if length else None
    return {
        "calibre": None if mean is None else 1000 * mean / diameter,
        "bifurcations": branch_points(graph)[0] * diameter / length if length else None,
        "arc_over_chord": winding and winding.arc_over_chord,
        "curvature": winding and winding.curvature,
    }


def _of_fovea(
    image: NDArray[np.uint8], drawn: NDArray[np.bool_], disc: Disc | None, inside: NDArray[np.bool_],
    eye: Eye | None,
) -> dict[str, Any]:  # fmt: skip
    search = Search(fovea=None, in_view=False)
    if disc is not None:
        search = find_fovea(image, disc, vessels=drawn, field_of_view=inside, eye=eye)
    place = geometry(disc, search.fovea.centre) if disc and search.fovea else None
    return {
        "fovea_found": True if place else False if search.in_view else None,
        "fovea_confidence": search.fovea and search.fovea.confidence,
        "fovea_distance": place and place.distance,
        "fovea_drop": place and place.drop,
    }


def _of_noise(
    image: NDArray[np.uint8], drawn: NDArray[np.bool_], graph: Graph, disc: Disc | None,
    inside: NDArray[np.bool_],
) -> dict[str, Any]:  # fmt: skip
    return {
        f"snr_{name}": disc and vessel_snr(image, drawn, graph, disc, zone=zone, field_of_view=inside)
        for name, zone in ZONES.items()
    }


def _drawn(graph: Graph, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (H, W) the centre lines as pixels."""
    thin = np.zeros(shape, bool)
    for segment in graph.segments:
        columns, rows = np.rint(segment.path).astype(int).T
        thin[rows, columns] = True
    return thin
