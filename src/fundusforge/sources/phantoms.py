"""Phantoms as a source: procedural eyes with every mask, drawn rather than read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fundusforge.images import Grey, Image
from fundusforge.records import DatasetError
from fundusforge.records import Eye as Side
from fundusforge.sources.item import Item, MaskSource, Reject

if TYPE_CHECKING:
    from fundusforge.sources.phantom.eye import Eye


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Drawn eyes with all their masks; needs no folder and no patient."""

    root: Path | None = None
    """Not read: phantoms are drawn."""
    kind: Literal["phantom"] = "phantom"
    count: int = 100
    """How many eyes to draw."""
    seed: int = 0
    """Decides every eye; eye `i` of a seed is the same however many are drawn."""
    pixels: int = 1024
    """Side of the drawn picture, pixels."""
    grades: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Grades of diabetic retinopathy, taken in turn."""
    eye: Side | None = None
    """Draw only left or only right eyes."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield eyes in order; each is a person of its own.

        Raises:
            DatasetError: A count below 1, no grade, or a grade outside 0 to 4.
        """
        if self.count < 1 or not self.grades or not set(self.grades) <= set(range(5)):
            raise DatasetError(
                f"phantom: needs a count of at least 1 and grades 0 to 4, not {self.count}, {self.grades}"
            )
        return (self._item(index) for index in range(self.count))

    def _item(self, index: int) -> Item:
        grade = self.grades[index % len(self.grades)]
        seed = int(np.random.default_rng([self.seed, index]).integers(2**62))
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
            terms="free of patients; CC0",
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
