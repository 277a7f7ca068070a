"""The training picture nearest to an image, and whether unrelated people's pictures come as near.

What counts as too near is not a fixed distance but what held-out patients show: the likeness of each of their
pictures to the nearest training picture *of another patient*. Patients count, not pictures: two pictures of
one patient have half a vote each. The p-value of an image is the share of held-out patients that come at
least as near, the image counted in (a conformal p-value: with exchangeable images, at most a share `level` of
unrelated ones has p <= level, whatever the distribution).

Several tests are made of every image. They are put on one scale (the *excess*: steps from the held-out
median to their 95th percentile) and the largest is what is judged, against the largest of each held-out
picture; so testing five ways does not mean five times the false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.audit.align import REGIONS, Gallery, Match, Plane, frame_of
from fundusforge.audit.findings import TESTS, Chance, Finding, Likeness, Test, Verdict
from fundusforge.audit.pixels import pixel_plane
from fundusforge.audit.trees import Tree, shares, tree_of
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.images import Grey, Image
from fundusforge.prepare.field import find_field
from fundusforge.records import DatasetError, Record

SAME_EYE = 0.6
"""Likeness of whole pixels or trees that two eyes never reach: unrelated ones stay below 0.4."""
SAME_PICTURE = 0.82
"""Correlation of fine structure from which the paint is the same, too, and not only what was painted on:
re-encoded, flipped, moved, turned or recoloured photographs keep more, a tree painted anew less."""
LOPSIDED = 0.75
"""Likeness of the whole, as part of that of its best half, below which only the half was copied."""
_STEP = 0.02
"""Least step from the median to the 95th percentile: held-out pictures that are all alike prove nothing."""
_NEAR = 5
"""An image is `near` up to so many times the level."""
_PAIRS: tuple[tuple[Test, Test], ...] = (("pixels", "pixels_half"), ("trees", "trees_half"))


@dataclass(frozen=True, kw_only=True)
class View:
    """What the audit keeps of one picture."""

    pixels: Plane
    tree: Tree | None = None
    feature: NDArray[np.float32] | None = None
    """(D,) vector of an extractor."""


@dataclass(frozen=True, kw_only=True)
class Near:
    """The nearest training picture in one test."""

    value: float
    index: int
    region: str = "whole"


Nearest = dict[Test, Near]
"""Per test that could be made, the nearest training picture."""


def view_of(
    images: ImageSet, index: int, *, judge: Judge | None = None, stored: bool = False,
    feature: NDArray[np.float32] | None = None,
) -> View:  # fmt: skip
    """Look at one picture.

    Args:
        images: The set.
        index: Which.
        judge: Segmenter that finds the vessels.
        stored: Without a judge, take the `vessels` mask as stored.
        feature: (D,) vector of the picture.

    Raises:
        DatasetError: A file cannot be read, or there is no field of view.
    """
    image, field = images.image(index), images.field_of_view(index)
    where = f"{images.folder / images.records[index].image}"
    if field is None:
        found = find_field(image)
        if found is None:
            raise DatasetError(f"{where}: no field of view given and none found")
        field = found.mask(*image.shape[:2])
    frame = frame_of(field)
    tree = None
    if judge is not None:
        probability = _probability(judge, image, field, where)
        tree = tree_of(probability, field, threshold=judge.threshold, frame=frame)
    elif stored:
        tree = tree_of(images.mask(index, "vessels"), field, frame=frame)
    return View(pixels=pixel_plane(image, field, frame=frame), tree=tree, feature=feature)


def _probability(judge: Judge, image: Image, field: Grey, where: str) -> Grey:
    probability = judge.segment(image, field)
    if probability.shape != image.shape[:2]:
        raise ValueError(f"{judge.name} gave a map {probability.shape} for {where} of {image.shape[:2]}")
    return np.rint(probability * 255).clip(0, 255).astype(np.uint8)


def hidden(nearest: Sequence[Nearest]) -> list[int]:
    """Return the places of held-out pictures that show an eye of the training set under another name.

    Data sets hold such (a patient registered twice). They tell nothing of chance, and a single one would
    raise every threshold above all copies.
    """
    tests: tuple[Test, ...] = ("pixels", "trees")
    return [
        place for place, each in enumerate(nearest)
        if any(test in each and each[test].value >= SAME_EYE for test in tests)
    ]  # fmt: skip


class Training:
    """The training pictures, ready to be searched."""

    def __init__(self, views: Sequence[View], *, candidates: int = 4) -> None:
        """Prepare the search.

        Args:
            views: All of the training pictures.
            candidates: How many the coarse search hands on: as many by the whole as by halves.

        Raises:
            ValueError: No pictures.
        """
        self._pixels = Gallery([view.pixels for view in views])
        self._trees = [view.tree for view in views if view.tree is not None]
        if len(self._trees) not in (0, len(views)):
            raise ValueError("some training pictures have a vessel tree and some have none")
        self._tree_planes = Gallery([tree.plane for tree in self._trees]) if self._trees else None
        features = [view.feature for view in views if view.feature is not None]
        self._features = np.stack(features) if len(features) == len(views) else None
        self._candidates = candidates

    def nearest(self, view: View, *, skip: NDArray[np.bool_] | None = None) -> Nearest:
        """Return the nearest training picture in every test.

        Args:
            view: The picture to look for.
            skip: (N,) training pictures to leave out; not all of them.
        """
        found: Nearest = {}
        matches = _registered(self._pixels, view.pixels, self._candidates, skip)
        _best(found, _PAIRS[0], [(match.index, match.correlation) for match in matches])
        if self._tree_planes is not None and view.tree is not None:
            query = view.tree
            matches = _registered(self._tree_planes, query.plane, self._candidates, skip)
            matched = [(m.index, shares(query, self._trees[m.index], m.pose)) for m in matches]
            _best(found, _PAIRS[1], matched)
        if self._features is not None and view.feature is not None:
            middle = self._features.mean(axis=0)
            likeness = _cosine(view.feature - middle, self._features - middle)
            if skip is not None:
                likeness[skip] = -np.inf
            place = int(likeness.argmax())
            found["features"] = Near(value=float(likeness[place]), index=place)
        return found


def _registered(gallery: Gallery, query: Plane, count: int, skip: NDArray[np.bool_] | None) -> list[Match]:
    found = gallery.candidates(query, count=count, skip=skip)
    return [gallery.register(query, candidate) for candidate in found]


def _best(found: Nearest, tests: tuple[Test, Test], scores: list[tuple[int, tuple[float, ...]]]) -> None:
    """Enter the best picture as a whole and the best by any half."""
    index, values = max(scores, key=lambda each: each[1][0])
    found[tests[0]] = Near(value=values[0], index=index)
    index, values = max(scores, key=lambda each: max(each[1][1:]))
    half = int(np.argmax(values[1:])) + 1
    found[tests[1]] = Near(value=values[half], index=index, region=REGIONS[half])


def _cosine(vector: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(vector)
    return (others @ vector) / np.maximum(lengths, 1e-12)


class Unrelated:
    """What held-out patients show by chance."""

    def __init__(self, nearest: Sequence[Nearest], patients: Sequence[str]) -> None:
        """Take the likeness of held-out pictures to training pictures of other patients.

        Args:
            nearest: Per held-out picture.
            patients: The patient of each.

        Raises:
            ValueError: No pictures.
        """
        if not nearest:
            raise ValueError("there are no held-out pictures to say what chance gives")
        _, member, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
        self.patients = len(counts)
        self._votes = 1.0 / counts[member]
        self._values: dict[Test, NDArray[np.float64]] = {
            test: np.array([each[test].value for each in nearest])
            for test in TESTS if all(test in each for each in nearest)
        }  # fmt: skip
        self._scale: dict[Test, tuple[float, float]] = {
            test: self._steps(values) for test, values in self._values.items()
        }
        self._largest = np.array([self.largest(each)[0] for each in nearest])

    def _steps(self, values: NDArray[np.float64]) -> tuple[float, float]:
        low, high = (_quantile(values, self._votes, share) for share in (0.5, 0.95))
        return low, max(high - low, _STEP)

    def excess(self, test: Test, value: float) -> float:
        """Return how far a likeness lies above the held-out patients' median, in steps."""
        middle, step = self._scale[test]
        return (value - middle) / step

    def largest(self, nearest: Mapping[Test, Near]) -> tuple[float, Test]:
        """Return the largest excess of all tests, and the test."""
        return max((self.excess(test, nearest[test].value), test) for test in self._scale)

    def p(self, value: float, test: Test | None = None) -> float:
        """Return the p-value of a likeness in one test, or (no test) of a largest excess."""
        null = self._largest if test is None else self._values[test]
        return float((1 + self._votes[null >= value].sum()) / (self.patients + 1))

    def level(self, wished: float) -> float:
        """Return the level that can be kept: with few held-out patients, p cannot be as small as wished."""
        return max(wished, 1 / (self.patients + 1))

    def chance(self, level: float) -> tuple[Chance, ...]:
        """Return the held-out patients' likeness in every test and the largest excess, with thresholds."""
        rows = [*self._values.items(), ("all", self._largest)]
        return tuple(self._row(test, values, self.level(level)) for test, values in rows)

    def _row(self, test: str, values: NDArray[np.float64], level: float) -> Chance:
        order = np.argsort(-values, kind="stable")
        votes = 1 + np.cumsum(self._votes[order])
        # The threshold lies just above the first picture that would make p exceed the level.
        first = int(np.argmax(votes > level * (self.patients + 1) + 1e-9))
        median, q95, q99 = (_quantile(values, self._votes, share) for share in (0.5, 0.95, 0.99))
        return Chance(
            test=test, patients=self.patients, images=len(values), median=median, q95=q95, q99=q99,
            largest=float(values.max()), threshold=float(np.nextafter(values[order[first]], np.inf)),
        )  # fmt: skip

    def bar(self, level: float, margin: float) -> float:
        """Return the least excess of an offence: where p falls to the level, and not below the margin."""
        return max(margin, self._row("all", self._largest, self.level(level)).threshold)

    def judge(
        self, record: Record, nearest: Mapping[Test, Near], train: ImageSet, *, level: float, margin: float
    ) -> Finding:
        """Give the verdict on one image.

        Args:
            record: The image.
            nearest: Its nearest training pictures.
            train: The training set, for the names of the neighbours.
            level: False alarms allowed.
            margin: Least excess of an offence.
        """
        largest, decisive = self.largest(nearest)
        p, bar = self.p(largest), self.bar(level, margin)
        found: list[Likeness] = []
        for test in self._scale:
            value, neighbour = nearest[test].value, train.records[nearest[test].index]
            found.append(
                Likeness(
                    test=test,
                    value=value,
                    p=self.p(value, test),
                    excess=self.excess(test, value),
                    neighbour=neighbour.image,
                    region=nearest[test].region,
                    same_patient=neighbour.patient == record.patient,
                )
            )
        return Finding(
            image=record.image,
            verdict=self._verdict(nearest, bar=bar, near=p <= _NEAR * self.level(level)),
            p=p,
            neighbour=train.records[nearest[decisive].index].image,
            likeness=tuple(found),
        )

    def _verdict(self, nearest: Mapping[Test, Near], *, bar: float, near: bool) -> Verdict:
        over = {test: self.excess(test, nearest[test].value) for test in self._scale}
        tests = [test for test in over if over[test] >= bar]
        if not tests:
            return "near" if near else "clear"
        if tests == ["features"]:
            return "alike"
        seen = [pair for pair in _PAIRS if pair[0] in over]
        whole, half = max(seen, key=lambda pair: max(over[pair[0]], over[pair[1]]))
        if nearest[whole].value < LOPSIDED * nearest[half].value:
            return "half copy"
        if nearest["pixels"].value >= SAME_PICTURE or not {"trees", "trees_half"} & set(tests):
            return "copy"
        return "same tree"


def _quantile(values: NDArray[np.float64], votes: NDArray[np.float64], share: float) -> float:
    """Return the least value at or below which lies this share of the votes."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(votes[order]) >= share * votes.sum() - 1e-9
    return float(values[order[int(np.argmax(reached))]])
