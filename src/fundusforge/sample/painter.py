"""A trained generator, ready to paint: masks of any size in, one photograph out, reproducibly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import Grey, Image, resize_mask
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.records import DatasetError
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file


@dataclass(frozen=True, kw_only=True, eq=False)
class Painter:
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
    def load(cls, path: Path | None = None, *, device: str = "auto") -> Painter:
        """Load a generator.

        Args:
            path: A run folder or a file of weights; the embedded generator if None.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: No embedded weights in this installation, or no such device.
        """
        file = model_file(Path(path)) if path is not None else weights.default("pix2pix")
        tensors, metadata = load_model(file, kind="pix2pix")
        generator = Generator(from_json(Pix2PixConfig, metadata["config"], where=str(file)))
        prefix = "generator."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        fill(generator, own, where=file)
        return cls(
            generator=generator.to(parallel.start(device).device).eval(),
            name=weights.name_of(file),
            terms=tuple(json.loads(metadata.get("terms", "[]"))),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
        )

    @property
    def config(self) -> Pix2PixConfig:
        """Configuration of the generator."""
        return self.generator.config

    def check_size(self, size: int) -> None:
        """Refuse a side that the generator cannot paint.

        Raises:
            DatasetError: The side is no multiple of 2 ** (levels - 1), or outside 64 to 2048.
        """
        step = 2 ** (len(self.config.widths) - 1)
        if size % step or not 64 <= size <= 2048:
            raise DatasetError(
                f"size {size}: {self.name} paints sides that are multiples of {step}, 64 to 2048 px"
            )

    def stack(
        self, masks: Mapping[str, Grey], field_of_view: Grey, *, size: int
    ) -> tuple[NDArray[np.uint8], Grey]:
        """Bring masks to what the generator takes: squares of one size, in its order.

        Args:
            masks: Per name (H, W) uint8, 0 or 255, at least those of the configuration.
            field_of_view: (H, W) uint8, 0 or 255.
            size: Side of the square in pixels; oblong masks are padded in black.

        Returns:
            (C, size, size) uint8 masks and (size, size) uint8 field of view, 0 or 255; no mask leaves the
            field.
        """
        inside = resize_mask(_square(field_of_view), size)
        layers = [resize_mask(_square(masks[name]), size) & inside for name in self.config.masks]
        return np.stack(layers), inside

    def draw_code(self, random: torch.Generator, camera: str | None) -> NDArray[np.float32] | None:
        """Draw a camera-and-colour code (10,); None if the generator takes none.

        Raises:
            DatasetError: The generator does not know the camera.
        """
        if not self.config.code:
            return None
        try:
            return self.generator.sample_codes(1, random, camera)[0].numpy()
        except ValueError as error:
            raise DatasetError(f"{self.name}: {error}") from None

    @torch.inference_mode()
    def paint(
        self, stack: NDArray[np.uint8], field_of_view: Grey, *, seed: int, code: NDArray[np.float32] | None
    ) -> Image:
        """Paint one photograph.

        One image is one pass through the network, whatever else is painted, so that rounding cannot depend on
        what shares a batch with it.

        Args:
            stack: (C, S, S) uint8 masks of `stack`.
            field_of_view: (S, S) uint8, 0 or 255.
            seed: Seed of the noise.
            code: (10,) camera-and-colour code; the mean of the training images if None.

        Returns:
            (S, S, 3) uint8 RGB, black outside the field of view.
        """
        device = next(self.generator.parameters()).device
        layers = np.concatenate([stack, field_of_view[None]])
        masks = torch.from_numpy((layers > 0).astype(np.float32))[None].to(device)
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 1, *field_of_view.shape, generator=random).to(device)
        style = None if code is None else torch.from_numpy(np.asarray(code, np.float32))[None].to(device)
        painted = self.generator(masks, style, noise)[0].float().cpu()  # (3, S, S) in [-1, 1]
        pixels = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        return np.ascontiguousarray(pixels * (field_of_view > 0)[..., None])


def _square(pixels: Grey) -> Grey:
    """Pad with black to a square, the picture in the middle."""
    height, width = pixels.shape
    side = max(height, width)
    if height == width:
        return pixels
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((side, side), np.uint8)
    padded[top : top + height, left : left + width] = pixels
    return padded
