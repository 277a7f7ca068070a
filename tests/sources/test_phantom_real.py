"""The phantom's vessel maps against those drawn by people (DRIVE, where the public data are at hand)."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.io import imread
from skimage.morphology import skeletonize

from fundusforge.sources.phantom import EyeConfig, draw_eye

SIZE = 512
DRIVE_CAMERA = EyeConfig(field_angle=(45.0, 45.0), truncated_share=0.0, margin=(0.0, 0.0))


def describe(vessels: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Amount, calibre, length and branching of a vessel map (H, W) within a field of view."""
    vessels = vessels & inside
    lines = skeletonize(vessels)
    neighbours = ndimage.convolve(lines.astype(int), np.ones((3, 3))) - 1
    branchings = ndimage.label(lines & (neighbours >= 3), np.ones((3, 3)))[1]
    radius = np.sqrt(inside.sum() / np.pi)
    return {
        "share": vessels.sum() / inside.sum(),
        "width": vessels.sum() / lines.sum(),
        "length": lines.sum() / radius,
        "branchings": float(branchings),
    }


def in_square(mask: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The part of a mask in the field's bounding square, at SIZE."""
    rows, columns = np.flatnonzero(field.any(1)), np.flatnonzero(field.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8) * 255
    return cv2.resize(cut, (SIZE, SIZE), interpolation=cv2.INTER_AREA) > 110


def test_vessel_maps_measure_like_human_annotations(data_root):
    folder = data_root / "DRIVE" / "training"
    if not folder.is_dir():
        pytest.skip("DRIVE is not among the public data sets here")
    human = []
    for path in sorted((folder / "1st_manual").iterdir())[::2]:
        field = imread(next((folder / "mask").glob(f"{path.name[:2]}_*"))).squeeze() > 127
        vessels = imread(path).squeeze() > 127
        human.append(describe(in_square(vessels, field), in_square(field, field)))
    drawn = [draw_eye(seed, size=SIZE, render=False, config=DRIVE_CAMERA) for seed in range(10)]
    phantom = [describe(eye.masks["vessels"] > 0, eye.field_of_view > 0) for eye in drawn]
    for measure, tolerance in {"share": 0.25, "width": 0.2, "length": 0.25, "branchings": 0.4}.items():
        real = np.mean([values[measure] for values in human])
        ours = np.mean([values[measure] for values in phantom])
        assert ours == pytest.approx(real, rel=tolerance), measure
