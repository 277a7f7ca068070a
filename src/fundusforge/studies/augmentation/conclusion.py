"""The end of a study: what was run becomes tables, pictures and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fundusforge import __version__, weights
from fundusforge.annotate.segmenter import known_patients
from fundusforge.config import to_json
from fundusforge.models.classifier import ClassifierConfig
from fundusforge.records import Record, write_text
from fundusforge.studies.augmentation import drawings, words
from fundusforge.studies.augmentation.analysis import Place, audited, concluded
from fundusforge.studies.augmentation.cells import Job
from fundusforge.studies.augmentation.choice import Choice
from fundusforge.studies.augmentation.config import Study
from fundusforge.studies.augmentation.measures import measures_of
from fundusforge.studies.augmentation.parts import Part
from fundusforge.studies.augmentation.power import Power
from fundusforge.studies.augmentation.power import words as power_words
from fundusforge.studies.augmentation.result import (
    METHODS,
    PICTURES,
    STUDY,
    TABLES,
    Amount,
    Characteristics,
    Comparison,
    Row,
    Source,
    StudyResult,
)  # fmt: skip
from fundusforge.studies.augmentation.settings import TEST, VAL, Classed, Pool, Setting
from fundusforge.studies.augmentation.supply import Supplied
from fundusforge.studies.chain.result import slug

_FEW = 30
"""Photographs of a class in a set below which it is called small."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a study has brought together."""

    study: Study
    out: Path
    pool: Pool
    settings: Sequence[Setting]
    supplied: Mapping[str, Supplied]
    """By setting."""
    jobs: Mapping[tuple[str, str, str, int], Job]
    """By setting, learner, arm and seed."""
    device: str


def conclude(run: Run, places: Sequence[Place], foreseen: Sequence[Power], command: str) -> StudyResult:
    """Compare, write `study.json`, tables, methods and pictures, and return it all.

    Args:
        run: What was brought together.
        places: What was trained, by setting and learner.
        foreseen: Power, as simulated before.
        command: The command line, for the record.
    """
    study = run.study
    choices = [place.choose() for place in places]
    comparisons: list[Comparison] = []
    amounts: list[list[Amount]] = []
    for place, choice in zip(places, choices, strict=True):
        comparisons += [place.compare(choice, where) for where in place.sets if choice.synthetic]
        amounts.append(place.curve(choice))
    judged = concluded(study, comparisons)
    sources = [_source(run, setting) for setting in run.settings if setting.name in run.supplied]
    figures = [
        figure for place, choice, curve in zip(places, choices, amounts, strict=True)
        for figure in place.figures(choice, curve)
    ]  # fmt: skip
    known = words.versions()
    counts = {"train": run.pool.train.counts, VAL: run.pool.val.counts, TEST: run.pool.test.counts}
    counts |= {name: part.counts for name, (_, part) in run.pool.external.items()}
    starts = [outcomes[0].start for place in places for outcomes in place.ran.values()]
    rows = [row for place in places for row in place.rows()]
    result = StudyResult(
        name=study.name, rows=tuple(rows), comparisons=judged,
        choices=tuple(choices), amounts=tuple(point for curve in amounts for point in curve),
        sources=tuple(sources), characteristics=tuple(_characteristics(run)), foreseen=tuple(foreseen),
        figures=(*figures, *audited(study, sources)),
        sentences=(
            *(one.sentence for one in judged), *_at_chance(judged, rows), *_beyond(run),
            *map(power_words, foreseen),
        ),
        warnings=tuple(_warnings(run)),
        methods=words.methods(study, counts, [start for start in starts if start], known),
        pictures=tuple(_pictures(run, places, choices, amounts)), settings=json.loads(to_json(study)),
        command=command, version=__version__, versions=known,
    )  # fmt: skip
    write_text(run.out / TABLES, result.markdown() + "\n")
    write_text(run.out / METHODS, result.methods + "\n")
    write_text(run.out / STUDY, to_json(result) + "\n")
    return result


def _source(run: Run, setting: Setting) -> Source:
    given = run.supplied[setting.name]
    return Source(
        setting=setting.name, source=given.source, taught=given.taught, beyond=given.beyond,
        verdicts=given.verdicts, left_out=given.left_out,
        used={
            name: min(count, len(given.images.get(name, ()))) for name, count in setting.wanted.items()
        },
    )  # fmt: skip


def _at_chance(comparisons: Sequence[Comparison], rows: Sequence[Row]) -> list[str]:
    """Say where not even the best free baseline tells the classes."""
    known = {(row.setting, row.learner, row.where, row.arm): row.values for row in rows}
    said = [
        words.at_chance(one, known[one.setting, one.learner, one.where, one.free][one.measure])
        for one in comparisons
    ]
    return [sentence for sentence in said if sentence]


def _beyond(run: Run) -> list[str]:
    """Say where a generator knew more than the baseline."""
    return [
        f"{setting.title or 'all'}: the generator learnt from {given.beyond} patients whom the baseline did "
        "not have, so that what it gains may be theirs."
        for setting in run.settings if (given := run.supplied.get(setting.name)) and given.beyond
    ]  # fmt: skip


