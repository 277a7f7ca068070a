"""Where structure to paint on comes from: phantoms, a dataset folder's masks, or a model that draws them.

Lesions are those of the structure itself, or imitated ones of an asked grade in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fundusforge.records import DatasetError, Origin, Split
from fundusforge.sample.conditions import (
    LESIONS,
    PHANTOM,
    Condition,
    Conditions,
    FolderConditions,
    PhantomConditions,
    draw_seed,
)  # fmt: skip
from fundusforge.sample.frame import Frame
from fundusforge.sample.latents import Drawer
from fundusforge.sample.layout_statistics import LayoutStatistics, read_statistics
from fundusforge.sample.layouts import imitate
from fundusforge.training.checkpoint import BEST
from fundusforge.training.run import MODEL


@dataclass(frozen=True, kw_only=True)
class DrawnConditions:
    """Masks that a generator draws from vectors: of no single patient, as far as the audit finds."""

    drawer: Drawer
    masks: tuple[str, ...]
    seed: int
    split: Split | None = None
    """Which they are put into."""

    @classmethod
    def load(
        cls, path: Path, *, masks: tuple[str, ...], seed: int, split: Split | None = None
    ) -> DrawnConditions:
        """Load a run folder or weights of a model that draws masks from vectors.

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: It does not draw all of the masks.
        """
        drawer = Drawer.load(path)
        if lacking := [name for name in masks if name not in drawer.config.masks]:
            raise DatasetError(
                f"{path}: draws {', '.join(drawer.config.masks) or 'no masks'}, but not the mask "
                f"{lacking[0]!r}, which the generator paints on"
            )
        return cls(drawer=drawer, masks=masks, seed=seed, split=split)

    def at(self, index: int, *, size: int) -> Condition:
        """Draw the index-th structure, at the model's own side whatever `size` is asked for."""
        drawn = self.drawer.draw(self.drawer.latent(self.seed, index))
        name = f"{self.drawer.name}-{self.seed}-{index}"
        origins: dict[str, Origin] = {mask: "generated" for mask in self.masks}
        shown = next(iter(drawn.masks.values()))
        return Condition(
            name=name,
            masks={mask: drawn.masks[mask] for mask in self.masks},
            origins=origins,
            field_of_view=np.full_like(shown, 255) if drawn.field_of_view is None else drawn.field_of_view,
            patient=name,
            split=self.split,
            terms="; ".join(self.drawer.terms) or None,
        )


@dataclass(frozen=True, kw_only=True)
class ImitatedConditions:
    """Structure of another supply, with imitated lesions in place of its own."""

    base: Conditions
    """Must give `vessels` and `disc`; its lesions are left out."""
    masks: tuple[str, ...]
    """Those of the conditions, in any order."""
    seed: int
    statistics: LayoutStatistics
    grade: int | None = None
    """Of every eye, 0 to 4; one after the other if None."""
    visible: bool = False
    """Whether the masks alone must show grade 3 (see `layouts.imitate`)."""

    def at(self, index: int, *, size: int) -> Condition:
        """Return the index-th structure with lesions.

        Raises:
            DatasetError: No disc, or no room for the lesions; the message names the structure.
        """
        base = self.base.at(index, size=size)
        grade = index % 5 if self.grade is None else self.grade
        try:
            frame = Frame.of_masks(base.masks, base.field_of_view, eye=base.eye)
            layout = imitate(
                self.statistics, grade, frame, seed=draw_seed(self.seed, index, stream=_LAYOUT),
                visible=self.visible,
            )  # fmt: skip
        except DatasetError as error:
            raise DatasetError(f"{base.name}: {error}") from None
        origins: dict[str, Origin] = {name: "generated" for name in layout.masks}
        drawn = {**base.masks, **layout.masks}
        return replace(
            base,
            name=f"{base.name}+grade-{grade}",
            masks={name: drawn[name] for name in self.masks},
            origins={name: origins.get(name) or base.origins[name] for name in self.masks},
            grade=grade,
        )


_LAYOUT = 5
"""Stream of an image's seed beside those of `conditions` and `stage`."""


def supply_of(
    masks: str | Path,
    *,
    names: tuple[str, ...],
    seed: int,
    splits: Sequence[Split] | None = None,
    lesions: Literal["own", "imitated"] = "own",
    grade: int | None = None,
    statistics: LayoutStatistics | None = None,
) -> PhantomConditions | FolderConditions | DrawnConditions | ImitatedConditions:
    """Return the supply that `--masks` means: the word `phantom`, a dataset folder, or a model.

    Args:
        masks: `phantom`, a dataset folder, or a run folder or weights of a model that draws masks.
        names: Masks that every condition must have.
        seed: Of the supply.
        splits: Records of a folder to take; what a model draws is put into the first.
        lesions: `own`, those of the structure; or `imitated`, drawn from `statistics`.
        grade: Of imitated lesions, 0 to 4; 0, 1, 2, 3, 4, 0, ... if None.
        statistics: How real lesions are laid out; those that come with the package if None.

    Raises:
        DatasetError: The folder is broken or lacks a mask, the model does not draw it, or a grade is asked of
            lesions that are not imitated.
        CheckpointError, ConfigError: A file or a run folder that is no model of masks.
    """
    if lesions == "own":
        if grade is not None:
            raise DatasetError("a grade can be asked of imitated lesions only: --lesions imitated")
        return _supply(masks, names=names, seed=seed, splits=splits)
    if grade is not None and not 0 <= grade <= 4:
        raise DatasetError(f"grade must be 0 to 4, not {grade}")
    structure = tuple(dict.fromkeys([*(n for n in names if n not in LESIONS), "vessels", "disc"]))
    return ImitatedConditions(
        base=_supply(masks, names=structure, seed=seed, splits=splits),
        masks=names,
        seed=seed,
        statistics=statistics or read_statistics(),
        grade=grade,
    )


def _supply(
    masks: str | Path, *, names: tuple[str, ...], seed: int, splits: Sequence[Split] | None
) -> PhantomConditions | FolderConditions | DrawnConditions:
    if str(masks) == PHANTOM:
        return PhantomConditions(masks=names, seed=seed)
    path = Path(masks)
    if path.is_file() or any((path / name).is_file() for name in (BEST, MODEL)):
        return DrawnConditions.load(path, masks=names, seed=seed, split=splits[0] if splits else None)
    return FolderConditions.read(path, masks=names, seed=seed, splits=splits)
