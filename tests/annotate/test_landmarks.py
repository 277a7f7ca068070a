"""Fovea, cup and side from the disc: on drawn eyes, mirrored eyes, and with discs that cannot be."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from fundusforge.annotate.disc import Disc, find_disc
from fundusforge.annotate.landmarks import FOVEA, Landmarks, circle
from fundusforge.annotate.laterality import UNSURE, find_side
from fundusforge.annotate.picture import Annotator, Found, Picture
from fundusforge.records import MASKS
from fundusforge.sources.phantom import Eye, draw_eye

SEEDS = (0, 1, 3, 4, 7)


@lru_cache(maxsize=len(SEEDS))
def eye(seed: int) -> Eye:
    return draw_eye(seed, size=384)


def picture(seed: int, *, mirrored: bool = False, names: tuple[str, ...] = ("disc", "vessels")) -> Picture:
    drawn = eye(seed)
    turn = (lambda plane: np.ascontiguousarray(plane[:, ::-1])) if mirrored else (lambda plane: plane)
    return Picture(
        image=turn(drawn.image), field_of_view=turn(drawn.field_of_view),
        masks={name: turn(drawn.masks[name]) for name in names},
    )  # fmt: skip


def place(seed: int, mask: str = "disc") -> Disc:
    found = find_disc(eye(seed).masks[mask])
    assert found is not None
    return found


def other(side: str) -> str:
    return "left" if side == "right" else "right"


def test_it_is_an_annotator_of_known_masks() -> None:
    landmarks: Annotator = Landmarks()
    assert set(landmarks.gives) - set(MASKS) == {"eye"}
    assert landmarks.name


@pytest.mark.parametrize("seed", SEEDS)
def test_fovea_and_side_of_drawn_eyes(seed: int) -> None:
    [found] = Landmarks().read([picture(seed)])
    truth, disc = eye(seed), place(seed)
    if "eye" in found.values:
        assert found.values["eye"] == truth.eye
        assert found.confidences["eye"] >= UNSURE
    fovea = find_disc(found.masks["fovea"])
    assert fovea is not None
    away = np.hypot(*(np.array(truth.fovea_centre) - 0.5 - fovea.centre))
    assert away < 0.5 * disc.diameter
    assert fovea.diameter == pytest.approx(FOVEA * disc.diameter, rel=0.1)
    assert set(found.masks) | set(found.values) | set(found.missing) == {"fovea", "cup", "eye"}
    assert set(found.confidences) == set(found.masks) | set(found.values)


def test_the_circle_is_as_large_as_the_phantoms_fovea() -> None:
    """Its area is that of the phantom's masks, on average."""
    sizes = [place(seed, "fovea").diameter / place(seed).diameter for seed in SEEDS]
    assert np.mean(sizes) == pytest.approx(FOVEA, abs=0.05)


def test_the_side_is_told_for_most_eyes_and_turns_with_the_picture() -> None:
    """A mirrored photograph is one of the other eye, equally sure: the same signs, the other way."""
    told = 0
    for seed in SEEDS[:4]:
        shown, turned = Landmarks().read([picture(seed), picture(seed, mirrored=True)])
        if "eye" in shown.values and "eye" in turned.values:
            assert turned.values["eye"] == other(shown.values["eye"])
            assert turned.confidences["eye"] == pytest.approx(shown.confidences["eye"], abs=0.02)
            told += 1
    assert told >= 3


def test_the_records_own_side_is_never_what_is_told() -> None:
    """Told the wrong side, it says what it sees, but looks for the fovea where it was told to."""
    plain = picture(0)
    [seen] = Landmarks().read([plain])
    plain.eye = other(eye(0).eye)  # pyright: ignore[reportAttributeAccessIssue]
    [misled] = Landmarks().read([plain])
    assert misled.values == seen.values == {"eye": eye(0).eye}
    assert "fovea" in misled.missing


def test_an_eye_without_signs_has_no_side() -> None:
    """An even disc in the middle of an even field, one vessel across its centre."""
    rows, columns = np.mgrid[:200, :200] - 99.5
    inside = np.hypot(rows, columns) < 95
    disc = (np.hypot(rows, columns) < 15) & inside
    image = np.repeat(np.where(disc, 180, 100)[..., None], 3, axis=-1).astype(np.uint8)
    vessels = ((np.abs(columns) < 2) & inside).astype(np.uint8) * 255
    found_disc = find_disc(disc)
    assert found_disc is not None
    field = inside.astype(np.uint8) * 255
    assert find_side(image, found_disc, vessels=vessels, field_of_view=field).confidence < UNSURE
    known = {"disc": disc.astype(np.uint8) * 255, "vessels": vessels}
    [found] = Landmarks().read([Picture(image=image, field_of_view=field, masks=known)])
    assert "at odds" in found.missing["eye"]
    assert found.values == {}


@pytest.mark.parametrize("names", [(), ("vessels",)])
def test_without_a_disc_everything_is_missing_and_says_why(names: tuple[str, ...]) -> None:
    [found] = Landmarks().read([picture(0, names=names)])
    assert found == Found(missing=dict.fromkeys(("fovea", "cup", "eye"), "no disc is known"))


def test_an_empty_disc_is_no_disc() -> None:
    shown = picture(0)
    shown.masks["disc"] = np.zeros_like(shown.masks["disc"])
    [found] = Landmarks().read([shown])
    assert set(found.missing) == {"fovea", "cup", "eye"}


def test_a_doubtful_disc_gives_nothing() -> None:
    shown = picture(0)
    x, y = eye(0).fovea_centre
    shown.masks["disc"] = circle(shown.field_of_view, (x, y), place(0).diameter)
    [found] = Landmarks().read([shown])
    assert not found.masks
    assert not found.values
    assert "the vessels converge elsewhere" in found.missing["fovea"]


def test_without_a_side_no_fovea_is_guessed() -> None:
    """No vessels, no side; no side, no fovea, unless somebody says which eye it is."""
    shown = picture(0, names=("disc",))
    [found] = Landmarks().read([shown])
    assert found.missing["eye"] == "no vessels are known"
    assert found.missing["fovea"] == "which side is temporal is not known"
    shown.eye = eye(0).eye
    [found] = Landmarks().read([shown])
    assert "fovea" in found.masks
    assert not found.values
