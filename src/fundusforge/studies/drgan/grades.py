"""Does a grader see the grade that was asked for? Zhou et al., Table III: trained on real, tested on fake.

The grader may share no patient with the generator; both say in their weights whom they learnt from. It reads
the paintings and, at the same side and of the same eyes, the photographs: what it cannot tell there it cannot
tell in a painting either. A figure above that of the photographs means paintings that are easier than eyes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.grades import Grader
from fundusforge.annotate.segmenter import patient_digest
from fundusforge.evaluate.classification import Measured, confusion, grade_statistics, measure
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.records import DatasetError
from fundusforge.severity import GRADES
from fundusforge.studies.drgan.eyes import Bench, Eyes, Places
from fundusforge.studies.drgan.paper import FULL, REAL_ACCURACY, REAL_KAPPA
from fundusforge.studies.drgan.result import Result, Table, shown

TITLES = {"accuracy": "Accuracy of the grade", "kappa": "Quadratic weighted kappa of the grade"}
Probabilities = NDArray[np.float64]
"""(N, 5)."""


def check_grader(grader: Grader, bench: Bench) -> Places:
    """Return the eyes of whom grader and generator both know nothing.

    Raises:
        DatasetError: The model tells no grades, does not say whom it learnt from, shares a patient with the
            generator, or knows all the eyes.
    """
    if not grader.config.graded:
        raise DatasetError(f"{grader.name}: tells {', '.join(grader.config.targets)}; expected one of grades")
    for name, patients in ((grader.name, grader.patients), (bench.model, bench.patients)):
        if not patients:
            raise DatasetError(
                f"{name} does not say whom it learnt from, so that grader and generator cannot be shown to "
                "be strangers"
            )
    if shared := grader.patients & bench.patients:
        raise DatasetError(
            f"{grader.name} learnt from {len(shared)} of the {len(bench.patients)} patients of "
            f"{bench.model}: what it says of the paintings would prove nothing; train it on photographs of "
            "other patients"
        )
    kept = [
        place for place, record in enumerate(bench.real.records)
        if patient_digest(record.patient) not in grader.patients
    ]  # fmt: skip
    if len(kept) < 2:
        raise DatasetError(f"{grader.name} learnt from all but {len(kept)} of the held-out eyes")
    return np.array(kept, np.intp)


def read_grades(images: Eyes | ImageSet, grader: Grader) -> Probabilities:
    """Return the grader's calibrated probabilities (N, 5) of all images of a set."""
    rows: list[Probabilities] = []
    for place in range(len(images)):
        field = images.field_of_view(place)
        image = images.image(place)
        field = np.full(image.shape[:2], 255, np.uint8) if field is None else field
        rows.append(grader.probabilities(grader.logits([grader.cut(image, field)])))
    return np.concatenate(rows)


def grades(bench: Bench, grader: Grader) -> Result:
    """Let a grader read paintings and photographs, and write `grades.json`.

    Figures: `drgan_grade_accuracy` and `drgan_grade_kappa`, beside each that of the photographs, and
    `..._gap`, photographs less paintings; `drgan_grade_tpr_0` and so on, the share that was told right.

    Args:
        bench: Photographs and paintings.
        grader: Shares no patient with the generator.

    Raises:
        DatasetError: See `check_grader`, or a picture cannot be read.
        OSError: The folder of the study cannot be written.
    """
    kept = check_grader(grader, bench)
    real, painted = bench.real.some(kept), bench.painted.some(bench.turns[:, kept].ravel())
    truth = bench.grades[kept]
    asked = np.tile(truth, len(bench.turns))
    bench.tell(f"{grader.name} reads {len(painted)} paintings and {len(real)} photographs")
    own_size = ImageSet(folder=real.folder, records=real.records)
    told = [read_grades(images, grader) for images in (painted, real, own_size)]
    options: dict[str, Any] = {"seed": bench.config.seed, "draws": bench.config.draws}
    sets = [
        measure(grade_statistics(row, true), images.patients, **options)
        for row, true, images in zip(told, (asked, truth, truth), (painted, real, own_size), strict=True)
    ]
    figures = [
        *(_beside(bench, grader, name, sets, painted, real) for name in TITLES),
        *(_gap(bench, grader, name, told, (asked, truth), (painted, real)) for name in TITLES),
        *(_rate(bench, grader, grade, sets, asked, truth) for grade in GRADES if (truth == grade).any()),
    ]
    tables = (
        _table(bench, sets, real),
        _confusion(f"Paintings of {bench.model}, by grade asked for", asked, told[0]),
        _confusion(f"Photographs at {real.side} px, by grade", truth, told[1]),
    )
    known = len(bench.real) - len(kept)
    warnings = [f"{known} held-out eyes are of patients whom the grader learnt from: left out."] * (known > 0)
    return bench.result(
        "grades", tables=tables, figures=figures, sentences=(_sentence(bench, figures),), warnings=warnings,
        grader=grader.name,
    )  # fmt: skip


