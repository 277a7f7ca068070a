"""Tables of a reader study in the form of Kim et al. 2022, and others: Markdown, CSV, plain text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.turing.agreement import Agreement
from fundusforge.studies.turing.crossed import HOW, Estimate
from fundusforge.studies.turing.gee import OUTCOMES, Comparison
from fundusforge.studies.turing.measures import TITLES, Convincing, Number, Share
from fundusforge.studies.turing.result import Condition, ConditionDifference, GroupRow, GroupTable

Rows = list[tuple[str, ...]]
NONE = "-"
"""Stands where there is no figure; why not, the notes below the table say."""
CSV_COLUMNS: tuple[str, ...] = (
    "condition", "table", "method", "group_id", "group", "readers", "images", "measure", "value", "low",
    "high", "images_fixed_low", "images_fixed_high", "sd", "p", "p_holm", "p_images", "p_both", "reason",
)  # fmt: skip


def table_two(condition: Condition, *, fixed: bool = False) -> Rows:
    """Return Table 2 of the paper: accuracy, sensitivity and specificity of every group.

    Args:
        condition: What to show.
        fixed: Give the intervals with the images held fixed, as the paper's are.
    """
    rows: Rows = [
        ("Method", "Group ID", "Group", "Readers", "Accuracy (95% CI)", "Sensitivity (95% CI)",
         "Specificity (95% CI)", "Seconds per image (95% CI)"),
    ]  # fmt: skip
    for table, row in _every_row(condition):
        cells = [
            _ends(row.measures[name], fixed=fixed) for name in ("accuracy", "sensitivity", "specificity")
        ]
        cells.append(_ends(row.measures["seconds"], digits=1, fixed=fixed))
        rows.append((table, *_who(row), *cells))
    return rows


def table_three(condition: Condition) -> Rows:
    """Return Table 3 of the paper: p of the GEE, beside it after Holm's correction."""
    rows: Rows = [
        ("Method", "Group ID", "Group", "Accuracy", "Sensitivity", "Specificity", "Elapsed time"),
    ]
    for table in condition.tables:
        for row in table.rows:
            cells = [_p_cell(_find(table, row.group, outcome)) for outcome in OUTCOMES]
            first = row is table.rows[0]
            rows.append((str(table.method), str(row.number), row.group, *(["ref"] * 4 if first else cells)))
    return rows


def effects(condition: Condition) -> Rows:
    """Return what stands behind Table 3: odds ratios, differences, and p under other assumptions."""
    rows: Rows = [
        (
            "Method",
            "Group",
            "Against",
            "Outcome",
            "Effect (95% CI)",
            "p",
            "p (Holm)",
            "p (images)",
            "p (both)",
        ),
    ]
    for table in condition.tables:
        for one in table.comparisons:
            unit = "odds ratio" if one.effect == "odds ratio" else "s"
            cell = NONE if one.value is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}) {unit}"
            p_values = (_p(value) for value in (one.p, one.p_holm, one.p_images, one.p_both))
            rows.append((str(table.method), one.group, one.reference, one.outcome, cell, *p_values))
    return rows


def equivalences(condition: Condition) -> Rows:
    """Return the tests against 50 %."""
    rows: Rows = [
        (
            "Group",
            "Balanced accuracy",
            "Interval that decides",
            "p (equivalence)",
            "p (difference)",
            "Verdict",
        ),
    ]
    for _, row in _every_row(condition, once=True):
        one = row.equivalence
        if one.p is None:
            rows.append((one.group, _number(one.value), NONE, NONE, NONE, "not tested"))
            continue
        verdict = f"{'' if one.equivalent else 'not '}equivalent, {'' if one.different else 'not '}different"
        ends = f"{one.low:.3f} to {one.high:.3f}"
        rows.append((one.group, _number(one.value), ends, _p(one.p), _p(one.p_different), verdict))
    return rows


def further(condition: Condition) -> Rows:
    """Return d', criterion, median time and agreement of every group."""
    rows: Rows = [("Group", "d' (95% CI)", "Criterion c (95% CI)", "Median seconds (95% CI)",
                   "Fleiss' kappa (95% CI)")]  # fmt: skip
    for _, row in _every_row(condition, once=True):
        cells = [_ends(row.measures[name]) for name in ("d_prime", "criterion")]
        rows.append((row.group, *cells, _ends(row.seconds_median, digits=1), _agreement(row.kappa)))
    return rows


