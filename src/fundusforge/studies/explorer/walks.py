"""Walks through a latent space: between vectors, along a direction, and across a map; as GIF or MP4.

The generator reads only the direction of a vector, so walks follow the sphere: between two vectors the great
circle (Shoemake 1985, "Animating rotation with quaternion curves").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from fundusforge.images import SYNTHETIC_XMP, Image
from fundusforge.sample.latents import Drawer, Latents

SUFFIXES = (".gif", ".mp4")
_RATE = 12
"""Frames per second."""


def great_circle(start: NDArray[np.float32], end: NDArray[np.float32], frames: int) -> Latents:
    """Return `frames` vectors (frames, L) of mean square 1 from one direction to another, both included.

    Args:
        start: (L,), not zero.
        end: (L,), not zero and not opposite.
        frames: 2 or more.

    Raises:
        ValueError: A vector of no direction, opposite vectors, or fewer frames.
    """
    lengths = [float(np.linalg.norm(one)) for one in (start, end)]
    if min(lengths) == 0 or frames < 2:
        raise ValueError("a walk needs two directions and two frames or more")
    a, b = start / lengths[0], end / lengths[1]
    angle = float(np.arccos(np.clip(a @ b, -1, 1)))
    if angle > np.pi - 1e-4:
        raise ValueError("the two vectors are opposite: no great circle is the shortest")
    share = np.linspace(0, 1, frames)[:, None]
    if angle < 1e-4:
        path = (1 - share) * a + share * b
    else:
        path = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return (path * np.sqrt(len(a))).astype(np.float32)


def through(stops: Latents, frames: int) -> Latents:
    """Return about `frames` vectors (n, L) along great circles through all stops (N, L) in order."""
    legs = len(stops) - 1
    each = max(2, round((frames - 1) / legs) + 1)
    parts = [great_circle(a, b, each) for a, b in zip(stops, stops[1:], strict=False)]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def along(centre: NDArray[np.float32], direction: NDArray[np.float32], reach: float, frames: int) -> Latents:
    """Return `frames` vectors (frames, L) from `-reach` to `reach` along a unit direction.

    Args:
        centre: (L,) vector in the middle.
        direction: (L,) unit vector.
        reach: In units of the length of `centre`.
        frames: Number of vectors.
    """
    steps = np.linspace(-reach, reach, frames)[:, None] * np.linalg.norm(centre)
    return (centre + steps * direction).astype(np.float32)


def across(places: NDArray[np.floating], latents: Latents, *, stops: int = 8) -> Latents:
    """Return vectors (stops, L) of real images met on a straight way across a map, end to end.

    The way runs along the map's longest axis (its first principal component), as Beers et al. travel through
    the slices of a brain.

    Args:
        places: (N, 2) of each image on the map.
        latents: (N, L).
        stops: How many images are met at most.
    """
    centred = places - places.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    way, aside = centred @ axes[0], centred @ axes[1]
    taken: list[int] = []
    for aim in np.linspace(way.min(), way.max(), stops):
        taken.append(int(np.argmin(np.hypot(way - aim, aside))))
    return latents[list(dict.fromkeys(taken))]


def draw_frames(drawer: Drawer, latents: Latents) -> list[Image]:
    """Draw each vector (N, L): the image, and its masks beside it, (S, S * (1 + masks), 3) uint8."""
    found: list[Image] = []
    for latent in latents:
        drawn = drawer.draw(latent)
        masks = [np.repeat(mask[..., None], 3, 2) for mask in drawn.masks.values()]
        found.append(np.concatenate([drawn.image, *masks], axis=1))
    return found


def write_film(path: Path, frames: Sequence[Image], *, least: int = 256) -> None:
    """Write frames, there and back again, as .gif or .mp4, aside and then renamed; marked as synthetic.

    Args:
        path: File to write.
        frames: (H, W, 3) uint8 RGB, all of one size.
        least: Height in pixels to which smaller frames are enlarged.

    Raises:
        ValueError: Another suffix.
        OSError: The file cannot be written, or this OpenCV writes no MP4.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a film is written as {' or '.join(SUFFIXES)}")
    factor = max(1, least // frames[0].shape[0])
    whole = [np.kron(frame, np.ones((factor, factor, 1), np.uint8)) for frame in (*frames, *frames[-2:0:-1])]
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        (_write_gif if path.suffix == ".gif" else _write_mp4)(partial, whole)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_gif(path: Path, frames: Sequence[Image]) -> None:
    first, *rest = [Pillow.fromarray(frame) for frame in frames]
    first.save(
        path, save_all=True, append_images=rest, duration=1000 // _RATE, loop=0, xmp=SYNTHETIC_XMP.encode(),
        comment=b"synthetic: made by fundusforge",
    )  # fmt: skip


def _write_mp4(path: Path, frames: Sequence[Image]) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), _RATE, (width, height))
    if not writer.isOpened():
        raise OSError(f"{path}: this OpenCV cannot write MP4; use .gif")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
