"""What the study does not do itself: training, drawing, auditing and reading are handed in.

The study stands below the command line; a test hands in others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusforge.models import AnyConfig
from fundusforge.studies.augmentation.config import Learner, Trained
from fundusforge.studies.augmentation.parts import Part
from fundusforge.training.run import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Training:
    """One model to be trained, from where it stood after a break."""

    folders: tuple[Path, ...]
    """Dataset folders: split train is learnt from, split val chooses the state that is kept."""
    run: Path
    config: AnyConfig | None
    """None for the family chain, which is no single model."""
    loop: LoopConfig | None
    learner: Learner
    """As the study's file has it."""
    warm_start: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Synthetic images to be drawn."""

    run: Path
    supply: Trained
    out: Path
    """Dataset folder to write."""
    count: int
    seed: int
    real: Path
    """The baseline's training folder, for painters on its masks."""
    grade: int | None = None
    """Grade to draw; None where none is asked for."""
    finding: str | None = None
    """Finding to draw, for generators that learnt from photographs with and without it."""
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """Synthetic images to be held against the photographs that their generator learnt from."""

    synthetic: Path
    train: tuple[Path, ...]
    holdout: tuple[Path, ...]
    out: Path
    """Folder for `audit.json`."""
    spaces: str
    """all, or pixels alone."""
    level: float
    seed: int
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What a model says of photographs."""

    rows: NDArray[np.float64]
    """(N, K): probabilities of the finding (K = 1) or of grades; of a segmenter F1 and area of each eye, NaN
    where there is none."""
    threshold: float
    """Of the finding or structure, chosen on validation or training photographs."""
    start: str
    """What the model's first weights were."""


Train = Callable[[Training], None]
"""Trains until the budget is spent.

Raises:
    KeyboardInterrupt: It was interrupted."""
Draw = Callable[[Drawing], None]
Judge = Callable[[Auditing], Mapping[str, str]]
"""Returns the verdict (`fundusforge.audit.findings.Verdict`) on every image."""
Read = Callable[[Path, Part, tuple[str, ...], str], Said]
"""A run, photographs, what is told, and where to compute."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """All of them. They may be called in other processes, so they and their arguments can be sent there."""

    train: Train
    draw: Draw
    audit: Judge
    read: Read
