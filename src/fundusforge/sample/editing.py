"""Edit the lesions of one eye: add, remove, move, grow. Masks in, masks out, and the grade they now have.

DR-GAN changes the number and the position of lesions in its masks to make images of other grades (Zhou et al.
2020). Every call here is a pure function of its arguments: masks are never changed in place, the same seed
gives the same edit, and the rules hold: no lesion on the disc or outside the field of view, and the grade is
that of `severity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.records import DatasetError
from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_statistics import LayoutStatistics
from fundusforge.sample.layouts import more_of
from fundusforge.sample.lesions import findings_of, spots_of
from fundusforge.severity import LESIONS, QUADRANTS, Findings, grade

_Change = Callable[[NDArray[np.int64], NDArray[np.int64], float], NDArray[np.int64]]
"""Rows and columns of a lesion, and the part of the change: (2, N) its new rows and columns."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which lesions of a mask an edit is about: every condition that is given must hold."""

    lesion: str
    """One of `severity.LESIONS`."""
    quadrant: str | None = None
    """One of `severity.QUADRANTS`."""
    near: tuple[float, float] | None = None
    """(x, y) in pixels."""
    reach: float = 1.0
    """How far from `near` a lesion's centre may lie, disc diameters."""
    count: int | None = None
    """No more than so many: the nearest where `near` is given, else drawn from the seed; all if None."""

    def __post_init__(self) -> None:
        """Refuse what cannot be chosen."""
        if self.lesion not in LESIONS:
            raise DatasetError(f"unknown lesion {self.lesion!r}; known are {', '.join(LESIONS)}")
        if self.quadrant is not None and self.quadrant not in QUADRANTS:
            raise DatasetError(f"unknown quadrant {self.quadrant!r}; known are {', '.join(QUADRANTS)}")
        if self.reach <= 0:
            raise DatasetError(f"reach must be above 0 disc diameters, not {self.reach}")
        if self.count is not None and self.count < 0:
            raise DatasetError(f"count must not be negative, but is {self.count}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Edited:
    """An eye after an edit."""

    masks: Mapping[str, Grey]
    """(H, W) uint8 of 0 and 255; those that were not edited are the ones that came."""
    findings: Findings
    changed: int
    """Lesions that were added, removed, moved or grown."""

    @property
    def grade(self) -> int:
        """Grade of the findings, by the rule of `severity`."""
        return grade(self.findings)


def remove(
    masks: Mapping[str, Grey], frame: Frame, choice: Choice, *, seed: int = 0, signs: Findings | None = None
) -> Edited:
    """Remove the chosen lesions.

    Args:
        masks: Per name (H, W) uint8; a kind that is not among them has no lesions.
        frame: Of the eye (`Frame.of_masks`).
        choice: Which.
        seed: Of the choice, where `count` leaves one.
        signs: What no mask shows (beading, IRMA, blood before the retina), for the grade.

    Raises:
        DatasetError: The mask is not of the frame's size.
    """
    mask = _mask(masks, frame, choice)
    labels, chosen = _chosen(mask, frame, choice, seed)
    left = np.where(np.isin(labels, chosen), 0, mask).astype(np.uint8)
    return _edited(masks, frame, choice, frame.cut(left), len(chosen), signs)


def move(
    masks: Mapping[str, Grey], frame: Frame, choice: Choice, by: tuple[float, float], *, seed: int = 0,
    signs: Findings | None = None,
) -> Edited:  # fmt: skip
    """Move the chosen lesions.

    A lesion that would come to lie on the disc, outside the field of view or against another of its kind goes
    as far on its way as it may.

    Args:
        masks: As in `remove`.
        frame: Of the eye.
        choice: Which.
        by: Disc diameters to the temporal side and up.
        seed: Of the choice.
        signs: As in `remove`.

    Raises:
        DatasetError: The mask is not of the frame's size.
    """
    mask = _mask(masks, frame, choice)
    labels, chosen = _chosen(mask, frame, choice, seed)
    side = 1 if frame.eye == "left" else -1
    shift = np.array([by[0] * side, -by[1]]) * frame.diameter

    def shifted(rows: NDArray[np.int64], columns: NDArray[np.int64], part: float) -> NDArray[np.int64]:
        right, down = np.round(shift * part).astype(np.int64)
        return np.stack([rows + down, columns + right])

    left, moved = _redrawn(mask, frame, labels, chosen, shifted)
    return _edited(masks, frame, choice, left, moved, signs)


def grow(
    masks: Mapping[str, Grey], frame: Frame, choice: Choice, factor: float, *, seed: int = 0,
    signs: Findings | None = None,
) -> Edited:  # fmt: skip
    """Scale the chosen lesions about their centres; what would not fit grows as far as it may.

    Args:
        masks: As in `remove`.
        frame: Of the eye.
        choice: Which.
        factor: Of the diameter; below 1 they shrink, to a pixel at least.
        seed: Of the choice.
        signs: As in `remove`.

    Raises:
        DatasetError: A factor that is not above 0, or a mask that is not of the frame's size.
    """
    if not 0 < factor < 100:
        raise DatasetError(f"the factor must be above 0 and below 100, not {factor}")
    mask = _mask(masks, frame, choice)
    labels, chosen = _chosen(mask, frame, choice, seed)

    def scaled(rows: NDArray[np.int64], columns: NDArray[np.int64], part: float) -> NDArray[np.int64]:
        return _scaled(rows, columns, 1 + (factor - 1) * part)

    left, grown = _redrawn(mask, frame, labels, chosen, scaled)
    return _edited(masks, frame, choice, left, grown, signs)


def add(
    masks: Mapping[str, Grey], frame: Frame, choice: Choice, statistics: LayoutStatistics, *, seed: int = 0,
    signs: Findings | None = None,
) -> Edited:  # fmt: skip
    """Add lesions where and as large as real ones are, clear of all that are there.

    Args:
        masks: As in `remove`.
        frame: Of the eye.
        choice: Of which kind, how many (`count`; one if None), in which quadrant or near which place.
        statistics: How real lesions are laid out.
        seed: Of everything that is drawn.
        signs: As in `remove`.

    Raises:
        DatasetError: The mask is not of the frame's size, or there is no room for any of them.
    """
    mask = _mask(masks, frame, choice)
    spots = [spot for name in LESIONS if name in masks for spot in spots_of(masks[name], frame, lesion=name)]
    count = 1 if choice.count is None else choice.count
    within = None
    if choice.near is not None:
        within = (frame.points(np.array([choice.near]))[0], choice.reach)
    quadrant = None if choice.quadrant is None else QUADRANTS.index(choice.quadrant)
    new = more_of(statistics, choice.lesion, count, frame, spots, seed=seed, quadrant=quadrant, within=within)
    if count and not new:
        raise DatasetError(f"no room for {choice.lesion} there: none of {count} could be added")
    drawn = mask | frame.draw([spot.outline() for spot in new])
    return _edited(masks, frame, choice, frame.cut(drawn), len(new), signs)


def _mask(masks: Mapping[str, Grey], frame: Frame, choice: Choice) -> Grey:
    mask = masks.get(choice.lesion)
    if mask is None:
        return np.zeros(frame.disc.shape, np.uint8)
    if mask.shape != frame.disc.shape:
        raise DatasetError(f"the mask of {choice.lesion} is {mask.shape} pixels, the eye {frame.disc.shape}")
    return frame.cut(mask)


def _chosen(mask: Grey, frame: Frame, choice: Choice, seed: int) -> tuple[NDArray[np.int64], list[int]]:
    """Return (H, W) numbers of the lesions from 1 on, and those that are chosen."""
    labels, _, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)[1:]
    labels, centres = np.asarray(labels, np.int64), np.asarray(centres, np.float64)[1:]
    numbers = np.arange(1, len(centres) + 1)
    away = np.zeros(len(centres))
    if len(centres) and choice.quadrant is not None:
        inside = frame.quadrants(frame.points(centres)) == QUADRANTS.index(choice.quadrant)
        numbers, centres, away = numbers[inside], centres[inside], away[inside]
    if len(centres) and choice.near is not None:
        away = np.linalg.norm(centres - np.array(choice.near), axis=1) / frame.diameter
        numbers, away = numbers[away <= choice.reach], away[away <= choice.reach]
    if choice.count is not None and len(numbers) > choice.count:
        order = np.random.default_rng(seed).permutation(len(numbers))
        if choice.near is not None:
            order = np.argsort(away, kind="stable")
        numbers = np.sort(numbers[order[: choice.count]])
    return labels, [int(number) for number in numbers]