def by_reader(condition: Condition) -> Rows:
    """Return every reader's figures."""
    rows: Rows = [
        ("Reader", "Specialty", "Years", "Accuracy (95% CI)", "Sensitivity", "Specificity",
         "d' (95% CI)", "c", "Mean s", "Median s", "Same twice"),
    ]  # fmt: skip
    again = {name: (same, kappa) for name, same, kappa in condition.repeated.by_reader} \
        if condition.repeated else {}  # fmt: skip
    for one in condition.by_reader:
        shares = [_share(each) for each in (one.accuracy, one.sensitivity, one.specificity)]
        same, kappa = again.get(one.reader, (None, None))
        twice = NONE if same is None else f"{same.hits} of {same.n}, kappa {_number(kappa)}"
        rows.append(
            (one.reader, one.specialty, f"{one.years:g}", *shares, _signal(one.d_prime),
             _number(one.criterion.value), _number(one.seconds_mean, 1), _number(one.seconds_median, 1),
             twice)
        )  # fmt: skip
    return rows


def convincing(condition: Condition) -> Rows:
    """Return the synthetic images most and least often taken for real."""
    rows: Rows = [("", "Image", "Called real", "Share (95% CI)")]
    for what, images in (("most", condition.most_convincing), ("least", condition.least_convincing)):
        rows += [_image_row(what, one) for one in images]
    return rows


def others(condition: Condition) -> Rows:
    """Return agreement of readers with themselves, and fidelity scores."""
    rows: Rows = [("Figure", "Value (95% CI)", "Readers", "n")]
    if (again := condition.repeated) is not None:
        for what, one in (
            ("Same answer twice (share)", again.percent),
            ("Cohen's kappa, twice", again.kappa),
        ):
            rows.append((what, _agreement(one), str(one.readers), str(one.images)))
    for kind, one in condition.fidelity.items():
        rows.append((f"Fidelity, {kind.replace('_', ' ')}", _ends(one), str(one.readers), str(one.images)))
    return rows


def reasons(condition: Condition) -> list[str]:
    """Return why figures are missing, one line for each."""
    found: list[str] = []
    for _, row in _every_row(condition, once=True):
        for name, one in row.measures.items():
            if one.reason:
                found.append(f"{row.group}, {TITLES[name].lower()}: {one.reason}")
        for what, one in (("kappa", row.kappa), ("median seconds", row.seconds_median)):
            if one.reason:
                found.append(f"{row.group}, {what}: {one.reason}")
    for table in condition.tables:
        for one in table.comparisons:
            if one.reason:
                found.append(f"{one.group} against {one.reference}, {one.outcome}: {one.reason}")
    return list(dict.fromkeys(found))


def markdown(conditions: Sequence[Condition], differences: Sequence[ConditionDifference]) -> str:
    """Return all tables as Markdown."""
    parts: list[str] = []
    for one in conditions:
        name = f" ({one.condition})" if len(conditions) > 1 else ""
        parts += [
            f"## Table 2{name}: accuracy, sensitivity and specificity", _md(table_two(one)),
            f"Intervals: {HOW}. A real image is the positive case.",
            f"## Table 3{name}: p of the logistic GEE", _md(table_three(one)),
            "In parentheses after Holm's correction over all comparisons of the table.",
            f"## Effects behind Table 3{name}", _md(effects(one)),
            "`p` clusters readers; `images` clusters images instead, and is too small where readers differ; "
            "`both` takes readers and images as random.",
            f"## Tests against 50 %{name}", _md(equivalences(one)),
            f"## Signal detection, time and agreement{name}", _md(further(one)),
            f"## Synthetic images{name}", _md(convincing(one)),
        ]  # fmt: skip
        if len(rows := others(one)) > 1:
            parts += [f"## Repeats and fidelity{name}", _md(rows)]
        parts += [f"## Readers{name}", _md(by_reader(one))]
        parts += [f"## Table 2{name} with the images held fixed", _md(table_two(one, fixed=True)),
                  "As published intervals mostly are: they hold for these very images."]  # fmt: skip
        if missing := reasons(one):
            parts += [f"## What is not shown, and why{name}", "\n".join(f"- {line}" for line in missing)]
    if differences:
        parts += ["## Conditions", _md(_difference_rows(differences))]
    return "\n\n".join(parts) + "\n"


def text(conditions: Sequence[Condition], differences: Sequence[ConditionDifference]) -> str:
    """Return Tables 2 and 3 for a terminal."""
    parts: list[str] = []
    for one in conditions:
        parts += [f"Condition {one.condition}"] if len(conditions) > 1 else []
        parts += [laid_out(rows(one), markdown=False) for rows in (table_two, table_three, equivalences)]
        if missing := reasons(one):
            parts.append("\n".join(f"not shown: {line}" for line in missing))
    if differences:
        parts.append(laid_out(_difference_rows(differences), markdown=False))
    return "\n\n".join(parts)


