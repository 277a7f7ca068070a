"""The phantom eye: masks, anatomy, lesions by grade, and the same eye at every size."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from fundusforge.records import MASKS
from fundusforge.severity import Findings, Quadrant, grade
from fundusforge.sources.phantom import Eye, EyeConfig, draw_eye
from fundusforge.sources.phantom.anatomy import sample_anatomy
from fundusforge.sources.phantom.eye import LESIONS
from fundusforge.sources.phantom.lesions import place_lesions, quadrant_origin
from fundusforge.sources.phantom.vessels import grow_tree

WIDE = EyeConfig(field_angle=(45.0, 45.0), truncated_share=0.0)


@pytest.fixture(scope="module", params=range(6))
def eye(request) -> Eye:
    return draw_eye(request.param, size=512, render=False)


@pytest.mark.parametrize("level", range(5))
def test_masks_have_known_names_are_binary_and_stay_in_the_field(level):
    drawn = draw_eye(11, size=256, grade=level, render=False)
    assert set(drawn.masks) <= set(MASKS)
    assert set(LESIONS) <= set(drawn.masks)
    for mask in (*drawn.masks.values(), drawn.field_of_view):
        assert mask.shape == (256, 256)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        assert not (mask & ~drawn.field_of_view).any()


def test_same_seed_same_bytes():
    first, again = (draw_eye(3, size=256, grade=4) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert all(first.masks[name].tobytes() == again.masks[name].tobytes() for name in first.masks)
    assert draw_eye(4, size=256, grade=4).image.tobytes() != first.image.tobytes()


def test_masks_do_not_depend_on_whether_the_photograph_is_painted():
    bare, painted = draw_eye(5, size=256, grade=2, render=False), draw_eye(5, size=256, grade=2)
    assert not bare.image.any()
    assert painted.image.any()
    assert all(np.array_equal(bare.masks[name], painted.masks[name]) for name in bare.masks)


@pytest.mark.parametrize("size", [256, 1024])
def test_the_same_eye_at_every_size(size):
    reference, other = draw_eye(6, size=512, grade=3), draw_eye(6, size=size, grade=3)
    shift = np.subtract(other.disc_centre, np.array(reference.disc_centre) * size / 512)
    assert np.abs(shift).max() < 1e-6
    assert other.eye == reference.eye
    for name in ("vessels", "disc", "haemorrhages"):
        resized = cv2.resize(other.masks[name], (512, 512), interpolation=cv2.INTER_AREA) > 127
        grown = ndimage.binary_dilation(reference.masks[name] > 0, iterations=2)
        assert (resized & grown).sum() > 0.98 * resized.sum(), name
    small = [cv2.resize(drawn.image, (64, 64), interpolation=cv2.INTER_AREA) for drawn in (reference, other)]
    assert np.abs(small[0].astype(int) - small[1]).mean() < 3


def test_grade_and_side_leave_the_vessels_as_they_were():
    healthy, sick = draw_eye(7, size=256, render=False), draw_eye(7, size=256, grade=2, render=False)
    assert np.array_equal(healthy.masks["arteries"], sick.masks["arteries"])
    config = EyeConfig(torsion=(0.0, 0.0))
    left, right = (draw_eye(7, size=256, eye=side, render=False, config=config) for side in ("left", "right"))
    assert (left.eye, right.eye) == ("left", "right")
    mirrored = ndimage.binary_dilation(right.masks["vessels"][:, ::-1] > 0)
    assert (mirrored & (left.masks["vessels"] > 0)).sum() > 0.97 * (left.masks["vessels"] > 0).sum()


def test_temporal_is_left_in_a_right_eye():
    for seed in range(8):
        drawn = draw_eye(seed, size=64, render=False)
        fovea_is_left = drawn.fovea_centre[0] < drawn.disc_centre[0]
        assert fovea_is_left == (drawn.eye == "right")


def test_proportions_of_disc_cup_and_fovea(eye):
    disc = eye.masks["disc"] > 0
    height = np.ptp(np.flatnonzero(disc.any(1))) + 1
    width = np.ptp(np.flatnonzero(disc.any(0))) + 1
    assert height > 0.98 * width
    distance = np.hypot(*np.subtract(eye.disc_centre, eye.fovea_centre))
    assert 2.0 < distance / height < 3.0
    assert not (eye.masks["cup"] & ~eye.masks["disc"]).any()
    assert eye.masks["cup"].any()
    assert (disc & (eye.masks["vessels"] > 0)).any()


def test_no_vessel_crosses_the_fovea(eye):
    assert not (eye.masks["vessels"] & eye.masks["fovea"]).any()


def test_veins_are_wider_than_arteries(eye):
    def widest(mask: np.ndarray) -> float:
        distance = ndimage.distance_transform_edt(mask > 0)
        return float(np.percentile(distance[distance > 0], 99))

    assert 0.5 < widest(eye.masks["arteries"]) / widest(eye.masks["veins"]) < 1.0


def test_the_vessels_are_one_connected_tree(eye):
    parts, count = ndimage.label(eye.masks["vessels"], np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    assert sizes.max() > 0.93 * sizes.sum()
    assert count < 25


def test_vessel_amount_is_that_of_human_annotations():
    share = []
    for seed in range(12):
        drawn = draw_eye(seed, size=512, render=False)
        share.append((drawn.masks["vessels"] > 0).sum() / (drawn.field_of_view > 0).sum())
    assert 0.10 < np.mean(share) < 0.135
    assert np.min(share) > 0.07
    assert np.max(share) < 0.17


def test_a_lesser_grade_has_no_lesion_of_a_higher_one():
    healthy, mild = (draw_eye(8, size=512, grade=level, render=False) for level in (0, 1))
    assert not any(healthy.masks[name].any() for name in LESIONS)
    assert [name for name in LESIONS if mild.masks[name].any()] == ["microaneurysms"]


def test_proliferative_eyes_show_a_sign_of_it():
    signs = ("neovascularisation", "proliferative_membranes", "haemorrhages")
    for seed in range(6):
        drawn = draw_eye(seed, size=256, grade=4, render=False)
        assert grade(drawn.findings) == 4
        assert any(drawn.masks[name].any() for name in signs)


def test_every_lesion_kind_can_be_drawn_and_seen():
    config = EyeConfig(drusen_share=1.0, membrane_share=1.0)
    seen = dict.fromkeys(LESIONS, False)
    for seed in range(14):
        drawn = draw_eye(seed, size=256, grade=4, render=False, config=config)
        seen |= {name: True for name in LESIONS if drawn.masks[name].any()}
    assert all(seen.values()), seen


def _laid_out(findings: Findings, seed: int = 0):
    anatomy = sample_anatomy(np.random.default_rng([seed, 0]), 512, None, WIDE)
    trees = [
        grow_tree(np.random.default_rng([seed, part]), anatomy.territory, WIDE.artery) for part in (1, 2)
    ]
    return anatomy, place_lesions(np.random.default_rng(seed), findings, anatomy, *trees)


@pytest.mark.parametrize("index", range(4))
def test_lesions_lie_in_their_quadrant_and_number_as_found(index):
    wanted = Quadrant(microaneurysms=7, haemorrhages=24, soft_exudates=2)
    findings = Findings(quadrants=tuple(wanted if i == index else Quadrant() for i in range(4)))
    anatomy, lesions = _laid_out(findings)
    origin = quadrant_origin(anatomy)
    for name, count in (("microaneurysms", 7), ("haemorrhages", 24), ("soft_exudates", 2)):
        centres = np.array([outline.mean(0) for outline in lesions.outlines[name]])
        assert len(centres) == count
        below, nasal = centres[:, 1] < origin[1], centres[:, 0] < origin[0]
        assert np.mean(2 * below + nasal == index) > 0.9
        assert anatomy.visible(centres).all()


@pytest.mark.parametrize("distance", [0.6, 1.4])
def test_the_nearest_hard_exudate_is_as_far_as_found(distance):
    quadrants = tuple(Quadrant(hard_exudates=8) for _ in range(4))
    anatomy, lesions = _laid_out(Findings(quadrants=quadrants, exudate_distance=distance), seed=2)
    centres = np.array([outline.mean(0) for outline in lesions.outlines["hard_exudates"]])
    nearest = np.linalg.norm(centres - anatomy.territory.fovea, axis=1).min()
    assert nearest / (2 * anatomy.disc_radii[1]) == pytest.approx(distance, abs=0.12)


def test_a_crowded_narrow_field_ends_with_fewer_lesions_instead_of_none_or_never():
    config = EyeConfig(field_angle=(20.0, 20.0), truncated_share=1.0, truncation=(0.7, 0.7))
    for seed in range(3):
        drawn = draw_eye(seed, size=96, grade=3, render=False, config=config)
        assert grade(drawn.findings) == 3
        assert drawn.masks["vessels"].any()


def test_microaneurysms_are_small_and_separate():
    drawn = draw_eye(1, size=1024, grade=1, render=False, config=WIDE)
    parts, count = ndimage.label(drawn.masks["microaneurysms"])
    assert count == pytest.approx(drawn.findings.total("microaneurysms"), abs=2)
    millimetres = 45 * 0.288 / 1024
    areas = np.bincount(parts.ravel())[1:] * millimetres**2
    assert areas.max() < np.pi * 0.08**2


@pytest.mark.parametrize(
    ("level", "lesion", "darker"),
    [(2, "haemorrhages", True), (2, "hard_exudates", False), (4, "laser_marks", False)],
)
def test_lesions_have_their_colour(level, lesion, darker):
    for seed in range(40):
        sick = draw_eye(seed, size=256, grade=level)
        inside = sick.masks[lesion] > 0
        if inside.sum() > 40:
            break
    around = ndimage.binary_dilation(inside, iterations=6) & ~ndimage.binary_dilation(inside, iterations=2)
    around &= sick.field_of_view > 0
    green = sick.image[..., 1].astype(float)
    contrast = green[inside].mean() - green[around].mean()
    assert contrast < -5 if darker else contrast > 5


def test_the_photograph_is_black_outside_and_plausible_inside():
    for seed in range(6):
        drawn = draw_eye(seed, size=256)
        inside = drawn.field_of_view > 0
        assert drawn.image.shape == (256, 256, 3)
        assert not drawn.image[~inside].any()
        red, green, blue = np.median(drawn.image[inside], axis=0)
        assert red > green > blue
        luminance = drawn.image.astype(float).mean(2)
        disc = (drawn.masks["disc"] > 0) & (drawn.masks["vessels"] == 0)
        assert luminance[disc].mean() > luminance[inside].mean() + 10
        vessel, ground = drawn.masks["veins"] > 0, inside & (drawn.masks["vessels"] == 0)
        ground &= ndimage.binary_dilation(vessel, iterations=4)
        assert drawn.image[..., 1][vessel].mean() < drawn.image[..., 1][ground].mean() - 4


def test_the_field_of_view_is_a_circle_or_cut_above_and_below():
    full = draw_eye(0, size=256, render=False, config=EyeConfig(truncated_share=0.0)).field_of_view > 0
    cut = draw_eye(0, size=256, render=False, config=EyeConfig(truncated_share=1.0)).field_of_view > 0
    assert abs(np.flatnonzero(full.any(0)).size - np.flatnonzero(full.any(1)).size) <= 1
    assert cut.any(1).sum() < 0.96 * cut.any(0).sum()
    assert not (cut & ~full).any()


@pytest.mark.parametrize(
    ("values", "message"), [({"grade": 5}, "grade must be"), ({"size": 16}, "size must")]
)
def test_wrong_input_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        draw_eye(0, **values)
