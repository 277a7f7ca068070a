"""A generator that draws from vectors, ready to use: the same vector gives the same image, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import Grey, Image
from fundusforge.models import pggan, stylegan, vae
from fundusforge.models.recipe import CONTRAST_UNIT
from fundusforge.prepare.field import find_field
from fundusforge.sample.cleaning import COVERED, connected, deblurred
from fundusforge.sample.conditions import draw_seed
from fundusforge.training import parallel
from fundusforge.training.checkpoint import CheckpointError, fill, load_model, model_file

DRAWING = {
    "pggan": (pggan.PGGANConfig, pggan.Generator),
    "stylegan": (stylegan.StyleGANConfig, stylegan.Generator),
    "vae": (vae.VAEConfig, vae.Decoder),
}
"""Families that draw from vectors, by the name of their kind."""
Generator = pggan.Generator | stylegan.Generator | vae.Decoder
GeneratorConfig = pggan.PGGANConfig | stylegan.StyleGANConfig | vae.VAEConfig
Latents = NDArray[np.float32]
"""(N, L) float32: codes, of mean square 1 (about 1 of a style-based generator)."""
_LATENT, _CONDITION = 4, 5
"""Streams of an image's seed beside those of `conditions` and `stage`."""
_WINDOW = (-1.0, 3.0)
"""Standard deviations of a contrast that its preview shows as black and white."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One drawn picture as it is stored."""

    image: Image
    """(S, S, 3) uint8 RGB; of contrasts the first one, in grey; of an auto-encoder all that it draws,
    before it is cleaned."""
    masks: Mapping[str, Grey]
    """Per name (S, S) uint8, 0 or 255."""
    contrasts: Mapping[str, NDArray[np.float32]]
    """Per name (S, S) float32 in standard deviations."""
    field_of_view: Grey | None
    """(S, S) uint8, 0 or 255; None of contrasts, or where no dark surroundings bound what was drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawer:
    """A generator with what it needs to be used on its own."""

    generator: Generator
    """In evaluation mode, on its device."""
    name: str = "generator"
    """Name and first digits of the SHA-256 of its weights."""
    terms: tuple[str, ...] = ()
    """Terms of the data sets it was trained on, each `source: terms`."""
    patients: frozenset[str] = frozenset()
    """Digests of the patients it was trained on."""
    asked: tuple[tuple[float, ...], ...] = ()
    """What its training pictures show, each as numbers of the condition; empty if it takes none."""
    truncation: float = 1.0
    """Factor of codes: below 1 nearer to the mean picture (style-based generators)."""

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> Drawer:
        """Load a generator.

        Args:
            path: A run folder or a file of weights.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
        """
        file = model_file(Path(path))
        tensors, metadata = load_model(file)
        if metadata["kind"] not in DRAWING:
            raise CheckpointError(
                f"{file}: a model of kind {metadata['kind']!r}, expected {' or '.join(DRAWING)}"
            )
        config, family = DRAWING[metadata["kind"]]
        generator = family(from_json(config, metadata["config"], where=str(file)))
        prefix = "decoder." if metadata["kind"] == "vae" else "generator."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        fill(generator, own, where=file)
        generator.to(memory_format=torch.channels_last)
        generator.to(parallel.start(device).device).eval()
        return cls.of(
            generator,
            asked=json.loads(metadata.get("asked", "[]")),
            name=weights.name_of(file),
            terms=tuple(json.loads(metadata.get("terms", "[]"))),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
        )

    @classmethod
    def of(cls, generator: Generator, *, asked: Sequence[Sequence[float]] = (), **facts: Any) -> Drawer:
        """Make a generator ready; see the fields."""
        table = tuple(tuple(float(value) for value in row) for row in asked)
        if isinstance(generator, stylegan.Generator):
            generator.settle(torch.tensor(table) if table else None)
        return cls(generator=generator, asked=table, **facts)

    @property
    def config(self) -> GeneratorConfig:
        """Configuration of the generator."""
        return cast(GeneratorConfig, self.generator.config)

    @property
    def size(self) -> int:
        """Side in pixels of what is drawn: that of the level at which the weights stand."""
        return self.generator.stage.side

    def condition(self, seed: int, index: int) -> tuple[float, ...] | None:
        """Return what is asked of the index-th image of a seed: what one of the training pictures shows."""
        if not self.asked:
            return None
        rng = np.random.default_rng(draw_seed(seed, index, stream=_CONDITION))
        return self.asked[int(rng.integers(len(self.asked)))]

    @torch.no_grad()
    def latent(self, seed: int, index: int) -> Latents:
        """Return the code (1, L) of the index-th image of a seed."""
        rng = np.random.default_rng(draw_seed(seed, index, stream=_LATENT))
        device, asked = self.generator.seen.device, self.condition(seed, index)
        vector = torch.from_numpy(rng.standard_normal((1, self.config.latent), np.float32)).to(device)
        condition = None if asked is None else torch.tensor([asked], device=device)
        return (self.generator.codes(vector, condition) * self.truncation).cpu().numpy()

    @torch.inference_mode()
    def pictures(self, latents: Latents) -> Tensor:
        """Draw codes (N, L) as the generator leaves them, (N, channels, S, S) float32 on the CPU.

        One image is one pass through the network, so that rounding cannot depend on what shares a batch.
        """
        device = next(self.generator.parameters()).device
        rows = torch.from_numpy(np.asarray(latents, np.float32)).to(device).split(1)
        return torch.cat([self.generator.drawn(row).float().cpu() for row in rows])

    def draw(self, latent: Latents) -> Drawn:
        """Draw one code (1, L) or (L,)."""
        return self.stored(self.pictures(latent.reshape(1, -1))[0])

    def stored(self, picture: Tensor) -> Drawn:
        """Return one picture (channels, S, S) of `pictures` as it is stored."""
        if isinstance(self.generator, vae.Decoder):
            return _cleaned(self.generator, picture.numpy())
        c, values = self.config, picture.numpy()
        image, masks = values[: len(values) - len(c.masks)], values[len(values) - len(c.masks) :]
        contrasts = {name: layer * CONTRAST_UNIT for name, layer in zip(c.contrasts, image, strict=False)}
        if contrasts:
            low, high = _WINDOW
            grey = (next(iter(contrasts.values())) - low) / (high - low)
            pixels, inside = np.repeat(_bytes(grey)[..., None], 3, 2), None
        else:
            pixels = np.ascontiguousarray(_bytes((image.transpose(1, 2, 0) + 1) / 2))
            field = find_field(pixels)
            inside = None if field is None else field.mask(*pixels.shape[:2])
        found = {
            name: np.where(layer > 2 * COVERED - 1, np.uint8(255), np.uint8(0))
            for name, layer in zip(c.masks, masks, strict=True)
        }
        if inside is not None:
            found = {name: mask & inside for name, mask in found.items()}
        return Drawn(image=pixels, masks=found, contrasts=contrasts, field_of_view=inside)


def _cleaned(decoder: vae.Decoder, picture: NDArray[np.float32]) -> Drawn:
    """Return what an auto-encoder drew as outlines, and in grey as it came."""
    inside = decoder.field.cpu().numpy() * np.uint8(255)
    maps = [(layer + 1) / 2 for layer in picture]
    masks: dict[str, Grey] = {}
    for name, layer, threshold in zip(decoder.config.masks, maps, decoder.threshold.tolist(), strict=True):
        sharp = deblurred(layer, float(decoder.blur))
        masks[name] = (
            connected(sharp, inside, threshold=threshold)
            if name == "vessels"
            else np.where(sharp > threshold, inside, np.uint8(0))
        )
    grey = _bytes(np.maximum.reduce(maps)) & inside
    return Drawn(image=np.repeat(grey[..., None], 3, 2), masks=masks, contrasts={}, field_of_view=inside)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Bring [0, 1] to 0 to 255."""
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
