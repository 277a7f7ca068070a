"""Tortuosity of lines and circles by hand, and of ever more winding vessels."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from fundusforge.evaluate.anatomy.skeleton import vessel_graph
from fundusforge.evaluate.anatomy.tortuosity import arc_over_chord, mean_curvature, tortuosity


def wave(amplitude: float, *, size: int = 400, periods: int = 3) -> np.ndarray:
    x = np.linspace(20, size - 20, 400)
    y = size / 2 + amplitude * np.sin(2 * np.pi * periods * (x - 20) / (size - 40))
    mask = np.zeros((size, size), np.uint8)
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(mask, [points[:, None]], False, 255, 4)
    return mask


def test_paths_by_hand() -> None:
    turn = np.linspace(0, np.pi, 200)
    semicircle = 50 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert arc_over_chord(semicircle) == pytest.approx(math.pi / 2, rel=1e-4)
    assert mean_curvature(semicircle) == pytest.approx(1 / 50, rel=1e-2)
    line = np.stack([np.arange(30.0), 2 * np.arange(30.0)], axis=1)
    assert arc_over_chord(line) == pytest.approx(1)
    assert mean_curvature(line) == pytest.approx(0, abs=1e-12)
    assert arc_over_chord(np.concatenate([semicircle, semicircle[::-1]])) is None


@pytest.mark.parametrize("radius", [60, 120])
def test_a_drawn_semicircle(radius: int) -> None:
    """From the mask of a drawn arc: pi / 2 whatever its size, and a curvature of one over its radius."""
    mask = np.zeros((300, 300), np.uint8)
    cv2.ellipse(mask, (150, 200), (radius, radius), 0, 180, 360, 255, 4)
    found = tortuosity(vessel_graph(mask).segments, diameter=300)
    assert found.arc_over_chord == pytest.approx(math.pi / 2, rel=0.03)
    assert found.curvature == pytest.approx(300 / radius, rel=0.1)


def test_waves_wind_more_and_size_does_not_matter() -> None:
    found = [tortuosity(vessel_graph(wave(a)).segments, diameter=400) for a in (0, 6, 12, 24)]
    for name in ("arc_over_chord", "curvature"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values)
        assert values[-1] > 1.1 * values[0]
    assert found[0].arc_over_chord == pytest.approx(1, abs=0.003)
    twice = cv2.resize(wave(24), (800, 800), interpolation=cv2.INTER_NEAREST)
    large = tortuosity(vessel_graph(twice).segments, diameter=800)
    assert large.arc_over_chord == pytest.approx(found[-1].arc_over_chord, rel=0.02)
    assert large.curvature == pytest.approx(found[-1].curvature, rel=0.1)


def test_short_vessels_are_passed_over() -> None:
    mask = np.zeros((400, 400), np.uint8)
    cv2.line(mask, (100, 100), (130, 100), 255, 3)
    assert tortuosity(vessel_graph(mask).segments, diameter=400) is None
