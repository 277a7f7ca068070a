"""Linear probes: what a latent vector tells of its photograph, and in which direction it lies.

Logistic regression on the vectors, cross-validated with whole patients left out, so that a probe is asked
only about eyes of people it has not seen (fellow eyes resemble each other). The answer stands beside what
always naming the commonest class would score.
"""

# scikit-learn has no type annotations.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.statistics import Interval, bootstrap, weighted_mean
from fundusforge.sample.latents import Latents

FEWEST = 5
"""Patients of each class below which nothing is probed."""
_FOLDS = 5
_PENALTY = 0.1
"""Inverse strength of the ridge penalty on standardised vectors."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a probe found."""

    accuracy: float
    """Share of images of unseen patients whose class it names."""
    interval: Interval
    """Of the accuracy, by bootstrap of patients."""
    chance: float
    """Accuracy of always naming the commonest class."""
    n: int
    """Images."""
    classes: tuple[str, ...]
    direction: NDArray[np.float32] | None
    """(L,) unit vector from the first class to the second, by a probe of all images; None of more classes."""


def probe(latents: Latents, labels: Sequence[str], patients: Sequence[str], *, seed: int = 0) -> Probe | None:
    """Learn to name the class of an image from its latent vector.

    Args:
        latents: (N, L).
        labels: Class of each image.
        patients: Patient of each image.
        seed: Decides which patients are left out together, and of the bootstrap.

    Returns:
        What was found; None if there is one class only, or one of fewer than five patients.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = np.array(labels)
    classes, counts = np.unique(names, return_counts=True)
    people = [len({p for p, name in zip(patients, labels, strict=True) if name == c}) for c in classes]
    if len(classes) < 2 or min(people) < FEWEST:
        return None
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=_PENALTY, max_iter=2000))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    named: Any = cross_val_predict(model, latents, names, groups=list(patients), cv=folds)
    right: NDArray[np.float64] = (named == names).astype(np.float64)

    direction = None
    if len(classes) == 2:
        model.fit(latents, names)
        slope = model[-1].coef_[0] / np.maximum(model[0].scale_, 1e-9)
        direction = (slope / np.linalg.norm(slope)).astype(np.float32)
    return Probe(
        accuracy=float(right.mean()),
        interval=bootstrap(lambda weights: weighted_mean(right, weights[0]), list(patients), seed=seed),
        chance=float(counts.max() / counts.sum()),
        n=len(names),
        classes=tuple(str(c) for c in classes),
        direction=direction,
    )