def _common(bench: Bench, grader: Grader, name: str, n: int, n_real: int) -> dict[str, Any]:
    return {
        "name": f"{bench.config.name}_grade_{name}", "n": n, "n_real": n_real, "better": "higher",
        "extractor": grader.name, "seed": bench.config.seed,
        "resize": f"{bench.real.side} px, brought to the {grader.config.size} px that the grader reads",
        "notes": (f"The grader began from {grader.start}.",) if grader.start else (),
    }  # fmt: skip


def _ends(one: Measured) -> dict[str, Any]:
    return {"real": one.value, "real_low": one.interval.low, "real_high": one.interval.high}


def _beside(
    bench: Bench, grader: Grader, name: str, sets: Sequence[dict[str, Measured]], painted: Eyes, real: Eyes
) -> Figure:
    ours, theirs = sets[0][name], sets[1][name]
    return Figure(
        **_common(bench, grader, name, len(painted), len(real)), title=TITLES[name],
        **measured(ours.value, ours.interval), **_ends(theirs),
        reason="" if ours.value is not None else "all are of one grade",
    )  # fmt: skip


def _rate(
    bench: Bench, grader: Grader, grade: int, sets: Sequence[dict[str, Measured]],
    asked: NDArray[np.intp], truth: NDArray[np.intp],
) -> Figure:  # fmt: skip
    ours, theirs = sets[0][f"tpr_{grade}"], sets[1][f"tpr_{grade}"]
    n, n_real = int((asked == grade).sum()), int((truth == grade).sum())
    return Figure(
        **_common(bench, grader, f"tpr_{grade}", n, n_real), title=f"Share of grade {grade} told right",
        **measured(ours.value, ours.interval), **_ends(theirs),
    )  # fmt: skip


def _gap(
    bench: Bench, grader: Grader, name: str, told: Sequence[Probabilities],
    grades: tuple[NDArray[np.intp], NDArray[np.intp]], sets: tuple[Eyes, Eyes],
) -> Figure:  # fmt: skip
    """Return the photographs' figure less the paintings', the same patients drawn on both sides."""
    ours, theirs = (grade_statistics(row, true)[name] for row, true in zip(told[:2], grades, strict=True))

    def gap(weights: Sequence[NDArray[np.float64]]) -> float | None:
        painted, real = ours([weights[0]]), theirs([weights[1]])
        return None if painted is None or real is None else real - painted

    interval = bootstrap(
        gap, *(images.patients for images in sets), seed=bench.config.seed, draws=bench.config.draws
    )
    value = gap([np.ones(len(images)) for images in sets])
    common = _common(bench, grader, f"{name}_gap", len(sets[0]), len(sets[1]))
    return Figure(
        **common | {"better": "zero"}, title=f"{TITLES[name]}: photographs less paintings",
        **measured(value, interval), reason="" if value is not None else "all are of one grade",
    )  # fmt: skip


def _table(bench: Bench, sets: Sequence[dict[str, Measured]], real: Eyes) -> Table:
    rows: list[tuple[str, ...]] = [("Images", "Accuracy", "Kappa")]
    names = (f"paintings of {bench.model}", f"photographs at {real.side} px", "photographs at their own size")
    for name, one in zip(names, sets, strict=True):
        cells = [shown(m.value, m.interval.low, m.interval.high) for m in (one["accuracy"], one["kappa"])]
        rows.append((name, *cells))
    printed = (f"{FULL.accuracy:.2f} %", f"{FULL.kappa:.2f} %")
    rows.append(("paper: paintings (ResNet-50, EyePACS)", *printed))
    rows.append(("paper: photographs (ResNet-50, EyePACS)", f"{REAL_ACCURACY:.2f} %", f"{REAL_KAPPA:.2f} %"))
    return Table(title=f"What a grader sees in {len(real)} held-out eyes", rows=tuple(rows))


def _confusion(title: str, truth: NDArray[np.intp], told: Probabilities) -> Table:
    counts = confusion(truth, told.argmax(1), np.ones(len(truth)), count=len(GRADES))
    rows = [("Grade", *(f"told {grade}" for grade in GRADES))]
    rows += [(str(grade), *(f"{count:.0f}" for count in counts[grade])) for grade in GRADES]
    return Table(title=title, rows=tuple(rows))


def _sentence(bench: Bench, figures: Sequence[Figure]) -> str:
    kappa, gap = (
        next(f for f in figures if f.name == f"{bench.config.name}_grade_{name}")
        for name in ("kappa", "kappa_gap")
    )
    if kappa.value is None or gap.value is None:
        return f"Kappa was not computed: {kappa.reason or gap.reason}."
    sure = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
    return (
        f"A grader that shares no patient with the generator agrees with the grade asked for by a kappa of "
        f"{shown(kappa.value, kappa.low, kappa.high)}; on the photographs of the same eyes by "
        f"{shown(kappa.real, kappa.real_low, kappa.real_high)}. The interval of the difference "
        f"{'excludes' if sure else 'holds'} zero."
    )
