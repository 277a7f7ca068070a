"""Known corruptions of fundus photographs at four rising strengths, for `rank_corruptions.py`.

Each takes a `Photograph`, a strength from 1 to 4 and a NumPy generator, and returns a picture of the same
shape, black outside the field of view. None of this code is used in training; the kinds under `SEEN` have a
relative there that is made in another way (`fundusforge.models.damages`), those under `UNSEEN` have none, and
those under `FRESH` were not even looked at when the extractor's settings were chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from fundusforge.images import Grey, Image

STRENGTHS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Photograph:
    """A photograph with what the corruptions need to know of it, all of one size."""

    image: Image
    field: Grey
    """0 outside the field of view."""
    vessels: Grey
    """0 outside vessels."""


Corruption = Callable[[Photograph, int, np.random.Generator], np.ndarray]
"""Returns (H, W, 3), uint8 or float in [0, 255]."""


def corrupt(kind: str, photograph: Photograph, strength: int, rng: np.random.Generator) -> Image:
    """Return the corrupted picture (H, W, 3) uint8."""
    picture = (SEEN | UNSEEN | FRESH | HARMLESS)[kind](photograph, strength, rng)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return picture if kind in HARMLESS else picture * (photograph.field > 0)[..., None]


# ---- kinds with a relative in training ---------------------------------------------------------------------


def blur(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur of 0.7 to 4 pixels."""
    return cv2.GaussianBlur(p.image, (0, 0), (0.7, 1.2, 2.2, 4.0)[strength - 1])


