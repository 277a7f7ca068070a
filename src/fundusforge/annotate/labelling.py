"""Labelling a large folder with little work: a person reviews some, a classifier sorts the rest.

After Kim et al. (2022), steps 1 to 4: words of the chart select candidates, a person reviews a small set,
which trains a binary classifier, and that sorts the rest. What it is unsure of goes back to a person and gets
no label. A review is a CSV file with the columns `image` and `label` (yes or no; empty: not looked at yet);
several are read together, so a filled-in list goes back beside the older ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.files import link_records
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.segmenter import detect_field
from fundusforge.images import read_image, read_mask
from fundusforge.prepare.journal import Journal
from fundusforge.prepare.patients import hash_patient
from fundusforge.prepare.split import Member, assign
from fundusforge.records import DatasetError, Record, write_metadata, write_text
from fundusforge.sources.chart import Chart, Row
from fundusforge.sources.files import rows

REVIEW, JOURNAL = "review.csv", "labelling.jsonl"
"""The list for the reviewer; and what the classifier said of each image, so that a stopped run goes on."""
COLUMNS = ("image", "label", "probability", "keyword")
VAL, TEST = 0.1, 0.2
"""Shares of the reviewed patients; the rest trains (Kim et al. 2022: 7:1:2)."""
_WORDS = {"yes": True, "1": True, "true": True, "no": False, "0": False, "false": False}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where the classifier is unsure: probabilities from `low` to `high`, ends left out."""

    low: float
    """Up to here the finding is not there; below 0 if that is never sure."""
    high: float
    """From here on it is there; above 1 if that is never sure."""

    def told(self, probability: float) -> bool | None:
        """Return whether the finding is there, or None if that is unsure."""
        return True if probability >= self.high else False if probability <= self.low else None


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """What became of one image."""

    record: Record
    probability: float | None
    """That the finding is there; None where a person said so."""
    told: bool | None
    """By a person, or else by the classifier; None where it is unsure."""


# ---- reviews -----------------------------------------------------------------------------------------------


def read_reviews(files: Iterable[Path], records: Sequence[Record]) -> dict[str, bool]:
    """Read what people said, by image; rows without a label are passed over.

    Raises:
        DatasetError: Unreadable, columns missing, a label that is neither yes nor no, an image that the
            folder lacks, or that was said to be both; names file and line.
    """
    known, said = {record.image for record in records}, dict[str, tuple[bool, str]]()
    for file in files:
        for line, row in enumerate(rows(Path(file), needs=("image", "label")), 2):
            image, word, where = row["image"], row["label"].lower(), f"{file}:{line}"
            if image not in known:
                raise DatasetError(f"{where}: the folder has no image {image!r}")
            if not word:
                continue
            if word not in _WORDS:
                raise DatasetError(f"{where}: expected yes or no as label, not {row['label']!r}")
            older = said.setdefault(image, (_WORDS[word], where))
            if older[0] != _WORDS[word]:
                raise DatasetError(f"{where}: {image} is {word}, but the opposite in {older[1]}")
    return {image: there for image, (there, _) in said.items()}


def write_review(path: Path, lines: Iterable[tuple[str, float | None, bool]]) -> None:
    """Write a list for a reviewer: image, empty label, probability, and whether the chart has a keyword."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image, probability, hit in lines:
        writer.writerow(
            [image, "", "" if probability is None else f"{probability:.4f}", "yes" if hit else ""]
        )
    write_text(path, text.getvalue())


def chart_hits(
    records: Sequence[Record], chart: Sequence[Row], *, keywords: Sequence[str], exclude: Sequence[str],
    key: bytes,
) -> set[str]:  # fmt: skip
    """Return the images of which the chart speaks with a keyword.

    Args:
        records: Of a prepared folder.
        chart: Its rows name files as published, or patients by their own names.
        keywords: One of these stands in a row about the image.
        exclude: None of these does.
        key: Secret of the patients' hashes.
    """
    sources = sorted({record.source for record in records})
    about: list[Row] = []
    for row in chart:
        named = [replace(row, file=_stem(row.file))] if row.file else []
        hashed = [replace(row, file="", patient=hash_patient(key, name, row.patient)) for name in sources]
        about += named or (hashed if row.patient else [])
    chosen = Chart(rows=about, keywords=tuple(keywords), exclude=tuple(exclude))
    return {
        record.image
        for record in records
        if chosen.choose(
            file=_stem(record.image), patient=record.patient, date="", visit=record.visit, eye=record.eye
        )
    }


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def draw(records: Sequence[Record], hits: set[str], *, size: int, seed: int) -> list[Record]:
    """Draw candidates to review: at most `size` among the keyword hits and `size` among the others."""
    rng = np.random.default_rng(seed)
    drawn: list[Record] = []
    for wanted in (True, False):
        some = sorted((r for r in records if (r.image in hits) == wanted), key=lambda r: r.image)
        places = rng.permutation(len(some))[:size]
        drawn += [some[place] for place in sorted(places.tolist())]
    return drawn


# ---- training and sorting ----------------------------------------------------------------------------------


def reviewed_records(
    records: Sequence[Record], reviews: Mapping[str, bool], label: str, *, seed: int
) -> list[Record]:
    """Return the reviewed records as a classifier learns them: 7:1:2 by patient, the finding there or not.

    Raises:
        DatasetError: Training or validation images do not show both kinds, or a review contradicts a label
            that a person gave.
    """
    kept = [record for record in records if record.image in reviews]
    for record in kept:
        if _labelled_by_hand(record, label) and not reviews[record.image]:
            raise DatasetError(f"{record.image}: was reviewed as no, but a person labelled it {label!r}")
    members = [Member(patient=r.patient, label="yes" if reviews[r.image] else "no") for r in kept]
    splits = assign(members, val=VAL, test=TEST, seed=seed)
    out = [
        replace(
            record, masks={}, grade=None, predicted=(), confidences={}, split=splits[record.patient],
            labels=(label if reviews[record.image] else f"no_{label}",),
        )
        for record in kept
    ]  # fmt: skip
    for split in ("train", "val"):
        kinds = {record.labels for record in out if record.split == split}
        if len(kinds) < 2:
            raise DatasetError(
                f"{len(out)} reviewed images are too few: among those for {split} "
                f"{'all are alike' if kinds else 'there is none'}; review more, of both kinds"
            )
    return out


def probability(grader: Grader, folder: Path, record: Record) -> float:
    """Return the classifier's probability that the finding is there."""
    image = read_image(folder / record.image)
    field = read_mask(folder / record.field_of_view) if record.field_of_view else detect_field(image)
    return float(grader.probabilities(grader.logits([grader.cut(image, field)]))[0, 0])


