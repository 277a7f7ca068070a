"""Verdicts and methods in plain sentences."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from fundusforge.studies.augmentation.cells import steps_of
from fundusforge.studies.augmentation.config import Grades, Ratios, Study, Trained

if TYPE_CHECKING:
    from fundusforge.studies.augmentation.result import Comparison, Value

HELPS, HARMS, NOTHING = "helps", "harms", "not shown"
_Z = 1.96 + 0.84
"""Standard errors between nothing and a gain that is found in 80 % of studies at 5 %."""
CHANCE = {"auc": 0.5, "kappa": 0.0}
"""What guessing reaches."""
SHORT = {"auc": "the AUC", "kappa": "kappa", "f1": "F1"}


def verdict(one: Comparison, *, level: float) -> str:
    """Return whether synthetic images help: after Holm's correction, and by the interval."""
    gain = one.gain
    if gain.value is None or one.holm is None or one.holm >= level:
        return NOTHING
    sure = gain.low is None or gain.high is None or gain.low > 0 or gain.high < 0
    return NOTHING if not sure else HELPS if gain.value > 0 else HARMS


def sentence(one: Comparison, *, worth: float) -> str:
    """Say in plain words what was found, and what was not."""
    place = f"{one.title}, {one.where}"
    if one.gain.value is None or one.p is None:
        return f"{place}: synthetic images were not compared with the best free baseline; a class is absent."
    p = f"p = {one.p:.2g}" + ("" if one.holm is None else f", {one.holm:.2g} after Holm's correction")
    what = SHORT.get(one.measure, one.measure)
    found = f"{_signed(one.gain.value)}{_ends(one.gain.low, one.gain.high)}"
    over = f"over the best free baseline, {one.free} ({p}; {one.patients} patients, {one.seeds} seeds)"
    if one.verdict == HELPS:
        return f"{place}: synthetic images help: {what} rises by {found} {over}."
    if one.verdict == HARMS:
        return f"{place}: synthetic images harm: {what} changes by {found} {over}."
    if one.gain.high is not None and one.gain.high < worth:
        rest = f"A gain of {worth:g} or more is excluded."
    else:
        rest = f"A gain of {worth:g} is not excluded{_lacking(one, worth)}."
    seen = "synthetic images do not help, as far as can be seen"
    return f"{place}: {seen}: {what} changes by {found} {over}. {rest}"


def at_chance(one: Comparison, free: Value) -> str | None:
    """Say that nothing was to be seen where the best free baseline may be guessing; None where it is not."""
    chance = CHANCE.get(one.measure)
    if one.verdict != NOTHING or chance is None or free.low is None or free.low > chance:
        return None
    found = f"{SHORT[one.measure]} {free.value:.3f} [{free.low:.3f}, {free.high:.3f}]"
    return (
        f"{one.title}, {one.where}: the best free baseline, {one.free}, may do no better than chance "
        f"({found}); what images add to a model that does cannot be seen here."
    )


def _lacking(one: Comparison, worth: float) -> str:
    """Say how much larger a study would settle it."""
    patients, seeds = one.patients_error, one.seeds_error
    if patients is None or seeds is None or patients == 0:
        return ""
    room = (worth / _Z) ** 2
    few = seeds**2 <= room / 2
    need = math.ceil(one.patients * patients**2 / (room - seeds**2 if few else room / 2))
    more = "" if few else f" and {math.ceil(one.seeds * seeds**2 / (room / 2))} seeds"
    return f"; to settle it takes about {need} test patients{more}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"


def versions() -> dict[str, str]:
    """Return the versions of what computed the numbers."""
    names = ("fundusforge", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def methods(
    study: Study, counts: Mapping[str, Mapping[str, int]], starts: Sequence[str], known: Mapping[str, str]
) -> str:
    """Return a paragraph that says how everything was done.

    Args:
        study: The study.
        counts: Photographs by class, by set.
        starts: What the models' first weights were.
        known: Versions.
    """
    sets = "; ".join(f"{name}: {_counted(each)}" for name, each in counts.items())
    models: list[str] = []
    for name in study.learners:
        config, loop = study.trained(name)
        side = getattr(config, "size", None) or getattr(config, "diameter", "")
        what = getattr(config, "backbone", None) or getattr(config, "architecture", "")
        models.append(
            f"{name} ({what}, {side} px, learning rate {config.lr:g}, batches of {loop.batch}, "
            f"{steps_of(loop)} gradient steps)"
        )
    first = ", ".join(sorted(set(starts))) or "stated by the run"
    screen = study.screen
    sifted = (
        "" if screen is None
        else f" Of the free baselines the {screen.keep} best of {screen.seeds} "
        f"seed{'s' if screen.seeds > 1 else ''} on validation were trained with all seeds."
    )  # fmt: skip
    parts = [
        f"Photographs of {study.real.name}, split by patient ({sets}).",
        _design(study),
        f"Models: {'; '.join(models)}; first weights: {first}. Every arm had the same settings and the same "
        f"number of gradient steps whatever it learnt from, {study.seeds} seeds, and the state with the best "
        "score on validation was kept.",
        f"Free baselines: plain, {', '.join(study.free)}.{sifted} The baseline that synthetic images are "
        "held against was the one with the highest mean on validation; no test image had a say in it, nor in "
        "any threshold.",
        _supplied(study),
        f"Intervals are 95% percentile bootstraps of patients and seeds together ({study.draws} draws). "
        "Gains of areas were tested by DeLong's method with patients as clusters, other gains by the "
        "jackknife over patients, each with the variance between seeds; decisions by McNemar's exact test. "
        f"p-values of all comparisons were corrected by Holm's method (level {study.level:g}).",
        "Computed with " + ", ".join(f"{name} {version}" for name, version in known.items()) + ".",
    ]
    return " ".join(parts)


def _design(study: Study) -> str:
    design = study.design
    side = "" if study.side is None else f" All pictures were brought to {study.side} px first."
    if isinstance(design, Ratios):
        ratios = ", ".join(f"1:{ratio:g}" for ratio in design.ratios)
        return (
            f"Training photographs with {design.rare} were thinned to {ratios} of those without; synthetic "
            f"images of the finding filled them up to 1:1.{side}"
        )
    if isinstance(design, Grades):
        full = (
            "up to the most frequent grade" if design.per_grade is None else f"with {design.per_grade} each"
        )
        return f"Synthetic images filled the grades {full}.{side}"
    return f"{design.pairs} synthetic pairs of photograph and {design.mask} were added.{side}"


def _supplied(study: Study) -> str:
    supply, quarantine = study.supply, study.quarantine
    if isinstance(supply, Trained):
        preset = f" ({supply.learner.preset})" if supply.learner.preset else ""
        apart = isinstance(study.design, Ratios) and study.design.teaching == "apart"
        who = (
            "on photographs that no other model had"
            if apart
            else "on the baseline's own training photographs"
        )
        text = f"The generator was {supply.learner.family}{preset}, trained for every setting {who}."
    else:
        text = f"Synthetic images were those of {supply.folder.name}."
    if quarantine.spaces == "off":
        return f"{text} They were not audited for copies."
    return (
        f"{text} Images that the audit ({quarantine.spaces}, level {quarantine.level:g}) found too near to a "
        "training photograph were left out before."
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
