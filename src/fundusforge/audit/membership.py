"""Membership inference: do the synthetic images tell who was in the training set?

The attacker holds a real image and the synthetic images, and guesses "member" where a synthetic image lies
near (Chen et al., "GAN-Leaks", CCS 2020). Its score is minus the distance to the nearest synthetic image; the
area under its ROC curve over training images against images of held-out patients is the figure, with the rate
of members found at few false alarms beside it (Carlini et al., "Membership inference attacks from first
principles", S&P 2022).

An area above one half is no leak by itself: training and held-out images may differ in camera or clinic, and
then an attack without any synthetic image succeeds as well (Das, Zhang and Tramer, "Blind baselines beat
membership inference attacks for foundation models", 2024). So each attack stands beside a control made of
real images alone, and what counts is the difference:

- the *stand-in*: the same attack with other real images in place of the synthetic ones. By default these are
  the training images themselves; a member is then compared with the held-out images while all images of the
  member's own patient are left out for both. A generator that paints new patients of the training
  population can do no better;
- the *probe*: a classifier of training against held-out images, cross-validated by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap

Floats = NDArray[np.float64]
RATES = (("1", 0.01), ("01", 0.001))
"""Rates of false alarms at which members found are counted: the end of the figure's name, and the rate."""
_NO_ROOM = 0.9
"""Area of a control above which an attack has hardly room to be better."""
_CROWDED = (
    "The control alone tells nearly everyone, so that a leak could not show: hold out patients of the same "
    "cameras and clinics."
)
_FOLDS = 5
"""Most folds of the probe."""


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """What an attacker looks at an image with."""

    name: str
    """For machines, e.g. `features`; stands in the names of figures."""
    title: str
    """For readers."""
    extractor: str
    resize: str


@dataclass(frozen=True, kw_only=True)
class Space(Eyes):
    """Eyes that see how far two images are from each other."""

    distances: Callable[[ImageSet, ImageSet], NDArray[Any]]
    """Two sets of n and m images to (n, m) distances."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Scores of one attack; the higher, the more like a member.

    A member's score is compared with a column of the held-out images' scores, because a control may compare
    each member under conditions of its own. Where such a score is NaN, the pair is not compared.
    """

    members: Floats
    """(n,)"""
    holdout: Floats
    """(m, columns)"""
    column: NDArray[np.intp]
    """(n,) the column that each member is compared with."""

    def order(self) -> tuple[Floats, Floats]:
        """Return (n, m) pairs in which the member scores higher (a tie is a half), and which are compared."""
        other = self.holdout[:, self.column].T
        known = np.isfinite(other) & np.isfinite(self.members)[:, None]
        above = (self.members[:, None] > other) + 0.5 * (self.members[:, None] == other)
        return np.where(known, above, 0.0), known.astype(np.float64)

    def area(self) -> Statistic:
        """Return the area under the ROC curve as a function of the weights of members and held-out images."""
        above, known = self.order()

        def value(weights: Sequence[Weights]) -> float | None:
            pairs = float(weights[0] @ known @ weights[1])
            return float(weights[0] @ above @ weights[1]) / pairs if pairs > 0 else None

        return value

    def hits(self, rate: float) -> Statistic:
        """Return the share of members found at a rate of false alarms, as a function of the weights."""
        order = np.argsort(-self.holdout, axis=0, kind="stable")
        ranked = np.take_along_axis(self.holdout, order, axis=0)

        def value(weights: Sequence[Weights]) -> float | None:
            members, holdout = weights
            if members.sum() <= 0 or holdout.sum() <= 0:
                return None
            alarms = np.cumsum(holdout[order], axis=0)
            allowed = rate * holdout.sum() + 1e-9
            first = (alarms > allowed).argmax(axis=0)  # the first score that may not be accepted
            threshold = ranked[first, np.arange(ranked.shape[1])]
            return float(members @ (self.members > threshold[self.column])) / float(members.sum())

        return value


def attack(to_synthetic: tuple[NDArray[Any], NDArray[Any]]) -> Trial:
    """Return the trial of the distance-based attack.

    Args:
        to_synthetic: Distances of members (n, s) and of held-out images (m, s) to the synthetic images.
    """
    members, holdout = (-np.asarray(each, np.float64).min(axis=1) for each in to_synthetic)
    return Trial(members=members, holdout=holdout[:, None], column=np.zeros(len(members), np.intp))


