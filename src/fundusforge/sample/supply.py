"""Where structure to paint on comes from: phantoms, a dataset folder's masks, or a model that draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fundusforge.records import DatasetError, Origin, Split
from fundusforge.sample.conditions import PHANTOM, Condition, FolderConditions, PhantomConditions
from fundusforge.sample.latents import Drawer
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


def supply_of(
    masks: str | Path,
    *,
    names: tuple[str, ...],
    seed: int,
    splits: Sequence[Split] | None = None,
) -> PhantomConditions | FolderConditions | DrawnConditions:
    """Return the supply that `--masks` means: the word `phantom`, a dataset folder, or a model.

    Raises:
        DatasetError: The folder is broken or lacks a mask, or the model does not draw it.
        CheckpointError, ConfigError: A file or a run folder that is no model of masks.
    """
    if str(masks) == PHANTOM:
        return PhantomConditions(masks=names, seed=seed)
    path = Path(masks)
    if path.is_file() or any((path / name).is_file() for name in (BEST, MODEL)):
        return DrawnConditions.load(path, masks=names, seed=seed, split=splits[0] if splits else None)
    return FolderConditions.read(path, masks=names, seed=seed, splits=splits)
