"""Trained generators that paint a wanted severity on masks, with the same promise as `painter`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge.images import Grey, Image
from fundusforge.models import flow
from fundusforge.models.drgan import DRGANConfig, Generator
from fundusforge.models.flow import FlowConfig
from fundusforge.records import DatasetError
from fundusforge.sample.painter import Choice, MaskPainter, Painter, layers, loaded, photograph
from fundusforge.training.checkpoint import model_file, read_metadata


@dataclass(frozen=True, kw_only=True, eq=False)
class SeverityPainter(MaskPainter):
    """A DR-GAN generator with what it needs to be used on its own; no grader is among it."""

    generator: Generator
    """In evaluation mode, on its device."""

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> SeverityPainter:
        """Load a generator.

        Args:
            path: A run folder or a file of weights.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: No such device.
        """
        return cls(**loaded(model_file(Path(path)), DRGANConfig, Generator, device=device))

    @property
    def config(self) -> DRGANConfig:
        """Configuration of the generator."""
        return self.generator.config

    @property
    def masks(self) -> tuple[str, ...]:
        """Masks that it paints on."""
        return self.config.conditions

    @property
    def graded(self) -> bool:
        """Whether a severity can be asked for, beyond what the masks show."""
        return self.config.agm

    def check_size(self, size: int) -> None:
        """Refuse a side that the generator cannot paint.

        Raises:
            DatasetError: The side is no multiple of 16, or outside 64 to 2048.
        """
        self._check_multiple(size, 16)

    def check_wish(self, *, camera: str | None, severity: float | None) -> None:
        """Refuse what the generator cannot be asked for.

        Raises:
            DatasetError: A camera; or a severity outside 0 to 4, of which no photograph was learnt, or of a
                model without grading manipulation.
        """
        if camera is not None:
            raise DatasetError(f"{self.name}: a drgan model knows no cameras, so not {camera!r}")
        if severity is None:
            return
        if not self.config.agm:
            raise DatasetError(f"{self.name}: was trained without grading manipulation; it takes no severity")
        try:
            self.generator.spaces.check(severity)
        except ValueError as error:
            raise DatasetError(f"{self.name}: {error}") from None

    @torch.inference_mode()
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
        """Choose the severity: as asked, or that of the structure, or what the masks speak for.

        Args:
            stack: Masks of `stack`.
            field_of_view: Of `stack`.
            random: Not read: nothing is left to chance here.
            grade: Grade of the structure, if it is known.
            camera: None (see `check_wish`).
            severity: 0 to 4, between grades too.

        Returns:
            The severity as code, and the grade next to it.
        """
        if not self.config.agm:
            return Choice(grade=grade)
        if severity is None and grade is not None and self.generator.spaces.known[grade]:
            severity = float(grade)
        predicted = severity is None
        if severity is None:
            severity = float(
                self.generator.predicted(layers(stack, field_of_view, self.generator.seen.device))[0]
            )
        code = np.array([severity], np.float32)
        return Choice(code=code, grade=int(severity + 0.5), predicted=predicted)

    @torch.inference_mode()
    def paint(
        self, stack: NDArray[np.uint8], field_of_view: Grey, *, seed: int, code: NDArray[np.float32] | None
    ) -> Image:
        """Paint one photograph, in a pass of its own through the network.

        Args:
            stack: (C, S, S) uint8 masks of `stack`.
            field_of_view: (S, S) uint8, 0 or 255.
            seed: Seed of grading vector and noise. With the same seed, severities from 0 to 4 are one path.
            code: (1,) severity, 0 to 4; what the masks speak for if None.

        Returns:
            (S, S, 3) uint8 RGB, black outside the field of view.
        """
        masks = layers(stack, field_of_view, self.generator.seen.device)
        if not self.config.agm:
            return photograph(self.generator(masks)[0], field_of_view)
        random, net = torch.Generator().manual_seed(seed), self.generator
        severity = net.predicted(masks).float() if code is None else masks.new_tensor(code.tolist())
        vector = net.spaces(severity, _normal(random, net.spaces.draws, like=masks))
        noise = [_normal(random, *shape, like=masks) for shape in net.volumes(*field_of_view.shape)]
        return photograph(net(masks, vector, noise)[0], field_of_view)


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPainter(MaskPainter):
    """A generator by flow matching, ready to be used on its own."""

    generator: flow.Generator
    """In evaluation mode, on its device."""
    guidance: float = 1.0
    """Of `flow.Generator.drawn`, for pictures of a severity."""

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> FlowPainter:
        """Load a generator from a run folder or a file of weights; see `SeverityPainter.load`.

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: No such device.
        """
        return cls(**loaded(model_file(Path(path)), FlowConfig, flow.Generator, device=device))

    @property
    def config(self) -> FlowConfig:
        """Configuration of the generator."""
        return self.generator.config

    @property
    def masks(self) -> tuple[str, ...]:
        """Masks that it paints on."""
        return self.config.masks

    @property
    def graded(self) -> bool:
        """Whether a severity can be asked for, beyond what the masks show."""
        return self.config.grades

    def check_size(self, size: int) -> None:
        """Refuse a side that the generator cannot paint.

        Raises:
            DatasetError: The levels do not divide the side, or it is outside 64 to 2048.
        """
        step = self.config.step
        self._check_multiple(size, step, least=max(64, 2 * step))

    def check_wish(self, *, camera: str | None, severity: float | None) -> None:
        """Refuse what the generator cannot be asked for.

        Raises:
            DatasetError: A camera; or a severity outside 0 to 4, of which no photograph was learnt, or of a
                model without grades.
        """
        if camera is not None:
            raise DatasetError(f"{self.name}: a flow model knows no cameras, so not {camera!r}")
        if severity is not None:
            try:
                self.generator.check(severity)
            except ValueError as error:
                raise DatasetError(f"{self.name}: {error}") from None

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
        """Choose the severity: as asked, or that of the structure, or none, and then the masks say all.

        Args:
            stack: Not read.
            field_of_view: Not read.
            random: Not read: nothing is left to chance here.
            grade: Grade of the structure, if it is known.
            camera: None (see `check_wish`).
            severity: 0 to 4, between grades too.

        Returns:
            The severity as code, and the guidance unless it is 1; and the grade next to the severity.
        """
        if severity is None and self.graded and grade is not None and self.generator.known[grade]:
            severity = float(grade)
        if severity is None:
            return Choice(grade=grade)
        code = [severity] if self.guidance == 1 else [severity, self.guidance]
        return Choice(code=np.array(code, np.float32), grade=int(severity + 0.5))

    @torch.inference_mode()
    def paint(
        self, stack: NDArray[np.uint8], field_of_view: Grey, *, seed: int, code: NDArray[np.float32] | None
    ) -> Image:
        """Paint one photograph, by itself.

        Args:
            stack: (C, S, S) uint8 masks of `stack`.
            field_of_view: (S, S) uint8, 0 or 255.
            seed: Seed of the noise.
            code: (1,) or (2,) severity, 0 to 4, and guidance; left open if None.

        Returns:
            (S, S, 3) uint8 RGB, black outside the field of view.
        """
        masks = layers(stack, field_of_view, self.generator.known.device)
        noise = _normal(torch.Generator().manual_seed(seed), 3, *field_of_view.shape, like=masks)
        severity, guidance = (*([float("nan")] if code is None else code.tolist()), 1.0)[:2]
        drawn = self.generator.drawn(masks, masks.new_tensor([severity]), noise, guidance=guidance)
        return photograph(drawn[0], field_of_view)


def _normal(random: torch.Generator, *shape: int, like: Tensor) -> Tensor:
    """Draw (1, *shape) standard normal numbers, on the CPU lest they depend on the device."""
    return torch.randn(1, *shape, generator=random).to(like.device)


AnyPainter = Painter | SeverityPainter | FlowPainter
"""Whatever paints on masks."""


def guided(painter: AnyPainter, guidance: float) -> AnyPainter:
    """Return a generator that goes beyond (above 1) or stays behind (below) what it learnt of a severity.

    Raises:
        DatasetError: A negative guidance; or a generator that did not learn, by flow matching, to paint with
            a severity and without.
    """
    if guidance == 1:
        return painter
    if not isinstance(painter, FlowPainter) or not (painter.graded and painter.config.unknown):
        raise DatasetError(f"{painter.name}: only a flow model that learnt grades, some hidden, is guided")
    if guidance < 0:
        raise DatasetError(f"guidance must not be negative, not {guidance}")
    return replace(painter, guidance=guidance)


def load_painter(path: Path | None = None, *, device: str = "auto") -> AnyPainter:
    """Load a generator of any family that paints; the embedded one if `path` is None.

    Raises:
        CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
        DatasetError: No embedded weights in this installation, or no such device.
    """
    kind = read_metadata(path).get("kind") if path is not None else None
    if path is not None and kind == DRGANConfig.kind:
        return SeverityPainter.load(path, device=device)
    if path is not None and kind == FlowConfig.kind:
        return FlowPainter.load(path, device=device)
    return Painter.load(path, device=device)
