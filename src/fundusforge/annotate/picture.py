"""What annotators are given and what they give back.

An annotator is anything with a `name`, a tuple `gives` of the masks, labels and fields that it may fill in,
and `read`, which looks at some photographs at once. The stage (`fundusforge.annotate.stage`) asks one after
the other, in the order in which they build on each other: vessels, disc, cup and fovea, lesions, activation
maps, grades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fundusforge.images import Grey, Image
from fundusforge.records import Eye


@dataclass(kw_only=True)
class Picture:
    """One photograph and what is known of it so far."""

    image: Image
    """(H, W, 3) uint8 RGB."""
    field_of_view: Grey
    """(H, W) uint8, 0 outside and 255 inside."""
    masks: dict[str, Grey] = field(default_factory=dict[str, Grey])
    """(H, W) uint8 of 0 and 255: what a person drew, and what was found before."""
    eye: Eye | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one annotator found in one photograph."""

    masks: Mapping[str, Grey] = field(default_factory=dict[str, Grey])
    """(H, W) uint8 of 0 and 255; those named in `soft` with values between. An empty mask says that somebody
    looked and found nothing."""
    soft: frozenset[str] = frozenset()
    probabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of some masks, the probability of each pixel (H, W) float32."""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the record: `grade`, `eye`."""
    labels: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Findings of the whole image: there, or not."""
    confidences: Mapping[str, float] = field(default_factory=dict[str, float])
    """How sure, 0 to 1, by mask, label or field."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """What was looked for and not found, or found where or as it cannot be, and why; never guessed."""


class Annotator(Protocol):
    """Looks at photographs."""

    @property
    def name(self) -> str:
        """Name and version of what looks: of its weights, or of its method."""
        ...

    @property
    def gives(self) -> tuple[str, ...]:
        """Masks, labels and fields that it may fill in."""
        ...

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        """Look at photographs of any sizes, in order."""
        ...
