"""A trained generator, ready to paint: masks of any size in, one photograph out, reproducibly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import Grey, Image, resize_mask
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.records import DatasetError
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What is painted beside the structure, as drawn or asked for."""

    code: NDArray[np.float32] | None = None
    """What `paint` takes: a camera-and-colour code (10,), or the severity (1,)."""
    camera: str | None = None
    grade: int | None = None
    predicted: bool = False
    """Whether a model told the grade."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPainter:
    """What all that paint on masks share."""

    name: str = "generator"
    """Name and first digits of the SHA-256 of its weights."""
    terms: tuple[str, ...] = ()
    """Terms of the data sets it was trained on, each `source: terms`."""
    patients: frozenset[str] = frozenset()
    """Digests of the patients it was trained on."""

    @property
    def masks(self) -> tuple[str, ...]:
        """Masks that it paints on."""
        raise NotImplementedError

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
        return stacked(masks, field_of_view, names=self.masks, size=size)

    def _check_multiple(self, size: int, step: int, *, least: int = 64) -> None:
        if size % step or not least <= size <= 2048:
            raise DatasetError(
                f"size {size}: {self.name} paints sides that are multiples of {step}, 64 to 2048 px"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Painter(MaskPainter):
    """A generator with what it needs to be used on its own."""

    generator: Generator
    """In evaluation mode, on its device."""

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
        return cls(**loaded(file, Pix2PixConfig, Generator, device=device))

    @property
    def config(self) -> Pix2PixConfig:
        """Configuration of the generator."""
        return self.generator.config

    @property
    def masks(self) -> tuple[str, ...]:
        """Masks that it paints on."""
        return self.config.masks

    @property
    def graded(self) -> bool:
        """Whether a severity can be asked for: this generator paints the masks alone."""
        return False

    def check_size(self, size: int) -> None:
        """Refuse a side that the generator cannot paint.

        Raises:
            DatasetError: The side is no multiple of 2 ** (levels - 1), or outside 64 to 2048.
        """
        self._check_multiple(size, 2 ** (len(self.config.widths) - 1))

    def check_wish(self, *, camera: str | None, severity: float | None) -> None:
        """Refuse what the generator cannot be asked for.

        Raises:
            DatasetError: The generator does not know the camera, or any severity.
        """
        if severity is not None:
            raise DatasetError(f"{self.name}: paints the masks and no grade; a drgan model takes a severity")
        self.draw_code(torch.Generator().manual_seed(0), camera)

    def choose(
        self,
        stack: NDArray[np.uint8],
        field_of_view: Grey,
        random: torch.Generator,
        *,
        grade: int | None,
        camera: str | None = None,
        severity: float | None = None,
    ) -> Choice:
        """Draw camera and colours; the grade is that of the structure.

        Args:
            stack: Masks of `stack`.
            field_of_view: Of `stack`.
            random: What is drawn from.
            grade: Grade of the structure, if it is known.
            camera: Whose colours to imitate; any if None.
            severity: None: this generator paints no grade (see `check_wish`).

        Raises:
            DatasetError: The generator does not know the camera.
        """
        camera = camera or _any_camera(self.config.cameras, random)
        return Choice(code=self.draw_code(random, camera), camera=camera, grade=grade)

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
        masks = layers(stack, field_of_view, device)
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 1, *field_of_view.shape, generator=random).to(device)
        style = None if code is None else torch.from_numpy(np.asarray(code, np.float32))[None].to(device)
        return photograph(self.generator(masks, style, noise)[0], field_of_view)


def loaded(file: Path, config: type[Any], family: type[T], *, device: str) -> dict[str, Any]:
    """Return what a painter is made of, from a file of weights: generator, name, terms, patients.

    Raises:
        CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
        DatasetError: No such device.
    """
    tensors, metadata = load_model(file, kind=config.kind)
    generator = family(from_json(config, metadata["config"], where=str(file)))
    prefix = "generator."
    own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    fill(generator, own, where=file)
    return {
        "generator": generator.to(parallel.start(device).device).eval(),
        "name": weights.name_of(file),
        "terms": tuple(json.loads(metadata.get("terms", "[]"))),
        "patients": frozenset(json.loads(metadata.get("patients", "[]"))),
    }


def stacked(
    masks: Mapping[str, Grey], field_of_view: Grey, *, names: Sequence[str], size: int
) -> tuple[NDArray[np.uint8], Grey]:
    """Bring the named masks to squares of one size, in order; see `Painter.stack`."""
    inside = resize_mask(_square(field_of_view), size)
    layers = [resize_mask(_square(masks[name]), size) & inside for name in names]
    return np.stack(layers), inside


def layers(stack: NDArray[np.uint8], field_of_view: Grey, device: torch.device) -> Tensor:
    """Masks of `stacked` and field of view as (1, C + 1, S, S) of 0 and 1 on a device."""
    found = np.concatenate([stack, field_of_view[None]]) > 0
    return torch.from_numpy(found.astype(np.float32))[None].to(device)


def photograph(painted: Tensor, field_of_view: Grey) -> Image:
    """Return a picture (3, S, S) in [-1, 1] as (S, S, 3) uint8 RGB, black outside the field of view."""
    painted = painted.float().cpu()
    pixels = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels * (field_of_view > 0)[..., None])


def _any_camera(cameras: Sequence[str], random: torch.Generator) -> str | None:
    """Draw one of the cameras."""
    return cameras[int(torch.randint(len(cameras), (), generator=random))] if cameras else None


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
