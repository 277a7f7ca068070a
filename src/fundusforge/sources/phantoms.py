"""Phantoms as a source: procedural eyes and brains with every mask, drawn rather than read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image
from fundusforge.records import DatasetError
from fundusforge.records import Eye as Side
from fundusforge.sources.brats import preview, z_score
from fundusforge.sources.item import Item, MaskSource, Reject

if TYPE_CHECKING:
    from fundusforge.sources.phantom.brain import Brain
    from fundusforge.sources.phantom.eye import Eye


_TERMS = "free of patients; CC0"


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Drawn eyes, or slices of brains, with all their masks; needs no folder and no patient."""

    root: Path | None = None
    """Not read: phantoms are drawn."""
    kind: Literal["phantom"] = "phantom"
    organ: Literal["eye", "brain"] = "eye"
    """Photographs of eyes, or slices of brains in four magnetic resonance contrasts with a tumour."""
    count: int = 100
    """How many to draw."""
    seed: int = 0
    """Decides every eye; eye `i` of a seed is the same however many are drawn."""
    pixels: int = 1024
    """Side of the drawn picture, pixels."""
    grades: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Grades of diabetic retinopathy, taken in turn (eyes)."""
    eye: Side | None = None
    """Draw only left or only right eyes."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield eyes or brains in order; each is a person of its own.

        Raises:
            DatasetError: A count below 1, no grade, or a grade outside 0 to 4.
        """
        if self.count < 1 or not self.grades or not set(self.grades) <= set(range(5)):
            raise DatasetError(
                f"phantom: needs a count of at least 1 and grades 0 to 4, not {self.count}, {self.grades}"
            )
        item = self._eye if self.organ == "eye" else self._brain
        return (item(index, self._seed_of(index)) for index in range(self.count))

    def _seed_of(self, index: int) -> int:
        return int(np.random.default_rng([self.seed, index]).integers(2**62))

    def _brain(self, index: int, seed: int) -> Item:
        plan = (seed, self.pixels)
        brain = _draw_brain(*plan)
        return Item(
            key=f"brain_{self.seed}_{index:06d}",
            file=Path(f"phantom:{seed}"),
            load=partial(load_slice, *plan),
            patient=f"phantom-brain-{self.seed}-{index}",
            source="phantom",
            masks={
                name: MaskSource(load=partial(load_label, *plan, name), origin="phantom")
                for name in brain.labels
            },
            contrasts={name: partial(load_contrast, *plan, name) for name in brain.contrasts},
            terms=_TERMS,
        )

    def _eye(self, index: int, seed: int) -> Item:
        grade = self.grades[index % len(self.grades)]
        plan = (seed, self.pixels, grade, self.eye)
        eye = _draw(*plan, render=False)
        return Item(
            key=f"eye_{self.seed}_{index:06d}",
            file=Path(f"phantom:{seed}"),
            load=partial(load_picture, *plan),
            patient=f"phantom-{self.seed}-{index}",
            source="phantom",
            masks={
                name: MaskSource(load=partial(load_structure, *plan, name), origin="phantom")
                for name in eye.masks
            },
            field_of_view=partial(load_field_of_view, *plan),
            eye=eye.eye,
            age=float(eye.age),
            terms=_TERMS,
            grade=grade,
        )


@lru_cache(maxsize=2)
def _draw(seed: int, pixels: int, grade: int, eye: Side | None, *, render: bool) -> Eye:
    """Draw an eye once for its picture and all its masks."""
    from fundusforge.sources.phantom.eye import draw_eye

    return draw_eye(seed, size=pixels, grade=grade, eye=eye, render=render)


def load_picture(seed: int, pixels: int, grade: int, eye: Side | None) -> Image:
    """Draw the photograph, (H, W, 3) uint8 RGB."""
    return _draw(seed, pixels, grade, eye, render=True).image


def load_structure(seed: int, pixels: int, grade: int, eye: Side | None, name: str) -> Grey:
    """Draw one mask, (H, W) uint8 of 0 and 255."""
    return _draw(seed, pixels, grade, eye, render=True).masks[name]


def load_field_of_view(seed: int, pixels: int, grade: int, eye: Side | None) -> Grey:
    """Draw the field of view, (H, W) uint8 of 0 and 255."""
    return _draw(seed, pixels, grade, eye, render=True).field_of_view


@lru_cache(maxsize=2)
def _draw_brain(seed: int, pixels: int) -> Brain:
    """Draw a slice once for all its contrasts and masks."""
    from fundusforge.sources.phantom.brain import draw_brain

    return draw_brain(seed, size=pixels)


def load_contrast(seed: int, pixels: int, name: str) -> NDArray[np.float32]:
    """Draw one contrast, (H, W) float32, z-scored over the brain."""
    brain = _draw_brain(seed, pixels)
    return z_score(brain.contrasts[name], brain.brain > 0)


def load_label(seed: int, pixels: int, name: str) -> Grey:
    """Draw one part of the tumour, (H, W) uint8 of 0 and 255."""
    return _draw_brain(seed, pixels).labels[name]


def load_slice(seed: int, pixels: int) -> Image:
    """Show the T1 contrast as (H, W, 3) uint8 grey."""
    values, inside = load_contrast(seed, pixels, "t1"), _draw_brain(seed, pixels).brain > 0
    low, high = np.percentile(values[inside], (0.5, 99.5))
    return preview(values, inside, (float(low), float(high)))
