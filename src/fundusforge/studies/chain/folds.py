"""Does it help to train a segmenter? Folds by patient, tested on eyes nobody knew.

In every fold the whole chain is trained on the fold's training eyes alone, and draws eyes with vessel masks.
Segmenters of one configuration and one budget learn from real eyes, from drawn ones, and from both. They are
tested on the fold's held-out eyes and on eyes of other cameras, with thresholds that were chosen on what each
learnt from. Several sources of trees are compared within the fold: one painter paints on the trees of each,
and all are held against the same segmenter of real eyes.

The study stands below the command line, so how to train is handed in. Its folder holds patients' eyes and is
private. It can be stopped and called again, with further sources too: a cell that is finished is not computed
twice.
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
from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.config import from_json, to_json
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.evaluate.figures import Figure, figure_of
from fundusforge.records import METADATA, DatasetError, Split, read_folder, write_text
from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.chain.parting import folds_of, write_part
from fundusforge.studies.chain.result import (
    Report,
    gain_in_words,
    gap_in_words,
    over_in_words,
    slug,
    words,
)
from fundusforge.studies.chain.scores import (
    HELD,
    Cell,
    Mean,
    arms_of,
    eyes_of,
    figures_of,
    mean_of,
    named,
    parted,
)
from fundusforge.weights import sha256

FOLDS = "folds.json"
STUDY = "study.json"
Make = Callable[[Path, Path], Path]
"""Folder of a fold's training eyes, and a folder to work in that the fold's sources share, to a dataset
folder of drawn eyes of split `train` with vessel masks. Called again with the same folders after a break."""
Train = Callable[[Sequence[Path], Path], None]
"""Dataset folders to learn from, and a run folder to write a segmenter into. Its budget must not depend on
the folders. Called again with the same run after a break."""
Load = Callable[[Path], Judge]
"""Run folder to the segmenter with its threshold."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of the trees that eyes are painted on."""

    make: Make
    model: str = ""
    """Name of the model that draws the trees, if it was trained before the study."""
    patients: frozenset[str] = frozenset()
    """Digests of the patients that it was trained on (`fundusforge.annotate.segmenter.patient_digest`)."""


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
class Folds(Report):
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

    def _laid_out(self, *, markdown: bool) -> str:
        means = [("Learnt from", "Trees", "Tested on", "Eyes", "F1", "AUC", "F1 over all pixels")]
        for one in self.means:
            f1, auc = _ends(one.f1, one.f1_low, one.f1_high), _ends(one.auc, one.auc_low, one.auc_high)
            pooled = _ends(one.pooled_f1, None, None)
            means.append((*parted(one.arm), one.where, str(one.eyes), f1, auc, pooled))
        figures = [("Figure", "Value", "Eyes")]
        figures += [(one.name, words(one), str(one.n)) for one in self.figures]
        parts = [laid_out(rows, markdown=markdown) for rows in (means, figures)]
        return "\n\n".join([*parts, *self.verdicts])


