"""Paints the photograph of a phantom eye.

The fundus is a reflecting ground (sclera, choroid, pigment epithelium) seen through absorbing layers, so
pigment and blood *multiply* it by exp(-density) in each colour (Beer-Lambert; haemoglobin absorbs green
and blue far more than red: Delori & Pflibsen, Appl Opt 1989;28:1061), while what scatters back in front
of it (disc, exudate, fibrous tissue, reflexes) is *blended* in. Then comes the camera: uneven light,
haze, blur, noise.

Every random field is drawn on a fixed grid and enlarged, so a picture keeps its look at every size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.sources.phantom.anatomy import Anatomy
from fundusforge.sources.phantom.canvas import Canvas
from fundusforge.sources.phantom.vessels import Tree

Picture = NDArray[Any]
"""A float32 array, which neither NumPy arithmetic nor OpenCV promises to a type checker."""

PALETTES = np.array([
    [215, 112, 68], [165, 62, 14], [207, 60, 32], [176, 86, 16],
    [150, 92, 52], [218, 138, 108], [128, 62, 30],
]) / 255.0  # fmt: skip
"""(7, 3) RGB medians of cameras and complexions; an eye's ground is a random mixture that leans to one."""

VEIN_DENSITY = (0.30, 0.72, 0.55)
ARTERY_DENSITY = (0.11, 0.50, 0.42)
BLOOD_DENSITY = (0.42, 1.10, 0.80)


