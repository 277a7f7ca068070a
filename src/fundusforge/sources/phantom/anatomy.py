"""Anatomy of the phantom eye: what is drawn from a seed before anything is rasterised.

Lengths are millimetres on the retina; one degree of field is 0.288 mm (Drasdo & Fowler, Br J Ophthalmol
1974;58:709).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.sources.phantom.canvas import Projection
from fundusforge.sources.phantom.vessels import Territory, TreeConfig

MM_PER_DEGREE = 0.288
Side = Literal["left", "right"]


@dataclass(frozen=True)
class EyeConfig:
    """Sampled ranges (low, high); lengths in mm on the retina, angles in degrees."""

    disc_height: tuple[float, float] = (1.70, 2.05)
    """Vertical diameter of the disc (Jonas et al., Invest Ophthalmol Vis Sci 1988;29:1151: 1.92 +- 0.29)."""
    disc_aspect: tuple[float, float] = (0.86, 0.97)
    """Width of the disc over its height (same: 1.76 over 1.92)."""
    cup_ratio: tuple[float, float] = (0.25, 0.6)
    """Vertical diameter of the cup over that of the disc."""
    fovea_distance: tuple[float, float] = (4.3, 4.9)
    """Centre of the disc to the fovea (Rohrschneider, Invest Ophthalmol Vis Sci 2004;45:3257: 15.6 deg)."""
    fovea_drop: tuple[float, float] = (3.5, 9.0)
    """Angle by which the fovea lies below the horizontal through the disc (same: 5.6 +- 3.3)."""
    avascular_diameter: tuple[float, float] = (0.45, 0.65)
    """Foveal avascular zone."""
    arcade_height: tuple[float, float] = (2.6, 3.8)
    """How far above and below the fovea the temporal arcades pass."""
    field_angle: tuple[float, float] = (30.0, 50.0)
    """Diameter of the field of view in degrees; photographs are taken at 30 to 60."""
    truncation: tuple[float, float] = (0.76, 0.95)
    """Half height of a truncated field of view over its radius."""
    truncated_share: float = 0.4
    """Share of eyes whose field of view is cut off above and below."""
    margin: tuple[float, float] = (0.0, 0.03)
    """Black border at the sides of the picture over its width."""
    torsion: tuple[float, float] = (-4.0, 4.0)
    drusen_share: float = 0.0
    """Share of eyes with drusen, which the retinopathy grade does not speak of."""
    membrane_share: float = 0.0
    """Share of eyes with an epiretinal membrane; likewise."""
    artery: TreeConfig = field(
        default_factory=lambda: TreeConfig(trunk_diameter=(0.085, 0.115), spacing=1.5, arcade_shift=0.16)
    )
    vein: TreeConfig = field(
        default_factory=lambda: TreeConfig(trunk_diameter=(0.125, 0.160), spacing=1.4, arcade_shift=-0.16)
    )


@dataclass(frozen=True)
class Anatomy:
    """The parts of one eye, in mm, before anything is drawn."""

    eye: Side
    age: int
    disc_radii: tuple[float, float]
    cup_radii: tuple[float, float]
    cup_centre: NDArray[np.float64]
    territory: Territory
    projection: Projection
    field_radius: float
    """Radius of the field of view in pixels."""
    field_height: float
    """Half height of the field of view over its radius; 1 for a full circle."""
    drusen: bool
    epiretinal_membrane: bool

    def visible(self, points: NDArray[np.float64], *, margin: float = 0.0) -> NDArray[np.bool_]:
        """Which points (N, 2) in mm lie in the field of view, at least `margin` mm from its edge."""
        gap = self.projection.pixels(points) - self.projection.size / 2
        inset = margin * self.projection.scale
        inside = np.hypot(gap[:, 0], gap[:, 1]) < self.field_radius - inset
        return inside & (np.abs(gap[:, 1]) < self.field_height * self.field_radius - inset)


def _view_centre(rng: np.random.Generator, fovea: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Where the camera points: at the disc, at the fovea or between, with the whole disc in view."""
    share = rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.35, 0.45]) + rng.normal(0, 0.1)
    centre = share * fovea + rng.normal(0, 0.25, 2)
    excess = np.linalg.norm(centre) / max(radius - 1.5, 0.5)
    return centre / max(excess, 1.0)


def sample_anatomy(rng: np.random.Generator, size: int, eye: Side | None, config: EyeConfig) -> Anatomy:
    """Draw the anatomy of one eye; `size` (px) only scales the projection, never what is drawn."""
    side: Side = "left" if rng.random() < 0.5 else "right"
    side = eye or side
    height = rng.uniform(*config.disc_height)
    disc = (0.5 * height * rng.uniform(*config.disc_aspect), 0.5 * height)
    cup = rng.uniform(*config.cup_ratio)
    drop = np.radians(rng.uniform(*config.fovea_drop))
    fovea = rng.uniform(*config.fovea_distance) * np.array([np.cos(drop), -np.sin(drop)])
    radius = 0.5 * MM_PER_DEGREE * rng.uniform(*config.field_angle)
    field_radius = size * (0.5 - rng.uniform(*config.margin))
    centre = _view_centre(rng, fovea, radius)
    truncated = rng.random() < config.truncated_share
    height_ratio = rng.uniform(*config.truncation)
    torsion = np.radians(rng.uniform(*config.torsion))
    avascular = 0.5 * rng.uniform(*config.avascular_diameter)
    arcades = (rng.uniform(*config.arcade_height), rng.uniform(*config.arcade_height))
    age = int(rng.integers(20, 86))
    drusen, membrane = (rng.random(2) < [config.drusen_share, config.membrane_share]).tolist()
    return Anatomy(
        eye=side,
        age=age,
        disc_radii=disc,
        cup_radii=(disc[0] * cup * 1.02, disc[1] * cup),
        cup_centre=np.array([0.06, 0.0]) + rng.normal(0, 0.03, 2),
        territory=Territory(centre, radius * 1.1, fovea, avascular, arcades),
        projection=Projection(size, field_radius / radius, centre, side == "right", torsion),
        field_radius=field_radius,
        field_height=height_ratio if truncated else 1.0,
        drusen=drusen,
        epiretinal_membrane=membrane,
    )
