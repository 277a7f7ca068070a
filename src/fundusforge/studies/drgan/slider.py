"""One eye at every grade: do the paintings show more lesions when more are asked for?

Imitated lesions are laid out for grades 0 to 4, each grade keeping those of the one below; everything else
of an eye stays. An annotator counts what the paintings show. Beside the rank correlation of grade and count
stands that of the lesions that were asked for, which no painter can exceed by much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.segmenter import Segmenter
from fundusforge.annotate.shapes import to_mask
from fundusforge.config import from_json, to_json
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap
from fundusforge.images import read_image, read_mask
from fundusforge.records import METADATA, DatasetError, Record, read_folder, write_text
from fundusforge.sample.layout_statistics import read_statistics
from fundusforge.sample.series import TABLE, Asked, SeriesConfig, series, shown_by
from fundusforge.sample.severity_painter import AnyPainter
from fundusforge.severity import GRADES, LESIONS
from fundusforge.studies.chain.parting import write_part
from fundusforge.studies.drgan.eyes import EYES, Bench
from fundusforge.studies.drgan.masks import SHORT
from fundusforge.studies.drgan.result import Result, Table, shown

SERIES, COUNTS = "series", "recount.json"
Counts = dict[str, int]
"""By kind of lesion."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One painting of the series."""

    image: str
    eye: int
    grade: int
    asked: Counts
    found: Counts
    annotator: str


def slider(bench: Bench, painter: AnyPainter, segmenter: Segmenter, *, eyes: int = 8) -> Result:
    """Paint eyes at every grade, count their lesions, and write `series.json`.

    Figures: `drgan_series_spearman` of all lesions, `..._ma`, `..._he`, `..._ex`, `..._se` of each kind, and
    `..._asked` of the lesions asked for; `drgan_series_rises`, the share of eyes whose count never falls.

    Args:
        bench: Whose eyes are taken, evenly spread over the grades; their own lesions are left out.
        painter: The generator.
        segmenter: Finds lesions.
        eyes: How many.

    Raises:
        DatasetError: Eyes without a disc, another series in the folder, or a picture that cannot be read.
        OSError: The folder of the study cannot be written.
    """
    if eyes < 2:
        raise ValueError(f"a series needs two eyes or more, not {eyes}")
    rows = _counted(bench, _painted(bench, painter, eyes), segmenter)
    figures = [
        _spearman(bench, rows, segmenter, kinds, end, asked=asked)
        for kinds, end in _KINDS
        for asked in (False, True)
    ]
    figures.append(_rises(bench, rows, segmenter))
    missing = [name for name in LESIONS if name not in shown_by(painter)]
    warnings = [f"The generator paints on no mask of {', '.join(missing)}."] if missing else []
    return bench.result(
        "series", tables=(_table(bench, rows), _trend(figures)), figures=figures, warnings=warnings,
        annotator=segmenter.name, eyes=eyes,
    )  # fmt: skip


_KINDS: list[tuple[tuple[str, ...], str]] = [
    (LESIONS, ""),
    *(((name,), f"_{SHORT[name]}") for name in LESIONS),
]


def _painted(bench: Bench, painter: AnyPainter, eyes: int) -> Path:
    """Paint the series, or find it painted."""
    out, config = bench.config.out / SERIES, bench.config
    records = [bench.real.records[place] for place in bench.spread(eyes)]
    place = write_part(config.real, records, config.out / EYES / SERIES, split="test")
    if (out / METADATA).exists():
        made = read_folder(out)
        odd = [r for r in made if r.provenance is None or r.provenance.seed != config.seed]
        if odd or len(made) != len(records) * len(GRADES):
            raise DatasetError(f"{out}: holds another series; name another folder")
        return out
    bench.tell(f"painting {len(records)} eyes at {len(GRADES)} grades")
    wanted = SeriesConfig(eyes=len(records), seed=config.seed, masks=str(place), size=bench.real.side)
    for _ in series(painter, out, wanted, read_statistics()):
        pass
    return out


def _counted(bench: Bench, folder: Path, segmenter: Segmenter) -> list[Counted]:
    """Count the lesions of every painting, or read what was counted."""
    file = folder / COUNTS
    if file.exists():
        rows = from_json(list[Counted], file.read_text("utf-8"), where=str(file))
        if rows and rows[0].annotator == segmenter.name:
            return rows
    asked = {one.image: one for one in _asked(folder)}
    records = read_folder(folder)
    bench.tell(f"{segmenter.name} counts the lesions of {len(records)} paintings")
    rows = [_count(folder, record, asked[record.image], segmenter) for record in records]
    write_text(file, to_json(rows, kind=list[Counted]) + "\n")
    return rows


