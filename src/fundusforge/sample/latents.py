"""A generator that draws from vectors, ready to use: the same vector gives the same image, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import Grey, Image
from fundusforge.models.pggan import Generator, PGGANConfig
from fundusforge.models.recipe import CONTRAST_UNIT
from fundusforge.prepare.field import find_field
from fundusforge.sample.conditions import draw_seed
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file

Latents = NDArray[np.float32]
"""(N, L) float32, standard normal where they are drawn."""
_LATENT = 4
"""Stream of an image's seed beside those of `conditions` and `stage`."""
_WINDOW = (-1.0, 3.0)
"""Standard deviations of a contrast that its preview shows as black and white."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One drawn picture as it is stored."""

    image: Image
    """(S, S, 3) uint8 RGB; of contrasts the first one, in grey."""
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
        tensors, metadata = load_model(file, kind="pggan")
        generator = Generator(from_json(PGGANConfig, metadata["config"], where=str(file)))
        fill(generator, {name.removeprefix("generator."): t for name, t in tensors.items()}, where=file)
        generator.to(memory_format=torch.channels_last)
        return cls(
            generator=generator.to(parallel.start(device).device).eval(),
            name=weights.name_of(file),
            terms=tuple(json.loads(metadata.get("terms", "[]"))),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
        )

    @property
    def config(self) -> PGGANConfig:
        """Configuration of the generator."""
        return self.generator.config

    @property
    def size(self) -> int:
        """Side in pixels of what is drawn: that of the level at which the weights stand."""
        return self.generator.stage.side

    def latent(self, seed: int, index: int) -> Latents:
        """Return the vector (1, L) of the index-th image of a seed."""
        rng = np.random.default_rng(draw_seed(seed, index, stream=_LATENT))
        return rng.standard_normal((1, self.config.latent), np.float32)

    @torch.inference_mode()
    def pictures(self, latents: Latents) -> Tensor:
        """Draw vectors (N, L) as the generator leaves them, (N, channels, S, S) float32 on the CPU.

        One image is one pass through the network, so that rounding cannot depend on what shares a batch.
        """
        device = next(self.generator.parameters()).device
        rows = torch.from_numpy(np.asarray(latents, np.float32)).to(device).split(1)
        return torch.cat([self.generator(row).float().cpu() for row in rows])

    def draw(self, latent: Latents) -> Drawn:
        """Draw one vector (1, L) or (L,)."""
        return self.stored(self.pictures(latent.reshape(1, -1))[0])

    def stored(self, picture: Tensor) -> Drawn:
        """Return one picture (channels, S, S) of `pictures` as it is stored."""
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
            name: np.where(layer > 0, np.uint8(255), np.uint8(0))
            for name, layer in zip(c.masks, masks, strict=True)
        }
        if inside is not None:
            found = {name: mask & inside for name, mask in found.items()}
        return Drawn(image=pixels, masks=found, contrasts=contrasts, field_of_view=inside)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Bring [0, 1] to 0 to 255."""
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
