from dataclasses import replace

import cv2
import numpy as np
import pytest

from fundusforge.images import resize
from fundusforge.prepare.duplicates import find_duplicates, print_of
from fundusforge.prepare.picture import prepare_image

LIMITS = {"distance": 60, "correlation": 0.9}


def printed(image: np.ndarray):
    prepared = prepare_image(image, size=256)
    return print_of(prepared.image, prepared.field_of_view)


def test_copies_are_found_however_they_were_stored(fundus):
    original = fundus(500, seed=3)["image"]
    jpeg = cv2.imdecode(cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    brighter = np.clip(original * 1.15 + 4 * (original > 0), 0, 255).astype(np.uint8)
    padded = cv2.copyMakeBorder(original, 40, 0, 0, 100, cv2.BORDER_CONSTANT)
    copies = [original, original, resize(original, 330), jpeg, brighter, padded]
    others = [fundus(500, seed=seed)["image"] for seed in (11, 12, 13)]
    found = find_duplicates([printed(image) for image in others + copies], **LIMITS)
    assert found == {4: 3, 5: 3, 6: 3, 7: 3, 8: 3}


def test_other_eyes_and_mirrored_ones_do_not_match(fundus):
    images = [fundus(400, seed=seed)["image"] for seed in range(12)]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    assert find_duplicates([printed(image) for image in images + mirrored], **LIMITS) == {}


def test_near_needs_both_hash_and_correlation(fundus):
    one, other = (printed(fundus(400, seed=seed)["image"]) for seed in (1, 2))
    disguised = replace(other, hash=one.hash)
    assert find_duplicates([one, disguised], **LIMITS) == {}
    assert find_duplicates([one, disguised], distance=60, correlation=-1.0) == {1: 0}
    assert find_duplicates([], **LIMITS) == {} == find_duplicates([one], **LIMITS)


def test_idrid_holds_three_pairs(data_root):
    from fundusforge.sources import SOURCES

    root = data_root / "IDRiD"
    if not (root / "B. Disease Grading").is_dir():
        pytest.skip("no IDRiD")
    pairs = (("IDRiD_021", "IDRiD_391"), ("IDRiD_045", "IDRiD_333"), ("IDRiD_079", "IDRiD_279"))
    items = {i.key: i for i in SOURCES["idrid"](root=root, task="grading").items()}
    names = [name for pair in pairs for name in pair]
    prints = [printed(items[f"grading_train_{name}"].load()) for name in names]
    assert find_duplicates(prints, **LIMITS) == {1: 0, 3: 2, 5: 4}


def test_slices_of_one_scan_are_copies_only_with_the_same_pixels(fundus):
    original = fundus(400, seed=3)["image"]
    brighter = np.clip(original * 1.1 + 4 * (original > 0), 0, 255).astype(np.uint8)
    slices = [printed(image) for image in (original, brighter, original)]
    assert find_duplicates(slices, **LIMITS, scans=["a", "a", "a"]) == {2: 0}
    assert find_duplicates(slices, **LIMITS, scans=["a", "b", "a"]) == {1: 0, 2: 0}
    assert find_duplicates(slices, **LIMITS, scans=[None, None, None]) == {1: 0, 2: 0}
