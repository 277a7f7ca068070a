"""Search, registration and chance: known poses, planted copies, p-values that keep their level."""

import dataclasses

import cv2
import numpy as np
import pytest

from fundusforge.audit.align import FINE, REGIONS, Gallery, Pose, plane
from fundusforge.audit.nearest import LOPSIDED, Near, Nearest, Training, Unrelated, View
from fundusforge.audit.pixels import pixel_plane
from fundusforge.audit.planted import half_copy, moved, recoloured
from fundusforge.audit.trees import shares, tree_of
from fundusforge.sources.phantom import draw_eye
from fundusforge.sources.phantom.eye import Eye

SIZE = 192
ALIKE = 0.7


@pytest.fixture(scope="module")
def eyes() -> list[Eye]:
    return [draw_eye(seed, size=SIZE) for seed in range(12)]


@pytest.fixture(scope="module")
def gallery(eyes: list[Eye]) -> Gallery:
    return Gallery([pixel_plane(eye.image, eye.field_of_view) for eye in eyes[:8]])


def best(gallery: Gallery, image: np.ndarray, field: np.ndarray) -> tuple[int, float, float, Pose]:
    """Return nearest picture, correlation of the whole and of the best half, and the pose."""
    query = pixel_plane(image, field)
    found = [gallery.register(query, each) for each in gallery.candidates(query, count=3)]
    first = max(found, key=lambda match: max(match.correlation))
    return first.index, first.correlation[0], max(first.correlation[1:]), first.pose