def stand_in(
    distances: tuple[NDArray[Any], NDArray[Any]],
    patients: tuple[Sequence[str], Sequence[str]],
    others: Sequence[str],
) -> Trial:
    """Return the trial of the same attack with real images in place of the synthetic ones.

    For a member of patient p, member and held-out images are both measured to the other images without those
    of p; no image is ever measured to another of its own patient. Both sides see equally many images, so the
    area is one half where the splits do not differ, whatever their sizes.

    Args:
        distances: Distances of members (n, k) and of held-out images (m, k) to the k stand-ins.
        patients: The patients of members and of held-out images.
        others: The patients of the stand-ins, two or more.
    """
    names, place = np.unique(np.asarray(others), return_inverse=True)
    known = {name: index for index, name in enumerate(names.tolist())}
    members, holdout = (
        _to_patients(each, place, len(names), [known.get(name) for name in own])
        for each, own in zip(distances, patients, strict=True)
    )
    columns = np.array([known.get(name, len(names)) for name in patients[0]], np.intp)
    return Trial(members=-members.min(axis=1), holdout=-_without_each(holdout), column=columns)


def _to_patients(
    distances: NDArray[Any], place: NDArray[np.intp], count: int, own: Sequence[int | None]
) -> Floats:
    """Return (n, patients) distances to the nearest image of each patient, infinite for the image's own."""
    nearest = np.full((len(distances), count), np.inf)
    for patient in range(count):
        nearest[:, patient] = distances[:, place == patient].min(axis=1)
    for row, patient in enumerate(own):
        if patient is not None:
            nearest[row, patient] = np.inf
    return nearest


def _without_each(nearest: Floats) -> Floats:
    """Return (m, patients + 1): the nearest when each patient in turn is left out, and when nobody is."""
    two = np.partition(nearest, 1, axis=1)[:, :2]
    first = np.arange(nearest.shape[1])[None, :] == nearest.argmin(axis=1)[:, None]
    return np.concatenate([np.where(first, two[:, 1:2], two[:, :1]), two[:, :1]], axis=1)


def probe(
    vectors: tuple[NDArray[Any], NDArray[Any]], patients: tuple[Sequence[str], Sequence[str]], *, seed: int
) -> Trial | None:
    """Return the trial of a classifier of training against held-out images, cross-validated by patient.

    A ridge classifier on standardised vectors scores images of patients it has not seen; scores are compared
    within a fold alone, so that the folds' different scales do not matter and chance is one half.

    Args:
        vectors: (n, D) of members and (m, D) of held-out images.
        patients: Their patients.
        seed: Seed of the folds.

    Returns:
        None with fewer than two patients on either side.
    """
    folds = min(_FOLDS, *(len(set(names)) for names in patients))
    if folds < 2:
        return None
    pipeline: Any = import_module("sklearn.pipeline").make_pipeline
    scaler: Any = import_module("sklearn.preprocessing").StandardScaler
    ridge: Any = import_module("sklearn.linear_model").RidgeClassifier
    splitter: Any = import_module("sklearn.model_selection").StratifiedGroupKFold
    x = np.concatenate([np.asarray(each, np.float64) for each in vectors])
    y = np.repeat([1, 0], [len(each) for each in vectors])
    groups = np.array([*patients[0], *patients[1]])
    scores, fold = np.full(len(x), np.nan), np.zeros(len(x), np.intp)
    split = splitter(folds, shuffle=True, random_state=seed).split(x, y, groups)
    for number, (train, test) in enumerate(split):
        if len(set(y[train].tolist())) < 2:
            continue
        model = pipeline(scaler(), ridge(alpha=float(x.shape[1]), class_weight="balanced"))
        scores[test] = model.fit(x[train], y[train]).decision_function(x[test])
        fold[test] = number
    n = len(vectors[0])
    within = np.where(fold[n:, None] == np.arange(folds), scores[n:, None], np.nan)
    return Trial(members=scores[:n], holdout=within, column=fold[:n])


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Whom the attacker tries to tell apart, and how often chance is drawn."""

    synthetic: ImageSet
    members: ImageSet
    """Images that the generator has learnt from."""
    holdout: ImageSet
    """Real images of patients whom it never saw."""
    stand_ins: ImageSet | None = None
    """Further real images for the control; None lets the members stand in, each patient apart."""
    seed: int = 0
    draws: int = 1000

    @property
    def patients(self) -> tuple[list[str], list[str]]:
        """The patients of members and of held-out images."""
        return self.members.patients, self.holdout.patients

    def figure(self, name: str, title: str, eyes: Eyes, **rest: Any) -> Figure:
        """Return a figure with what all of them share."""
        return Figure(
            name=f"membership_{name}", title=f"Membership inference, {title}", n=len(self.synthetic),
            n_real=len(self.members) + len(self.holdout), extractor=eyes.extractor, resize=eyes.resize,
            seed=self.seed, **rest,
        )  # fmt: skip


def by_distance(splits: Splits, space: Space) -> list[Figure]:
    """Attack by the distance to the nearest synthetic image and return its figures beside the control's.

    Raises:
        ValueError: A set is empty, or fewer than two patients can stand in.
    """
    if not (len(splits.synthetic) and len(splits.members) and len(splits.holdout)):
        raise ValueError("membership inference needs synthetic, training and held-out images")
    others = splits.stand_ins or splits.members
    if len(set(others.patients)) < 2:
        raise ValueError("the control needs real images of at least two patients to stand in")
    measure = space.distances
    trial = attack((measure(splits.members, splits.synthetic), measure(splits.holdout, splits.synthetic)))
    control = stand_in(
        (measure(splits.members, others), measure(splits.holdout, others)), splits.patients, others.patients
    )
    who = "training images of other patients" if splits.stand_ins is None else f"{len(others)} real images"
    note = f"Control: the same attack with {who} in place of the synthetic ones."
    return compared(splits, space, trial, control, note=note, rates=True)


def compared(
    splits: Splits, eyes: Eyes, trial: Trial, control: Trial, *, note: str, rates: bool = False
) -> list[Figure]:
    """Return the area of an attack, its difference to the control's, and the members found at low rates."""
    found = [_area(splits, eyes, trial, control, note), _difference(splits, eyes, trial, control, note)]
    return found + [_hits(splits, eyes, trial, control, *rate) for rate in RATES if rates]


