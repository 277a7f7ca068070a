"""Imitated lesions: the grade's rule, the statistics they come from, and where none may be."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fundusforge.config import ConfigError
from fundusforge.records import DatasetError
from fundusforge.sample.conditions import PhantomConditions
from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_measures import Eye, distances, statistics_of
from fundusforge.sample.layout_statistics import LayoutStatistics, read_statistics, write_statistics
from fundusforge.sample.layouts import DRAWN, imitate, masks_of
from fundusforge.sample.lesions import Spot, findings_of, places_of, spots_of
from fundusforge.sample.supply import ImitatedConditions, supply_of
from fundusforge.severity import LESIONS, grade, meets_four_two_one


def crude(size: int = 256, *, side: int = 1, turn: float = 0.0) -> dict[str, np.ndarray]:
    """A left eye (side 1) or a right one: field of view, disc and a few curved vessels."""
    rows, columns = (np.mgrid[:size, :size] + 0.5) / size
    masks = {"field_of_view": np.hypot(rows - 0.5, columns - 0.5) < 0.48}
    masks["disc"] = np.hypot(rows - 0.5, columns - 0.5 + 0.28 * side) < 0.075
    vessels = np.zeros((size, size), np.uint8)
    for bend in (-0.9, -0.45, -0.2, 0.2, 0.45, 0.9):
        t = np.linspace(0, 1, 40)
        x = 0.5 - 0.28 * side + side * 0.68 * t
        y = 0.5 + 0.5 * bend * np.sin(np.pi * (0.55 + 0.1 * turn) * t)
        line = (np.stack([x, y], axis=1) * size * 16).astype(np.int32)
        cv2.polylines(vessels, [line], False, 255, max(1, size // 90), shift=4)
    drawn = {name: np.where(mask, 255, 0).astype(np.uint8) for name, mask in masks.items()}
    return drawn | {"vessels": vessels & drawn["field_of_view"]}


def frame_of(size: int = 256, *, side: int = 1, turn: float = 0.0) -> Frame:
    masks = crude(size, side=side, turn=turn)
    return Frame.of_masks(masks, masks["field_of_view"])


@pytest.fixture(scope="module")
def shipped() -> LayoutStatistics:
    return read_statistics()


def test_what_ships_is_of_populations_only(shipped: LayoutStatistics) -> None:
    assert shipped.sources == ("idrid: CC BY 4.0",)
    assert min(count.eyes for count in shipped.counts) >= shipped.least >= 5
    assert min(kind.eyes for kind in shipped.kinds) >= shipped.least
    assert 0 <= shipped.severe_by_count <= 1


@pytest.mark.parametrize("asked", range(5))
def test_the_rule_gives_back_the_grade(shipped: LayoutStatistics, asked: int) -> None:
    frame = frame_of()
    for seed in range(4):
        layout = imitate(shipped, asked, frame, seed=seed)
        assert layout.grade == grade(layout.findings) == asked
        assert set(layout.masks) == {*LESIONS, *DRAWN}
    if asked == 0:
        assert not any(mask.any() for mask in layout.masks.values())
    if asked == 1:
        assert [name for name, mask in layout.masks.items() if mask.any()] == ["microaneurysms"]


@pytest.mark.parametrize("size", [256, 320])
def test_masks_alone_show_grade_three_if_asked(shipped: LayoutStatistics, size: int) -> None:
    for seed in range(2):
        frame = frame_of(size)
        layout = imitate(shipped, 3, frame, seed=seed, visible=True)
        seen = findings_of(layout.masks, frame)
        assert grade(seen) == 3 and meets_four_two_one(seen)
        assert all(quadrant.haemorrhages > 20 for quadrant in seen.quadrants)


def test_grade_three_is_met_otherwise_as_often_as_measured(shipped: LayoutStatistics) -> None:
    never = replace(shipped, severe_by_count=0.0)
    layout = imitate(never, 3, frame_of(), seed=5)
    assert layout.findings.total("venous_beading") >= 2 or layout.findings.total("irma") >= 1
    always = imitate(replace(shipped, severe_by_count=1.0), 3, frame_of(), seed=5)
    assert all(quadrant.haemorrhages > 20 for quadrant in always.findings.quadrants)


@pytest.mark.parametrize("side", [1, -1])
def test_nothing_lies_on_the_disc_or_outside(shipped: LayoutStatistics, side: int) -> None:
    frame = frame_of(side=side)
    assert frame.eye == ("left" if side == 1 else "right")
    for seed, asked in enumerate((2, 4, 4)):
        for mask in imitate(shipped, asked, frame, seed=seed).masks.values():
            assert set(np.unique(mask)) <= {0, 255}
            assert not (mask[~frame.field_of_view].any() or mask[frame.disc].any())


def test_a_seed_is_a_layout(shipped: LayoutStatistics) -> None:
    masks = crude()
    given = {"vessels": masks["vessels"], "disc": masks["disc"], "field_of_view": masks["field_of_view"]}
    (one, noted), (two, same), (other, _) = (masks_of(shipped, 2, seed=seed, **given) for seed in (3, 3, 4))
    assert noted == same
    assert all((one[name] == two[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_an_eye_has_the_same_lesions_at_every_size(shipped: LayoutStatistics) -> None:
    small, large = (imitate(shipped, 2, frame_of(size), seed=1) for size in (256, 768))
    assert len(small.spots) == len(large.spots) > 20
    a, b = places_of(small.spots), places_of(large.spots)
    moved = np.linalg.norm(a - b, axis=1) > 0.05
    assert moved.mean() < 0.35  # a place falls on another side of a step here and there
    for name in LESIONS:
        areas = [layout.masks[name].mean() for layout in (small, large)]
        assert areas[0] == pytest.approx(areas[1], rel=0.4, abs=0.15), name


def test_left_and_right_mirror(shipped: LayoutStatistics) -> None:
    left, right = (imitate(shipped, 2, frame_of(257, side=side), seed=2) for side in (1, -1))
    same = [(left.masks[n] == right.masks[n][:, ::-1]).mean() for n in LESIONS]
    assert min(same) > 0.98
    assert left.findings.total("haemorrhages") == right.findings.total("haemorrhages")


def test_imitated_layouts_have_the_statistics_they_were_drawn_from(shipped: LayoutStatistics) -> None:
    """Measured again from spots: counts, and sizes, within what so many eyes may differ."""
    frames = [frame_of(192, side=side, turn=turn) for side in (1, -1) for turn in (0.0, 1.0)]
    eyes = []
    for seed in range(16):
        layout = imitate(shipped, 2, frames[seed % 4], seed=100 + seed)
        spots = {name: [s for s in layout.spots if s.lesion == name] for name in LESIONS}
        eyes.append(eye_of(frames[seed % 4], spots, grade=2))
    for name in LESIONS:
        kind, count = shipped.kind(name), shipped.count(name, 2)
        numbers = np.array([len(eye.spots[name]) for eye in eyes])
        assert (numbers == 0).mean() == pytest.approx(count.absent, abs=0.3)
        error = np.sqrt((count.mean + count.spread * count.mean**2) / max(1, (numbers > 0).sum()))
        assert abs(numbers[numbers > 0].mean() - count.mean) < 3 * error
        logs = np.log([spot.diameter for eye in eyes for spot in eye.spots[name]])
        spread = np.sqrt(kind.between**2 + kind.within**2)
        assert (
            abs(logs.mean() - kind.size)
            < 3.5 * np.sqrt(kind.between**2 / 8 + kind.within**2 / len(logs)) + 0.06
        )
        assert logs.std() == pytest.approx(spread, rel=0.3)


def eye_of(frame: Frame, spots: dict[str, list[Spot]], *, grade: int) -> Eye:
    return Eye(frame=frame, spots=spots, grade=grade, predicted=False, source="drawn: none", patient="p")


def scattered(shipped: LayoutStatistics, **steps: tuple[float, ...]) -> LayoutStatistics:
    """Statistics with flat factors but for some."""
    flat = {
        what: tuple(1.0 for _ in getattr(shipped.kinds[0], what))
        for what in ("disc", "fovea", "vessel", "own")
    }
    kinds = tuple(replace(kind, **(flat | steps)) for kind in shipped.kinds)
    return replace(shipped, kinds=kinds)


@pytest.mark.parametrize(("what", "step", "edge"), [("fovea", 4, 1.5), ("disc", 3, 2.0), ("vessel", 2, 0.06)])
def test_a_factor_draws_lesions_to_its_distance(
    shipped: LayoutStatistics, what: str, step: int, edge: float
) -> None:
    frame = frame_of(192)
    width = len(getattr(shipped.kinds[0], what))
    pulled = scattered(shipped, **{what: tuple(1.0 if i <= step else 0.02 for i in range(width))})

    def near(statistics: LayoutStatistics) -> float:
        spots = [s for seed in range(4) for s in imitate(statistics, 2, frame, seed=seed).spots]
        away = distances(frame, places_of(spots), np.empty((0, 2)))[what]
        return float((away < edge).mean())

    assert near(pulled) > near(scattered(shipped)) + 0.15


def test_measuring_finds_what_was_put_in() -> None:
    """Lesions of known size, number and place."""
    frame, rng = frame_of(512), np.random.default_rng(0)
    eyes = []
    for number in range(6):
        ground = frame.ground(rng, 4000)
        close = ground[np.linalg.norm(ground - frame.fovea, axis=1) < 1.5]
        spots = {
            name: [
                Spot(lesion=name, place=(float(x), float(y)), diameter=size, aspect=0.7)
                for x, y in rng.permutation(close)[:6]
            ]
            for name, size in zip(LESIONS, (0.06, 0.2, 0.1, 0.3), strict=True)
        }
        eyes.append(eye_of(frame, spots, grade=1 + number % 4))
    found = statistics_of(eyes, least=3)
    kind = found.kind("haemorrhages")
    assert np.exp(kind.size) == pytest.approx(0.2, rel=1e-3) and kind.within == kind.between == 0
    assert kind.aspects == (0.7,) * 11
    assert max(kind.fovea[:4]) > 1.5 * kind.fovea[-1]
    assert found.count("microaneurysms", 4).mean == 6 and found.count("microaneurysms", 4).absent == 0


def test_a_cell_of_few_eyes_is_pooled_and_says_so() -> None:
    frame = frame_of(128)
    spots = {name: [Spot(lesion=name, place=(2.0, 0.5), diameter=0.2)] for name in LESIONS}
    eyes = [eye_of(frame, spots, grade=g) for g in (1, 1, 1, 2, 2, 2, 3, 4, 4)]
    found = statistics_of(eyes, least=3)
    assert found.count("haemorrhages", 3).grades == (3, 4) and found.count("haemorrhages", 3).eyes == 3
    assert found.count("haemorrhages", 2).grades == (2,)
    with pytest.raises(DatasetError, match="microaneurysms in grade 1: 9 graded eyes .* need 10"):
        statistics_of(eyes, least=10)


@pytest.mark.parametrize("size", [0.06, 0.2])
def test_a_spot_is_drawn_as_large_as_it_says(size: float) -> None:
    frame = frame_of(512)
    spots = [Spot(lesion="haemorrhages", place=(1 + 0.5 * i, 0.4), diameter=size, aspect=0.6, seed=i)
             for i in range(6)]  # fmt: skip
    found = spots_of(frame.draw([spot.outline() for spot in spots]), frame, lesion="haemorrhages")
    assert len(found) == 6
    assert np.median([spot.diameter for spot in found]) == pytest.approx(size, rel=0.12)
    np.testing.assert_allclose(sorted(s.place[0] for s in found), [s.place[0] for s in spots], atol=0.03)


def test_statistics_are_stored_and_read_strictly(tmp_path, shipped: LayoutStatistics) -> None:
    write_statistics(tmp_path / "own.json", shipped)
    assert read_statistics(tmp_path / "own.json") == shipped
    text = (tmp_path / "own.json").read_text().replace('"evenness"', '"eveness"', 1)
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(ConfigError, match=r"own\.json.*evenness"):
        read_statistics(tmp_path / "own.json")


def test_errors_name_what_is_wrong(shipped: LayoutStatistics) -> None:
    masks, frame = crude(), frame_of()
    empty = np.zeros_like(masks["disc"])
    with pytest.raises(ValueError, match="grade must be 0 to 4, not 5"):
        imitate(shipped, 5, frame, seed=0)
    with pytest.raises(DatasetError, match="disc's mask is empty"):
        Frame.of(disc=empty, field_of_view=masks["field_of_view"])
    with pytest.raises(DatasetError, match="field of view is empty"):
        Frame.of(disc=masks["disc"], field_of_view=empty)
    with pytest.raises(DatasetError, match=r"\(256, 256\) pixels, but the vessel mask is \(64, 64\)"):
        Frame.of(disc=masks["disc"], field_of_view=masks["field_of_view"], vessels=empty[:64, :64])
    with pytest.raises(ValueError, match="grade 3 cannot be kept in one of grade 2"):
        imitate(shipped, 2, frame, seed=0, keep=imitate(shipped, 3, frame, seed=0))
    narrow = Frame.of(disc=masks["disc"], field_of_view=masks["disc"])
    with pytest.raises(DatasetError, match="no room for lesions of grade 2 in view"):
        imitate(shipped, 2, narrow, seed=0)


def test_a_supply_with_imitated_lesions(shipped: LayoutStatistics) -> None:
    names = ("vessels", "haemorrhages", "microaneurysms")
    supply = supply_of("phantom", names=names, seed=3, lesions="imitated")
    assert isinstance(supply, ImitatedConditions)
    eyes = [supply.at(index, size=96) for index in range(5)]
    assert [eye.grade for eye in eyes] == [0, 1, 2, 3, 4]
    assert all(tuple(eye.masks) == names for eye in eyes)
    assert eyes[2].origins == {
        "vessels": "phantom",
        "haemorrhages": "generated",
        "microaneurysms": "generated",
    }
    plain = PhantomConditions(masks=("vessels", "disc"), seed=3).at(2, size=96)
    np.testing.assert_array_equal(eyes[2].masks["vessels"], plain.masks["vessels"])
    assert eyes[2].name == f"{plain.name}+grade-2" and not eyes[2].from_patient
    again = supply_of("phantom", names=names, seed=3, lesions="imitated", grade=3).at(3, size=96)
    np.testing.assert_array_equal(again.masks["haemorrhages"], eyes[3].masks["haemorrhages"])
    with pytest.raises(DatasetError, match="imitated lesions only"):
        supply_of("phantom", names=names, seed=3, grade=3)
    with pytest.raises(DatasetError, match="grade must be 0 to 4, not 7"):
        supply_of("phantom", names=names, seed=3, lesions="imitated", grade=7)
