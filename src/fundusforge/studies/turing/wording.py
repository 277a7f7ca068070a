"""What an analysis says in words: conclusions, warnings, and the paragraph on methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from fundusforge.studies.turing.answers import Answers
from fundusforge.studies.turing.crossed import Estimate
from fundusforge.studies.turing.result import Condition, ConditionDifference

_FEW_READERS, _FEW_IMAGES = 5, 20


def conclusions(
    conditions: Sequence[Condition], differences: Sequence[ConditionDifference]
) -> list[str]:  # fmt: skip
    """Return what the study shows, in plain sentences."""
    found: list[str] = []
    for one in conditions:
        said = [
            _overall(one),
            one.overall.equivalence.sentence(),
            *_leaning(one),
            *_groups(one),
            *_agree(one),
        ]
        found += [f"[{one.condition}] {line}" if len(conditions) > 1 else line for line in said]
    for one in differences:
        estimate = one.difference
        if estimate.low is None or estimate.high is None:
            found.append(f"{one.condition} against {one.less}: not compared, {estimate.reason}.")
            continue
        shown = "differs from" if not estimate.low <= 0 <= estimate.high else "is not shown to differ from"
        found.append(
            f"Balanced accuracy in condition {one.condition} {shown} that in {one.less}: "
            f"{100 * (estimate.value or 0):+.1f} percentage points ({100 * estimate.low:+.1f} to "
            f"{100 * estimate.high:+.1f})."
        )
    return found


def warnings(answers: Answers, conditions: Sequence[Condition]) -> list[str]:
    """Return what a reader of the results should know first."""
    found: list[str] = []
    if answers.left_out:
        names = ", ".join(reader.reader for reader in answers.left_out)
        found.append(f"{len(answers.left_out)} readers have not finished and do not count: {names}.")
    if open_ended := [reader.reader for reader in answers.readers if not reader.finished]:
        found.append(f"Readers who have not finished count, as was asked: {', '.join(open_ended)}.")
    for one in conditions:
        where = f" of condition {one.condition}" if len(conditions) > 1 else ""
        if one.missing:
            found.append(f"{one.missing} of {one.answers + one.missing} answers{where} are missing.")
        if one.real != one.synthetic:
            found.append(
                f"{one.synthetic} of {one.real + one.synthetic} images{where} are synthetic: accuracy "
                "depends on that share and on leaning; balanced accuracy does not, and is what is tested "
                "against 50 %."
            )
        if min(one.real, one.synthetic) < _FEW_IMAGES:
            found.append(f"Few images{where}: {one.real} real and {one.synthetic} synthetic ones.")
        small = {
            row.group: len(row.members) for table in one.tables for row in table.rows
            if len(row.members) < _FEW_READERS
        }  # fmt: skip
        if small:
            told = ", ".join(f"{name}: {count}" for name, count in small.items())
            found.append(
                f"Groups of few readers{where} ({told}): their intervals are wide and their p unsure."
            )
        if one.rushed:
            found.append(f"{one.rushed} answers{where} came in less than a second.")
    return found


def methods(
    answers: Answers, conditions: Sequence[Condition], said: Sequence[str], versions: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:  # fmt: skip
    """Return a paragraph on methods, with counts and versions, and the conclusions, as Markdown."""
    counts = "; ".join(
        f"{f'condition {one.condition}: ' if len(conditions) > 1 else ''}{one.readers} readers, {one.real} "
        f"real and {one.synthetic} synthetic images, {one.answers} answers, {one.missing} missing"
        for one in conditions
    )
    repeated = sum(len(answers.repeats(one.condition)) for one in conditions)
    groups = "; ".join(
        f"{table.title}: " + ", ".join(f"{row.group} ({len(row.members)})" for row in table.rows)
        for table in conditions[0].tables
    )
    numbers = ", ".join(f"{name} {version}" for name, version in versions.items())
    tested = [
        str(sum(c.p is not None for table in one.tables for c in table.comparisons)) for one in conditions
    ]
    paragraph = f"""
        Readers judged each image as real or synthetic ({counts}; {len(answers.left_out)} readers who
        had not finished were left out; {repeated} second showings). Only first showings entered, but
        for the agreement of readers with themselves. A real image was the positive case. Readers were
        grouped {groups}. Accuracy, sensitivity, specificity, d' and criterion (log-linear correction)
        and time per image are means over readers; their 95 % intervals are t intervals with readers
        and images both random (variance of readers plus variance of images less that of their cells,
        Satterthwaite's degrees of freedom; logit scale for shares, log scale for times). Intervals of
        shares of single readers and images are Wilson's. Groups were compared with
        {settings["reference"]} by logistic generalised estimating equations (exchangeable working
        correlation, clusters of readers, covariance of Mancl and DeRouen, t distribution with Welch's
        and Satterthwaite's degrees of freedom), times with an identity link; p values of
        {" and ".join(tested)} comparisons are given as they are and after Holm's correction. Guessing
        was tested by two one-sided t-tests of balanced accuracy within {100 * settings["margin"]:g}
        percentage points of 50 %, each at level {settings["level"]:g}, with readers and images
        random. Agreement between readers is Fleiss' kappa (bootstrap over images), that of readers
        with themselves Cohen's kappa (bootstrap over readers), {settings["draws"]} draws, seed
        {settings["seed"]}. Software: {numbers}."""
    wrapped = fill(" ".join(paragraph.split()), 110, break_on_hyphens=False)
    return (
        "\n".join(["# Methods", "", wrapped, "", "# What it shows", "", *(f"- {line}" for line in said)])
        + "\n"
    )


def _overall(one: Condition) -> str:
    parts = [
        f"{name} {_percent(one.overall.measures[name])}"
        for name in ("accuracy", "sensitivity", "specificity")
    ]
    return (
        f"{one.readers} readers judged {one.real} real and {one.synthetic} synthetic images: "
        f"{', '.join(parts)} (sensitivity: real images called real)."
    )


def _leaning(one: Condition) -> list[str]:
    c = one.overall.measures["criterion"]
    if c.value is None or c.low is None or c.high is None:
        return []
    lean = "lean towards calling images real" if c.high < 0 else "lean towards calling images synthetic"
    what = lean if not c.low <= 0 <= c.high else "are not shown to lean either way"
    return [f"Readers {what}: criterion c {c.value:.2f} ({c.low:.2f} to {c.high:.2f}; 0 is no leaning)."]


def _groups(one: Condition) -> list[str]:
    every = [each for table in one.tables for each in table.comparisons]
    known = [each for each in every if each.p is not None and each.p_holm is not None]
    if not known:
        reason = every[0].reason if every else "there is one group"
        return [f"No groups were compared: {reason}."]
    raw = [each for each in known if each.p is not None and each.p < 0.05]
    kept = [each for each in raw if each.p_holm is not None and each.p_holm < 0.05]
    told = f"after Holm's correction over {len(known)} comparisons"
    if kept:
        return [
            f"{each.group} against {each.reference}, {each.outcome}: {each.effect} {each.value:.2f} "
            f"({each.low:.2f} to {each.high:.2f}), p {each.p:.3g}, {each.p_holm:.3g} {told}."
            for each in kept
        ]  # fmt: skip
    before = ", ".join(f"{each.group} in {each.outcome} (p {each.p:.2g})" for each in raw)
    before = f"; before it, {before} do" if raw else "; nor does any before it"
    return [f"No group differs from {known[0].reference} {told}{before}."]


def _agree(one: Condition) -> list[str]:
    found: list[str] = []
    kappa = one.overall.kappa
    if kappa.value is not None and kappa.low is not None:
        found.append(
            f"Readers agree with each other with Fleiss' kappa {kappa.value:.2f} ({kappa.low:.2f} to "
            f"{kappa.high:.2f}; 0 is chance, 1 is full agreement)."
        )
    if one.repeated is not None and one.repeated.percent.value is not None:
        again = one.repeated.kappa
        told = "" if again.value is None else f", Cohen's kappa {again.value:.2f}"
        found.append(
            f"Shown again, an image was called the same in {100 * one.repeated.percent.value:.1f} % of "
            f"{one.repeated.percent.images} cases{told}."
        )
    return found


def _percent(one: Estimate) -> str:
    if one.value is None:
        return f"none ({one.reason})"
    text = f"{100 * one.value:.1f} %"
    if one.low is not None and one.high is not None:
        text += f" (95 % interval {100 * one.low:.1f} to {100 * one.high:.1f} %"
        text += f", SD between readers {100 * one.sd:.1f})" if one.sd is not None else ")"
    return text
