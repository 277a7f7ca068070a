"""Batches of a dataset folder as a model's `View` wants them, each a function of the seed and its number.

The sequence of images is endless: epoch after epoch, each in an order drawn from (seed, epoch); crop and
changes of the k-th image are drawn from (seed, k). A process takes its contiguous share of every batch, so
several processes together read what one would.
"""

# torch and torchvision annotate themselves only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge import images
from fundusforge.models.recipe import CONTRAST_UNIT, View
from fundusforge.records import DatasetError, Record, finding_label
from fundusforge.severity import LESIONS
from fundusforge.training.augment import Sample, draw
from fundusforge.training.draws import draws_of

_ORDER, _CHANGE = 1, 2
"""Streams of the seed: the order of images, and what is done to each; `draws` has a third."""


class Batches:
    """Endless batches of records; iterating yields dicts as `fundusforge.models.recipe.View` describes.

    Pictures are decoded (and resized) once and kept while they fit the cache. An image's values do not depend
    on the cache, on the number of workers, nor on where the sequence was entered.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Record],
        view: View,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_image: int = 0,
        cache_gb: float = 2.0,
    ) -> None:
        """Prepare to read.

        Args:
            folder: The dataset folder.
            records: Those of its records to read; those without the masks of `view.needs` are left out.
            view: How the model wants to see them.
            batch: Images per batch, over all processes.
            seed: Seed of order and changes.
            rank: This process.
            world: Number of processes.
            workers: Background threads that prepare batches ahead; 0 prepares each when it is asked for.
            start_image: Image of the sequence at which `iter` starts, a multiple of `batch`.
            cache_gb: Memory for decoded pictures, in 10^9 bytes.

        Raises:
            DatasetError: No record has the masks needed or knows what is to be balanced, or whole images
            differ in size and `view.size` is None.
            ValueError: The batch cannot be split evenly over the processes.
        """
        if batch % world or (view.halved_from is not None and batch % (2 * world)):
            half = " that can be halved" if view.halved_from is not None else ""
            raise ValueError(f"batch {batch} is no multiple of {world} processes{half}")
        self.folder, self.view, self.batch, self.seed = Path(folder), view, batch, seed
        self.rank, self.world, self.workers, self.start_image = rank, world, workers, start_image
        self.records = records
        self.members = [
            i
            for i, r in enumerate(records)
            if set(view.needs) <= r.masks.keys() and set(view.contrasts) <= r.contrasts.keys()
        ]
        if not self.members:
            wanted = f"the masks {', '.join(view.needs) or '(any)'}"
            if view.contrasts:
                wanted += f" and the contrasts {', '.join(view.contrasts)}"
            raise DatasetError(f"{folder}: none of {len(records)} records has {wanted}")
        if view.size is None and view.crop is None:
            _check_sizes(self.folder, [records[i] for i in self.members])
        self._findings = {
            i: [finding(folder, records[i], name) for name in view.labels] for i in self.members
        }
        self._groups = self._balanced()
        self._cache = _Cache(round(cache_gb * 1e9))
        self._codes: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        """Number of records that are read (one epoch)."""
        return len(self.members)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches of this process's share from `start_image` on, without end."""
        return self.starting_at(self.start_image)

    def starting_at(self, image: int) -> Iterator[dict[str, Tensor]]:
        """Batches of this process's share from this image of the sequence on, without end."""
        if image % self.view.batch_at(image, self.batch):
            raise ValueError(f"image {image} is not the first of a batch of {self.batch}")
        if not self.workers:
            while True:
                yield self.load_at(image)
                image += self.view.batch_at(image, self.batch)
        with ThreadPoolExecutor(self.workers, "batches", _one_thread) as pool:
            ahead: deque[Future[dict[str, Tensor]]] = deque()
            try:
                while True:
                    while len(ahead) < 2 * self.workers:
                        ahead.append(pool.submit(self.load_at, image))
                        image += self.view.batch_at(image, self.batch)
                    yield ahead.popleft().result()
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def load(self, number: int) -> dict[str, Tensor]:
        """This process's share of the given batch, counted in batches of the full size."""
        return self.load_at(number * self.batch)

    def load_at(self, image: int) -> dict[str, Tensor]:
        """This process's share of the batch that begins at this image of the sequence."""
        share = self.view.batch_at(image, self.batch) // self.world
        first = image + self.rank * share
        rows = [self.sample(k) for k in range(first, first + share)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def place(self, k: int) -> int:
        """Which record the k-th image of the sequence is."""
        group, turn = k % len(self._groups), k // len(self._groups)
        members = self._groups[group]
        epoch, place = divmod(turn, len(members))
        return members[int(_order(self.seed, group, epoch, len(members))[place])]

    def sample(self, k: int) -> dict[str, Tensor]:
        """The k-th image of the sequence, without the leading dimension of a batch."""
        index = self.place(k)
        record = self.records[index]
        sample = draw(self.stored(index), self.view, np.random.default_rng([self.seed, _CHANGE, k]))
        known = [knows(record, name) for name in self.view.masks]
        row = {
            "image": sample.image * 2.0 - 1.0,
            "masks": sample.masks,
            "masks_known": torch.tensor(known, dtype=torch.float32),
            "field_of_view": sample.field_of_view,
            "grade": torch.tensor(-1 if record.grade is None else record.grade),
            "index": torch.tensor(index),
        }
        if self.view.labels:
            row["labels"] = torch.tensor(self._findings[index], dtype=torch.float32)
        if self.view.draws:
            row["draws"] = draws_of(self.seed, k, self.view.draws)
        if self.view.code:
            row["code"] = torch.from_numpy(self._codes[index])
        return row

    def _balanced(self) -> list[list[int]]:
        """Members in the groups that take turns, as the view's `balance` says."""
        balance, groups = self.view.balance, dict[tuple[str, int], list[int]]()
        if balance == "images":
            return [self.members]
        for i in self.members:
            record = self.records[i]
            keys = [(record.camera or record.source, 0)]
            if balance == "grades":
                keys = [] if record.grade is None else [("grade", record.grade)]
            elif balance == "labels":
                states = zip(self.view.labels, self._findings[i], strict=True)
                keys = [(name, state) for name, state in states if state >= 0]
            for key in keys:
                groups.setdefault(key, []).append(i)
        if not groups:
            wanted = "grade" if balance == "grades" else ", ".join(self.view.labels)
            raise DatasetError(f"{self.folder}: of none of {len(self.members)} records is known: {wanted}")
        return [groups[key] for key in sorted(groups)]

    def stored(self, index: int) -> Sample:
        """A record's pictures as they are, resized where the view says so, from the cache where possible."""
        found = self._cache.get(index)
        if found is None:
            found = self._decode(index)
            self._cache.put(index, found)
        return found

    def _decode(self, index: int) -> Sample:
        """Read a record's pictures."""
        record, size = self.records[index], self.view.size
        photograph = not self.view.contrasts
        image: NDArray[Any] = (
            images.read_image(self.folder / record.image) if photograph else self._contrasts(record)
        )
        height, width = image.shape[:2]
        inside = np.full((height, width), 255, np.uint8)
        if record.field_of_view:
            inside = _mask(self.folder / record.field_of_view, (height, width))
        if self.view.code and index not in self._codes:
            self._codes[index] = images.colour_code(image, inside)
        soft = [name in record.masks and record.masks[name].soft for name in self.view.masks]
        masks = [
            _mask(self.folder / record.masks[name].path, (height, width), soft=values)
            if name in record.masks
            else np.zeros((height, width), np.uint8)
            for name, values in zip(self.view.masks, soft, strict=True)
        ]
        if size is not None:
            covered = [values or self.view.coverage for values in soft]
            image = images.resize(_square(image), size)
            *masks, inside = (
                images.resize(_square(layer), size) if values else images.resize_mask(_square(layer), size)
                for layer, values in zip((*masks, inside), (*covered, False), strict=True)
            )
        image = images.grey_clahe(image) if self.view.grey else image
        stack = torch.from_numpy(np.stack([*masks, inside]))
        layers = image.reshape(*image.shape[:2], -1).transpose(
            2, 0, 1
        )  # resizing drops a single contrast's axis
        return Sample(torch.from_numpy(np.ascontiguousarray(layers)), stack[:-1], stack[-1:])

    def _contrasts(self, record: Record) -> NDArray[np.float32]:
        """Read contrasts as (H, W, C) so that `2 * value - 1` is in units of `CONTRAST_UNIT`."""
        found = [record.contrasts[name] for name in self.view.contrasts]
        layers = [images.read_contrast(self.folder / c.path, scale=c.scale, offset=c.offset) for c in found]
        return np.dstack(layers) / np.float32(2 * CONTRAST_UNIT) + np.float32(0.5)


def knows(record: Record, mask: str) -> bool:
    """Tell whether a mask is known: drawn, or empty because a person graded the retina free of lesions."""
    healthy = record.grade == 0 and "grade" not in record.predicted
    return mask in record.masks or (healthy and mask in LESIONS)


class _Cache:
    """Samples in memory up to a number of bytes; the rest is not kept."""

    def __init__(self, capacity: int) -> None:
        self._left, self._kept, self._lock = capacity, dict[int, Sample](), threading.Lock()

    def get(self, index: int) -> Sample | None:
        return self._kept.get(index)

    def put(self, index: int, sample: Sample) -> None:
        size = sample.image.nbytes + sample.layers.nbytes
        with self._lock:
            if index not in self._kept and size <= self._left:
                self._kept[index] = sample
                self._left -= size


@lru_cache(maxsize=64)
def _order(seed: int, group: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Order of a group's members in one epoch."""
    return np.random.default_rng([seed, _ORDER, group, epoch]).permutation(count)


def finding(folder: Path, record: Record, name: str) -> int:
    """Tell whether a person saw a finding in a photograph: 1 there, 0 not there, -1 nobody said.

    It is there with its label or a mask of its name that is not empty. It is not there with an empty mask,
    without the label in a photograph that has other labels, or in a retina of grade 0. What a model predicted
    says nothing.
    """
    said = set(record.labels) - set(record.predicted)
    mask = record.masks.get(name)
    if {name, finding_label(name)} & said:
        return 1
    if mask is not None and mask.origin != "predicted":
        return int(images.read_mask(folder / mask.path, soft=mask.soft).any())
    return 0 if said or (record.grade == 0 and "grade" not in record.predicted) else -1


def _mask(path: Path, size: tuple[int, int], *, soft: bool = False) -> NDArray[np.uint8]:
    """Read a mask that must have the image's size."""
    mask = images.read_mask(path, soft=soft)
    if mask.shape != size:
        raise DatasetError(
            f"{path}: {mask.shape[1]}x{mask.shape[0]} pixels, but its image is {size[1]}x{size[0]}"
        )
    return mask


def _square(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pad with black to a square, the picture in the middle."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    if height == width:
        return pixels
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((side, side, *pixels.shape[2:]), pixels.dtype)
    padded[top : top + height, left : left + width] = pixels
    return padded


def _check_sizes(folder: Path, records: Sequence[Record]) -> None:
    """Refuse whole images of different sizes, which no batch can hold."""
    from PIL import Image

    first: tuple[str, tuple[int, int]] | None = None
    for record in records:
        with Image.open(folder / record.image) as picture:
            first = first or (record.image, picture.size)
            if picture.size != first[1]:
                sizes = [f"{name} is {w}x{h}" for name, (w, h) in (first, (record.image, picture.size))]
                raise DatasetError(
                    f"{folder}: whole images must share one size, but {sizes[0]} and {sizes[1]}; "
                    "prepare them to one --size or train on crops"
                )


def _one_thread() -> None:
    """Keep a background thread to one core: the network needs the others."""
    torch.set_num_threads(1)