@dataclass(frozen=True)
class Scene:
    """What the painting steps share: the picture frame in retinal coordinates.

    x, y: (S, S) mm temporal and superior of the disc centre; pixel: mm per pixel; inside: (S, S) field of
    view.
    """

    anatomy: Anatomy
    x: Picture
    y: Picture
    pixel: float
    inside: NDArray[np.bool_]

    def blur(self, picture: Picture, millimetres: float) -> Picture:
        """Gaussian blur with a standard deviation given on the retina."""
        return cv2.GaussianBlur(picture, (0, 0), max(millimetres / self.pixel, 0.05))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Picture:
    """(S, S) noise of unit variance with `cells` bumps across the picture."""
    return cv2.resize(
        rng.normal(0, 1.25, (cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )


def _absorb(image: Picture, layer: Picture, density: tuple[float, float, float]) -> None:
    """Multiply `image` (S, S, 3) in place by exp(-density * layer)."""
    for channel in range(3):
        image[..., channel] *= cv2.exp(layer * np.float32(-density[channel]))


def _blend(image: Picture, layer: Picture, colour: NDArray[np.float64] | Picture) -> None:
    """Blend `colour`, (3,) or (S, S, 3), into `image` in place with opacity `layer` (S, S)."""
    image += layer[..., None] * (np.asarray(colour, dtype=np.float32) - image)


def _ground(rng: np.random.Generator, scene: Scene, base: NDArray[np.float64]) -> Picture:
    """Choroid and pigment epithelium: cloudy, sometimes tessellated, darker at the macula."""
    size, fovea = len(scene.x), scene.anatomy.territory.fovea
    cloud = 0.055 * smooth_noise(rng, size, 5) + 0.03 * smooth_noise(rng, size, 12)
    cloud += 0.014 * smooth_noise(rng, size, 48) + 0.012 * smooth_noise(rng, size, 110)
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = base.astype(np.float32)
    distance2 = (scene.x - np.float32(fovea[0])) ** 2 + (scene.y - np.float32(fovea[1])) ** 2
    tessellation = 0.012 + min(0.16, rng.exponential(0.035))
    cloud += _choroidal_vessels(rng, scene) * np.float32(tessellation) * (1 - 0.8 * cv2.exp(-distance2 / 6.0))
    _absorb(image, -cloud, (0.7, 1.0, 0.9))
    for channel, amount in enumerate((0.012, 0.022, 0.04)):
        image[..., channel] *= 1 + np.float32(amount) * smooth_noise(rng, size, 4)
    _absorb(image, 0.03 * smooth_noise(rng, size, 32), (0.2, 1.0, 0.9))
    strength = rng.uniform(0.22, 0.5)
    macula = cv2.exp(-distance2 / np.float32(2 * rng.uniform(0.7, 1.0) ** 2))
    pit = cv2.exp(-distance2 / np.float32(2 * 0.28**2))
    _absorb(image, np.float32(strength) * macula + np.float32(0.45 * strength) * pit, (0.62, 0.85, 0.8))
    return image


def _choroidal_vessels(rng: np.random.Generator, scene: Scene) -> Picture:
    """(S, S) pale choroidal ribbons between dark islands, running roughly away from the disc, patchy."""
    size = len(scene.x)
    radius = np.sqrt(scene.x**2 + scene.y**2)
    angle = np.arctan2(scene.y, scene.x)
    warp = 0.35 * smooth_noise(rng, size, 10) + 0.12 * smooth_noise(rng, size, 30)
    sheet = rng.normal(0, 1, (64, 256)).astype(np.float32)
    wide = cv2.resize(np.hstack([sheet, sheet]), (2048, 256), interpolation=cv2.INTER_CUBIC)
    columns = (angle / np.float32(2 * np.pi) % 1.0) * 1023 + warp * 22
    rows = np.clip((radius + warp) * 17, 0, 255)
    ridge = cv2.remap(wide, columns + 256, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    patch = np.clip(0.55 + 0.5 * smooth_noise(rng, size, 5), 0, 1.3)
    return np.clip(scene.blur(ridge, 0.03) - 0.2, -1.0, 1.2) * patch


def _disc(rng: np.random.Generator, scene: Scene, image: Picture, base: NDArray[np.float64]) -> None:
    """Neuroretinal rim, pale cup, scleral ring, and the glow of the nerve fibres around."""
    anatomy = scene.anatomy
    a, b = anatomy.disc_radii
    rho = np.sqrt((scene.x / np.float32(a)) ** 2 + (scene.y / np.float32(b)) ** 2)
    blue = base[2] / base[1]
    red = min(1.0, 1.2 * base[0] + 0.17)
    green = rng.uniform(0.62, 0.78)
    rim = red * np.array([1.0, green, green * (0.12 + 0.68 * blue)])
    cup = min(1.0, 1.3 * base[0] + 0.24) * np.array(
        [1.0, green + 0.17, (green + 0.17) * (0.25 + 0.72 * blue)]
    )
    glow = cv2.exp(-(np.maximum(rho - 0.8, 0) ** 2) / np.float32(0.7))
    _blend(image, glow * np.float32(rng.uniform(0.05, 0.22)), rim)
    crescent = rng.uniform(0, 0.5) ** 2 * 2
    edge = cv2.exp(-((rho - np.float32(1.07)) ** 2) / np.float32(0.004)) * np.clip(
        0.4 + scene.x / np.float32(a), 0, 1
    )
    _blend(image, edge * np.float32(crescent), np.clip(cup * 0.95, 0, 1))
    softness = np.float32(rng.uniform(0.035, 0.07))
    inside = 1 / (1 + cv2.exp((rho - 1) / softness))
    temporal = np.clip(0.5 + 0.45 * scene.x / np.float32(a), 0, 1)[..., None]
    pallor = rim + (cup - rim) * 0.35 * temporal
    _blend(image, 0.93 * inside, pallor.astype(np.float32))
    cx, cy = anatomy.cup_centre
    ca, cb = anatomy.cup_radii
    rho_cup = np.sqrt(
        ((scene.x - np.float32(cx)) / np.float32(ca)) ** 2
        + ((scene.y - np.float32(cy)) / np.float32(cb)) ** 2
    )
    _blend(image, np.float32(rng.uniform(0.6, 0.95)) / (1 + cv2.exp((rho_cup - 1) / np.float32(0.14))), cup)


def _nerve_fibres(rng: np.random.Generator, scene: Scene, image: Picture, artery: Tree, sheen: float) -> None:
    """Bright striae along the temporal arcades and round the disc, as seen in the young."""
    size = len(scene.x)
    canvas = Canvas(scene.anatomy.projection)
    big = np.flatnonzero(artery.radius[1:] > 0.6 * artery.radius.max()) + 1
    canvas.strokes(artery.points[artery.parent[big]], artery.points[big], np.full(len(big), 0.9))
    bundle = scene.blur(canvas.coverage().astype(np.float32) / 255, 0.7)
    angle = np.arctan2(scene.y, scene.x) + 0.12 * np.copysign(np.sqrt(np.abs(scene.x)), scene.y)
    radius = np.sqrt(scene.x**2 + scene.y**2)
    streaks = rng.normal(0, 1, (512, 10)).astype(np.float32)
    rows = ((angle / (2 * np.pi)) % 1.0 * 511).astype(np.float32)
    stripe = cv2.remap(
        streaks, (radius * 0.7).astype(np.float32), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    glow = bundle * np.clip(0.55 + 0.35 * stripe, 0, 2) * np.float32(sheen)
    fade = cv2.exp(-radius / np.float32(3.5)) * np.clip(np.abs(smooth_noise(rng, size, 7)), 0, 1.5)
    _blend(image, np.clip(glow * fade, 0, 0.5), np.array([0.95, 0.86, 0.66]))


def _vessel_layers(scene: Scene, tree: Tree, reflex: float) -> tuple[Picture, Picture]:
    """(S, S) blood depth, thin vessels being paler, and the bright line along the larger ones."""
    projection = scene.anatomy.projection
    starts, ends, diameter = tree.points[tree.parent[1:]], tree.points[1:], 2 * tree.radius[1:]
    blood = Canvas(projection)
    depth = 1 - np.exp(-diameter / 0.055)
    blood.strokes(starts, ends, diameter, values=250 * depth, thinnest=0.9)
    line = Canvas(projection)
    wide = diameter > 0.055
    line.strokes(
        starts[wide], ends[wide], diameter[wide] * 0.3, values=250 * depth[wide] * reflex, thinnest=0.3
    )
    layers = [scene.blur(canvas.coverage().astype(np.float32) / 255, 0.010) for canvas in (blood, line)]
    return layers[0], layers[1]


def _vessels(
    rng: np.random.Generator, scene: Scene, image: Picture, artery: Tree, vein: Tree, sheen: float
) -> None:
    contrast = rng.uniform(0.75, 1.15)
    for tree, density, reflex in ((vein, VEIN_DENSITY, 0.25), (artery, ARTERY_DENSITY, 0.75)):
        blood, line = _vessel_layers(scene, tree, min(1.0, reflex * (0.5 + sheen)))
        _absorb(image, blood * np.float32(contrast) - 0.5 * scene.blur(line, 0.006), density)


def _lesions(rng: np.random.Generator, scene: Scene, image: Picture, layers: Mapping[str, Picture]) -> None:
    """Paint lesion coverages (S, S) in [0, 1], deep ones first. Colours follow the tissue they show."""
    ground = np.median(image[scene.inside], axis=0)
    yellow = np.clip(ground * [1.15, 1.85, 1.5] + [0.10, 0.12, 0.04], 0, 1)
    white = np.clip(ground * [1.05, 1.6, 1.9] + [0.08, 0.14, 0.12], 0, 1)
    size = len(scene.x)
    mottle = np.clip(1 + 0.3 * smooth_noise(rng, size, 90) + 0.25 * smooth_noise(rng, size, 30), 0, 1.7)

    def soft(name: str, blur: float) -> Picture | None:
        layer = layers.get(name)
        return None if layer is None else scene.blur(layer, blur)

    if (drusen := soft("drusen", 0.025)) is not None:
        _blend(image, 0.42 * drusen, yellow)
    if (laser := soft("laser_marks", 0.03)) is not None:
        _absorb(image, np.clip(scene.blur(laser, 0.07) - 0.6 * laser, 0, 1) * mottle, (0.9, 1.1, 1.0))
        _blend(image, np.clip(0.42 * laser * mottle, 0, 1), 0.5 * yellow + 0.5 * white)
    if (exudates := soft("hard_exudates", 0.008)) is not None:
        _blend(image, np.clip(0.88 * exudates, 0, 1), yellow)
    if (cloud := soft("vitreous_haemorrhage", 0.3)) is not None:
        _absorb(image, 0.8 * cloud, BLOOD_DENSITY)
    for name, blur, strength in (("haemorrhages", 0.028, 0.72), ("microaneurysms", 0.009, 0.6)):
        if (blood := soft(name, blur)) is not None:
            _absorb(image, np.float32(strength) * blood * np.sqrt(mottle), BLOOD_DENSITY)
    for name in ("neovascularisation", "irma"):
        if (vessels := soft(name, 0.006)) is not None:
            _absorb(image, 0.85 * vessels, ARTERY_DENSITY)
    if (wool := soft("soft_exudates", 0.05)) is not None:
        _blend(image, np.clip(0.72 * wool * np.sqrt(mottle), 0, 1), white)
    if (fibrous := soft("proliferative_membranes", 0.07)) is not None:
        _blend(image, np.clip(0.6 * fibrous * np.sqrt(mottle), 0, 0.9), white * [0.92, 0.95, 1.0])
    if (membrane := soft("epiretinal_membrane", 0.12)) is not None:
        _blend(image, np.clip(membrane * (0.10 + 0.22 * _wrinkles(rng, scene)), 0, 0.6), white)


def _wrinkles(rng: np.random.Generator, scene: Scene) -> Picture:
    """(S, S) in [0, 1]: fine parallel folds of the retina under an epiretinal membrane."""
    size = len(scene.x)
    bearing = rng.uniform(0, np.pi)
    along = scene.x * np.float32(np.cos(bearing)) + scene.y * np.float32(np.sin(bearing))
    phase = along * np.float32(2 * np.pi / 0.26) + 4.5 * smooth_noise(rng, size, 8)
    return (0.5 + 0.5 * np.sin(phase)) ** 3 * np.clip(0.4 + 0.6 * smooth_noise(rng, size, 20), 0, 1)


def _illumination(rng: np.random.Generator, scene: Scene, image: Picture, base: NDArray[np.float64]) -> None:
    """Light that falls off towards the rim and to one side, a veil of haze, and a crescent of stray light."""
    size = len(scene.x)
    axis = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / np.float32(scene.anatomy.field_radius)
    u, v = axis[None, :], axis[:, None]
    lean = rng.normal(0, 0.22, 2)
    radius2 = u * u + v * v
    light = 1 - np.float32(rng.uniform(0.05, 0.32)) * ((u - lean[0]) ** 2 + (v - lean[1]) ** 2)
    light *= 1 + 0.05 * smooth_noise(rng, size, 3)
    light *= 1 - np.float32(rng.uniform(0.05, 0.35)) * np.clip((np.sqrt(radius2) - 0.9) / 0.1, 0, 1) ** 2
    image *= light.astype(np.float32)[..., None] * np.float32(1.04)
    _blend(
        image, np.full_like(image[..., 0], max(0.0, rng.normal(0.03, 0.05))), 0.75 * base + 0.25 * base.mean()
    )
    if rng.random() < 0.35:
        bearing = rng.uniform(0, 2 * np.pi)
        side = (
            np.clip((u * np.cos(bearing) + v * np.sin(bearing)) - 0.55, 0, 1)
            * np.clip(radius2 - 0.6, 0, 1)
            * 2.2
        )
        _blend(image, np.clip(side, 0, 0.6).astype(np.float32), np.clip(base * [0.95, 1.5, 1.5], 0, 1))


def _camera(rng: np.random.Generator, scene: Scene, image: Picture) -> NDArray[np.uint8]:
    """Blur of lens and eye, shot noise that is partly shared by the colours, 8 bits."""
    size = len(scene.x)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8) * size / 512)
    grain = rng.uniform(0.003, 0.009)
    shared = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(grain)
    own = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(0.6 * grain)
    noise = cv2.GaussianBlur(shared + own, (0, 0), 0.6) * 1.6
    image = np.clip(image + noise * np.sqrt(np.clip(image, 0.05, 1)), 0, 1)
    image = np.where(scene.inside[..., None], image, 0)
    return np.round(255 * image).astype(np.uint8)


def _base_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    mixture = rng.dirichlet(np.full(len(PALETTES), 0.25))
    base = mixture @ PALETTES
    return np.clip(base * rng.uniform(0.8, 1.25) * np.exp(rng.normal(0, 0.05, 3)), 0.02, 0.97)


def paint(
    rng: np.random.Generator, anatomy: Anatomy, artery: Tree, vein: Tree, field_of_view: NDArray[np.uint8],
    lesions: Mapping[str, NDArray[np.uint8]],
) -> NDArray[np.uint8]:  # fmt: skip
    """Paint the photograph of an eye.

    Args:
        rng: source of every random choice.
        anatomy: disc, cup, fovea, projection, age.
        artery: arterial tree.
        vein: venous tree.
        field_of_view: (S, S) 0/255.
        lesions: coverage (S, S), 0-255, of each lesion layer present (`Lesions.coverage`).

    Returns:
        (S, S, 3) RGB, black outside the field of view.
    """
    x, y = anatomy.projection.retina()
    scene = Scene(anatomy, x, y, 1 / anatomy.projection.scale, field_of_view > 0)
    base = _base_colour(rng)
    sheen = float(np.clip(rng.normal(0.9 - anatomy.age / 110, 0.2), 0.05, 1.0))
    image = _ground(rng, scene, base)
    _nerve_fibres(rng, scene, image, artery, sheen)
    _disc(rng, scene, image, base)
    _vessels(rng, scene, image, artery, vein, sheen)
    _lesions(rng, scene, image, {name: layer.astype(np.float32) / 255 for name, layer in lesions.items()})
    _illumination(rng, scene, image, base)
    return _camera(rng, scene, image)
