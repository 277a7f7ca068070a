"""Does it help to train a segmenter? Folds by patient, three segmenters each, tested on eyes nobody knew.

In every fold the whole chain is trained on the fold's training eyes alone, and draws eyes with vessel masks.
Three segmenters of one configuration and one budget learn from real eyes, from drawn ones, and from both.
They are tested on the fold's held-out eyes and on eyes of other cameras, with thresholds that were chosen on
what each learnt from.

The study stands below the command line, so how to train is handed in. Its folder holds patients' eyes and is
private. It can be stopped and called again: a cell that is finished is not computed twice.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundusforge import __version__
from fundusforge.annotate.segmenter import Segmenter
from fundusforge.config import from_json, to_json
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.evaluate.figures import Figure, figure_of
from fundusforge.records import METADATA, DatasetError, Split, read_folder, write_text
from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.chain.parting import folds_of, write_part
from fundusforge.studies.chain.result import line, slug, words
from fundusforge.studies.chain.scores import ARMS, HELD, Arm, Cell, Mean, difference, eyes_of, mean_of
from fundusforge.weights import sha256

FOLDS = "folds.json"
STUDY = "study.json"
_MADE = "drawn.json"
Make = Callable[[Path, Path], Path]
"""Folder of a fold's training eyes, and a folder to work in, to a dataset folder of drawn eyes of split
`train` with vessel masks. Called again with the same folders after a break."""
Train = Callable[[Sequence[Path], Path], None]
"""Dataset folders to learn from, and a run folder to write a segmenter into. Its budget must not depend on
the folders. Called again with the same run after a break."""
Load = Callable[[Path], Judge]
"""Run folder to the segmenter with its threshold."""


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """What to compare, and how."""

    real: Path
    """Dataset folder of real eyes with vessel masks."""
    out: Path
    """Folder of the study; private."""
    external: tuple[Path, ...] = ()
    """Dataset folders of real eyes of other cameras."""
    splits: tuple[Split, ...] = ("train",)
    """Splits of the real folder that are parted into folds; all if empty."""
    folds: int = 4
    within: float = 0.05
    """How far below real training in F1 synthetic training may stay to be called as good."""
    name: str = "chain"
    """First part of the figures' names."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        names = [slug(path.name) for path in self.external]
        if len(set(names)) < len(names) or slug(HELD) in names or not all(names):
            raise ValueError(
                f"external folders need names that differ, and not {HELD!r}: {list(self.external)}"
            )
        if self.folds < 2 or self.draws < 100 or self.seed < 0 or not 0 < self.within < 1:
            raise ValueError("expected 2 folds or more, 100 draws or more, seed >= 0, and within in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The content of `folds.json`."""

    folds: int
    patients: int
    """Of the real folder."""
    means: tuple[Mean, ...]
    figures: tuple[Figure, ...]
    verdicts: tuple[str, ...]
    """Plain sentences."""
    settings: dict[str, Any]
    command: str
    version: str
    schema: int = 1

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: There is none.
        """
        return figure_of(self.figures, name)

    def to_dict(self) -> dict[str, Any]:
        """Return what `folds.json` holds, as plain values."""
        return json.loads(to_json(self))

    def lines(self) -> list[dict[str, Any]]:
        """Return what `docs/results/record.py` takes: one entry for each figure with a value."""
        return [line(one, self.command) for one in self.figures if one.value is not None]

    def text(self) -> str:
        """Return means, differences and verdicts for a terminal."""
        return self._laid_out(markdown=False)

    def markdown(self) -> str:
        """Return means, differences and verdicts as Markdown."""
        return self._laid_out(markdown=True)

    def _laid_out(self, *, markdown: bool) -> str:
        means = [("Learnt from", "Tested on", "Eyes", "F1", "AUC", "F1 over all pixels")]
        for one in self.means:
            f1, auc = _ends(one.f1, one.f1_low, one.f1_high), _ends(one.auc, one.auc_low, one.auc_high)
            means.append((one.arm, one.where, str(one.eyes), f1, auc, _ends(one.pooled_f1, None, None)))
        figures = [("Figure", "Value", "Eyes")]
        figures += [(one.name, words(one), str(one.n)) for one in self.figures]
        parts = [laid_out(rows, markdown=markdown) for rows in (means, figures)]
        return "\n\n".join([*parts, *self.verdicts])


def folds(
    config: FoldsConfig, *, make: Make, train: Train, load: Load | None = None,
    settings: Mapping[str, Any] | None = None, command: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Folds:  # fmt: skip
    """Run the study, or go on with it, and write `folds.json`.

    Figures: `chain_synthetic_only_f1_gap` (real less synthetic, held-out eyes), `chain_added_f1_gain` (both
    less real, external eyes), the same of the other eyes (`..._external`, `..._held_out`), by external set
    (`..._<set>`), and of the area under the curve (`auc` for `f1`).

    Args:
        config: Folders and settings.
        make: Trains the chain and draws; see `Make`.
        train: Trains a segmenter; see `Train`.
        load: Loads it; as `fundusforge.annotate.segmenter.Segmenter` if None.
        settings: How `make` and `train` work, plain values: going on with others is refused.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, one without vessel masks, fewer patients than folds, a patient on both
            sides, drawn eyes that are not fit to learn from, or a study of other settings in `out`.
        OSError: `out` cannot be written.
    """
    tell = progress or (lambda text: None)
    real = _drawn(config.real, read_folder(config.real, splits=config.splits or None))
    external = {path.name: _drawn(path, read_folder(path)) for path in config.external}
    for name, images in external.items():
        if shared := set(images.patients) & set(real.patients):
            raise DatasetError(f"{name}: {len(shared)} patients stand in {config.real}, too")
    parts = folds_of(real.patients, folds=config.folds, seed=config.seed)
    _begin(config, dict(settings or {}))
    cells: list[Cell] = []
    for fold, held in enumerate(parts):
        place = config.out / f"fold-{fold}"
        known = write_part(
            config.real, [r for r in real.records if r.patient not in held], place / "real", split="train"
        )
        apart = write_part(
            config.real, [r for r in real.records if r.patient in held], place / "held", split="test"
        )
        tests = {HELD: ImageSet(folder=apart, records=read_folder(apart)), **external}
        for arm in ARMS:
            tell(f"fold {fold + 1} of {len(parts)}: {arm}")
            cells.append(_cell(fold, arm, place, known, held, tests, make, train, load or _load))
    result = _result(config, cells, list(external), len(set(real.patients)), dict(settings or {}), command)
    write_text(config.out / FOLDS, to_json(result) + "\n")
    return result


def _cell(
    fold: int, arm: Arm, place: Path, known: Path, held: frozenset[str], tests: Mapping[str, ImageSet],
    make: Make, train: Train, load: Load,
) -> Cell:  # fmt: skip
    """Return one segmenter's scores: read if they are there, else computed and written."""
    file, run = place / f"{arm}.json", place / arm
    if file.exists():
        return from_json(Cell, file.read_text("utf-8"), where=str(file))
    drawn = () if arm == "real" else (_synthetic(place, known, held, make),)
    learnt = {"real": (known,), "synthetic": drawn, "both": (known, *drawn)}[arm]
    train(learnt, run)
    judge = load(run)
    cell = Cell(
        fold=fold, arm=arm, segmenter=judge.name, threshold=judge.threshold,
        training_images=sum(len(read_folder(folder, splits=("train",))) for folder in learnt),
        eyes=tuple(eye for name, images in tests.items() for eye in eyes_of(name, images, judge)),
    )  # fmt: skip
    write_text(file, to_json(cell) + "\n")
    return cell


def _synthetic(place: Path, known: Path, held: frozenset[str], make: Make) -> Path:
    """Return the fold's drawn eyes, made once and checked whenever they are used."""
    note = place / _MADE
    if note.exists():
        folder = place / from_json(dict[str, str], note.read_text("utf-8"), where=str(note))["folder"]
    else:
        folder = make(known, place / "chain")
    records = read_folder(folder, splits=("train",))
    if not all(record.synthetic and "vessels" in record.masks for record in records):
        raise DatasetError(f"{folder}: expected synthetic eyes, each with its vessels, and nothing else")
    if both := {record.patient for record in records} & held:
        raise DatasetError(f"{folder}: {len(both)} held-out patients stand among the drawn eyes")
    write_text(note, json.dumps({"folder": os.path.relpath(folder, place)}) + "\n")
    return folder


def _load(run: Path) -> Judge:
    segmenter = Segmenter.load(run)
    return Judge(name=segmenter.name, segment=segmenter.probability, threshold=segmenter.threshold)


def _drawn(folder: Path, records: Sequence[Any]) -> ImageSet:
    """Return the real images that have vessel masks of their own."""
    images = ImageSet(folder=folder, records=records).having("vessels")
    if not len(images) or any(record.synthetic for record in images.records):
        raise DatasetError(f"{folder}: expected real eyes with vessel masks")
    return images


def _begin(config: FoldsConfig, settings: dict[str, Any]) -> None:
    """Note what the study is of, or refuse to go on with another."""
    folders = (config.real, *config.external)
    told = {
        "folds": config.folds, "seed": config.seed, "splits": list(config.splits), "settings": settings,
        "folders": {path.name: sha256(path / METADATA) for path in folders},
    }  # fmt: skip
    file = config.out / STUDY
    if file.exists() and json.loads(file.read_text("utf-8")) != json.loads(json.dumps(told)):
        raise DatasetError(f"{config.out}: holds a study of other folders or settings; name another folder")
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(told, indent=2) + "\n")