def _bootstrap(splits: Splits, statistic: Statistic) -> Any:
    return bootstrap(statistic, *splits.patients, seed=splits.seed, draws=splits.draws)


def _all(splits: Splits) -> list[Weights]:
    """Weights that count every image once."""
    return [np.ones(len(splits.members)), np.ones(len(splits.holdout))]


def _with_control(splits: Splits, trial: Statistic, control: Statistic) -> dict[str, Any]:
    """Return the arguments of a figure for an attack's value and, as `real`, the control's."""
    real = _bootstrap(splits, control)
    return measured(trial(_all(splits)), _bootstrap(splits, trial)) | {
        "real": control(_all(splits)), "real_low": real.low, "real_high": real.high,
    }  # fmt: skip


def _area(splits: Splits, eyes: Eyes, trial: Trial, control: Trial, note: str) -> Figure:
    counts = f"{len(splits.members)} training against {len(splits.holdout)} held-out images."
    return splits.figure(
        f"{eyes.name}_auc", f"{eyes.title}: area under the ROC curve", eyes, better="lower",
        notes=(note, counts, "0.5 is guessing; read it beside the control."),
        **_with_control(splits, trial.area(), control.area()),
    )  # fmt: skip


def _difference(splits: Splits, eyes: Eyes, trial: Trial, control: Trial, note: str) -> Figure:
    first, second = trial.area(), control.area()

    def difference(weights: Sequence[Weights]) -> float | None:
        value, expected = first(weights), second(weights)
        return None if value is None or expected is None else value - expected

    value, expected = difference(_all(splits)), second(_all(splits))
    crowded = (_CROWDED,) if expected is not None and expected > _NO_ROOM else ()
    return splits.figure(
        f"{eyes.name}_advantage", f"{eyes.title}: area above the control's", eyes, better="lower",
        notes=(note, "An interval above 0 shows a leak; one that holds 0 shows none of this size.", *crowded),
        **measured(value, _bootstrap(splits, difference)),
        reason="" if value is not None else "no pair of images could be compared",
    )  # fmt: skip


def _hits(
    splits: Splits, eyes: Eyes, trial: Trial, control: Trial, name: str, rate: float
) -> Figure:  # fmt: skip
    title = f"{eyes.title}: members found at {rate:.1%} false alarms"
    label, least = f"{eyes.name}_tpr_{name}", round(1 / rate)
    if len(splits.holdout) < least:
        reason = f"it needs {least} held-out images, and there are {len(splits.holdout)}"
        return splits.figure(label, title, eyes, value=None, better="lower", reason=reason)
    return splits.figure(
        label, title, eyes, better="lower", **_with_control(splits, trial.hits(rate), control.hits(rate))
    )


def told_apart(splits: Splits, eyes: Eyes, trial: Trial | None) -> Figure:
    """Return how well the probe tells training from held-out images without any synthetic one."""
    title = "control: training told from held-out images without any synthetic one"
    if trial is None:
        return splits.figure(
            "probe_auc", title, eyes, value=None,
            reason="it needs two patients among the training and two among the held-out images",
        )  # fmt: skip
    return splits.figure(
        "probe_auc", title, eyes,
        notes=("Above 0.5 the splits differ by themselves, and so much of an attack is no leak.",),
        **measured(trial.area()(_all(splits)), _bootstrap(splits, trial.area())),
    )  # fmt: skip


def leaks(figures: Sequence[Figure], *, tolerance: float) -> list[Figure]:
    """Return the differences to a control whose whole interval lies above `tolerance`."""
    advantages = [f for f in figures if f.name.startswith("membership_") and f.name.endswith("_advantage")]
    return [figure for figure in advantages if figure.low is not None and figure.low > tolerance]