def repainted(vessels: np.ndarray, field: np.ndarray, seed: int) -> np.ndarray:
    """Paint vessels on a ground of another eye's colours and grain."""
    grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, vessels.shape), (0, 0), 2.0)
    ground = 120 + 40 * grain / grain.std() - 50 * (cv2.GaussianBlur(vessels, (0, 0), 0.8) / 255)
    return np.repeat((ground * (field > 0)).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_a_pose_maps_pixels_as_it_says() -> None:
    corner = Pose(flip=True, right=0.5).matrix(11) @ [0, 0, 1]
    assert corner == pytest.approx([10 + 5.5, 0])
    assert Pose(degrees=90).matrix(11) @ [10, 5, 1] == pytest.approx([5, 10])


@pytest.mark.parametrize(
    "pose",
    [Pose(), Pose(flip=True), Pose(right=0.03, down=-0.03), Pose(degrees=5), Pose(degrees=-5),
     Pose(flip=True, degrees=4, right=-0.02, down=0.03)],
)  # fmt: skip
def test_a_moved_copy_is_found_in_its_pose(eyes: list[Eye], gallery: Gallery, pose: Pose) -> None:
    image, field = moved(eyes[3].image, eyes[3].field_of_view, pose)
    index, whole, _, found = best(gallery, image, field)
    assert (index, found.flip) == (3, pose.flip)
    assert whole > ALIKE
    # The frame follows the field of view, so a shift of the whole picture is taken back before the search.
    assert found.degrees == pytest.approx(-pose.degrees if not pose.flip else pose.degrees, abs=1.5)


def test_reencoded_and_recoloured_copies_are_found(eyes: list[Eye], gallery: Gallery) -> None:
    eye = eyes[5]
    coded = cv2.imdecode(cv2.imencode(".jpg", eye.image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    for image in (coded, recoloured(eye.image, np.random.default_rng(0))):
        index, whole, _, _ = best(gallery, np.asarray(image, np.uint8), eye.field_of_view)
        assert index == 5 and whole > ALIKE


def test_other_eyes_are_far(eyes: list[Eye], gallery: Gallery) -> None:
    for eye in eyes[8:]:
        _, whole, half, _ = best(gallery, eye.image, eye.field_of_view)
        assert whole < 0.5 and half < 0.7


@pytest.mark.parametrize("side", range(4))
def test_half_a_copy_is_found_in_its_half(eyes: list[Eye], gallery: Gallery, side: int) -> None:
    image, field = half_copy(
        eyes[2].image, eyes[2].field_of_view, eyes[9].image, eyes[9].field_of_view, side=side
    )
    query = pixel_plane(image, field)
    found = [gallery.register(query, each) for each in gallery.candidates(query, count=3)]
    first = max(found, key=lambda match: max(match.correlation))
    assert first.index == 2
    assert REGIONS[int(np.argmax(first.correlation))] == REGIONS[1 + side]
    assert max(first.correlation) > 0.5
    assert first.correlation[0] < LOPSIDED * max(first.correlation)


def test_skipped_pictures_are_not_found(eyes: list[Eye], gallery: Gallery) -> None:
    query = pixel_plane(eyes[3].image, eyes[3].field_of_view)
    skip = np.arange(8) == 3
    assert 3 not in {each.index for each in gallery.candidates(query, count=8, skip=skip)}
    assert len(gallery.candidates(query, count=8, skip=~skip)) == 1


def test_correlation_is_that_of_numpy(eyes: list[Eye], gallery: Gallery) -> None:
    a, b = (pixel_plane(eye.image, eye.field_of_view) for eye in eyes[:2])
    both = a.inside & b.inside
    expected = np.corrcoef(a.values[both].astype(float), b.values[both].astype(float))[0, 1]
    assert gallery.compare(a, 1, Pose()).correlation[0] == pytest.approx(expected, abs=1e-5)


def test_the_same_tree_is_found_under_another_texture(eyes: list[Eye]) -> None:
    trees = [tree_of(eye.masks["vessels"], eye.field_of_view) for eye in eyes[:8]]
    search = Gallery([tree.plane for tree in trees])
    vessels, field = moved(
        eyes[6].masks["vessels"][..., None].repeat(3, 2), eyes[6].field_of_view,
        Pose(flip=True, degrees=5, right=0.03),
    )  # fmt: skip
    query = tree_of(vessels[..., 0], field)
    found = [search.register(query.plane, each) for each in search.candidates(query.plane, count=3)]
    values = {match.index: shares(query, trees[match.index], match.pose)[0] for match in found}
    assert max(values, key=lambda index: values[index]) == 6
    assert values[6] > 0.8
    assert max(value for index, value in values.items() if index != 6) < 0.5


def test_shares_of_known_trees() -> None:
    field = np.full((256, 256), 255, np.uint8)
    lines = np.zeros((256, 256), np.uint8)
    lines[60:62, 20:230], lines[194:196, 20:230] = 255, 255
    across = np.ascontiguousarray(lines.T)
    upper = lines.copy()
    upper[128:] = 0
    whole, half, other = (tree_of(each, field) for each in (lines, upper, across))
    assert shares(whole, whole, Pose()) == pytest.approx([1] * 5)
    assert shares(whole, whole, Pose(right=0.0, down=0.03))[0] == 0
    found = dict(zip(REGIONS, shares(half, whole, Pose()), strict=True))
    assert found["top"] == pytest.approx(1)
    assert found["bottom"] == 0
    assert found["whole"] == pytest.approx(2 / 3, abs=0.01)  # all of one, half of the other
    assert shares(whole, other, Pose())[0] < 0.05, "crossing lines run another way"
    assert shares(whole, other, Pose(degrees=90))[0] > 0.9


def test_verdicts_name_what_was_planted(eyes: list[Eye]) -> None:
    def view(image: np.ndarray, vessels: np.ndarray, field: np.ndarray) -> View:
        return View(pixels=pixel_plane(image, field), tree=tree_of(vessels, field))

    def of(eye: Eye) -> View:
        return view(eye.image, eye.masks["vessels"], eye.field_of_view)

    training = Training([of(eye) for eye in eyes[:6]])
    rng = np.random.default_rng(0)
    chance = [training.nearest(of(eye)) for eye in eyes[6:10]]
    spread = [
        {
            test: dataclasses.replace(near, value=near.value + rng.normal(0, 0.02))
            for test, near in each.items()
        }
        for each in chance * 10
    ]
    unrelated = Unrelated(spread, [str(place) for place in range(len(spread))])
    victim, other = eyes[1], eyes[10]
    fields = victim.field_of_view, other.field_of_view
    half = half_copy(victim.image, fields[0], other.image, fields[1], side=0)
    drawn = half_copy(
        victim.masks["vessels"][..., None].repeat(3, 2), fields[0],
        other.masks["vessels"][..., None].repeat(3, 2), fields[1], side=0,
    )  # fmt: skip
    paint = repainted(victim.masks["vessels"], fields[0], 0)
    cases = {
        "copy": of(victim),
        "same tree": view(paint, victim.masks["vessels"], fields[0]),
        "half copy": view(half[0], drawn[0][..., 0], half[1]),
        "clear": of(eyes[11]),
    }
    for verdict, query in cases.items():
        nearest = training.nearest(query)
        bar = unrelated.bar(0.05, 2.0)
        largest, test = unrelated.largest(nearest)
        assert (largest >= bar) == (verdict != "clear"), verdict
        if verdict != "clear":
            assert nearest[test].index == 1
            assert unrelated._verdict(nearest, bar=bar, near=True) == verdict


def scores(values: np.ndarray) -> list[Nearest]:
    return [{"pixels": Near(value=float(value), index=0)} for value in values]


def test_p_counts_patients_and_not_pictures() -> None:
    unrelated = Unrelated(scores(np.array([0.1, 0.9, 0.2, 0.3])), ["a", "a", "b", "c"])
    assert unrelated.patients == 3
    assert unrelated.p(0.95, "pixels") == pytest.approx(1 / 4)
    assert unrelated.p(0.5, "pixels") == pytest.approx((1 + 0.5) / 4)
    assert unrelated.p(0.25, "pixels") == pytest.approx((1 + 1.5) / 4)
    assert unrelated.p(0.0, "pixels") == 1


def test_threshold_is_where_p_falls_to_the_level() -> None:
    rng = np.random.default_rng(1)
    unrelated = Unrelated(scores(rng.random(250)), [str(place) for place in range(250)])
    row = unrelated.chance(0.01)[0]
    assert unrelated.p(row.threshold, "pixels") <= 0.01
    assert unrelated.p(np.nextafter(row.threshold, 0), "pixels") > 0.01
    assert unrelated.level(0.01) == 0.01
    few = Unrelated(scores(rng.random(20)), [str(place) for place in range(20)])
    assert few.level(0.01) == pytest.approx(1 / 21)
    assert few.chance(0.01)[0].threshold > few.chance(0.01)[0].largest


def test_p_is_uniform_for_unrelated_images_and_several_tests_share_one_level() -> None:
    rng = np.random.default_rng(2)
    tests = ("pixels", "pixels_half", "trees", "trees_half")

    def draw(count: int) -> list[Nearest]:
        common = rng.normal(0, 1, count)  # tests of one image go together
        return [
            {test: Near(value=float(shared + rng.normal() * scale), index=0) for scale, test in
             enumerate(tests, 1)}
            for shared in common
        ]  # fmt: skip

    p: list[float] = []
    for _ in range(20):
        unrelated = Unrelated(draw(199), [str(place) for place in range(199)])
        p += [unrelated.p(unrelated.largest(each)[0]) for each in draw(100)]
    values = np.array(p)
    for level in (0.01, 0.05, 0.25, 0.5):
        assert np.mean(values <= level) == pytest.approx(level, abs=4 * np.sqrt(level / len(p)) + 0.02)


def test_mixed_trees_and_nothing_to_search_are_refused() -> None:
    empty = plane(np.zeros((FINE, FINE), np.float32), np.zeros((FINE, FINE), bool))
    tree = tree_of(np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8))
    with pytest.raises(ValueError, match="no pictures"):
        Training([])
    with pytest.raises(ValueError, match="some have none"):
        Training([View(pixels=empty), View(pixels=empty, tree=tree)])
    with pytest.raises(ValueError, match="held-out"):
        Unrelated([], [])


def test_pictures_without_structure_are_like_nothing(eyes: list[Eye], gallery: Gallery) -> None:
    flat = np.zeros((SIZE, SIZE, 3), np.uint8) + 90
    _, whole, half, _ = best(gallery, flat, eyes[0].field_of_view)
    assert abs(whole) < 0.5 and abs(half) < 0.5
    empty = tree_of(np.zeros((SIZE, SIZE), np.uint8), eyes[0].field_of_view)
    assert shares(empty, empty, Pose()) == (0, 0, 0, 0, 0)