def _result(
    config: FoldsConfig, cells: Sequence[Cell], external: Sequence[str], patients: int,
    settings: dict[str, Any], command: str | None,
) -> Folds:  # fmt: skip
    options: dict[str, Any] = {"seed": config.seed, "draws": config.draws}

    def gap(metric: Any, wheres: Sequence[str], end: str = "") -> Figure:
        name = f"{config.name}_synthetic_only_{metric}_gap{end}"
        return difference(cells, "real", "synthetic", wheres, metric, name=name, **options)

    def gain(metric: Any, wheres: Sequence[str], end: str = "") -> Figure:
        name = f"{config.name}_added_{metric}_gain{end}"
        return difference(cells, "both", "real", wheres, metric, name=name, **options)

    figures: list[Figure] = []
    for metric in ("f1", "auc"):
        figures += [gap(metric, [HELD]), gain(metric, external)]
        figures += [gap(metric, external, "_external"), gain(metric, [HELD], "_held_out")]
        for name in external:
            figures += [gap(metric, [name], f"_{slug(name)}"), gain(metric, [name], f"_{slug(name)}")]
    by_name = {figure.name: figure for figure in figures}
    return Folds(
        folds=config.folds, patients=patients, figures=tuple(figures), settings=settings,
        means=tuple(mean_of(cells, arm, where, **options) for where in (HELD, *external) for arm in ARMS),
        verdicts=(
            gap_in_words(by_name[f"{config.name}_synthetic_only_f1_gap"], within=config.within),
            gain_in_words(by_name[f"{config.name}_added_f1_gain"]),
        ),
        command=command or _command(config), version=__version__,
    )  # fmt: skip


