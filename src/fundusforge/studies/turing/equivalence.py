"""Can readers tell at all: balanced accuracy against 1/2, by two one-sided tests within a margin.

A test that finds no difference from 1/2 is no proof of guessing: with few readers it finds nothing whatever
they see. Two one-sided t-tests (Schuirmann, J Pharmacokinet Biopharm 15, 1987, 657) ask instead whether
accuracy is shown to lie within the margin; the 90 % interval inside the margin is the same at level 0.05.

Which standard error: the claim is about the generator, that is, about other images of it and other readers.
Taken from readers alone, as a GEE clustered by reader does, the error leaves out that 50 images are a sample:
where images differ much, the test of 40 readers then claims equivalence at the margin's edge two or three
times as often as it should. So the error is that of crossed readers and images with Satterthwaite's degrees
of freedom (`fundusforge.studies.turing.crossed`); benchmarks/turing_statistics.py measures its level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.studies.turing.answers import Grid
from fundusforge.studies.turing.crossed import interval
from fundusforge.studies.turing.measures import measured

CHANCE = 0.5


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """The tests of one group of readers."""

    group: str
    value: float | None
    """Balanced accuracy."""
    low: float | None = None
    """Lower end of the interval of `1 - 2 * level`, which decides."""
    high: float | None = None
    degrees: float | None = None
    margin: float
    level: float
    p: float | None = None
    """Of lying at or beyond the margin; small means equivalent."""
    p_different: float | None = None
    """Two-sided, of lying at 1/2."""
    readers: int
    images: int
    reason: str = ""

    @property
    def equivalent(self) -> bool | None:
        """Whether equivalence is shown; None if that was not tested."""
        return None if self.p is None else self.p < self.level

    @property
    def different(self) -> bool | None:
        """Whether a difference from 1/2 is shown; None if that was not tested."""
        return None if self.p_different is None else self.p_different < self.level

    def sentence(self) -> str:
        """Return what the tests say, in plain words."""
        who = self.group[:1].upper() + self.group[1:]
        if self.value is None or self.p is None or self.p_different is None:
            return f"{who}: not tested against 50 %: {self.reason}."
        edges = f"{100 * (CHANCE - self.margin):.3g} to {100 * (CHANCE + self.margin):.3g} %"
        ends = f"{100 * (self.low or 0):.1f} to {100 * (self.high or 0):.1f} %"
        begin = (
            f"{who}: balanced accuracy {100 * self.value:.1f} % ({100 * (1 - 2 * self.level):.0f} % interval "
            f"{ends}, p of equivalence {self.p:.3g}, p of difference {self.p_different:.3g})"
        )
        better = "better" if self.value > CHANCE else "worse"
        return f"{begin}: " + {
            (True, False): f"equivalent to guessing within {edges}; no difference from 50 % is found",
            (True, True): f"{better} than guessing, but equivalent to it within {edges}: a true and small "
                          "difference",
            (False, True): f"not equivalent and different: readers do {better} than guessing, and it is not "
                           f"shown that they stay within {edges}",
            (False, False): f"not equivalent, not different: the data neither show that readers stay within "
                            f"{edges} nor that they do other than guess; more readers or images are needed",
        }[bool(self.equivalent), bool(self.different)] + "."  # fmt: skip


def equivalence(
    grid: Grid, rows: NDArray[np.bool_] | None = None, *, group: str, margin: float = 0.1, level: float = 0.05
) -> Equivalence:
    """Test balanced accuracy of a group of readers against 1/2.

    Args:
        grid: The study.
        rows: Readers of the group; all if None.
        group: What to call it.
        margin: Largest distance from 1/2 that counts as guessing, in (0, 0.5).
        level: Of each test, in (0, 0.5).
    """
    found = measured(grid, "balanced", rows)
    known: dict[str, Any] = {"group": group, "value": found.value, "margin": margin, "level": level,
                             "readers": found.readers, "images": found.images}  # fmt: skip
    if found.value is None or found.error is None or found.degrees is None:
        return Equivalence(**known, reason=found.reason)
    variance = found.error**2
    p, p_different = p_values(found.value, variance, found.degrees, margin=margin)
    low, high = interval(found.value, variance, found.degrees, scale="identity", level=1 - 2 * level)
    return Equivalence(**known, low=low, high=high, degrees=found.degrees, p=float(p),
                       p_different=float(p_different))  # fmt: skip


def p_values(value: Any, variance: Any, degrees: Any, *, margin: float) -> tuple[Any, Any]:
    """Return p of lying at or beyond the margin, and two-sided p of lying at 1/2; numbers or arrays.

    Where answers do not vary, both are 1.
    """
    from scipy.stats import t

    varies = np.asarray(variance) > 1e-15
    error, degrees = np.sqrt(np.where(varies, variance, 1.0)), np.where(varies, degrees, 1.0)
    above = t.sf((value - (CHANCE - margin)) / error, degrees)
    below = t.sf((CHANCE + margin - value) / error, degrees)
    different = 2 * t.sf(np.abs(value - CHANCE) / error, degrees)
    return np.where(varies, np.maximum(above, below), 1.0), np.where(varies, different, 1.0)