def _asked(folder: Path) -> list[Asked]:
    return from_json(list[Asked], (folder / TABLE).read_text("utf-8"), where=str(folder / TABLE))


def _count(folder: Path, record: Record, asked: Asked, segmenter: Segmenter) -> Counted:
    inside = read_mask(folder / str(record.field_of_view))
    maps = segmenter.probabilities(read_image(folder / record.image), inside)
    found: Counts = {}
    for name in LESIONS:
        mask = to_mask(maps[name], segmenter.threshold_of(name)) & inside
        found[name] = cv2.connectedComponents(mask, connectivity=8)[0] - 1
    return Counted(
        image=record.image, eye=asked.eye, grade=asked.grade, asked=asked.counts, found=found,
        annotator=segmenter.name,
    )  # fmt: skip


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return the rank correlation of two lists, ties at their mean rank; None if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _trend_of(grades: NDArray[np.float64], counts: NDArray[np.float64]) -> Statistic:
    """Rank correlation over all paintings, as a function of how often each counts; none counts as none."""

    def correlation(weights: Sequence[Weights]) -> float | None:
        often = weights[0].astype(np.intp)
        return spearman(np.repeat(grades, often), np.repeat(counts, often))

    return correlation


def _spearman(
    bench: Bench,
    rows: Sequence[Counted],
    segmenter: Segmenter,
    kinds: Sequence[str],
    name: str,
    *,
    asked: bool,
) -> Figure:
    counts = [row.asked if asked else row.found for row in rows]
    totals = np.array([sum(one[kind] for kind in kinds) for one in counts], np.float64)
    statistic = _trend_of(np.array([row.grade for row in rows], np.float64), totals)
    value = statistic([np.ones(len(rows))])
    interval = bootstrap(
        statistic, [str(row.eye) for row in rows], seed=bench.config.seed, draws=bench.config.draws
    )
    what = "lesions" if len(kinds) > 1 else kinds[0].replace("_", " ")
    how = "asked for" if asked else "found"
    return Figure(
        **_common(bench, rows, segmenter),
        name=f"{bench.config.name}_series_spearman{name}{'_asked' * asked}",
        title=f"Rank correlation of grade and number of {what} {how}",
        better="none" if asked else "higher", **measured(value, interval),
        reason="" if value is not None else f"as many {what} are {how} in all paintings",
    )  # fmt: skip


def _rises(bench: Bench, rows: Sequence[Counted], segmenter: Segmenter) -> Figure:
    counts: dict[int, list[int]] = {}
    for row in sorted(rows, key=lambda row: row.grade):
        counts.setdefault(row.eye, []).append(sum(row.found.values()))
    rising = np.array([float(all(np.diff(each) >= 0)) for each in counts.values()])
    interval = bootstrap(
        lambda w: float(w[0] @ rising) / float(w[0].sum()), [str(eye) for eye in counts],
        seed=bench.config.seed, draws=bench.config.draws,
    )  # fmt: skip
    return Figure(
        **_common(bench, rows, segmenter), name=f"{bench.config.name}_series_rises", better="higher",
        title="Share of eyes whose number of lesions found never falls",
        **measured(float(rising.mean()), interval),
    )  # fmt: skip


def _common(bench: Bench, rows: Sequence[Counted], segmenter: Segmenter) -> dict[str, Any]:
    reach = segmenter.diameter or segmenter.config.diameter
    return {
        "n": len(rows), "n_real": 0, "extractor": segmenter.name, "seed": bench.config.seed,
        "resize": f"{bench.real.side} px, brought to the {reach:.0f} px at which the annotator reads",
    }  # fmt: skip


def _table(bench: Bench, rows: Sequence[Counted]) -> Table:
    cells = [("Lesion", *(f"grade {grade}" for grade in GRADES))]
    for name in LESIONS:
        own = [[row for row in rows if row.grade == grade] for grade in GRADES]
        means = [
            (np.mean([row.asked[name] for row in some]), np.mean([row.found[name] for row in some]))
            for some in own
        ]
        cells.append((name.replace("_", " "), *(f"{asked:.1f} / {found:.1f}" for asked, found in means)))
    return Table(title=f"Lesions of {bench.model}, asked for / found, mean of the eyes", rows=tuple(cells))


def _trend(figures: Sequence[Figure]) -> Table:
    rows = [("Does the number rise with the grade?", "Value")]
    rows += [(one.title, shown(one.value, one.low, one.high)) for one in figures]
    return Table(title="Trend over the grades", rows=tuple(rows))
