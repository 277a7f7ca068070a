"""BraTS: skull-stripped, co-registered volumes of brain tumours, as axial slices (Menze et al. 2015).

BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz  _t1ce  _t2  _flair  _seg         (until 2021)
BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz   -t1c   -t2w -t2f    -seg         (since 2023)
images/BraTS2021_00017_1062.jpg  masks/BraTS2021_00017_1062.jpg                       (single slices, FLAIR)

Label values: 1 necrosis and non-enhancing core, 2 oedema; enhancing tumour is 4 with the older names and 3
with the newer ones, where 4 is the resection cavity (2024) and gets no mask. With the older names 3 counts as
enhancing if the volume has no 4, else as core (2012 to 2016).

Each volume is z-scored over its brain voxels (zero mean, unit variance; Beers et al. 2018), so intensities of
a patient's slices belong together; outside the brain they are the constant that zero becomes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image
from fundusforge.records import CONTRASTS
from fundusforge.sources.files import by_stem, child, demand, load_image, load_mask, natural, pictures
from fundusforge.sources.item import Item, Load, MaskSource, Reject, Unreadable

EXPECTED = (
    "<case>_t1.nii.gz, _t1ce, _t2, _flair (or <case>-t1n.nii.gz, -t1c, -t2w, -t2f), or images with masks"
)
_NAME = re.compile(
    r"(?P<case>.+?)(?P<join>[_-])(?P<what>t1ce|t1n|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(\.gz)?", re.IGNORECASE
)
_WHAT = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1c",
    "t1c": "t1c",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
}
_NEWER = frozenset({"t1n", "t2w", "t2f"})
_SLICE = re.compile(r"(BraTS\d*_\d+)_\d+", re.IGNORECASE)
_LABELS = ("necrosis", "oedema", "enhancing")
_TERMS = "research only"


class Case(NamedTuple):
    """The files of one visit of one patient."""

    name: str
    contrasts: dict[str, Path]
    segmentation: Path | None
    newer: bool


@dataclass(frozen=True, kw_only=True)
class Brats:
    """BraTS case folders, one item an axial slice; or single FLAIR slices with whole-tumour masks."""

    root: Path
    """Folder that holds case folders, at any depth, or one case."""
    kind: Literal["brats"] = "brats"
    least_brain: float = 0.1
    """Smallest share of a slice's pixels that must be brain."""
    step: int = 1
    """Take every so-manieth slice."""
    only_tumour: bool = False
    """Take only slices in which a tumour is marked."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield slices by case, from below upwards; a case that lacks a contrast is rejected.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item | Reject]:
        for case in _cases(self.root):
            first = next(iter(case.contrasts.values()), case.segmentation or self.root)
            shown = first.parent.relative_to(self.root) / case.name
            if missing := [name for name in CONTRASTS if name not in case.contrasts]:
                yield Reject(file=shown, reason=f"the case has no {', '.join(missing)} volume")
                continue
            try:
                indices = self._slices(case)
            except Unreadable as error:
                yield Reject(file=shown, reason=str(error))
                continue
            for index in indices:
                yield _slice(self.root, case, index)
        yield from _single_slices(self.root)

    def _slices(self, case: Case) -> list[int]:
        """Return the slices to take.

        Raises:
            Unreadable: A volume cannot be read, or one differs in size from the others.
        """
        volumes = [_volume(str(path)) for path in case.contrasts.values()]
        if len(shapes := {volume.values.shape for volume in volumes}) > 1:
            raise Unreadable(f"volumes differ in size: {sorted(shapes)}")
        brain = np.mean(volumes[0].brain, axis=(0, 1))
        chosen = brain >= max(self.least_brain, 1e-6)
        if case.segmentation is not None:
            labels = _labels(str(case.segmentation))
            if labels.shape != volumes[0].values.shape:
                raise Unreadable(
                    f"the segmentation is {labels.shape}, the volumes are {volumes[0].values.shape}"
                )
            if self.only_tumour:
                chosen &= (labels > 0).any(axis=(0, 1))
        return [int(index) for index in np.flatnonzero(chosen)[:: self.step]]


class Volume(NamedTuple):
    """One contrast of one case."""

    values: NDArray[np.float32]
    """(rows, columns, slices), z-scored over the brain."""
    brain: NDArray[np.bool_]
    limits: tuple[float, float]
    """0.5 and 99.5 per cent of the brain's values, for a preview."""


