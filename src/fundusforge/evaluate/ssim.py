"""Structural similarity (Wang et al., IEEE Transactions on Image Processing 13, 2004), in two forms.

*Against one reference* (Sengupta et al. 2019): the mean similarity of a set of images to one fixed real
image, for photographs and for vessel maps, beside the same mean for real images of other patients. It
says whether the set looks like such pictures at all; it is not a likeness of pairs, and a blurred set
scores high.

*Paired*: an image painted on a real record's mask against that record's photograph.

The local statistics are those of the original code (Gaussian of 1.5 px, 11 px wide, population variance),
so a value equals scikit-image's with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, up
to 2e-6 (flat pictures to 1e-5); the filter is OpenCV's, several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Floor, Statistic, Weights, bootstrap, real_floor, weighted_mean
from fundusforge.images import resize, resize_mask

_RADIUS = 5
_SIGMA = 1.5
_FLOOR_PAIRS = 16
"""Pairs of real images compared in each repeat of the paired form's floor."""


def ssim(first: NDArray[Any], second: NDArray[Any], *, field_of_view: NDArray[Any] | None = None) -> float:
    """Return the mean structural similarity of two pictures, in [-1, 1]; 1 for equal pictures.

    Args:
        first: (H, W) or (H, W, 3) uint8, at least 11 pixels each way; channels are averaged.
        second: Of the same shape.
        field_of_view: (H, W), average inside it only (where not 0); by default over the whole picture less
            its border of 5 pixels.

    Raises:
        ValueError: Other shapes or types, pictures under 11 pixels, or an empty field of view.
    """
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(
            f"expected two uint8 pictures of one shape, got {first.shape} {first.dtype} and "
            f"{second.shape} {second.dtype}"
        )
    if min(first.shape[:2]) < 2 * _RADIUS + 1:
        raise ValueError(f"pictures of {first.shape[:2]} are smaller than the 11 px filter")
    likeness = _similarity(first, second)[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    if field_of_view is None:
        return float(likeness.mean(dtype=np.float64))
    inside = field_of_view[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] != 0
    if inside.shape != likeness.shape[:2] or not inside.any():
        raise ValueError("the field of view is empty or of another size")
    return float(likeness[inside].mean(dtype=np.float64))


def _similarity(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """Return the local similarity, of the pictures' shape."""
    # Variances are differences of large numbers; around the pictures' own mean float32 loses the least.
    centre = np.float32((float(first.mean()) + float(second.mean())) / 510)
    x = np.subtract(first * np.float32(1 / 255), centre, dtype=np.float32)
    y = np.subtract(second * np.float32(1 / 255), centre, dtype=np.float32)
    mean_x, mean_y = _smooth(x), _smooth(y)
    spread = _smooth(x * x + y * y) - (mean_x * mean_x + mean_y * mean_y)
    joint = _smooth(x * y) - mean_x * mean_y
    mean_x += centre
    mean_y += centre
    c1, c2 = np.float32(0.01**2), np.float32(0.03**2)
    top = (2 * mean_x * mean_y + c1) * (2 * joint + c2)
    return np.divide(top, (mean_x * mean_x + mean_y * mean_y + c1) * (spread + c2), dtype=np.float32)


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    kernel = cv2.getGaussianKernel(2 * _RADIUS + 1, _SIGMA, cv2.CV_32F)
    smooth = cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth, np.float32)


def figures(evidence: Evidence) -> list[Figure]:
    """Return the similarity to one real reference (photographs and vessel maps) and that of painted pairs."""
    return [
        _against_reference(evidence, vessels=False),
        _against_reference(evidence, vessels=True),
        *_paired(evidence),
    ]


def _against_reference(evidence: Evidence, *, vessels: bool) -> Figure:
    what = "vessel maps" if vessels else "photographs"
    common: dict[str, Any] = {
        "name": f"ssim_reference_{'vessels' if vessels else 'photographs'}",
        "title": f"Structural similarity of {what} to one real reference",
        "extractor": "masks as stored (human, phantom or generated)" if vessels else "pixels, RGB",
        "resize": f"padded to a square, {evidence.size} px, area",
        "seed": evidence.seed,
    }
    synthetic = evidence.synthetic.having("vessels") if vessels else evidence.synthetic
    real = evidence.real.having("vessels") if vessels else evidence.real
    if not len(real) or not len(synthetic):
        return Figure(**common, value=None, n=len(synthetic), n_real=len(real), reason=f"a set has no {what}")
    chosen = _reference(evidence, real)
    if chosen is None:
        return Figure(
            **common, value=None, n=len(synthetic), n_real=len(real),
            reason=f"the reference {evidence.reference!r} is not among the real {what}",
        )  # fmt: skip
    other = real.without_patients(frozenset({real.records[chosen].patient}))
    reference = _picture(real, chosen, evidence.size, vessels=vessels)
    values = _to_reference(synthetic, reference, evidence.size, vessels=vessels)
    baseline = _to_reference(other, reference, evidence.size, vessels=vessels)
    interval = bootstrap(
        lambda w: weighted_mean(values, w[0]), synthetic.patients, seed=evidence.seed, draws=evidence.draws
    )
    extra: dict[str, Any] = {}
    if len(other):
        real_interval = bootstrap(
            lambda w: weighted_mean(baseline, w[0]), other.patients, seed=evidence.seed, draws=evidence.draws
        )
        extra = {
            "real": float(baseline.mean()),
            "real_low": real_interval.low,
            "real_high": real_interval.high,
            "floor": real_floor(
                lambda w: weighted_mean(baseline, w[0]),
                other.patients, seed=evidence.seed, repeats=evidence.repeats,
            ),
        }  # fmt: skip
    return Figure(
        **common, **measured(float(values.mean()), interval), **extra, n=len(synthetic), n_real=len(other),
        notes=(
            f"Reference: {real.records[chosen].image}; its patient is left out of the real mean.",
            "The nearer to the real mean the better; a higher value means duller pictures, not better.",
        ),
    )  # fmt: skip


def _reference(evidence: Evidence, real: ImageSet) -> int | None:
    """Return the place of the reference image: the one asked for, or the first that has a vessel mask."""
    names = [record.image for record in real.records]
    if evidence.reference is not None:
        return names.index(evidence.reference) if evidence.reference in names else None
    masked = {record.image for record in evidence.real.having("vessels").records}
    return names.index(min(masked or names))


def _to_reference(
    images: ImageSet, reference: NDArray[np.uint8], size: int, *, vessels: bool
) -> NDArray[np.float64]:
    return np.array([ssim(_picture(images, i, size, vessels=vessels), reference) for i in range(len(images))])


def _picture(images: ImageSet, index: int, size: int, *, vessels: bool) -> NDArray[np.uint8]:
    """Return one photograph or vessel map, padded with black to a square and brought to `size`."""
    if vessels:
        return resize_mask(_squared(images.mask(index, "vessels")), size)
    return np.asarray(resize(_squared(images.image(index)), size), np.uint8)


def _squared(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = [(top, side - height - top), (left, side - width - left), (0, 0)]
    return picture if height == width else np.pad(picture, edges[: picture.ndim])


def _paired(evidence: Evidence) -> list[Figure]:
    """Compare synthetic images with the photographs on whose masks they were painted."""
    real = {record.image: place for place, record in enumerate(evidence.real.records)}
    pairs = [
        (place, real[record.provenance.condition])
        for place, record in enumerate(evidence.synthetic.records)
        if record.provenance is not None and record.provenance.condition in real
    ]
    if not pairs:
        return []
    synthetic, size = evidence.synthetic, evidence.size
    whole, inside = (
        np.array([_pair(synthetic, first, evidence.real, second, size, inner) for first, second in pairs])
        for inner in (False, True)
    )
    patients = [evidence.real.records[second].patient for _, second in pairs]
    found: list[Figure] = []
    for values, inner in ((whole, False), (inside, True)):
        interval = bootstrap(_mean_of(values), patients, seed=evidence.seed, draws=evidence.draws)
        found.append(
            Figure(
                **measured(float(values.mean()), interval),
                name="ssim_paired_inside" if inner else "ssim_paired",
                title="Structural similarity to the photograph whose mask it was painted on"
                + (" (inside the field of view)" if inner else ""),
                better="higher",
                n=len(pairs),
                n_real=len(set(second for _, second in pairs)),
                floor=_paired_floor(evidence, inner),
                extractor="pixels, RGB",
                resize=f"both padded to a square, {size} px, area",
                seed=evidence.seed,
                notes=("Floor: photographs of different patients compared with each other, unpaired.",),
            )
        )
    return found


def _mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: weighted_mean(values, weights[0])


def _pair(first: ImageSet, i: int, second: ImageSet, j: int, size: int, inner: bool) -> float:
    field = second.field_of_view(j) if inner else None
    return ssim(
        _picture(first, i, size, vessels=False),
        _picture(second, j, size, vessels=False),
        field_of_view=None if field is None else resize(_squared(field), size) >= 128,
    )


def _paired_floor(evidence: Evidence, inner: bool) -> Floor | None:
    """Return the similarity of unpaired photographs: of one half of the patients to those of the other."""

    def between(halves: Sequence[Weights]) -> float | None:
        left, right = (np.flatnonzero(half) for half in halves)
        pairs = list(zip(left, right, strict=False))[:_FLOOR_PAIRS]
        values = [_pair(evidence.real, int(i), evidence.real, int(j), evidence.size, inner) for i, j in pairs]
        return float(np.mean(values)) if values else None

    return real_floor(between, evidence.real.patients, seed=evidence.seed, repeats=min(evidence.repeats, 5))