def _warnings(run: Run) -> list[str]:
    """Say what weakens the answers."""
    found = [note for given in run.supplied.values() for note in given.notes]
    sets = {TEST: run.pool.test, **{name: part for name, (_, part) in run.pool.external.items()}}
    for name, part in sets.items():
        found += [
            f"{name} has {count} photographs of class {group}: few to judge by."
            for group, count in part.counts.items() if count < _FEW
        ]  # fmt: skip
    if run.study.seeds < 3:
        found.append(f"{run.study.seeds} seeds tell little of how training again would change the gain.")
    if run.study.quarantine.spaces != "all":
        found.append(f"The audit for copies looked at: {run.study.quarantine.spaces}.")
    if (seen := _seen_by_start(run)) and run.study.external == ():
        found.append(
            f"The weights that all arms start from have seen photographs of {seen} test patients, without "
            "any label."
        )
    return found


def _seen_by_start(run: Run) -> int:
    """Return how many test patients taught the embedded features that classifiers start from."""
    configs = [run.study.trained(learner)[0] for learner in run.study.learners]
    if not any(isinstance(config, ClassifierConfig) and config.start == "retina" for config in configs):
        return 0
    file = weights.default("selfsupervised", masks=())
    taught = frozenset(json.loads(weights.read_metadata(file).get("patients", "[]")))
    return len(taught & known_patients(record.patient for record in run.pool.test.records))


# ---- who they are ------------------------------------------------------------------------------------------


def _characteristics(run: Run) -> list[Characteristics]:
    """Return images, age and sex by class and set (Kim et al. 2022, Table 1)."""
    sets: dict[str, Classed] = {f"train {setting.title}": setting.real for setting in run.settings}
    sets |= {VAL: run.pool.val, TEST: run.pool.test}
    sets |= {name: part for name, (_, part) in run.pool.external.items()}
    return [_of(name, group, part.of(group).records) for name, part in sets.items() for group in part.counts]


def _of(part: str, group: str, records: Sequence[Record]) -> Characteristics:
    ages = np.array([record.age for record in records if record.age is not None], np.float64)
    sexes = [record.sex for record in records]
    return Characteristics(
        part=part, group=group, images=len(records), patients=len({record.patient for record in records}),
        age=float(ages.mean()) if ages.size else None,
        age_deviation=float(ages.std(ddof=1)) if ages.size > 1 else None,
        male=sexes.count("male"), female=sexes.count("female"),
        unknown=len(sexes) - sexes.count("male") - sexes.count("female"),
    )  # fmt: skip


# ---- pictures ----------------------------------------------------------------------------------------------


def _pictures(
    run: Run, places: Sequence[Place], choices: Sequence[Choice], amounts: Sequence[Sequence[Amount]]
) -> list[str]:
    """Draw what can be drawn; return the files, from the study's folder."""
    out, main = run.out / PICTURES, measures_of(run.study).main
    out.mkdir(parents=True, exist_ok=True)
    made: list[Path | None] = []
    for learner in run.study.learners:
        rows = [row for place in places if place.learner == learner for row in place.rows()]
        made.append(drawings.by_setting([r for r in rows if r.where == TEST], main, out / f"{learner}.png"))
    points = [point for curve in amounts for point in curve]
    if points:
        made.append(drawings.by_amount(points, main, out / "amounts.png"))
    for place, choice in zip(places, choices, strict=True):
        end = "_".join(part for part in (place.setting.name, slug(place.learner)) if part)
        shown = {arm: place.ran[arm] for arm in dict.fromkeys(_shown(choice))}
        title = f"{place.setting.title}, {place.learner}"
        made.append(drawings.training(shown, title, out / f"training_{end}.png"))
        if place.measures.kind == "ratios":
            made.append(drawings.roc(shown, title, out / f"roc_{end}.png"))
        made.append(_sheet(run, place, choice, out / f"activations_{end}.png"))
    return [path.relative_to(run.out).as_posix() for path in made if path is not None]


def _shown(choice: Choice) -> list[str]:
    """Return the arms of a picture: none, the best free one, and the best with synthetic images."""
    return ["plain", choice.free, *([choice.synthetic] if choice.synthetic else [])]


def _sheet(run: Run, place: Place, choice: Choice, out: Path) -> Path | None:
    """Write the sheet of activations, where weights were kept and there are images to show."""
    job = run.jobs[place.setting.name, place.learner, choice.free, 0]
    weights_kept = run.out / "cells" / job.key / "run"
    if not weights_kept.is_dir():
        return None
    if run.study.real_on_sheet:
        part = job.sets[TEST][0]
        rare = [r for r, truth in zip(part.records, job.truth[TEST], strict=True) if truth == 1]
        records = tuple(rare)
    else:
        if choice.synthetic is None:
            return None
        made = run.jobs[place.setting.name, place.learner, choice.synthetic, 0]
        part = made.training[-1]
        records = part.records
    shown = Part(folder=part.folder, digest=part.digest, records=records)
    return drawings.activations(run.study, weights_kept, shown, out, device=run.device)
