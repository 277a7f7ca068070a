"""Structure that synthetic images are painted on: of phantoms, or the masks of a dataset folder.

A vessel tree is a biometric. Structure of a phantom belongs to nobody; structure of a patient's photograph
still points to the patient, and the images painted on it say so (`structure_from_patient`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fundusforge.images import Grey, read_mask
from fundusforge.records import DatasetError, Eye, Origin, Record, Split, read_folder
from fundusforge.sources.phantom import EyeConfig, draw_eye

PHANTOM = "phantom"
"""What `--masks` says for drawn structure; also the name that begins such conditions and patients."""
VIEW = EyeConfig(field_angle=(40.0, 50.0))
"""Eyes as most screening cameras see them; a narrower view has vessels wider than generators learn from."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The structure of one image to be painted."""

    name: str
    """`phantom:<seed>`, the path of a record's image in its folder, or the place in what a model draws."""
    masks: Mapping[str, Grey]
    """Per name (H, W) uint8, 0 or 255."""
    origins: Mapping[str, Origin]
    field_of_view: Grey
    """(H, W) uint8, 0 or 255."""
    patient: str
    """The phantom, or the patient whose structure it is."""
    eye: Eye | None = None
    grade: int | None = None
    split: Split | None = None
    terms: str | None = None
    from_patient: bool = False
    """Whether a patient's own structure is in it."""


class Conditions(Protocol):
    """An endless supply of structure; the index-th one depends on the seed and the index alone."""

    def at(self, index: int, *, size: int) -> Condition:
        """Return the index-th condition; `size` is the side in pixels at which drawn ones are drawn."""
        ...


def draw_seed(seed: int, index: int, *, stream: int = 0) -> int:
    """Return a seed of 32 bits for one use (`stream`) of the index-th image, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, index, stream]).generate_state(1)[0])


LESIONS = frozenset(
    {"microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates", "neovascularisation"}
    | {"laser_marks", "proliferative_membranes"}
)  # fmt: skip
"""Masks that make a grade of retinopathy visible."""


@dataclass(frozen=True, kw_only=True)
class PhantomConditions:
    """Eyes drawn by the phantom: left and right, every one another, of no patient."""

    masks: tuple[str, ...]
    seed: int

    def at(self, index: int, *, size: int) -> Condition:
        """Draw the index-th eye; it has a grade drawn evenly from 0 to 4 if lesions are among the masks.

        Raises:
            DatasetError: The phantom draws no such mask.
        """
        lesions = bool(LESIONS & set(self.masks))
        grade = draw_seed(self.seed, index, stream=1) % 5 if lesions else 0
        number = draw_seed(self.seed, index)
        eye = draw_eye(number, size=size, grade=grade, render=False, config=VIEW)
        empty = np.zeros_like(eye.field_of_view)
        drawn = eye.masks | {name: empty for name in LESIONS - eye.masks.keys()}
        if unknown := [name for name in self.masks if name not in drawn]:
            raise DatasetError(f"the phantom draws no {unknown[0]!r}; give --masks a folder that has it")
        origins: dict[str, Origin] = {name: "phantom" for name in self.masks}
        return Condition(
            name=f"{PHANTOM}:{number}",
            masks={name: drawn[name] for name in self.masks},
            origins=origins,
            field_of_view=eye.field_of_view,
            patient=f"{PHANTOM}-{number}",
            eye=eye.eye,
            grade=grade if lesions else None,
        )


@dataclass(frozen=True, kw_only=True)
class FolderConditions:
    """Masks of a dataset folder, in an order drawn from the seed, over and over."""

    folder: Path
    records: Sequence[Record]
    masks: tuple[str, ...]
    seed: int

    @classmethod
    def read(
        cls, folder: Path, *, masks: tuple[str, ...], seed: int, splits: Sequence[Split] | None = None
    ) -> FolderConditions:
        """Read a dataset folder and keep the records that have every mask.

        Raises:
            DatasetError: The folder is broken, or no record has all the masks; the message says which lack.
        """
        records = read_folder(folder, splits=splits)
        fit = [record for record in records if set(masks) <= set(record.masks)]
        if not fit:
            lacking = [name for name in masks if not any(name in record.masks for record in records)]
            which = f"the mask {lacking[0]!r}" if lacking else f"all of the masks {', '.join(masks)}"
            raise DatasetError(
                f"{folder}: none of {len(records)} records has {which}, which the generator paints on; "
                "`fundusforge annotate` can add predicted masks, and --masks phantom needs no folder"
            )
        return cls(folder=Path(folder), records=fit, masks=masks, seed=seed)

    def record_at(self, index: int) -> Record:
        """Return the record of the index-th condition."""
        turn, place = divmod(index, len(self.records))
        order = np.random.default_rng([self.seed, turn]).permutation(len(self.records))
        return self.records[order[place]]

    def at(self, index: int, *, size: int) -> Condition:
        """Read the index-th record's masks at their own size.

        Raises:
            DatasetError: A mask is missing or broken.
        """
        record = self.record_at(index)
        masks = {name: read_mask(self.folder / record.masks[name].path) for name in self.masks}
        shape = next(iter(masks.values())).shape
        whole = np.full(shape, 255, np.uint8)
        origins: dict[str, Origin] = {name: record.masks[name].origin for name in self.masks}
        drawn = all(origin == "phantom" for origin in origins.values())
        return Condition(
            name=record.image,
            masks=masks,
            origins=origins,
            field_of_view=read_mask(self.folder / record.field_of_view) if record.field_of_view else whole,
            patient=record.patient,
            eye=record.eye,
            grade=record.grade if LESIONS & set(self.masks) else None,
            split=record.split,
            terms=record.terms,
            from_patient=record.structure_from_patient or not (record.synthetic or drawn),
        )
