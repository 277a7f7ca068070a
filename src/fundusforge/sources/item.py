"""What a source yields: one picture as its publisher left it, and what the layout tells of it.

Pixels are read late, by callables that take no argument; they must be picklable (`functools.partial` of a
function at module level), because `prepare` runs items in several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusforge.records import Eye, Origin, Sex, Split

Load = Callable[[], NDArray]


class Unreadable(ValueError):
    """One file of a source cannot be used; `prepare` rejects it with this reason and goes on."""


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """One mask at the publisher's own size."""

    load: Load
    """Returns (H, W) uint8 of 0 and 255."""
    origin: Origin = "human"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture of a source."""

    key: str
    """Unique in its source, fit for a file name, free of identifiers where the source has any."""
    file: Path
    """The file, for messages, relative to the source's root where it is below it."""
    load: Load
    """Returns (H, W, 3) uint8 RGB; raises `Unreadable`, `OSError` or `DatasetError`."""
    patient: str
    """The publisher's or hospital's patient identifier; `prepare` stores only a keyed hash of it."""
    source: str
    masks: Mapping[str, MaskSource] = field(default_factory=dict)
    field_of_view: Load | None = None
    """The publisher's field-of-view mask, where there is one."""
    contrasts: Mapping[str, Load] = field(default_factory=dict)
    """For magnetic resonance: contrast name to (H, W) float32 intensities. `load` then gives a preview."""
    visit: int | None = None
    eye: Eye | None = None
    age: float | None = None
    sex: Sex | None = None
    camera: str | None = None
    terms: str | None = None
    split: Split | None = None
    """The publisher's split, where there is one."""
    grade: int | None = None
    oedema_risk: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A file of a source that cannot become an item, with the reason."""

    file: Path
    reason: str


def to_mask(pixels: NDArray, *, above: int = 127) -> NDArray[np.uint8]:
    """Turn a publisher's mask of any depth into (H, W) uint8 of 0 and 255; 0 and 1 count as such."""
    grey = pixels if pixels.ndim == 2 else pixels[..., :3].max(axis=2)
    limit = above if grey.max(initial=0) > 1 else 0
    return np.where(grey > limit, 255, 0).astype(np.uint8)
