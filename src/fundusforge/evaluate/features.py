"""Features of images: computed once, kept by content, shared by every metric that compares sets.

An extractor turns pictures into vectors. What it gives for a file depends on the file's bytes and on the
extractor's weights and preprocessing alone, so a vector is kept under both hashes and never computed twice.

Vectors of patients' images derive from patients: they can tell whether a known photograph was in a set.
The folder that keeps them is therefore readable by its owner alone, and is treated like the photographs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fundusforge.images import Image
from fundusforge.records import DatasetError

if TYPE_CHECKING:
    from fundusforge.evaluate.evidence import ImageSet

Features = NDArray[np.float32]
"""(N, D) one row per image."""
_BATCH = 16
"""Most images given to an extractor at once."""
_BATCH_BYTES = 128 * 2**20
"""Bytes of decoded pixels from which a batch is not filled up any further."""


class Extractor(Protocol):
    """What turns pictures into vectors, as the metrics see it: injected, so that they depend on no model."""

    @property
    def name(self) -> str:
        """For readers: the network and the first digits of its weights' hash."""
        ...

    @property
    def resize(self) -> str:
        """How pictures are brought to its input, in words."""
        ...

    @property
    def key(self) -> str:
        """Hash of weights and preprocessing: two extractors of one key give the same vectors."""
        ...

    @property
    def dimensions(self) -> int:
        """Length D of a vector."""
        ...

    def __call__(self, images: Sequence[Image]) -> Features:
        """Return (N, D) float32 for N images, each (H, W, 3) uint8 RGB of any size."""
        ...


def default_cache() -> Path:
    """Return where vectors are kept: `$XDG_CACHE_HOME/fundusforge/features`, `~/.cache/...` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fundusforge" / "features"


def features(
    images: ImageSet,
    extractor: Extractor,
    *,
    cache: Path | None,
    progress: Callable[[str], Any] | None = None,
) -> Features:
    """Return the vectors of a set of images, from the cache where it has them.

    Pictures are read in small batches, so memory does not grow with the set but for the vectors. Files of
    equal bytes are computed once.

    Args:
        images: The images.
        extractor: Turns them into vectors.
        cache: Folder to keep vectors in; None keeps nothing. A broken entry is computed anew, and a folder
            that cannot be written is no error.
        progress: Called with a line of text as the work goes on.

    Returns:
        (N, D) float32, in the order of the records.

    Raises:
        DatasetError: A picture that cannot be read.
        ValueError: The extractor gives another shape than it says, or a number that is not finite.
    """
    found = np.empty((len(images), extractor.dimensions), np.float32)
    places: dict[str, list[int]] = {}
    for index, record in enumerate(images.records):
        places.setdefault(_digest(images.folder / record.image), []).append(index)
    missing: list[str] = []
    for digest, owners in places.items():
        vector = None if cache is None else _read(_entry(cache, extractor, digest), extractor.dimensions)
        if vector is None:
            missing.append(digest)
        else:
            found[owners] = vector
    done = 0
    for batch in _batches(images, [places[digest][0] for digest in missing]):
        vectors = _extract(extractor, batch, images)
        for digest, vector in zip(missing[done : done + len(batch)], vectors, strict=True):
            found[places[digest]] = vector
            if cache is not None:
                _write(_entry(cache, extractor, digest), vector)
        done += len(batch)
        if progress is not None:
            progress(f"features ({extractor.name}): {done} of {len(missing)} in {images.folder.name}")
    return found


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None


def _batches(images: ImageSet, indices: Sequence[int]) -> Iterator[list[tuple[int, Image]]]:
    """Read pictures, some at a time: few of large ones, more of small ones."""
    batch: list[tuple[int, Image]] = []
    for index in indices:
        batch.append((index, images.image(index)))
        if len(batch) == _BATCH or sum(image.nbytes for _, image in batch) > _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _extract(extractor: Extractor, batch: Sequence[tuple[int, Image]], images: ImageSet) -> Features:
    vectors = extractor([image for _, image in batch])
    if vectors.shape != (len(batch), extractor.dimensions):
        raise ValueError(
            f"{extractor.name} gave {vectors.shape}, expected ({len(batch)}, {extractor.dimensions})"
        )
    for (index, _), vector in zip(batch, vectors, strict=True):
        if not np.isfinite(vector).all():
            path = images.folder / images.records[index].image
            raise ValueError(f"{extractor.name} gives numbers that are not finite for {path}")
    return vectors


def _entry(cache: Path, extractor: Extractor, digest: str) -> Path:
    key = hashlib.sha256(extractor.key.encode()).hexdigest()[:32]
    return cache / key / digest[:2] / f"{digest}.safetensors"


def _read(path: Path, dimensions: int) -> Features | None:
    """Return a kept vector (D,), or None where there is none that is whole."""
    try:
        stored: dict[str, NDArray[Any]] = load(path.read_bytes())
        vector, digest = stored["vector"], stored["sha256"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = digest.tobytes() == hashlib.sha256(vector.tobytes()).digest()
    fits = vector.shape == (dimensions,) and vector.dtype == np.float32 and bool(np.isfinite(vector).all())
    return vector if whole and fits else None


def _write(path: Path, vector: Features) -> None:
    """Keep a vector: aside, then renamed. Not flushed, since a broken entry is noticed by its digest."""
    vector = np.ascontiguousarray(vector, np.float32)
    digest = np.frombuffer(hashlib.sha256(vector.tobytes()).digest(), np.uint8)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # other processes may write the same one
    with contextlib.suppress(OSError):
        _private(path.parent)
        try:
            partial.write_bytes(save({"vector": vector, "sha256": digest}))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _private(folder: Path) -> None:
    """Make a folder that only its owner may read, with those above it that are missing."""
    if not folder.is_dir():
        _private(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
