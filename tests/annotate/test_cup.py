"""The cup: a drawn one of known size, the phantom's, and discs in which none can be told."""

from __future__ import annotations

import numpy as np
import pytest

from fundusforge.annotate.cup import FAINTEST, RATIO, Cup, find_cup
from fundusforge.sources.phantom import draw_eye

SEEDS = (0, 1, 3, 5, 6, 7)


def drawn(ratio: float, *, step: float = 0.25, shift: float = 0.0, size: int = 200) -> tuple[np.ndarray, ...]:
    """An even disc of 60 by 66 pixels with a paler cup; returns image, disc and cup."""
    rows, columns = np.mgrid[:size, :size]
    disc = np.hypot((columns - 90) / 30, (rows - 110) / 33) <= 1
    cup = np.hypot((columns - 90 - shift) / 30, (rows - 110) / 33) <= ratio
    green = np.where(cup, 100 * (1 + step), np.where(disc, 100, 60))
    image = np.repeat(green[..., None], 3, axis=-1).astype(np.uint8)
    return image, disc.astype(np.uint8) * 255, cup


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_a_drawn_cup_is_found_at_its_size(ratio: float, shift: float) -> None:
    image, disc, truth = drawn(ratio, shift=shift)
    found = find_cup(image, disc)
    assert isinstance(found, Cup)
    assert found.ratio == pytest.approx(ratio, abs=0.09)
    assert dice(found.mask > 0, truth) > 0.85
    assert found.confidence > 0.6


def test_vessels_across_the_cup_do_not_cut_it() -> None:
    image, disc, truth = drawn(0.5)
    vessels = np.zeros(disc.shape, np.uint8)
    vessels[:, 86:92] = 255
    image[:, 86:92] = 30
    found = find_cup(image, disc, vessels=vessels)
    assert isinstance(found, Cup)
    assert dice(found.mask > 0, truth) > 0.85
    ignorant = find_cup(image, disc)
    assert isinstance(ignorant, str) or ignorant.confidence < found.confidence


def test_a_paler_temporal_rim_is_no_cup() -> None:
    """A plane of brightness across the disc, and nothing else: no cup is guessed."""
    image, disc, _ = drawn(0.5, step=0.0)
    slope = np.linspace(0.8, 1.4, 200)[None, :, None]
    assert isinstance(find_cup((image * slope).clip(0, 255).astype(np.uint8), disc), str)


@pytest.mark.parametrize(
    ("ratio", "step", "reason"),
    [
        (0.5, 0.0, "paler"),
        (0.5, FAINTEST / 3, "paler"),
        (0.5, -0.2, "pa|distinct|plausible"),
        (0.97, 0.3, "paler|distinct|plausible"),
    ],
)
def test_what_cannot_be_told_is_said_and_not_guessed(ratio: float, step: float, reason: str) -> None:
    image, disc, _ = drawn(ratio, step=step)
    found = find_cup(image, disc)
    assert isinstance(found, str)
    assert any(word in found for word in reason.split("|"))


def test_noise_is_no_cup() -> None:
    _, disc, _ = drawn(0.5)
    image = np.random.default_rng(0).integers(60, 140, (*disc.shape, 3)).astype(np.uint8)
    assert isinstance(find_cup(image, disc), str)


def test_without_a_disc_there_is_no_cup() -> None:
    image, disc, _ = drawn(0.5)
    assert find_cup(image, np.zeros_like(disc)) == "there is no disc"
    assert find_cup(image, disc, vessels=np.full_like(disc, 255)) == "vessels cover the disc"


def test_the_phantoms_cups_within_a_tenth() -> None:
    """On drawn eyes: a mean Dice above 0.75, a mean error of the ratio below 0.08."""
    overlaps, errors = [], []
    for seed in SEEDS:
        eye = draw_eye(seed, size=384)
        found = find_cup(eye.image, eye.masks["disc"], vessels=eye.masks["vessels"])
        if isinstance(found, str):
            continue
        overlaps.append(dice(found.mask > 0, eye.masks["cup"] > 0))
        heights = [np.ptp(np.nonzero(eye.masks[name])[0]) + 1 for name in ("cup", "disc")]
        errors.append(abs(found.ratio - heights[0] / heights[1]))
        assert RATIO[0] <= found.ratio <= RATIO[1]
        assert not (found.mask[eye.masks["disc"] == 0]).any()
    assert len(overlaps) >= 4
    assert np.mean(overlaps) > 0.75
    assert np.mean(errors) < 0.08


def test_a_larger_drawn_cup_gives_a_larger_ratio() -> None:
    found = [find_cup(*drawn(ratio)[:2]) for ratio in (0.25, 0.4, 0.55, 0.7)]
    ratios = [one.ratio for one in found if isinstance(one, Cup)]
    assert len(ratios) == 4
    assert ratios == sorted(ratios)
