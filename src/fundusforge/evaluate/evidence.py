"""What the metrics look at: two sets of images, read when asked for, and the segmenter that re-reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.features import Extractor, Features
from fundusforge.evaluate.features import features as extract
from fundusforge.evaluate.statistics import Statistic
from fundusforge.images import Grey, Image, read_image, read_mask
from fundusforge.records import DatasetError, Record

Segment = Callable[[Image, Grey | None], NDArray[np.float32]]
"""(H, W, 3) uint8 RGB and its (H, W) field of view or None, to (H, W) float32 probability of a structure."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Records of one folder; pictures are read when asked for."""

    folder: Path
    records: Sequence[Record]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [record.patient for record in self.records]

    def image(self, index: int) -> Image:
        """Return image `index`, (H, W, 3) uint8 RGB."""
        return read_image(self.folder / self.records[index].image)

    def mask(self, index: int, name: str) -> Grey:
        """Return a mask of image `index`, (H, W) uint8 0/255."""
        return read_mask(self.folder / self.records[index].masks[name].path)

    def field_of_view(self, index: int) -> Grey | None:
        """Return the field of view of image `index`, (H, W) uint8 0/255, or None if it has none.

        A synthetic image of which none was found when it was drawn is a retina throughout.

        Raises:
            DatasetError: It cannot be read, or nothing is inside it.
        """
        path = self.records[index].field_of_view
        if path is None:
            whole = self.records[index].synthetic
            return np.full(self.image(index).shape[:2], 255, np.uint8) if whole else None
        field_of_view = read_mask(self.folder / path)
        if not field_of_view.any():
            raise DatasetError(
                f"{self.folder / path}: the field of view is empty, so nothing can be measured"
            )
        return field_of_view

    def having(self, mask: str) -> ImageSet:
        """Return the images that have this mask, predicted ones apart."""
        kept = [r for r in self.records if mask in r.masks and r.masks[mask].origin != "predicted"]
        return ImageSet(folder=self.folder, records=kept)

    def without_patients(self, patients: frozenset[str]) -> ImageSet:
        """Return the images of other patients."""
        return ImageSet(folder=self.folder, records=[r for r in self.records if r.patient not in patients])


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A segmenter of one structure as the metrics see it: injected, so that they depend on no model."""

    name: str
    segment: Segment
    threshold: float
    """Chosen on the segmenter's own training or validation images."""
    patients: frozenset[str] | None = None
    """Patients it was trained on, as named in records; None if it does not say."""


Given = NDArray[np.float64] | Statistic
"""What a figure is made of: (n,) values of images, whose mean it is, or a function of their weights."""
Kept = tuple[Given, Sequence[Record]]
"""What a figure was made of, and of which images."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything a metric may look at."""

    synthetic: ImageSet
    real: ImageSet
    judge: Judge | None
    """Reads vessels."""
    size: int
    """Side in pixels to which pictures are brought where a metric compares them pixel by pixel."""
    margin: float
    """Largest standardised difference that counts as equivalent."""
    reference: str | None
    """Real image to which structural similarity is measured; None for the first with a vessel mask."""
    seed: int
    draws: int
    repeats: int
    judges: Mapping[str, Judge] = field(default_factory=dict[str, Judge])
    """Segmenters of further structures, by the name of the mask."""
    extractor: Extractor | None = None
    """Turns pictures into vectors for the metrics that compare sets."""
    cache: Path | None = None
    """Folder that keeps these vectors; None keeps them for this evaluation alone."""
    lpips: Path | None = None
    """Weights of the perceptual distance."""
    progress: Callable[[str], Any] | None = None
    """Called with a line of text as the work goes on."""
    kept: dict[str, Kept] = field(default_factory=dict[str, Kept], repr=False)
    """What figures of the synthetic images were made of; see `keep`."""
    kept_real: dict[str, Kept] = field(default_factory=dict[str, Kept], repr=False)
    anatomies: dict[Path, Any] = field(default_factory=dict[Path, Any], repr=False)
    """The anatomy of images already measured (`anatomy.population`), by file."""
    _features: dict[Path, Features] = field(default_factory=dict[Path, Features], repr=False)
    _predicted: dict[tuple[Path, str], tuple[NDArray[np.uint8], tuple[int, int]]] = field(
        default_factory=dict[tuple[Path, str], tuple[NDArray[np.uint8], tuple[int, int]]], repr=False
    )

    def keep(self, name: str, synthetic: Kept, real: Kept | None) -> None:
        """Keep what a figure was made of, image by image, so that it can be had for subgroups too.

        Args:
            name: Of the figure.
            synthetic: One value for each of these records, or a statistic of their weights.
            real: The same of the real images, where one set alone has the figure.
        """
        self.kept[name] = synthetic
        if real is not None:
            self.kept_real[name] = real

    def tell(self, text: str) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(text)

    def features(self, images: ImageSet) -> Features:
        """Return the vectors of a set of images, (N, D) float32; those of an image are computed once.

        Raises:
            ValueError: No extractor, or one that gives numbers that are not finite.
            DatasetError: A picture that cannot be read.
        """
        if self.extractor is None:
            raise ValueError("no extractor was given")
        paths = [images.folder / record.image for record in images.records]
        new = [i for i, path in enumerate(paths) if path not in self._features]
        fresh = ImageSet(folder=images.folder, records=[images.records[i] for i in new])
        vectors = extract(fresh, self.extractor, cache=self.cache, progress=self.progress)
        self._features.update(zip((paths[i] for i in new), vectors, strict=True))
        if not paths:
            return vectors
        return np.stack([self._features[path] for path in paths])

    def judge_of(self, mask: str) -> Judge | None:
        """Return the segmenter that reads a structure, if one was given."""
        return self.judge if mask == "vessels" else self.judges.get(mask)

    def probability(self, images: ImageSet, index: int, mask: str = "vessels") -> NDArray[np.float32]:
        """Return a judge's probability map of one image and keep its thresholded mask.

        Raises:
            ValueError: No judge, or a map of another shape than the image.
        """
        judge = self.judge_of(mask)
        if judge is None:
            raise ValueError(f"no segmenter of {mask} was given")
        image = images.image(index)
        probability = judge.segment(image, images.field_of_view(index))
        if probability.shape != image.shape[:2]:
            raise ValueError(
                f"{judge.name} gave a map {probability.shape} for {images.records[index].image} "
                f"of {image.shape[:2]}"
            )
        key = images.folder / images.records[index].image, mask
        self._predicted[key] = np.packbits(probability >= judge.threshold), image.shape[:2]
        return probability

    def predicted_mask(self, images: ImageSet, index: int, mask: str = "vessels") -> Grey:
        """Return a judge's (H, W) mask of one image, 0/255; segmented once, kept as bits."""
        key = images.folder / images.records[index].image, mask
        if key not in self._predicted:
            self.probability(images, index, mask)
        bits, (height, width) = self._predicted[key]
        return np.unpackbits(bits, count=height * width).reshape(height, width) * np.uint8(255)