def gap_in_words(figure: Figure, *, within: float) -> str:
    """Say whether training on drawn eyes alone comes within a bound of training on real ones."""
    if figure.value is None:
        return f"Synthetic eyes alone were not compared: {figure.reason}."
    near = "within" if figure.value <= within else "not within"
    sure = ""
    if figure.low is not None and figure.high is not None:
        settled = figure.high <= within or figure.low > within
        sure = "; the interval agrees" if settled else "; the interval does not settle it"
    return (
        f"Trained on synthetic eyes alone, F1 on held-out eyes is {words(figure)} below training on real "
        f"eyes ({figure.n} eyes): {near} {within:g}{sure}."
    )


def gain_in_words(figure: Figure) -> str:
    """Say whether adding drawn eyes to real ones makes a segmenter better on eyes of other cameras."""
    if figure.value is None:
        return f"Adding synthetic eyes was not judged on external eyes: {figure.reason}."
    verdict = "above" if figure.value > 0 else "not above"
    sure = ""
    if figure.low is not None and figure.high is not None:
        sure = "; the interval agrees" if figure.low > 0 or figure.high <= 0 else "; the interval holds zero"
    return (
        f"Synthetic eyes added to real ones change F1 on external eyes by {words(figure)} ({figure.n} eyes): "
        f"{verdict} training on real eyes alone{sure}."
    )


def _ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _command(config: FoldsConfig) -> str:
    parts = ["fundusforge", "chain", "folds", config.real, "--out", config.out]
    parts += ["--external", *config.external] if config.external else []
    parts += ["--folds", str(config.folds), "--seed", str(config.seed)]
    return shlex.join(os.fspath(part) for part in parts)