def as_csv(conditions: Sequence[Condition], differences: Sequence[ConditionDifference]) -> str:
    """Return every figure in one long table, one line each."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for one in conditions:
        for method, row in _every_row(one):
            known = {"condition": one.condition, "method": method, "group_id": row.number, "group": row.group}
            figures: dict[str, Estimate | Agreement] = {
                **row.measures, "seconds_median": row.seconds_median, "fleiss_kappa": row.kappa,
            }  # fmt: skip
            for name, figure in figures.items():
                writer.writerow(known | {"table": "groups", "measure": name} | _csv_cells(figure))
            tested = row.equivalence
            writer.writerow(
                known | {"table": "equivalence", "measure": "balanced", "value": tested.value, "p": tested.p,
                         "low": tested.low, "high": tested.high, "readers": tested.readers,
                         "images": tested.images, "reason": tested.reason}
            )  # fmt: skip
        for table in one.tables:
            numbers = {row.group: row.number for row in table.rows}
            for each in table.comparisons:
                writer.writerow(
                    {"condition": one.condition, "table": "comparisons", "method": table.method,
                     "group_id": numbers[each.group], "group": each.group, "readers": each.readers,
                     "measure": f"{each.outcome} {each.effect}", "value": each.value, "low": each.low,
                     "high": each.high, "p": each.p, "p_holm": each.p_holm, "p_images": each.p_images,
                     "p_both": each.p_both, "reason": each.reason}
                )  # fmt: skip
        for name, figure in one.fidelity.items():
            writer.writerow({"condition": one.condition, "table": "fidelity", "measure": name}
                            | _csv_cells(figure))  # fmt: skip
        if one.repeated is not None:
            for name in ("percent", "kappa"):
                writer.writerow({"condition": one.condition, "table": "repeated", "measure": name}
                                | _csv_cells(getattr(one.repeated, name)))  # fmt: skip
    for each in differences:
        writer.writerow({"condition": each.condition, "table": "conditions", "group": f"less {each.less}",
                         "measure": "balanced difference"} | _csv_cells(each.difference))  # fmt: skip
    return out.getvalue()


def _every_row(condition: Condition, *, once: bool = False) -> Iterator[tuple[str, GroupRow]]:
    """Yield method and row of all readers and of every group; each group once if asked."""
    yield "all", condition.overall
    seen: set[str] = set()
    for table in condition.tables:
        for row in table.rows:
            if not (once and row.group in seen):
                yield str(table.method), row
            seen.add(row.group)


def _who(row: GroupRow) -> tuple[str, str, str]:
    return str(row.number) if row.number else "", row.group, str(len(row.members))


def _find(table: GroupTable, group: str, outcome: str) -> Comparison | None:
    return next((c for c in table.comparisons if (c.group, c.outcome) == (group, outcome)), None)


def _p_cell(one: Comparison | None) -> str:
    return NONE if one is None or one.p is None else f"{_p(one.p)} ({_p(one.p_holm)})"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _ends(one: Estimate, *, digits: int = 2, fixed: bool = False) -> str:
    low, high = (one.fixed_low, one.fixed_high) if fixed else (one.low, one.high)
    if low is None or high is None:
        return _number(one.value, digits)
    return f"{_number(one.value, digits)} ({low:.{digits}f} to {high:.{digits}f})"


def _agreement(one: Agreement) -> str:
    if one.low is None or one.high is None:
        return _number(one.value)
    return f"{_number(one.value)} ({one.low:.2f} to {one.high:.2f})"


def _share(one: Share) -> str:
    return NONE if one.value is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def _signal(one: Number) -> str:
    return NONE if one.value is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def _image_row(what: str, one: Convincing) -> tuple[str, ...]:
    return what, one.image, f"{one.called_real.hits} of {one.called_real.n}", _share(one.called_real)


def _difference_rows(differences: Sequence[ConditionDifference]) -> Rows:
    head = ("Condition", "Less", "Difference of balanced accuracy (95% CI)", "Readers")
    rows = [(d.condition, d.less, _ends(d.difference), str(d.difference.readers)) for d in differences]
    return [head, *rows]


def _csv_cells(one: Estimate | Agreement) -> dict[str, object]:
    cells: dict[str, object] = {name: getattr(one, name) for name in
                                ("value", "low", "high", "readers", "images", "reason")}  # fmt: skip
    if isinstance(one, Estimate):
        cells |= {"images_fixed_low": one.fixed_low, "images_fixed_high": one.fixed_high, "sd": one.sd}
    return cells


def _md(rows: Rows) -> str:
    return laid_out(rows, markdown=True)
