"""Fovea, cup and side of the eye, from the disc: an annotator without weights.

Everything here is seen from the optic disc. Where there is none, or one that is doubtful, nothing is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fundusforge.annotate.cup import find_cup
from fundusforge.annotate.disc import Disc, doubts, find_disc
from fundusforge.annotate.fovea import Fovea, find_fovea
from fundusforge.annotate.laterality import UNSURE, Side, find_side
from fundusforge.annotate.picture import Found, Picture
from fundusforge.images import Grey
from fundusforge.records import Eye

FOVEA = 0.3
"""Diameter of the circle that stands for the fovea, in disc diameters: 0.55 mm of 1.85, the size of the
avascular zone, which is what the phantom's `fovea` mask shows."""


@dataclass(frozen=True)
class Landmarks:
    """Fovea, cup and eye of photographs whose disc and vessels are known.

    The disc's mask must stand in `Picture.masks`; the vessels' makes everything surer, and without it the
    side of the eye is not told. The eye that a record may name says where to look for the fovea; it is never
    used for telling the side.
    """

    name: str = "landmarks-1"
    """Version of the method."""
    gives: tuple[str, ...] = ("fovea", "cup", "eye")

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        """Look at photographs of any sizes, in order."""
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: Picture) -> Found:
        disc, vessels = picture.masks.get("disc"), picture.masks.get("vessels")
        place = None if disc is None else find_disc(disc)
        if disc is None or place is None:
            return Found(missing=dict.fromkeys(self.gives, "no disc is known"))
        if doubt := doubts(disc, vessels, picture.field_of_view):
            return Found(missing=dict.fromkeys(self.gives, f"the disc is doubtful: {doubt}"))
        side = _side(picture, place)
        eye = picture.eye or (None if isinstance(side, str) else side.eye)
        fovea = _fovea(picture, place, eye)
        cup = find_cup(picture.image, disc, vessels=vessels)
        masks, sure, missing = dict[str, Grey](), dict[str, float](), dict[str, str]()
        if isinstance(fovea, str):
            missing["fovea"] = fovea
        else:
            masks["fovea"] = circle(picture.field_of_view, fovea.centre, FOVEA * place.diameter)
            sure["fovea"] = fovea.confidence
        if isinstance(cup, str):
            missing["cup"] = cup
        else:
            masks["cup"], sure["cup"] = cup.mask, cup.confidence
        if isinstance(side, str):
            return Found(masks=masks, confidences=sure, missing=missing | {"eye": side})
        sure["eye"] = side.confidence
        return Found(masks=masks, values={"eye": side.eye}, confidences=sure, missing=missing)


def _side(picture: Picture, disc: Disc) -> Side | str:
    """Return which eye it is, or why that is not told."""
    vessels = picture.masks.get("vessels")
    if vessels is None:
        return "no vessels are known"
    side = find_side(picture.image, disc, vessels=vessels, field_of_view=picture.field_of_view)
    if side.confidence < UNSURE:
        return f"its signs are weak or at odds (confidence {side.confidence:.2f})"
    return side


def _fovea(picture: Picture, disc: Disc, eye: Eye | None) -> Fovea | str:
    """Return the fovea, or why none is given; on the wrong side, any dark spot would be taken for it."""
    if eye is None:
        return "which side is temporal is not known"
    vessels, field = picture.masks.get("vessels"), picture.field_of_view
    search = find_fovea(picture.image, disc, vessels=vessels, field_of_view=field, eye=eye)
    if search.fovea is None:
        return "no dark spot in its place" if search.in_view else "its place is not in view"
    return search.fovea


def circle(like: Grey, centre: tuple[float, float], diameter: float) -> Grey:
    """Return a mask (H, W) of 0 and 255 with a filled circle, centre (x, y) in pixels."""
    rows, columns = np.mgrid[: like.shape[0], : like.shape[1]]
    return np.where(np.hypot(columns - centre[0], rows - centre[1]) <= diameter / 2, 255, 0).astype(np.uint8)
