"""Edits of lesions: what changes, what stays, and the grade after it."""

import numpy as np
import pytest

from fundusforge.records import DatasetError
from fundusforge.sample.editing import Choice, add, grow, move, remove
from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_statistics import read_statistics
from fundusforge.sample.lesions import Spot, places_of, spots_of
from fundusforge.severity import Findings

SIZE = 256
BLOOD = "haemorrhages"


def eye(places: list[tuple[float, float]], *, diameter: float = 0.2) -> tuple[dict[str, np.ndarray], Frame]:
    """A left eye with haemorrhages at places seen from the disc, in disc diameters."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    field = np.where(np.hypot(rows - 128, columns - 128) < 122, 255, 0).astype(np.uint8)
    disc = np.where(np.hypot(rows - 128, columns - 60) < 20, 255, 0).astype(np.uint8)
    frame = Frame.of(disc=disc, field_of_view=field, eye="left")
    spots = [Spot(lesion=BLOOD, place=place, diameter=diameter) for place in places]
    return {"disc": disc, BLOOD: frame.draw([spot.outline() for spot in spots])}, frame


def found(masks, frame: Frame, name: str = BLOOD) -> list[Spot]:
    return spots_of(masks[name], frame, lesion=name)


FOUR = [(3.0, 1.0), (2.0, 1.0), (3.0, -1.5), (2.0, -1.5)]


def test_removing_by_quadrant_and_all_lowers_the_grade() -> None:
    masks, frame = eye(FOUR)
    before = {name: mask.copy() for name, mask in masks.items()}
    some = remove(masks, frame, Choice(lesion=BLOOD, quadrant="superior_temporal"))
    assert some.changed == 1 and some.grade == 2 and len(found(some.masks, frame)) == 3
    assert some.findings.quadrants[0].haemorrhages == 0
    none = remove(masks, frame, Choice(lesion=BLOOD))
    assert none.changed == 4 and none.grade == 0 and not none.masks[BLOOD].any()
    assert all((masks[name] == before[name]).all() for name in masks)  # nothing is changed in place


def test_what_no_mask_shows_counts_if_told() -> None:
    masks, frame = eye(FOUR)
    assert remove(masks, frame, Choice(lesion=BLOOD), signs=Findings(vitreous_haemorrhage=True)).grade == 4


def test_the_nearest_to_a_point_are_chosen() -> None:
    masks, frame = eye(FOUR)
    x, y = frame.pixels(np.array([FOUR[2]]))[0].tolist()
    left = remove(masks, frame, Choice(lesion=BLOOD, near=(x + 2, y), reach=5.0, count=1))
    assert left.changed == 1
    gaps = np.linalg.norm(places_of(found(left.masks, frame)) - np.array(FOUR[2]), axis=1)
    assert gaps.min() > 0.5
    assert remove(masks, frame, Choice(lesion=BLOOD, near=(x, y), reach=0.1)).changed == 1


def test_a_seed_chooses() -> None:
    masks, frame = eye(FOUR)
    one, two = (remove(masks, frame, Choice(lesion=BLOOD, count=2), seed=4).masks[BLOOD] for _ in range(2))
    assert (one == two).all()
    others = [
        remove(masks, frame, Choice(lesion=BLOOD, count=2), seed=seed).masks[BLOOD] for seed in range(6)
    ]
    assert len({other.tobytes() for other in others}) > 1


def test_moving_is_by_disc_diameters() -> None:
    masks, frame = eye([(2.5, 1.0)])
    moved = move(masks, frame, Choice(lesion=BLOOD), (0.5, -0.25))
    np.testing.assert_allclose(places_of(found(moved.masks, frame)), [[3.0, 0.75]], atol=0.04)
    assert moved.masks[BLOOD].sum() == masks[BLOOD].sum()


def test_nothing_moves_onto_the_disc_out_of_view_or_into_another() -> None:
    masks, frame = eye([(1.2, 0.0), (4.2, 0.0), (2.5, 1.0), (2.5, 1.3)], diameter=0.2)
    for by in ((-1.0, 0.0), (1.5, 0.0), (0.0, 0.3), (0.0, -0.3)):
        after = move(masks, frame, Choice(lesion=BLOOD), by)
        assert len(found(after.masks, frame)) == 4
        assert not after.masks[BLOOD][frame.disc | ~frame.field_of_view].any()
        assert after.masks[BLOOD].sum() == masks[BLOOD].sum()


def test_growing_scales_the_diameter_and_keeps_off_the_disc() -> None:
    masks, frame = eye([(2.5, 1.0), (0.75, 0.0)])
    grown = grow(masks, frame, Choice(lesion=BLOOD, near=tuple(frame.pixels(np.array([[2.5, 1.0]]))[0])), 2.0)
    sizes = sorted(spot.diameter for spot in found(grown.masks, frame))
    assert sizes[1] == pytest.approx(0.4, rel=0.1) and sizes[0] == pytest.approx(0.2, rel=0.15)
    large = grow(masks, frame, Choice(lesion=BLOOD), 6.0)
    assert not large.masks[BLOOD][frame.disc].any()
    small = grow(masks, frame, Choice(lesion=BLOOD), 0.01)
    assert [spot.diameter < 0.05 for spot in found(small.masks, frame)] == [True, True]


def test_adding_is_clear_of_what_is_there_and_raises_the_grade() -> None:
    masks, frame = eye([])
    statistics = read_statistics()
    one = add(masks, frame, Choice(lesion="microaneurysms", count=3), statistics, seed=1)
    assert one.changed == 3 and one.grade == 1 and one.findings.total("microaneurysms") == 3
    two = add(one.masks, frame, Choice(lesion=BLOOD, count=5, quadrant="inferior_nasal"), statistics, seed=1)
    assert two.grade == 2 and two.findings.quadrants[3].haemorrhages == 5
    assert (two.masks["microaneurysms"] == one.masks["microaneurysms"]).all()
    assert not (two.masks[BLOOD] & two.masks["microaneurysms"]).any()
    assert not two.masks[BLOOD][frame.disc | ~frame.field_of_view].any()
    near = tuple(frame.pixels(np.array([[3.0, 1.0]]))[0].tolist())
    three = add(masks, frame, Choice(lesion=BLOOD, near=near, reach=0.8, count=2), statistics, seed=2)
    gaps = np.linalg.norm(places_of(found(three.masks, frame)) - np.array([3.0, 1.0]), axis=1)
    assert len(gaps) == 2 and (gaps < 0.9).all()
    again = add(masks, frame, Choice(lesion=BLOOD, near=near, reach=0.8, count=2), statistics, seed=2)
    assert (again.masks[BLOOD] == three.masks[BLOOD]).all()


def test_errors_name_what_is_wrong() -> None:
    masks, frame = eye([])
    with pytest.raises(DatasetError, match="unknown lesion 'freckles'"):
        Choice(lesion="freckles")
    with pytest.raises(DatasetError, match="unknown quadrant 'left'"):
        Choice(lesion=BLOOD, quadrant="left")
    with pytest.raises(DatasetError, match="factor must be above 0"):
        grow(masks, frame, Choice(lesion=BLOOD), 0.0)
    with pytest.raises(DatasetError, match=r"haemorrhages is \(8, 8\) pixels, the eye \(256, 256\)"):
        remove({BLOOD: np.zeros((8, 8), np.uint8)}, frame, Choice(lesion=BLOOD))
    with pytest.raises(DatasetError, match="no room for haemorrhages there"):
        add(masks, frame, Choice(lesion=BLOOD, near=(-500.0, -500.0)), read_statistics())
