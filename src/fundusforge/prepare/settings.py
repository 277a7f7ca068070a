"""The settings of the stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fundusforge.prepare.quality import Quality


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How to turn published pictures into a dataset folder."""

    size: int = 512
    """Side of the pictures in pixels."""
    format: Literal["png", "jpeg"] = "png"
    """Format of the pictures; masks are always PNG."""
    jpeg_quality: int = 95
    """Quality of JPEG pictures, 1 to 100."""
    clahe: bool = False
    """Equalise local contrast."""
    gamma: float | None = None
    """Change brightness: above 1 brightens, below 1 darkens."""
    zscore_slices: bool = False
    """Magnetic resonance: z-score every slice by itself; the sources z-score whole volumes already."""
    quality: Quality = field(default_factory=Quality)
    """Limits below or above which a picture is rejected."""
    reject_text: bool = True
    """Reject pictures with text inside the field of view; outside it is blackened anyway."""
    duplicates: Literal["first", "keep"] = "first"
    """Of pictures that stand twice keep the first, or keep all; their patients share a split either way."""
    duplicate_distance: int = 60
    """Most bits of 256 in which the perceptual hashes of two copies differ."""
    duplicate_correlation: float = 0.9
    """Least correlation of fine structure of two copies."""
    val: float = 0.15
    """Share of patients for validation."""
    test: float = 0.15
    """Share of patients for test."""
    publisher_split: bool = False
    """Keep the publisher's split; a share of its training patients becomes validation if it names none."""
    seed: int = 0
    """Decides the split."""
    jobs: int = 1
    """Processes; -1 for one a core."""
    max_rejects: int | None = None
    """Rejects beyond which the command's exit code is 1; no limit by default."""
    overwrite: bool = False
    """Replace what the output folder holds instead of going on with it."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 8192:
            raise ValueError(f"size must be between 16 and 8192 pixels, not {self.size}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be between 1 and 100, not {self.jpeg_quality}")
        if self.gamma is not None and not 0.1 <= self.gamma <= 10:
            raise ValueError(f"gamma must be between 0.1 and 10, not {self.gamma}")
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise ValueError(
                f"val and test must be shares that leave some for train, not {self.val} and {self.test}"
            )
        if self.jobs == 0 or self.jobs < -1:
            raise ValueError(f"jobs must be at least 1, or -1 for all cores, not {self.jobs}")