def z_score(values: NDArray, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shift and scale an array so that its brain voxels have zero mean and unit variance.

    Raises:
        Unreadable: No brain voxel, or all are equal.
    """
    inside = values[brain].astype(np.float64)
    if not inside.size or (spread := float(inside.std())) <= 0:
        raise Unreadable("the volume is empty or constant")
    return ((values - inside.mean()) / spread).astype(np.float32)


def _oriented(path: str) -> NDArray:
    """Read a NIfTI volume as (rows, columns, slices): anterior on top, the patient's right on the left."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[arg-type]
        values = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise Unreadable(f"{Path(path).name}: not a readable NIfTI volume ({type(error).__name__})") from None
    if values.ndim != 3:
        raise Unreadable(f"{Path(path).name}: expected three axes, found {values.shape}")
    return np.nan_to_num(values)[::-1, ::-1].transpose(1, 0, 2)


@lru_cache(maxsize=len(CONTRASTS))
def _volume(path: str) -> Volume:
    """Read and normalise a contrast; the last few are kept, as slices are asked for one by one."""
    raw = _oriented(path)
    brain = raw != 0
    try:
        values = z_score(raw, brain)
    except Unreadable as error:
        raise Unreadable(f"{Path(path).name}: {error}") from None
    low, high = np.percentile(values[brain], (0.5, 99.5))
    return Volume(values, brain, (float(low), float(high)))


@lru_cache(maxsize=1)
def _labels(path: str) -> NDArray[np.uint8]:
    values = np.rint(_oriented(path)).astype(np.int64)
    if values.min() < 0 or values.max() > 4:
        raise Unreadable(
            f"{Path(path).name}: label values must be 0 to 4, found {values.min()} to {values.max()}"
        )
    return values.astype(np.uint8)


def load_contrast(path: Path, index: int) -> NDArray[np.float32]:
    """Return one slice (H, W) float32 of the z-scored volume."""
    return np.ascontiguousarray(_volume(str(path)).values[..., index])


def load_preview(path: Path, index: int) -> Image:
    """Return one slice as (H, W, 3) uint8 grey, the same window for the whole volume."""
    volume = _volume(str(path))
    return preview(volume.values[..., index], volume.brain[..., index], volume.limits)


def preview(values: NDArray[np.float32], brain: NDArray[np.bool_], limits: tuple[float, float]) -> Image:
    """Show a slice (H, W) as (H, W, 3) uint8 grey: `limits` become black and white, outside is black."""
    low, high = limits
    grey = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255)
    return np.repeat(np.where(brain, grey, 0).astype(np.uint8)[..., None], 3, axis=2)


def load_label(path: Path, index: int, name: str, newer: bool) -> Grey:
    """Return one tumour part of one slice as (H, W) uint8 of 0 and 255."""
    labels = _labels(str(path))
    enhancing = {3} if newer or not (labels == 4).any() else {4}
    core = {1} if newer or 3 in enhancing else {1, 3}
    wanted = {"necrosis": core, "oedema": {2}, "enhancing": enhancing}[name]
    return np.where(np.isin(labels[..., index], sorted(wanted)), 255, 0).astype(np.uint8)


def _slice(root: Path, case: Case, index: int) -> Item:
    patient, _, visit = case.name.rpartition("-")
    dated = case.newer and visit.isdecimal()
    drawn = case.segmentation
    return Item(
        key=f"{case.name}_{index:03d}",
        file=case.contrasts["t1"].relative_to(root),
        load=partial(load_preview, case.contrasts["t1"], index),
        patient=f"brats-{patient if dated else case.name}",
        source="brats",
        masks={name: MaskSource(load=partial(load_label, drawn, index, name, case.newer)) for name in _LABELS}
        if drawn
        else {},
        contrasts={name: partial(load_contrast, case.contrasts[name], index) for name in CONTRASTS},
        visit=int(visit) + 1 if dated else None,
        terms=_TERMS,
    )


def _cases(root: Path) -> list[Case]:
    """Find the cases below a folder by the names of their volumes."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    newer: set[tuple[str, str]] = set()
    for path in sorted(root.rglob("*.nii*")) if root.is_dir() else ():
        if path.is_file() and (match := _NAME.fullmatch(path.name)):
            place, what = (str(path.parent), match["case"]), match["what"].lower()
            found.setdefault(place, {})[_WHAT.get(what, what)] = path
            if what in _NEWER or (what == "t1c" and match["join"] == "-"):
                newer.add(place)
    cases = []
    for place in sorted(found, key=lambda place: natural(place[1])):
        files = found[place]
        contrasts = {name: files[name] for name in CONTRASTS if name in files}
        cases.append(Case(place[1], contrasts, files.get("seg"), place in newer))
    return cases


def load_flair(path: Path) -> NDArray[np.float32]:
    """Return a single slice as (H, W) float32, z-scored over its own brain (above 8: JPEG noise)."""
    grey = load_image(path)[..., 0]
    return z_score(grey, grey > 8)


def _single_slices(root: Path) -> Iterator[Item]:
    images, masks = child(root, "images"), by_stem(child(root, "masks"))
    for path in pictures(images) if images else ():
        if match := _SLICE.fullmatch(path.stem):
            drawn = masks.get(path.stem.lower())
            flair: Load = partial(load_flair, path)
            yield Item(
                key=path.stem,
                file=path.relative_to(root),
                load=partial(load_image, path),
                patient=f"brats-{match[1]}",
                source="brats",
                masks={"whole_tumour": MaskSource(load=partial(load_mask, drawn))} if drawn else {},
                contrasts={"flair": flair},
                terms=_TERMS,
            )


def fits(root: Path) -> bool:
    """Tell whether the folder looks like BraTS."""
    return bool(_cases(root)) or next(_single_slices(root), None) is not None
