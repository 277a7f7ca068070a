"""The seven criteria by which synthetic medical data are reported, and which figures speak to each.

After the scorecard that authors of the FDA's device centre propose for synthetic medical data (Zamzmi et al.,
"Scorecard for synthetic medical data evaluation", Communications Engineering 4, 130, 2025). The criteria and
their order are theirs; what is asked of each here, and which figure answers, is this package's reading.
A criterion to which no figure speaks says that it was not measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fundusforge.audit.findings import Audit
from fundusforge.audit.gate import Check
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.subgroups import Subgroup, divided
from fundusforge.records import Record

Name = Literal[
    "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency"
]
CRITERIA: dict[Name, str] = {
    "Congruence": "Are the synthetic images like real ones, as a set?",
    "Coverage": "Do they show the variety of real ones, and more than a few of them over and over?",
    "Constraint": "Do they obey anatomy, and do image and mask agree?",
    "Completeness": "Is what a task needs to know of an image recorded?",
    "Compliance": "Do they keep privacy, terms of use and marking?",
    "Comprehension": "Can it be understood, and repeated, how they were made?",
    "Consistency": "Are they equally good for every group of patients and every camera?",
}
"""Every criterion and its question, in the order of the scorecard."""
_SPEAKS: tuple[tuple[Name, str], ...] = (
    ("Coverage", r"recall|coverage|density|diversity"),
    (
        "Constraint",
        r"agreement|anatomy|disc_|fovea_|vessels_|vessel_(?!fraction|length|snr)",
    ),
    ("Congruence", r""),
)
"""Beginnings of the figures' names; the first that fits counts, and likeness is what all others are about."""
NOT_MEASURED = "Not measured."


def escape(text: object) -> str:
    """Return text that stays within one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows)]


def criterion_of(name: str) -> Name:
    """Return the criterion to which a figure of an evaluation speaks."""
    return next(criterion for criterion, pattern in _SPEAKS if re.match(pattern, name))


def number(value: float | None) -> str:
    """Return a number in four digits."""
    return "-" if value is None else f"{value:.4g}"


def span(low: float | None, high: float | None) -> str:
    """Return an interval."""
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def figure_table(figures: Sequence[Figure]) -> list[str]:
    """Return figures as a table: value, interval, the same of real images, their halves, images counted."""
    rows: list[Sequence[object]] = []
    for figure in figures:
        title = f"{figure.title}{f' ({figure.unit})' if figure.unit else ''}"
        if figure.value is None:
            rows.append(
                (title, f"not computed: {figure.reason}", "-", "-", "-", f"{figure.n}, {figure.n_real}")
            )
            continue
        real = number(figure.real)
        if figure.real_low is not None:
            real += f" ({span(figure.real_low, figure.real_high)})"
        floor = span(figure.floor.low, figure.floor.high) if figure.floor else "-"
        if figure.matched is not None:
            floor += f"; at their size {number(figure.matched)}"
        rows.append(
            (
                title,
                number(figure.value),
                span(figure.low, figure.high),
                real,
                floor,
                f"{figure.n}, {figure.n_real}",
            )
        )
    return table(
        ("figure", "value", "95 % interval", "real images", "halves of real images", "n, n real"), rows
    )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a set of synthetic images."""

    records: Sequence[Record]
    figures: Sequence[Figure] | None
    """Of its evaluation; None if there was none."""
    audit: Audit
    checks: Sequence[Check]
    """Of the release gate."""
    subgroups: Sequence[Subgroup]


def scorecard(evidence: Evidence) -> list[str]:
    """Return the section of a data card on the seven criteria, as lines of Markdown."""
    lines = [
        "Criteria of Zamzmi et al., *Scorecard for synthetic medical data evaluation*, Communications",
        "Engineering 4, 130 (2025). Figures stand beside the same figure on real images and beside what",
        "random halves of the real images give: a figure inside that range cannot tell the sets apart. Where",
        "it depends on the number of images, the figure at the size of these halves is what counts.",
    ]
    answers = {
        "Completeness": _completeness, "Compliance": _compliance, "Comprehension": _comprehension,
        "Consistency": _consistency,
    }  # fmt: skip
    for name, question in CRITERIA.items():
        answer = answers[name](evidence) if name in answers else _measured(evidence, name)
        lines += ["", f"### {name}", "", question, "", *answer]
    return lines


