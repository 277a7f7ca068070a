"""Ablations of DR-GAN (Zhou et al., Tables II and IV): every part left out once, all else the same.

The same photographs, budget and seed train each variant; the same held-out eyes are painted by each; the
same figures are taken. How far a training of another seed would have come is not in the intervals, which
speak of the eyes. What trains is handed in, since the study stands below the command line. A study can be
stopped and called again: a variant that is finished is not computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fundusforge import __version__
from fundusforge.annotate.grades import Grader
from fundusforge.config import from_json, to_json
from fundusforge.evaluate.features import Extractor
from fundusforge.evaluate.figures import Figure
from fundusforge.models.drgan import DRGANConfig
from fundusforge.records import METADATA, write_text
from fundusforge.sample.severity_painter import AnyPainter
from fundusforge.studies.drgan.eyes import Bench, BenchConfig, Tell, begin, bench
from fundusforge.studies.drgan.fidelity import FidelityConfig, fidelity
from fundusforge.studies.drgan.grades import grades
from fundusforge.studies.drgan.masks import Annotators, masks
from fundusforge.studies.drgan.paper import ROWS
from fundusforge.studies.drgan.result import Result, Table, shown
from fundusforge.weights import sha256

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("everything", {}),
    "no_attention": ("without attention (SCA)", {"attention": False}),
    "no_lesions": ("without lesion masks", {"lesions": False}),
    "no_agm": ("without grading manipulation (AGM)", {"agm": False}),
    "no_perceptual": ("without perceptual loss", {"perceptual": 0.0}),
    "no_classification": ("without classification loss", {"classification": 0.0, "steering": 0.0}),
    "no_steering": ("without steering", {"steering": 0.0}),
    "no_pixels": ("without the error of pixels", {"pixels": 0.0}),
}
"""Title and settings of each; the last two are of this package alone. Steering needs the classification loss.
"""
PAPER = tuple(VARIANTS)[:-2]
"""Those of the paper."""
Train = Callable[[DRGANConfig, Path], None]
"""A model and a run folder to write it into. Called again with the same run after a break."""
Load = Callable[[Path], AnyPainter]
"""Run folder to the generator."""
Read = Callable[[Bench], Annotators]
"""Photographs and paintings to those who read them; called once, when the first variant needs them."""
_CELL = "cell.json"
_COLUMNS = (
    ("frechet", "Frechet"), ("frechet_over_floor", "ratio"), ("swd", "SWD x 10^3"),
    ("swd_over_floor", "ratio"), ("grade_accuracy", "Accuracy"), ("grade_kappa", "Kappa"),
    ("vessel_auc", "Vessel AUC"), ("lesion_aupr_ma", "AUPR ma"), ("lesion_aupr_he", "AUPR he"),
    ("lesion_aupr_ex", "AUPR ex"), ("lesion_aupr_se", "AUPR se"),
)  # fmt: skip
"""Figures of a row; a column that no variant has is left out."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant."""

    variant: str
    model: str
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]