def folds(
    config: FoldsConfig, *, sources: Mapping[str, Source], train: Train, load: Load | None = None,
    settings: Mapping[str, Any] | None = None, command: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Folds:  # fmt: skip
    """Run the study, or go on with it, and write `folds.json`; its figures are those of `scores.figures_of`.

    Args:
        config: Folders and settings.
        sources: Sources of trees by name (lower case, underscores); each trains what it needs, and draws.
        train: Trains a segmenter; see `Train`.
        load: Loads it; as `fundusforge.annotate.segmenter.Segmenter` if None.
        settings: How `sources` and `train` work, plain values: going on with others is refused.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, one without vessel masks, fewer patients than folds, a patient on both
            sides, also by way of a source's model, drawn eyes that are not fit to learn from, names of
            sources that are none or meet, or a study of other settings or models in `out`.
        OSError: `out` cannot be written.
    """
    tell = progress or (lambda text: None)
    real = _drawn(config.real, read_folder(config.real, splits=config.splits or None))
    external = {path.name: _drawn(path, read_folder(path)) for path in config.external}
    for name, images in external.items():
        if shared := set(images.patients) & set(real.patients):
            raise DatasetError(f"{name}: {len(shared)} patients stand in {config.real}, too")
    _check_sources(config, sources, {str(config.real): real, **external})
    parts = folds_of(real.patients, folds=config.folds, seed=config.seed)
    _begin(config, dict(settings or {}), {name: source.model for name, source in sources.items()})
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
        for arm in arms_of(sources):
            tell(f"fold {fold + 1} of {len(parts)}: {arm}")
            cells.append(_cell(fold, arm, place, known, held, tests, sources, train, load or _load))
    options: dict[str, Any] = {"seed": config.seed, "draws": config.draws}
    means = [mean_of(cells, arm, where, **options) for where in (HELD, *external) for arm in arms_of(sources)]
    figures = figures_of(cells, list(sources), list(external), name=config.name, **options)
    result = Folds(
        folds=config.folds, patients=len(set(real.patients)), means=tuple(means), figures=tuple(figures),
        verdicts=_verdicts(config, figures, list(sources)), settings=dict(settings or {}),
        command=command or _command(config, sources), version=__version__,
    )  # fmt: skip
    write_text(config.out / FOLDS, to_json(result) + "\n")
    return result


def _cell(
    fold: int, arm: str, place: Path, known: Path, held: frozenset[str], tests: Mapping[str, ImageSet],
    sources: Mapping[str, Source], train: Train, load: Load,
) -> Cell:  # fmt: skip
    """Return one segmenter's scores: read if they are there, else computed and written."""
    file, run = place / f"{arm}.json", place / arm
    if file.exists():
        return from_json(Cell, file.read_text("utf-8"), where=str(file))
    eyes, source = parted(arm)
    drawn = (_synthetic(place, known, held, source, sources[source].make),) if source else ()
    learnt = drawn if eyes == "synthetic" else (known, *drawn)
    train(learnt, run)
    judge = load(run)
    cell = Cell(
        fold=fold, arm=arm, segmenter=judge.name, threshold=judge.threshold,
        training_images=sum(len(read_folder(folder, splits=("train",))) for folder in learnt),
        eyes=tuple(eye for name, images in tests.items() for eye in eyes_of(name, images, judge)),
    )  # fmt: skip
    write_text(file, to_json(cell) + "\n")
    return cell


def _synthetic(place: Path, known: Path, held: frozenset[str], source: str, make: Make) -> Path:
    """Return the fold's eyes with trees of a source, made once and checked whenever they are used."""
    note = place / f"{named('drawn', source)}.json"
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


def _check_sources(
    config: FoldsConfig, sources: Mapping[str, Source], tested: Mapping[str, ImageSet]
) -> None:
    """Refuse sources whose figures would share names, and models that know an eye which is tested."""
    sets = ["", "_external", "_held_out", *(f"_{slug(path.name)}" for path in config.external)]
    ends = [named(end, source, "_") for source in sources for end in sets]
    if not ends or len(set(ends)) < len(ends) or any(not name or name != slug(name) for name in sources):
        raise DatasetError(
            "expected sources of trees in lower case and underscores, with names that differ from those of "
            f"external folders: {', '.join(map(repr, sources)) or 'none'}"
        )
    for name, source in sources.items():
        for where, images in tested.items():
            if shared := source.patients & known_patients(images.patients):
                raise DatasetError(
                    f"{name}: {source.model} was trained on {len(shared)} patients of {where}, whose eyes "
                    "are tested; take a model that has not seen them"
                )


def _begin(config: FoldsConfig, settings: dict[str, Any], models: dict[str, str]) -> None:
    """Note what the study is of, or refuse to go on with another; further sources are no other study."""
    folders = (config.real, *config.external)
    told = {
        "folds": config.folds, "seed": config.seed, "splits": list(config.splits), "settings": settings,
        "folders": {path.name: sha256(path / METADATA) for path in folders},
    }  # fmt: skip
    file = config.out / STUDY
    before: dict[str, str] = {}
    if file.exists():
        known = json.loads(file.read_text("utf-8"))
        before = known.pop("sources", {})
        if known != json.loads(json.dumps(told)):
            raise DatasetError(
                f"{config.out}: holds a study of other folders or settings; name another folder"
            )
    for name in before.keys() & models.keys():
        if before[name] != models[name]:
            raise DatasetError(
                f"{config.out}: the trees of {name!r} there are of {before[name]}, not {models[name]}; name "
                "another folder"
            )
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(told | {"sources": before | models}, indent=2) + "\n")


def _verdicts(config: FoldsConfig, figures: Sequence[Figure], sources: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on each question."""
    first, found = sources[0], list[str]()
    for source in sources:
        gap, gain = (
            figure_of(figures, named(f"{config.name}_{stem}", source, "_"))
            for stem in ("synthetic_only_f1_gap", "added_f1_gain")
        )
        found += [gap_in_words(gap, source, within=config.within), gain_in_words(gain, source)]
    for source in sources[1:]:
        over = figure_of(figures, f"{config.name}_synthetic_only_f1_{source}_over_{first}")
        found.append(over_in_words(over, source, first))
    return tuple(found)


def _ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _command(config: FoldsConfig, sources: Mapping[str, Source]) -> str:
    parts = ["fundusforge", "chain", "folds", config.real, "--out", config.out]
    parts += ["--external", *config.external] if config.external else []
    parts += ["--folds", str(config.folds), "--seed", str(config.seed), "--sources", *sources]
    return shlex.join(os.fspath(part) for part in parts)