def _measured(evidence: Evidence, name: Name) -> list[str]:
    found = [figure for figure in evidence.figures or () if criterion_of(figure.name) == name]
    return figure_table(found) if found else [NOT_MEASURED]


def _completeness(evidence: Evidence) -> list[str]:
    records = evidence.records
    plain = ("eye", "camera", "grade", "age", "sex", "oedema_risk", "field_of_view", "provenance", "terms")
    known = {name: sum(getattr(record, name) is not None for record in records) for name in plain}
    masks = sorted({name for record in records for name in record.masks})
    known |= {f"mask: {name}": sum(name in record.masks for record in records) for name in masks}
    rows = [(name.replace("_", " "), count, f"{count / len(records):.0%}") for name, count in known.items()]
    return [f"Of {len(records)} images it is known:", "", *table(("what", "images", "share"), rows)]


def _compliance(evidence: Evidence) -> list[str]:
    audit = evidence.audit
    rows = [(check.name, "passed" if check.passed else "failed", check.detail) for check in evidence.checks]
    lines = [*table(("check of the release gate", "", "what was found"), rows), ""]
    counts = ", ".join(f"{count} {verdict}" for verdict, count in audit.counts().items() if count)
    lines += [
        f"Each image was compared with every training image; of unrelated images, at most {audit.level:.1%}",
        f"are called too near. Verdicts before anything was left out: {counts or 'none'}.",
    ]
    membership = [figure for figure in audit.figures if figure.name.startswith("membership_")]
    others = [figure for figure in audit.figures if figure not in membership]
    lines += ["", *figure_table(others)] if others else []
    lines += [
        "",
        "Membership inference (the column of real images is the control, made without synthetic ones):",
        "",
    ]
    return lines + (figure_table(membership) if membership else [NOT_MEASURED])


def _comprehension(evidence: Evidence) -> list[str]:
    made = [record.provenance for record in evidence.records if record.provenance]
    models = sorted({each.model for each in made})
    seeds = sorted({each.seed for each in made})
    drawn = sum(each.condition.startswith("phantom:") for each in made)
    whole = sum(bool(each.model and each.version and each.condition) for each in made)
    return table(
        ("what", ""),
        [
            ("images that say how they were made", f"{whole} of {len(evidence.records)}"),
            ("models", ", ".join(models) or "-"),
            ("seeds", ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")),
            ("painted on drawn structure", f"{drawn} of {len(evidence.records)}"),
        ],
    )  # fmt: skip


def _consistency(evidence: Evidence) -> list[str]:
    groups: list[Sequence[object]] = []
    for attribute in ("age", "sex", "eye", "camera", "source", "grade"):
        counts = {group: len(members) for group, members in divided(evidence.records, attribute).items()}
        if set(counts) != {"unknown"}:
            groups.append((attribute, ", ".join(f"{group} {count}" for group, count in counts.items())))
    lines = (
        table(("attribute", "images"), groups) if groups else ["No attribute of patient or camera is known."]
    )
    return [
        *lines,
        "",
        *(subgroup_table(evidence.subgroups) or [f"Figures by subgroup: {NOT_MEASURED.lower()}"]),
    ]


def subgroup_table(found: Sequence[Subgroup]) -> list[str]:
    """Return figures by subgroup as a table; nothing if there are none."""
    if not found:
        return []
    rows: list[Sequence[object]] = [
        (
            each.figure.replace("_", " "), each.attribute, each.group,
            "-" if each.images is None else f"{each.images}, {each.patients}",
            number(each.value) if each.value is not None else each.reason, span(each.low, each.high),
        )
        for each in found
    ]  # fmt: skip
    return table(("figure", "attribute", "group", "images, patients", "value", "95 % interval"), rows)
