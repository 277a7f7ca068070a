"""A procedural eye: ground-truth masks and a colour photograph from one seed.

Each part of the eye (anatomy, arteries, veins, lesions, picture) draws from its own stream of the seed,
so a grade changes the lesions and leaves the eye as it was. `docs/phantom.md` cites the anatomy and says
what is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.severity import Findings, sample_findings
from fundusforge.sources.phantom.anatomy import Anatomy, EyeConfig, Side, sample_anatomy
from fundusforge.sources.phantom.canvas import Canvas, Projection, ellipse
from fundusforge.sources.phantom.lesions import bead_veins, place_lesions, quadrant_origin
from fundusforge.sources.phantom.render import paint
from fundusforge.sources.phantom.vessels import Tree, grow_tree

LESIONS = (
    "microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates", "neovascularisation", "laser_marks",
    "proliferative_membranes", "epiretinal_membrane", "drusen",
)  # fmt: skip
"""Lesion masks every eye carries, empty or not."""


@dataclass(frozen=True)
class Eye:
    """A drawn eye. Pictures are (S, S), masks 0/255; positions are (x, y) in pixels."""

    image: NDArray[np.uint8]
    """(S, S, 3) RGB; black everywhere if the eye was drawn with `render=False`."""
    masks: dict[str, NDArray[np.uint8]]
    field_of_view: NDArray[np.uint8]
    eye: Side
    grade: int
    """Diabetic retinopathy, international clinical scale; `findings` are what it was given for."""
    findings: Findings
    age: int
    disc_centre: tuple[float, float]
    fovea_centre: tuple[float, float]


_DEFAULT = EyeConfig()


def _stream(seed: int, part: int) -> np.random.Generator:
    return np.random.default_rng([seed, part])


def _field_of_view(anatomy: Anatomy) -> NDArray[np.uint8]:
    size = anatomy.projection.size
    axis = np.arange(size) + 0.5 - size / 2
    inside = axis[None] ** 2 + axis[:, None] ** 2 <= anatomy.field_radius**2
    inside &= (np.abs(axis) <= anatomy.field_height * anatomy.field_radius)[:, None]
    return (inside * np.uint8(255)).astype(np.uint8)


def _draw_tree(tree: Tree, projection: Projection) -> NDArray[np.uint8]:
    canvas = Canvas(projection)
    canvas.strokes(tree.points[tree.parent[1:]], tree.points[1:], 2 * tree.radius[1:], thinnest=1.15)
    return canvas.mask()


def _fill_mask(projection: Projection, outline: NDArray[np.float64]) -> NDArray[np.uint8]:
    canvas = Canvas(projection)
    canvas.fill([outline])
    return canvas.mask(threshold=0.5)


def _structure_masks(anatomy: Anatomy, artery: Tree, vein: Tree) -> dict[str, NDArray[np.uint8]]:
    projection, territory = anatomy.projection, anatomy.territory
    arteries, veins = _draw_tree(artery, projection), _draw_tree(vein, projection)
    zone = (territory.avascular_radius, territory.avascular_radius)
    return {
        "vessels": arteries | veins,
        "arteries": arteries,
        "veins": veins,
        "disc": _fill_mask(projection, ellipse(np.zeros(2), anatomy.disc_radii)),
        "cup": _fill_mask(projection, ellipse(anatomy.cup_centre, anatomy.cup_radii)),
        "fovea": _fill_mask(projection, ellipse(territory.fovea, zone)),
    }


def _lesion_masks(layers: dict[str, NDArray[np.uint8]], size: int) -> dict[str, NDArray[np.uint8]]:
    """A mask of every lesion kind, empty where the eye has none; vitreous blood counts as haemorrhage."""
    masks = {}
    for name in LESIONS:
        shown = layers.get(name, np.zeros((size, size), dtype=np.uint8))
        if name == "haemorrhages" and "vitreous_haemorrhage" in layers:
            shown = np.maximum(shown, layers["vitreous_haemorrhage"])
        masks[name] = ((shown > 0.4 * 255) * np.uint8(255)).astype(np.uint8)
    return masks


def draw_eye(
    seed: int, *, size: int = 512, grade: int = 0, eye: Side | None = None, render: bool = True,
    config: EyeConfig = _DEFAULT,
) -> Eye:  # fmt: skip
    """Draw one eye.

    Args:
        seed: decides everything; the same seed gives the same bytes, and the same eye at every size and
            grade.
        size: side of the square picture, pixels.
        grade: diabetic retinopathy, international clinical scale, 0-4.
        eye: laterality; drawn from the seed where None.
        render: also paint the photograph (masks alone are several times quicker).
        config: the ranges anatomy is drawn from.

    Raises:
        ValueError: grade outside 0-4, or size below 64.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64 px, not {size!r}")
    findings = sample_findings(grade, _stream(seed, 3))
    anatomy = sample_anatomy(_stream(seed, 0), size, eye, config)
    artery = grow_tree(_stream(seed, 1), anatomy.territory, config.artery)
    vein = grow_tree(_stream(seed, 2), anatomy.territory, config.vein)
    vein = bead_veins(vein, findings, quadrant_origin(anatomy))
    layers = place_lesions(
        _stream(seed, 4), findings, anatomy, artery, vein,
        drusen=anatomy.drusen, epiretinal_membrane=anatomy.epiretinal_membrane,
    ).coverage(anatomy.projection)  # fmt: skip
    field_of_view = _field_of_view(anatomy)
    masks = _structure_masks(anatomy, artery, vein) | _lesion_masks(layers, size)
    masks = {name: mask & field_of_view for name, mask in masks.items()}
    image = np.zeros((size, size, 3), dtype=np.uint8)
    if render:
        image = paint(_stream(seed, 5), anatomy, artery, vein, field_of_view, layers)
    disc, fovea = anatomy.projection.pixels(np.stack([np.zeros(2), anatomy.territory.fovea])).tolist()
    return Eye(
        image=image,
        masks=masks,
        field_of_view=field_of_view,
        eye=anatomy.eye,
        grade=grade,
        findings=findings,
        age=anatomy.age,
        disc_centre=(disc[0], disc[1]),
        fovea_centre=(fovea[0], fovea[1]),
    )