def ablations(
    config: BenchConfig, base: DRGANConfig, *, train: Train, load: Load, extractor: Extractor,
    variants: Sequence[str] = PAPER, grader: Grader | None = None, read: Read | None = None, most: int = 24,
    compare: FidelityConfig | None = None, settings: Mapping[str, Any] | None = None,
    command: str | None = None, progress: Tell | None = None,
) -> Result:  # fmt: skip
    """Train, paint and measure every variant, or go on with it, and write `ablations.json`.

    Figures: those of `fidelity`, `grades` and `masks`, called `drgan_full_frechet`, `drgan_no_agm_swd` and so
    on.

    Args:
        config: Held-out eyes, and where to work; the same eyes for all variants.
        base: The full model.
        train: Trains a variant; see `Train`.
        load: Loads it.
        extractor: Of the Frechet distance.
        variants: Some of `VARIANTS`.
        grader: Of `grades`; left out if None.
        read: Of `masks`; left out if None.
        most: Eyes that annotators read.
        compare: Of `fidelity`.
        settings: How `train` works, plain values: going on with others is refused.
        command: The command line, for the record.
        progress: Called with a line of text as the work goes on.

    Raises:
        ValueError: An unknown variant, or a base that lacks what shall be left out.
        DatasetError: See `bench`; or a study of other settings in the folder.
    """
    if not variants or set(variants) - VARIANTS.keys():
        raise ValueError(f"expected some of {', '.join(VARIANTS)}, not {', '.join(variants) or 'none'}")
    models = {name: variant_of(base, name) for name in variants}
    tell = progress or (lambda text: None)
    told = {
        "base": to_json(base), "settings": dict(settings or {}), "seed": config.seed, "each": config.each,
        "lesions": config.lesions, "splits": list(config.splits), "eyes": sha256(config.real / METADATA),
        "grader": grader.name if grader else None, "extractor": extractor.name,
        "masks": most if read else None,
    }  # fmt: skip
    begin(config.out, told)
    readers: list[Annotators] = []

    def measured(name: str, run: Path) -> Cell:
        own = replace(config, out=config.out / name / "study", name=f"{config.name}_{name}")
        eyes = bench(own, load(run), masks=base.masks, command=command, progress=progress)
        parts = [fidelity(eyes, extractor, compare)]
        parts += [grades(eyes, grader)] if grader else []
        if read:
            readers.extend([] if readers else [read(eyes)])
            parts.append(masks(eyes, readers[0], most=most, beside=False))
        return Cell(
            variant=name, model=eyes.model, figures=tuple(f for part in parts for f in part.figures),
            warnings=tuple(dict.fromkeys(w for part in parts for w in part.warnings)),
        )  # fmt: skip

    cells: list[Cell] = []
    for name, model in models.items():
        file, run = config.out / name / _CELL, config.out / name / "run"
        if not file.exists():
            tell(f"variant {name}: training")
            train(model, run)
            tell(f"variant {name}: painting and measuring")
            write_text(file, to_json(measured(name, run)) + "\n")
        cells.append(from_json(Cell, file.read_text("utf-8"), where=str(file)))
    return _result(config, cells, told, command)


def _result(config: BenchConfig, cells: Sequence[Cell], told: dict[str, Any], command: str | None) -> Result:
    """Lay the variants side by side, and write `ablations.json`."""
    result = Result(
        part="ablations", model=", ".join(one.model for one in cells),
        tables=(_table(config, cells), _paper([one.variant for one in cells])),
        figures=tuple(figure for one in cells for figure in one.figures),
        sentences=("One training of each variant: differences within the intervals may be luck.",),
        warnings=tuple(dict.fromkeys(w for one in cells for w in one.warnings)),
        settings={**told, "folder": config.real.name, "name": config.name},
        command=command or f"fundusforge drgan ablations --real {config.real} --out {config.out}",
        version=__version__,
    )  # fmt: skip
    result.write(config.out)
    return result


def variant_of(base: DRGANConfig, name: str) -> DRGANConfig:
    """Return a model less one of its parts.

    Raises:
        ValueError: The base lacks that part already, so that nothing would be compared.
    """
    changes = VARIANTS[name][1]
    if changes and all(getattr(base, key) == value for key, value in changes.items()):
        raise ValueError(f"{name}: the model is {VARIANTS[name][0]} already")
    return replace(base, **changes)


def _table(config: BenchConfig, cells: Sequence[Cell]) -> Table:
    found = [{figure.name: figure for figure in one.figures} for one in cells]

    def of(place: int, key: str) -> Figure | None:
        return found[place].get(f"{config.name}_{cells[place].variant}_{key}")

    columns = [column for column in _COLUMNS if any(of(place, column[0]) for place in range(len(cells)))]
    rows = [("Variant", *(title for _, title in columns))]
    for place, one in enumerate(cells):
        figures = [of(place, key) for key, _ in columns]
        rows.append(
            (VARIANTS[one.variant][0], *(shown(f.value, f.low, f.high) if f else "-" for f in figures))
        )
    return Table(title="Each part left out once, the same budget, seed and eyes", rows=tuple(rows))


def _paper(variants: Sequence[str]) -> Table:
    rows: list[tuple[str, ...]] = [
        ("Zhou et al., Tables II and IV", "FID", "SWD x 10^3", "Accuracy", "Kappa")
    ]
    for name in variants:
        if row := ROWS.get(name):
            rows.append((row.title, *(f"{v:.2f}" for v in (row.frechet, row.swd, row.accuracy, row.kappa))))
    return Table(title="As printed: compare the order, not the values", rows=tuple(rows))
