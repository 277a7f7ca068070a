import cv2
import numpy as np
import pytest

from fundusforge.prepare.picture import Unfit, prepare_image
from fundusforge.prepare.quality import Quality, field_fault, measure, quality_fault


def verdict(image: np.ndarray, limits: Quality) -> str | None:
    try:
        prepared = prepare_image(image)
    except Unfit as error:
        return str(error)
    return field_fault(prepared.field, limits) or quality_fault(
        measure(prepared.image, prepared.field_of_view), limits
    )


def degraded(image: np.ndarray, how: str) -> np.ndarray:
    if how == "gamma":
        return np.rint(255 * (image / 255.0) ** 5).astype(np.uint8)
    if how == "blur":
        return cv2.GaussianBlur(image, (0, 0), 0.012 * len(image))
    if how == "saturation":
        return np.clip(image * 4.0, 0, 255).astype(np.uint8)
    if how == "zoom":
        quarter = len(image) // 8
        middle = len(image) // 2
        return image[middle - quarter : middle + quarter, middle - quarter : middle + quarter]
    return cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA)


REASONS = {
    "gamma": "dark|not found",
    "blur": "blurred",
    "saturation": "saturated",
    "zoom": "zoomed in|not found",
    "small": "too small",
}


@pytest.mark.parametrize("seed", range(3))
def test_a_good_picture_passes(fundus, seed):
    assert verdict(fundus(400, seed=seed)["image"], Quality()) is None


@pytest.mark.parametrize("how", REASONS)
def test_a_bad_one_does_not(fundus, how):
    fault = verdict(degraded(fundus(400)["image"], how), Quality())
    assert fault is not None and any(reason in fault for reason in REASONS[how].split("|")), fault


def test_the_gate_can_be_opened(fundus):
    assert verdict(degraded(fundus(400)["image"], "blur"), Quality(enabled=False)) is None
    assert "not found" in str(verdict(np.full((300, 300, 3), 128, np.uint8), Quality(enabled=False)))


def test_zoomed_in_at_the_edge(fundus):
    image = fundus(800)["image"]
    fault = verdict(np.ascontiguousarray(image[:400, :400]), Quality())
    assert fault is not None and "zoomed in" in fault