def colour(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Less red, more green and blue, alike in the whole set."""
    return p.image * (1 + 0.08 * strength * np.array([-1.0, 0.5, 1.0]))


def missing_vessels(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Vessels painted over in a quarter to the whole of the picture."""
    tiles = rng.permutation(64).reshape(8, 8) < 16 * strength
    return _painted_over(p, _enlarge(tiles, p.image.shape))


def broken_vessels(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaps of 10 to 16 pixels, in 8 to 32 % of the vessels' area."""
    rows, columns = np.nonzero(p.vessels)
    gaps = np.zeros(p.vessels.shape, np.uint8)
    for place in rng.permutation(len(rows)):
        if (gaps[rows, columns] > 0).mean() >= 0.08 * strength:
            break
        cv2.circle(gaps, (int(columns[place]), int(rows[place])), int(rng.integers(5, 9)), 255, -1)
    return _painted_over(p, gaps > 0)


def checkerboard(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Squares of 2 pixels, 2 to 16 % lighter and darker."""
    rows, columns = np.indices(p.field.shape) // 2
    pattern = np.asarray((rows + columns) % 2 * 2 - 1)[..., None]
    return p.image * (1 + 0.01 * 2.0**strength * pattern)


# ---- kinds never seen in training --------------------------------------------------------------------------


def salt(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Single pixels white or black: 0.1 to 2.7 %."""
    hit = rng.random(p.field.shape) < 0.001 * 3.0 ** (strength - 1)
    return np.where(hit[..., None], 255 * rng.integers(2, size=p.field.shape)[..., None], p.image)


def elastic(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth displacements of 2 to 8 pixels, changing over about 20."""
    noise = [cv2.GaussianBlur(rng.normal(size=p.field.shape), (0, 0), 12) for _ in range(2)]
    rows, columns = (
        (place + 2.0 * strength * shift / shift.std()).astype(np.float32)
        for place, shift in zip(np.indices(p.field.shape), noise, strict=True)
    )
    return cv2.remap(p.image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def jpeg(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks of JPEG at quality 70 down to 10."""
    quality = (70, 45, 25, 10)[strength - 1]
    _, data = cv2.imencode(".jpg", p.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(decoded)[..., ::-1]


def illumination(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """A linear fall of light across the picture, up to 20 to 80 % darker at one side."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(p.field.shape) / max(p.field.shape) - 0.5
    along = np.clip(0.5 + rows * np.sin(angle) + columns * np.cos(angle), 0, 1)
    return p.image * (1 - 0.2 * strength * along[..., None])


def duplicate_discs(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """The brightest place, mostly the disc, once to four times more, with a soft border."""
    side = min(p.field.shape) // 5
    smooth = cv2.GaussianBlur(p.image[..., 1] * (p.field > 0), (0, 0), side / 6)
    brightest = divmod(int(smooth.argmax()), smooth.shape[1])
    top, left = (_start(place, side, limit) for place, limit in zip(brightest, p.field.shape, strict=True))
    patch = p.image[top : top + side, left : left + side].astype(np.float64)
    ramp = np.hanning(side + 2)[1:-1]
    weight = np.minimum(1, 2 * np.outer(ramp, ramp))[..., None]
    picture = p.image.astype(np.float64)
    for _ in range(strength):
        radius, angle = 0.3 * min(p.field.shape) * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        centre = [limit / 2 + radius * turn for limit, turn in
                  zip(p.field.shape, (np.sin(angle), np.cos(angle)), strict=True)]  # fmt: skip
        top, left = (_start(place, side, limit) for place, limit in zip(centre, p.field.shape, strict=True))
        under = picture[top : top + side, left : left + side]
        under += weight * (patch - under)
    return picture


def pixelation(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Squares of 2, 3, 5 and 8 pixels of one colour."""
    height, width = p.field.shape
    block = (2, 3, 5, 8)[strength - 1]
    small = cv2.resize(p.image, (width // block, height // block), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def shuffled_patches(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Squares of an eighth of the side change places: 2 to 16 pairs of them."""
    picture, side = p.image.copy(), min(p.field.shape) // 8
    places = rng.permutation([(r, c) for r in range(1, 7) for c in range(1, 7)]) * side
    for (a, b), (c, d) in zip(places[: 2**strength], places[-(2**strength) :], strict=True):
        one, other = picture[a : a + side, b : b + side], picture[c : c + side, d : d + side]
        one[...], other[...] = other.copy(), one.copy()
    return picture


# ---- kinds that no choice was made on ----------------------------------------------------------------------


def posterisation(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Only every 6th, 12th, 24th or 48th value of each channel."""
    step = 6 * 2 ** (strength - 1)
    return np.rint(p.image / step) * step


def double_exposure(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """The picture again, 6 to 12 pixels aside, shining through with 6 to 48 %."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 12)
    move = np.array([[1, 0, distance * np.cos(angle)], [0, 1, distance * np.sin(angle)]])
    height, width = p.field.shape
    ghost = cv2.warpAffine(p.image, move, (width, height), borderMode=cv2.BORDER_REFLECT)
    share = 0.03 * 2.0**strength
    return (1 - share) * p.image + share * ghost


def lash_shadow(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Two to eight soft dark streaks from the upper rim down, as eyelashes throw them."""
    height, width = p.field.shape
    shade = np.zeros(p.field.shape, np.float32)
    for _ in range(2 * strength):
        top = (int(width * rng.uniform(0.2, 0.8)), 0)
        foot = (int(top[0] + width * rng.uniform(-0.1, 0.1)), int(height * rng.uniform(0.2, 0.45)))
        cv2.line(shade, top, foot, 1.0, max(2, width // 64))
    return p.image * (1 - 0.5 * cv2.GaussianBlur(shade, (0, 0), width / 128)[..., None])


def tone(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """A curve of tones: gamma 1.1 to 1.4."""
    return 255 * (p.image / 255.0) ** (1 + 0.1 * strength)


def mirror(p: Photograph, strength: int, rng: np.random.Generator) -> np.ndarray:
    """The fellow eye, so to say: nothing is wrong with it."""
    return p.image[:, ::-1]


SEEN: dict[str, Corruption] = {
    "blur": blur,
    "colour": colour,
    "missing_vessels": missing_vessels,
    "broken_vessels": broken_vessels,
    "checkerboard": checkerboard,
}
UNSEEN: dict[str, Corruption] = {
    "salt": salt,
    "elastic": elastic,
    "jpeg": jpeg,
    "illumination": illumination,
    "duplicate_discs": duplicate_discs,
    "pixelation": pixelation,
    "shuffled_patches": shuffled_patches,
}
FRESH: dict[str, Corruption] = {
    "posterisation": posterisation,
    "double_exposure": double_exposure,
    "lash_shadow": lash_shadow,
    "tone": tone,
}
HARMLESS: dict[str, Corruption] = {"mirror": mirror}


def _enlarge(tiles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    return cv2.resize(tiles.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _painted_over(p: Photograph, where: np.ndarray) -> np.ndarray:
    """Fill the vessels of a region with their surroundings (Telea 2004)."""
    grown = cv2.dilate(p.vessels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    return cv2.inpaint(p.image, ((grown > 0) & where).astype(np.uint8), 5, cv2.INPAINT_TELEA)


def _start(centre: float, side: int, limit: int) -> int:
    """First pixel of a square about a place, inside the picture."""
    return int(np.clip(centre - side / 2, 0, limit - side))
