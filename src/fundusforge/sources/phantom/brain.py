"""A procedural axial slice of a skull-stripped brain in four contrasts, with a three-label tumour.

It is test data for multi-contrast pipelines, not a model of anatomy: tissue maps (fluid, grey, white
matter) are built from ellipses and smooth noise, and each contrast weighs them as spin-echo imaging does.
Relative intensities follow the usual reading of a glioma (Menze et al., IEEE Trans Med Imaging
2015;34:1993): oedema bright on T2 and FLAIR, the active rim bright on T1 with contrast agent, necrosis
dark there; fluid dark on T1 and FLAIR, bright on T2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[Any]
"""A float32 array, which neither NumPy arithmetic nor OpenCV promises to a type checker."""

TISSUES = ("fluid", "grey", "white", "necrosis", "oedema", "enhancing")
INTENSITY: dict[str, tuple[float, ...]] = {
    "t1": (150.0, 520.0, 720.0, 260.0, 430.0, 470.0),
    "t1c": (160.0, 560.0, 740.0, 250.0, 460.0, 1150.0),
    "t2": (1150.0, 620.0, 420.0, 950.0, 900.0, 680.0),
    "flair": (140.0, 620.0, 460.0, 430.0, 960.0, 700.0),
}
"""Signal of each of `TISSUES` in scanner units; about 0-1200, as 12-bit images have."""


@dataclass(frozen=True)
class BrainConfig:
    """Sampled ranges (low, high); lengths as shares of the half width of the brain."""

    tumour_share: float = 1.0
    """Share of slices that hold a tumour."""
    core_radius: tuple[float, float] = (0.12, 0.26)
    """Necrosis and enhancing rim together."""
    rim: tuple[float, float] = (0.22, 0.5)
    """Thickness of the rim over the radius of the core."""
    oedema_radius: tuple[float, float] = (1.4, 2.2)
    """Reach of the oedema over the radius of the core."""
    noise: tuple[float, float] = (8.0, 20.0)
    """Standard deviation of the scanner noise, in units of signal."""
    bias: float = 0.12
    """Amplitude of the receive field."""


@dataclass(frozen=True)
class Brain:
    """One slice: contrasts (S, S) float32, 0 outside the brain; disjoint labels and the brain, 0/255."""

    contrasts: dict[str, Map]
    """`t1`, `t1c` (with contrast agent), `t2`, `flair`."""
    labels: dict[str, NDArray[np.uint8]]
    """`necrosis`, `oedema`, `enhancing`."""
    brain: NDArray[np.uint8]


def _noise(rng: np.random.Generator, size: int, cells: int) -> Map:
    field = rng.normal(0, 1.25, (cells, cells)).astype(np.float32)
    return cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC)


def _inside(level: Map, size: int) -> Map:
    """Soft indicator of level > 0, about one pixel wide; `level` is a length in half widths."""
    return np.clip(level * np.float32(size / 2.4) + 0.5, 0, 1)


def _ellipse(x: Map, y: Map, centre: tuple[float, float], radii: tuple[float, float], tilt: float) -> Map:
    """Signed distance-like level, positive inside a tilted ellipse."""
    u, v = x - centre[0], y - centre[1]
    c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    rho = np.sqrt(((c * u + s * v) / radii[0]) ** 2 + ((c * v - s * u) / radii[1]) ** 2)
    return ((1 - rho) * min(radii)).astype(np.float32)


def _healthy(rng: np.random.Generator, x: Map, y: Map, size: int) -> tuple[Map, Map, Map, Map]:
    """Indicator maps of the brain, its fluid, its ventricles and its white matter; the rest is grey."""
    outer = _ellipse(x, y, (0, 0), (0.80 + rng.normal(0, 0.02), 1.0), 0.0) + 0.012 * _noise(rng, size, 9)
    brain = _inside(outer, size)
    # Zero lines of noise are the floors of sulci; |noise| times 0.07 is about the distance to them.
    to_sulcus = 0.07 * np.abs(_noise(rng, size, 20) + 0.25 * _noise(rng, size, 40))
    depth = np.clip(1 - outer / (0.24 + 0.08 * _noise(rng, size, 7)), 0, 1)
    sulci = _inside(0.016 * depth - to_sulcus - 0.004, size) * (depth > 0)
    fissure = _inside(0.014 - np.abs(x + 0.012 * _noise(rng, size, 6)), size) * _inside(
        np.abs(y) - 0.30, size
    )
    ventricles = _ventricles(rng, x, y, size)
    fluid = np.maximum(np.maximum(sulci, fissure), ventricles) * brain
    ribbon = np.minimum(outer - 0.065, to_sulcus - 0.05 * np.sqrt(depth))
    midline = np.abs(x) - 0.055 * (np.abs(y) > 0.30)
    white = _inside(np.minimum(ribbon, midline), size)
    for side in (-1.0, 1.0):
        thalamus = _ellipse(x, y, (side * 0.13, 0.10), (0.10, 0.14), side * 0.4)
        putamen = _ellipse(x, y, (side * 0.32, -0.05), (0.07, 0.19), -side * 0.2)
        white *= 1 - 0.75 * _inside(np.maximum(thalamus, putamen), size)
    return brain, fluid, ventricles, white * (1 - fluid) * brain


def _ventricles(rng: np.random.Generator, x: Map, y: Map, size: int) -> Map:
    width, length = rng.uniform(0.055, 0.11), rng.uniform(0.22, 0.32)
    found = np.zeros_like(x)
    for side in (-1.0, 1.0):
        front = _ellipse(x, y, (side * 0.11, -0.16), (width, length), side * 0.30)
        back = _ellipse(x, y, (side * 0.17, 0.24), (0.8 * width, length), -side * 0.45)
        found = np.maximum(found, _inside(np.maximum(front, back), size))
    return found


def _tumour(
    rng: np.random.Generator, x: Map, y: Map, size: int, config: BrainConfig, allowed: Map
) -> tuple[Map, Map, Map]:
    """Indicator maps of necrosis, oedema and enhancing rim, within the brain and without overlap."""
    side = -1.0 if rng.random() < 0.5 else 1.0
    place = np.array([side * rng.uniform(0.34, 0.5), rng.uniform(-0.5, 0.5)])
    radius = rng.uniform(*config.core_radius)
    rim = rng.uniform(*config.rim) * radius
    reach = rng.uniform(*config.oedema_radius) * radius
    distance = np.hypot(x - place[0], y - place[1])
    lumpy = 0.16 * radius * _noise(rng, size, 12) + 0.08 * radius * _noise(rng, size, 24)
    core = _inside(radius - distance + lumpy, size)
    necrosis = _inside(radius - rim - distance + 1.2 * lumpy, size) * core
    fingers = 0.35 * radius * _noise(rng, size, 9) + 0.12 * radius * _noise(rng, size, 22)
    oedema = _inside(reach - distance + fingers, size)
    return necrosis * allowed, oedema * (1 - core) * allowed, core * (1 - necrosis) * allowed


_DEFAULT = BrainConfig()


def draw_brain(seed: int, *, size: int = 256, config: BrainConfig = _DEFAULT) -> Brain:
    """Draw one axial slice.

    Args:
        seed: decides everything; the same seed gives the same bytes.
        size: side of the square slice, pixels.
        config: the ranges it is drawn from.

    Raises:
        ValueError: size below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 px, not {size!r}")
    rng = np.random.default_rng([seed, 17])
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32) * np.float32(2.4)
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(axis[None, :], axis[:, None]))
    brain, fluid, ventricles, white = _healthy(rng, x, y, size)
    nothing = np.zeros_like(x)
    sick = rng.random() < config.tumour_share
    lesion = (
        _tumour(rng, x, y, size, config, brain * (1 - ventricles)) if sick else (nothing, nothing, nothing)
    )
    labels = _labels(lesion)
    healthy = 1 - sum(lesion)
    maps = [fluid * healthy, (brain - fluid - white) * healthy, white * healthy, *lesion]
    bias = 1 + config.bias * _noise(rng, size, 3) / 2
    noise = rng.uniform(*config.noise)
    texture = 1 + 0.02 * _noise(rng, size, size // 4)
    contrasts = {}
    for name, signal in INTENSITY.items():
        clean = sum(np.float32(s) * m for s, m in zip(signal, maps, strict=True)) * bias * texture
        real = cv2.GaussianBlur(clean, (0, 0), 0.6 * size / 256) + rng.normal(0, noise, x.shape)
        rician = np.hypot(real, rng.normal(0, noise, x.shape))
        contrasts[name] = np.where(brain > 0.5, rician, 0).astype(np.float32)
    return Brain(contrasts=contrasts, labels=labels, brain=((brain > 0.5) * np.uint8(255)).astype(np.uint8))


def _labels(lesion: tuple[Map, Map, Map]) -> dict[str, NDArray[np.uint8]]:
    """Masks 0/255; a pixel belongs to the tissue that fills most of it, if tumour fills half of it."""
    stack = np.stack(lesion)
    winner, present = stack.argmax(0), stack.sum(0) > 0.5
    names = ("necrosis", "oedema", "enhancing")
    return {
        name: ((present & (winner == i)) * np.uint8(255)).astype(np.uint8) for i, name in enumerate(names)
    }
