"""A probe that learns to tell synthetic images from real ones, and how real each image looks to it.

Logistic regression on features (a classifier two-sample test: Lopez-Paz and Oquab, ICLR 2017),
cross-validated with whole patients left out: the score of an image comes from a probe that has seen neither
it nor another image of that patient. An area under the ROC curve of 0.5 means that these features cannot
tell the sets apart; 1 that they always can. The scores rank images from the least to the most plausible.
"""

# scikit-learn has no type annotations.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Weights, bootstrap, real_floor

FEWEST = 10
"""Patients in each set below which nothing is learnt."""
_FOLDS = 5
_PENALTY = 0.1
"""Inverse strength of the ridge penalty on standardised features: few images, many features."""
_FLOOR_REPEATS = 20
"""Random halves of the real patients; each is a probe of its own."""

Scores = NDArray[np.float64]
"""(N,) one number per image, higher for images that look real."""


def probe_scores(
    first: Features, second: Features, patients: tuple[Sequence[str], Sequence[str]], *, seed: int
) -> tuple[Scores, Scores]:
    """Return how much each image looks like the second set, by a probe that has not seen its patient.

    Args:
        first: (n, D) features of the set to be judged.
        second: (m, D) features of the real set.
        patients: The patient of each row of both.
        seed: Decides which patients are left out together.

    Returns:
        (n,) and (m,) log-odds of belonging to the second set.

    Raises:
        ValueError: Fewer than `FEWEST` patients in a set.
    """
    if min(len(set(names)) for names in patients) < FEWEST:
        raise ValueError(f"a probe needs {FEWEST} patients in each set")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([first, second]).astype(np.float64)
    real = np.repeat([0, 1], [len(first), len(second)])
    groups = np.array([*patients[0], *patients[1]])
    scores = np.zeros(len(rows))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for learnt, left_out in folds.split(rows, real, groups):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000)
        )
        model.fit(rows[learnt], real[learnt])
        scores[left_out] = model.decision_function(rows[left_out])
    return scores[: len(first)], scores[len(first) :]


def weighted_auc(fake: Scores, real: Scores, weights: Sequence[Weights] | None = None) -> float | None:
    """Return the share of pairs in which the real image scores higher, ties counted half.

    Args:
        fake: (n,) scores.
        real: (m,) scores.
        weights: How often each image counts, (n,) and (m,); once if None.

    Returns:
        None if nothing is counted on one side.
    """
    light, heavy = weights if weights is not None else (np.ones(len(fake)), np.ones(len(real)))
    pairs = float(light.sum()) * float(heavy.sum())
    if pairs == 0:
        return None
    order = np.argsort(fake, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(light[order])])
    places = [np.searchsorted(fake[order], real, side=side) for side in ("left", "right")]
    return float(heavy @ (below[places[0]] + below[places[1]])) / 2 / pairs


def figures(evidence: Evidence) -> list[Figure]:
    """Return the area under the ROC curve of the probe."""
    common: dict[str, Any] = {
        "name": "probe_auc",
        "title": "Real or synthetic: area under the ROC curve of a cross-validated probe",
        "better": "lower",
        "n": len(evidence.synthetic),
        "n_real": len(evidence.real),
        "seed": evidence.seed,
        "extractor": evidence.extractor.name if evidence.extractor else "none",
        "resize": evidence.extractor.resize if evidence.extractor else "none",
    }
    patients = (evidence.synthetic.patients, evidence.real.patients)
    if evidence.extractor is None or min(len(set(names)) for names in patients) < FEWEST:
        reason = "no extractor was given" if evidence.extractor is None else f"under {FEWEST} patients a set"
        return [Figure(**common, value=None, reason=reason)]
    evidence.tell("probe: telling real from synthetic")
    vectors = evidence.features(evidence.real)
    fake, real = probe_scores(evidence.features(evidence.synthetic), vectors, patients, seed=evidence.seed)

    def against_all(weights: Sequence[Weights]) -> float | None:
        return weighted_auc(fake, real, [weights[0], np.ones(len(real))])

    evidence.keep("probe_auc", (against_all, evidence.synthetic.records), None)

    def between_halves(halves: Sequence[Weights]) -> float | None:
        chosen = [np.flatnonzero(half) for half in halves]
        names = [[evidence.real.patients[place] for place in half] for half in chosen]
        if min(len(set(each)) for each in names) < FEWEST:
            return None
        scores = probe_scores(
            vectors[chosen[0]], vectors[chosen[1]], (names[0], names[1]), seed=evidence.seed
        )
        return weighted_auc(*scores)

    interval = bootstrap(
        lambda weights: weighted_auc(fake, real, weights), *patients, seed=evidence.seed, draws=evidence.draws
    )
    return [
        Figure(
            **common,
            **measured(weighted_auc(fake, real), interval),
            floor=real_floor(
                between_halves,
                evidence.real.patients,
                seed=evidence.seed,
                repeats=min(evidence.repeats, _FLOOR_REPEATS),
            ),
            notes=(
                f"Logistic regression on features, {_FOLDS} folds by patient; 0.5 is a coin toss.",
                "The interval holds the scores fixed: it leaves out what another training would change.",
            ),
        )
    ]
