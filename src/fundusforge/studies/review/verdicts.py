"""What a reader said of snapshots: `verdict.json` as the page makes it, and the entries that weights keep.

{"schema": 1, "run": "eyes", "reader": "A. B.", "date": "2024-05-31", "seed": 0, "snapshots": [{"name":
"000100000.safetensors", "weights": "<64 hexadecimal digits>", "images": 100, "wrong": [3, 17], "remark": "",
"verdict": "accept"}]}

`images` is how many were shown, numbers 0 to images - 1 of the seed; `wrong` are those ticked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from fundusforge.config import ConfigError, from_json

SCHEMA = 1
"""Version of `verdict.json`; raised when a field changes its meaning or goes."""
READER, REMARK = 100, 2000
"""Most characters of a reader's name and of a remark."""
MOST = 10_000
"""Most images of one snapshot."""
Answer = Literal["accept", "reject"]


class ReviewError(ValueError):
    """A verdict, or the snapshots that it is of, cannot be used; the message names the file and why."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """One reader's verdict on one snapshot, as the metadata of its weights keep it."""

    reader: str
    date: str
    """YYYY-MM-DD."""
    seed: int
    images: int
    """How many were looked at: numbers 0 to images - 1 of the seed."""
    wrong: tuple[int, ...]
    """Numbers of the images that look wrong, rising."""
    remark: str
    verdict: Answer

    def __post_init__(self) -> None:
        """Refuse what no page makes."""
        _check_signature(self.reader, self.date, self.seed)
        _check_findings(self.images, self.wrong, self.remark)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What `verdict.json` says of one snapshot."""

    name: str
    """Of its file, for people."""
    weights: str
    """What it is matched by: `snapshots.weights_sha256`."""
    images: int
    wrong: tuple[int, ...]
    remark: str
    verdict: Answer

    def __post_init__(self) -> None:
        """Refuse what no page makes."""
        if not re.fullmatch(r"[0-9a-f]{64}", self.weights):
            raise ValueError(f"weights must be 64 hexadecimal digits, not {self.weights!r}")
        _check_findings(self.images, self.wrong, self.remark)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The content of `verdict.json`: one reader, one sitting."""

    schema: int
    run: str
    reader: str
    date: str
    seed: int
    snapshots: tuple[Judgement, ...]

    def __post_init__(self) -> None:
        """Refuse what no page makes."""
        if self.schema != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, not {self.schema}")
        _check_signature(self.reader, self.date, self.seed)
        judged = [one.weights for one in self.snapshots]
        if not judged or len(set(judged)) < len(judged):
            raise ValueError("snapshots must hold one judgement or more, each of other weights")

    def review(self, judgement: Judgement) -> Review:
        """Return what is kept of one judgement."""
        return Review(
            reader=self.reader, date=self.date, seed=self.seed, images=judgement.images,
            wrong=judgement.wrong, remark=judgement.remark, verdict=judgement.verdict,
        )  # fmt: skip


def read_verdict(path: Path) -> Verdict:
    """Read what the page made.

    Raises:
        ReviewError: Malformed, incomplete, or with more than the page writes; names the field.
        OSError: The file cannot be read.
    """
    try:
        return from_json(Verdict, path.read_bytes(), where=str(path))
    except ConfigError as error:
        raise ReviewError(
            f"{error}; expected a verdict.json as the page of `fundusforge review` makes it"
        ) from None


def last_of_each(reviews: Sequence[Review]) -> dict[str, Review]:
    """Return every reader's last verdict."""
    return {review.reader: review for review in reviews}


def accepted(reviews: Sequence[Review]) -> bool:
    """Whether somebody accepted and nobody's last verdict is to reject."""
    last = last_of_each(reviews).values()
    return bool(last) and all(review.verdict == "accept" for review in last)


def _check_signature(reader: str, day: str, seed: int) -> None:
    if not reader.strip() or len(reader) > READER or not reader.isprintable():
        raise ValueError(f"reader must be a name or initials of 1 to {READER} printable characters")
    try:
        fits = date.fromisoformat(day).isoformat() == day
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"date must be a day as YYYY-MM-DD, not {day!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")


def _check_findings(images: int, wrong: Sequence[int], remark: str) -> None:
    if not 1 <= images <= MOST:
        raise ValueError(f"images must be 1 to {MOST}, not {images}")
    if list(wrong) != sorted(set(wrong)) or any(not 0 <= number < images for number in wrong):
        raise ValueError(f"wrong must hold rising numbers of 0 to {images - 1}, each once")
    if len(remark) > REMARK or not all(sign.isprintable() or sign in "\n\t" for sign in remark):
        raise ValueError(f"remark must have at most {REMARK} characters, and no control characters")
