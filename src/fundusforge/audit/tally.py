"""The figures of an audit: how many images offend, and whether they crowd the training set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.audit.findings import TESTS, VERDICTS, Finding, Test
from fundusforge.audit.nearest import Nearest, Unrelated
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor

_TITLES: dict[Test, str] = {
    "pixels": "pixels",
    "pixels_half": "pixels of the best half",
    "trees": "vessel trees",
    "trees_half": "vessel trees of the best half",
    "features": "features",
}


def wilson(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson, JASA 22, 1927).

    Args:
        hits: How many.
        n: Of how many, at least 1.
        level: Coverage, in (0, 1).

    >>> tuple(round(end, 4) for end in wilson(0, 100))
    (0.0, 0.037)
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    middle = (hits + z**2 / 2) / (n + z**2)
    reach = z / (n + z**2) * math.sqrt(hits * (n - hits) / n + z**2 / 4)
    # Of none and of all the ends are exact, which rounding would miss.
    return max(0.0, middle - reach) if hits else 0.0, min(1.0, middle + reach) if hits < n else 1.0


def figures(
    synthetic: ImageSet, holdout: ImageSet, findings: Sequence[Finding], nearest: Sequence[Nearest],
    chance: Sequence[Nearest], unrelated: Unrelated, kin: Sequence[Nearest], *, bar: float,
    extractor: Mapping[str, str], seed: int, draws: int,
) -> list[Figure]:  # fmt: skip
    """Return the figures of an audit.

    Args:
        synthetic: The images audited.
        holdout: Held-out images.
        findings: The verdicts.
        nearest: Per synthetic image, its nearest training pictures.
        chance: Per held-out image, its nearest training pictures of another patient.
        unrelated: What these show.
        kin: The nearest training pictures of their own patient, of held-out images that have some.
        bar: Least excess of an offence.
        extractor: What looks, per space: `pixels`, `trees`, `features`.
        seed: Seed of the bootstrap.
        draws: Bootstrap draws.
    """
    common: dict[str, Any] = {"resize": "field of view to 128 px (trees 256 px), area", "seed": seed}
    tests: list[Test] = [test for test in TESTS if all(test in each for each in [*nearest, *chance])]
    looked = "; ".join(extractor[space] for space in ("pixels", "trees", "features"))
    whole = common | {"extractor": looked, "n": len(findings), "n_real": len(holdout)}
    found = [_offences(findings, unrelated, whole), _kinship(kin, unrelated, bar, whole)]
    for test in tests:
        own = np.array([each[test].value for each in nearest])
        null = np.array([each[test].value for each in chance])
        statistic = _nearer(own, null)
        interval = bootstrap(statistic, synthetic.patients, holdout.patients, seed=seed, draws=draws)
        found.append(
            Figure(
                **common, **measured(statistic([np.ones(len(own)), np.ones(len(null))]), interval),
                name=f"audit_nearer_{test}", title=f"Nearer to a training picture, {_TITLES[test]}",
                better="lower", n=len(own), n_real=len(null), extractor=extractor[test.partition("_")[0]],
                floor=real_floor(_nearer(null, null), holdout.patients, seed=seed),
                notes=(
                    "Chance that a synthetic image lies nearer to its nearest training picture than a "
                    "held-out one to the nearest of another patient; 0.5 where the generator copies nothing.",
                    f"Median likeness {float(np.median(own)):.3f} (synthetic), {float(np.median(null)):.3f} "
                    "(held out).",
                ),
            )
        )  # fmt: skip
    return found


def _offences(findings: Sequence[Finding], unrelated: Unrelated, common: dict[str, Any]) -> Figure:
    hits, n = sum(finding.offends for finding in findings), len(findings)
    low, high = wilson(hits, n)
    kinds = Counter(finding.verdict for finding in findings)
    return Figure(
        **common, name="audit_offenders", title="Images more like a training picture than chance explains",
        value=hits / n, low=low, high=high, interval=f"95% Wilson interval of {n} images", better="lower",
        notes=(
            ", ".join(f"{kinds[verdict]} {verdict}" for verdict in VERDICTS if kinds[verdict]) + ".",
            f"Chance is told by {unrelated.patients} held-out patients.",
        ),
    )  # fmt: skip


def _kinship(kin: Sequence[Nearest], unrelated: Unrelated, bar: float, common: dict[str, Any]) -> Figure:
    """Return the share of fellow eyes and repeat visits that would offend."""
    title = "Fellow eyes and repeat visits that would count as copies"
    common = common | {"n_real": len(kin), "name": "audit_same_patient", "title": title}
    if not kin:
        reason = "no held-out picture is of a patient who stands in the training set, too"
        return Figure(**common, value=None, reason=reason)
    hits = sum(unrelated.largest(each)[0] >= bar for each in kin)
    low, high = wilson(hits, len(kin))
    note = "Held-out pictures against training pictures of the same patient; they do not enter chance."
    return Figure(
        **common, value=hits / len(kin), low=low, high=high, notes=(note,),
        interval=f"95% Wilson interval of {len(kin)} images",
    )  # fmt: skip


def _nearer(own: NDArray[np.float64], null: NDArray[np.float64]) -> Statistic:
    """Return the chance that the first set's likeness is the larger, a tie counted half, under weights."""
    above = (own[:, None] > null) + 0.5 * (own[:, None] == null)

    def value(weights: Sequence[Weights]) -> float | None:
        pairs = float(weights[0].sum() * weights[1].sum())
        return float(weights[0] @ above @ weights[1]) / pairs if pairs > 0 else None

    return value
