"""Pictures that stand twice among the inputs: the same pixels, or the same photograph stored again.

Three sieves: a digest of the prepared pixels finds exact copies; a hash of 256 bits that survives scaling and
recompression proposes pairs; the correlation of two small pictures with their shading taken away decides.
Shading and colour are alike in all eyes, so only what varies over a few pixels (vessels, disc, lesions) is
compared.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image, resize

SMALL = 48
"""Side of the small picture that decides."""
_BITS = 256
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Print:
    """What is kept of a picture to find it again; text, so that it can stand in a journal."""

    digest: str
    """SHA-256 of the pixels."""
    hash: str
    """64 hexadecimal digits: signs of low frequencies."""
    small: str
    """(48, 48) int8, shading taken away, in base64."""

    def bits(self) -> NDArray[np.uint64]:
        """Return the hash as (4,) words."""
        return np.frombuffer(bytes.fromhex(self.hash), np.uint64)

    def detail(self) -> NDArray[np.float32]:
        """Return the small picture as (2304,) float32 of zero mean and unit length."""
        small = np.frombuffer(base64.b64decode(self.small), np.int8).astype(np.float32)
        small -= small.mean()
        return small / max(float(np.linalg.norm(small)), 1e-6)


def print_of(image: Image, field_of_view: Grey) -> Print:
    """Describe a prepared picture (S, S, 3) uint8 with its field of view (S, S)."""
    grey = resize(np.ascontiguousarray(image[..., 1]), 2 * SMALL).astype(np.float32)
    inside = resize(field_of_view, 2 * SMALL).astype(np.float32) / 255.0
    # A mean over the field of view only, so that its edge leaves no ring.
    weight = cv2.GaussianBlur(inside, (0, 0), 8.0) + 1e-3
    detail = (grey - cv2.GaussianBlur(grey * inside, (0, 0), 8.0) / weight) * (
        cv2.erode(inside, np.ones((5, 5))) > 0.99
    )
    spread = max(float(detail.std()), 1e-3)
    small = resize(np.clip(detail / spread, -4, 4), SMALL)
    frequencies = cv2.dct(small)[:17, :17].ravel()[1 : 1 + _BITS]
    bits = np.packbits(frequencies > 0)
    return Print(
        digest=hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
        hash=bits.tobytes().hex(),
        small=base64.b64encode(np.rint(small * 31).clip(-127, 127).astype(np.int8).tobytes()).decode(),
    )


def find_duplicates(
    prints: Sequence[Print],
    *,
    distance: int,
    correlation: float,
    scans: Sequence[str | None] | None = None,
) -> dict[int, int]:
    """Return, for every picture that shows what an earlier one shows, the place of the first of them.

    Args:
        prints: One for each picture, in order.
        distance: Most bits of 256 in which the hashes of two copies differ.
        correlation: Least correlation of the small pictures of two copies.
        scans: For each picture the scan that it is a slice of, or None. Neighbouring slices are alike by
            nature, so two of one scan are copies only if their pixels are the same.
    """
    scan = scans or [None] * len(prints)
    first: dict[int, int] = {}
    seen: dict[str, int] = {}
    for place, found in enumerate(prints):
        if (earlier := seen.setdefault(found.digest, place)) != place:
            first[place] = earlier
    for earlier, later in _near(prints, distance):
        if scan[earlier] is not None and scan[earlier] == scan[later]:
            continue
        if float(prints[earlier].detail() @ prints[later].detail()) >= correlation:
            a, b = _root(first, earlier), _root(first, later)
            if a != b:
                first[max(a, b)] = min(a, b)
    return {place: _root(first, place) for place in sorted(first)}


def _root(first: dict[int, int], place: int) -> int:
    while place in first:
        place = first[place]
    return place


def _near(prints: Sequence[Print], distance: int) -> list[tuple[int, int]]:
    """Return pairs of places whose hashes differ in at most `distance` bits, by blocks to spare memory."""
    if len(prints) < 2:
        return []
    words = np.stack([found.bits() for found in prints])
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        for other in range(start, len(words), _BLOCK):
            beside = words[other : other + _BLOCK]
            differing = np.zeros((len(block), len(beside)), np.uint16)
            for word in range(words.shape[1]):
                differing += np.bitwise_count(block[:, word, None] ^ beside[None, :, word])
            a, b = np.nonzero(differing <= distance)
            pairs += [(int(i), int(j)) for i, j in zip(a + start, b + other, strict=True) if i < j]
    return sorted(pairs)