def _redrawn(
    mask: Grey, frame: Frame, labels: NDArray[np.int64], chosen: list[int], change: _Change
) -> tuple[Grey, int]:
    """Draw the chosen lesions anew, one by one, each changed by as large a part as the rules allow."""
    drawn, done = mask.copy(), 0
    for number in chosen:
        rows, columns = np.nonzero(labels == number)
        drawn[rows, columns] = 0
        others = np.asarray(cv2.dilate(drawn, np.ones((3, 3), np.uint8))) > 0
        free = frame.field_of_view & ~frame.disc & ~others
        place = np.stack([rows, columns])
        for part in (1.0, 0.75, 0.5, 0.25):
            wanted = change(rows, columns, part)
            inside = (wanted >= 0).all() and (wanted < np.array(mask.shape)[:, None]).all()
            if inside and free[wanted[0], wanted[1]].all():
                place, done = wanted, done + 1
                break
        drawn[place[0], place[1]] = 255
    return drawn, done


def _scaled(rows: NDArray[np.int64], columns: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    """Return (2, N) rows and columns of a lesion scaled about its centre."""
    middle = np.array([rows.mean(), columns.mean()])
    low = np.array([rows.min(), columns.min()])
    shape = np.array([np.ptp(rows), np.ptp(columns)]) + 1
    picture = np.zeros(shape, bool)
    picture[rows - low[0], columns - low[1]] = True
    reach = np.ceil(shape * factor).astype(int) + 2
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")).reshape(2, -1)
    grid = grid + np.round(middle).astype(np.int64)[:, None]
    source = np.round((grid - middle[:, None]) / factor + middle[:, None]).astype(np.int64) - low[:, None]
    inside = (source >= 0).all(axis=0) & (source < shape[:, None]).all(axis=0)
    found = grid[:, inside][:, picture[source[0, inside], source[1, inside]]]
    return found if found.size else np.round(middle).astype(np.int64)[:, None]


def _edited(
    masks: Mapping[str, Grey], frame: Frame, choice: Choice, mask: Grey, changed: int, signs: Findings | None
) -> Edited:
    after = {**masks, choice.lesion: mask}
    return Edited(masks=after, findings=findings_of(after, frame, signs=signs), changed=changed)
