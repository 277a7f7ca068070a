"""Structural similarity to real references, beside what real eyes give (Sengupta et al. 2019, Table 1).

The paper compares 20 synthetic vessel maps with one map of DRIVE (mean 0.74), and the other maps of DRIVE
with the same one (0.78). A single reference is a lottery, so the mean over every reference is given as well,
with R real maps, S synthetic ones, and weights w of a bootstrap draw:

    synthetic = sum_sr w_s w_r SSIM(s, r) / sum_sr w_s w_r,    real = the same of pairs of two patients,
    gap = real - synthetic.

A pair of one patient is never counted: a map is no evidence for itself, nor is its fellow eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.pictures import photograph, squared, vessel_map
from fundusforge.evaluate.ssim import ssim
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap
from fundusforge.images import resize

Kind = Literal["vessel", "photograph"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Picture = NDArray[np.uint8]


def pictures(images: ImageSet, kind: Kind, *, side: int, binary: bool = False) -> list[Picture]:
    """Return all pictures of a set as they are compared: padded to a square, brought to one side.

    Args:
        images: The set; for vessels every image needs that mask.
        kind: Vessel maps (side, side), or photographs (side, side, 3); uint8.
        side: In pixels.
        binary: Maps of 0 and 255 alone, thin vessels kept; else grey ones, as averaging areas leaves them.

    Raises:
        DatasetError: A file cannot be read.
    """
    if kind == "photograph":
        return [photograph(images, index, side) for index in range(len(images))]
    if binary:
        return [vessel_map(images, index, side) for index in range(len(images))]
    return [resize(squared(images.mask(index, "vessels")), side) for index in range(len(images))]


def how(kind: Kind, *, side: int, binary: bool) -> str:
    """Say how pictures were brought to one size."""
    what = "colour" if kind == "photograph" else "binary, thin vessels kept" if binary else "grey, area"
    return f"padded to a square, {side} px, {what}"


def matrix(first: Sequence[Picture], second: Sequence[Picture], counted: Bools) -> Floats:
    """Return (n, m) the similarity of every counted pair, and 0 where none is counted.

    Args:
        first: n pictures.
        second: m pictures of the same shape.
        counted: (n, m) which pairs to compare.
    """
    found, mirrored = np.zeros(counted.shape), first is second
    for i, j in np.argwhere(counted).tolist():
        known = mirrored and j < i and counted[j, i]
        found[i, j] = found[j, i] if known else ssim(first[i], second[j])
    return found


def apart(first: ImageSet, second: ImageSet) -> Bools:
    """Return (n, m) whether two images are of different patients."""
    return np.asarray(first.patients)[:, None] != np.asarray(second.patients)[None, :]


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """Real pictures and their likeness to each other, computed once for all sources."""

    kind: Kind
    images: ImageSet
    chosen: int
    """Place of the one reference."""
    side: int
    binary: bool
    pictures: Sequence[Picture]
    counted: Bools
    """(m, m) pairs of different patients."""
    between: Floats
    """(m, m) their similarity."""

    @classmethod
    def of(
        cls, images: ImageSet, kind: Kind, *, chosen: int = 0, side: int = 512, binary: bool = False
    ) -> References:
        """Read and compare the real pictures.

        Args:
            images: Real images; for vessels each with that mask.
            kind: What to compare.
            chosen: Place of the reference of the paper's form.
            side: See `pictures`.
            binary: See `pictures`.

        Raises:
            ValueError: Fewer than two patients, or no such place.
        """
        if len(set(images.patients)) < 2 or not 0 <= chosen < len(images):
            raise ValueError(f"expected two real patients or more and a reference among {len(images)} images")
        shown, counted = pictures(images, kind, side=side, binary=binary), apart(images, images)
        return cls(
            kind=kind, images=images, chosen=chosen, side=side, binary=binary, pictures=shown,
            counted=counted, between=matrix(shown, shown, counted),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The one reference, as its metadata names it."""
        return self.images.records[self.chosen].image

    def figures(self, images: ImageSet, *, name: str, seed: int, draws: int) -> list[Figure]:
        """Return the likeness of a set to one reference and to all, that of real images, and the gaps.

        Args:
            images: The set, of which all images are taken; at least one.
            name: First part of the figures' names: `NAME_vessel_ssim`, `..._real`, `..._gap`, and the same
                of all references, `NAME_vessel_ssim_all`.
            seed: Of the bootstrap.
            draws: Of the bootstrap.

        Raises:
            ValueError: No image.
            DatasetError: A file cannot be read.
        """
        if not len(images):
            raise ValueError("a set without images has no likeness")
        shown = pictures(images, self.kind, side=self.side, binary=self.binary)
        counted = apart(images, self.images)
        values = matrix(shown, self.pictures, counted)
        found: list[Figure] = []
        for suffix, columns in (("", [self.chosen]), ("_all", list(range(len(self.images))))):
            mine = _Pooled(values[:, columns], counted[:, columns], columns)
            own = _Pooled(self.between[:, columns], self.counted[:, columns], columns)
            found += self._form(images, mine, own, name=f"{name}_{self.kind}_ssim{suffix}", seed=seed,
                                draws=draws)  # fmt: skip
        return found

    def _form(
        self, images: ImageSet, mine: _Pooled, own: _Pooled, *, name: str, seed: int, draws: int
    ) -> list[Figure]:
        """Return likeness, real likeness and gap in one form: to one reference, or to all."""
        one = len(mine.columns) == 1
        what = "vessel maps" if self.kind == "vessel" else "photographs"
        to = f"one real reference ({self.name})" if one else f"each of {len(self.images)} real references"

        def synthetic(weights: Sequence[Weights]) -> float | None:
            return mine.value(weights[0], np.ones(1) if one else weights[1])

        def real(weights: Sequence[Weights]) -> float | None:
            return own.value(weights[-1], np.ones(1) if one else weights[-1])

        def gap(weights: Sequence[Weights]) -> float | None:
            first, second = real(weights), synthetic(weights)
            return None if first is None or second is None else first - second

        both, real_only = (images.patients, self.images.patients), (self.images.patients,)
        drawn = (images.patients,) if one else both
        titles: list[tuple[str, str, Statistic, tuple[list[str], ...]]] = [
            ("", f"Structural similarity of synthetic {what} to {to}", synthetic, drawn),
            ("_real", f"Structural similarity of the other real {what} to {to}", real, real_only),
            ("_gap", f"Real less synthetic similarity of {what} to {to}", gap, both),
        ]
        common: dict[str, Any] = {
            "extractor": "masks as stored" if self.kind == "vessel" else "pixels, mean over red, green, blue",
            "resize": how(self.kind, side=self.side, binary=self.binary), "seed": seed,
            "unit": f"ssim, {what} of {self.side} px, {'one' if one else 'all'} "
            f"reference{'' if one else 's'}, seed {seed}",
        }  # fmt: skip
        return [
            _figure(
                statistic, patients, draws=draws, name=name + suffix, title=title,
                n=len(images) if suffix != "_real" else own.rows, n_real=own.rows,
                better="zero" if suffix == "_gap" else "none", **common,
            )
            for suffix, title, statistic, patients in titles
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Pooled:
    """Likenesses (n, k) of which only some count, and the places of their k references."""

    values: Floats
    counted: Bools
    columns: Sequence[int]

    def value(self, rows: Weights, columns: Weights) -> float | None:
        """Return the weighted mean of the counted pairs, or None if none is left."""
        total = float(rows @ self.counted @ columns)
        return float(rows @ self.values @ columns) / total if total > 0 else None

    @property
    def rows(self) -> int:
        """How many images are compared with a reference at all."""
        return int(self.counted.any(axis=1).sum())


def _figure(statistic: Statistic, patients: Sequence[Sequence[str]], *, draws: int, **words: Any) -> Figure:
    value = statistic([np.ones(len(names)) for names in patients])
    interval = bootstrap(statistic, *patients, seed=words["seed"], draws=draws)
    reason = "" if value is not None else "no pair of different patients"
    return Figure(**measured(value, interval), reason=reason, **words)