def choose_band(probabilities: Floats, present: NDArray[np.bool_], *, certainty: float) -> Band:
    """Choose the band on validation images: outside it, the share of right answers reaches `certainty`.

    On either side the limit is an image of the right kind, the nearest to the other side with which that
    share still holds; what lies between kinds that never meet stays unsure.

    Args:
        probabilities: (N,) of validation images.
        present: (N,) whether the finding is there.
        certainty: 0 to 1.
    """
    low, high = -1.0, 2.0
    for limit in np.unique(probabilities[present]):
        if present[probabilities >= limit].mean() >= certainty:
            high = float(limit)
            break
    for limit in np.unique(probabilities[~present])[::-1]:
        if (~present)[probabilities <= limit].mean() >= certainty:
            low = float(limit)
            break
    if low >= high:
        low = high = (low + high) / 2
    return Band(low=low, high=high)


def sort_folder(
    source: Path, records: Sequence[Record], out: Path, *, grader: Grader, band: Band,
    reviews: Mapping[str, bool], label: str,
) -> Iterator[Sorted]:  # fmt: skip
    """Write a folder in which sure images have their label; yields each image.

    What people said stays: a reviewed image gets their answer, one that they labelled before keeps its
    labels. An image of which the classifier is unsure gets no label, and loses an older prediction.

    Raises:
        DatasetError: `out` was begun with another classifier, band or reviews, or an image cannot be read.
        OSError: The folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    said = "".join(sorted(f"{image}={there};" for image, there in reviews.items()))
    journal = Journal(out, f"{grader.name} {band} {label} {said}", name=JOURNAL)
    done: list[Record] = []
    try:
        for record in records:
            link_records([record], source, out)
            sure = True if _labelled_by_hand(record, label) else reviews.get(record.image)
            value = None
            if sure is None:
                if record.image not in journal.done:
                    value = probability(grader, source, record)
                    journal.add({"name": record.image, "probability": value})
                value = float(journal.done[record.image]["probability"])
            told = band.told(value) if value is not None else sure
            one = Sorted(record=_labelled(record, label, told, value), probability=value, told=told)
            done.append(one.record)
            yield one
        write_metadata(out, done)
    finally:
        journal.close()


def _labelled_by_hand(record: Record, label: str) -> bool:
    return label in record.labels and label not in record.predicted


def _labelled(record: Record, label: str, told: bool | None, value: float | None) -> Record:
    """Return the record with the answer in the place of older predictions; predicted, if it has a `value`."""
    labels, predicted = set(record.labels), set(record.predicted) - {label}
    if label in record.predicted:
        labels -= {label}
    sure = {name: number for name, number in record.confidences.items() if name != label}
    if told:
        labels |= {label}
    if value is not None and told is not None:
        predicted |= {label} if told else set()
        sure[label] = round(value if told else 1 - value, 4)
    return replace(record, labels=tuple(sorted(labels)), predicted=tuple(sorted(predicted)), confidences=sure)


def review_lines(
    results: Iterable[Sorted], threshold: float, hits: set[str]
) -> list[tuple[str, float | None, bool]]:
    """Return the unsure images for `write_review`, those nearest the threshold first."""
    unsure = [one for one in results if one.told is None and one.probability is not None]
    unsure.sort(key=lambda one: (abs((one.probability or 0.0) - threshold), one.record.image))
    return [(one.record.image, one.probability, one.record.image in hits) for one in unsure]
