"""Cells: one model each, trained once, read on every set, and kept under the hash of all that decides it.

Change a setting and only what depends on it is trained again; a study that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from joblib import Parallel, delayed

from fundusforge.config import from_json
from fundusforge.models import AnyConfig
from fundusforge.records import write_text
from fundusforge.studies.augmentation.config import Learner
from fundusforge.studies.augmentation.parts import Part
from fundusforge.studies.augmentation.tools import Said, Tools, Training
from fundusforge.training.run import LOG, LoopConfig, parse_budget

SCHEMA = 1
"""Of what a key is made of; raised when the same inputs would give another result."""
_MACHINE = {
    "device", "threads", "workers", "cache_gb", "save_every", "sample_every", "sample_count", "log_every",
    "tensorboard", "keep_every",
}  # fmt: skip
"""Settings of the loop that change no weight."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model on one set."""

    where: str
    patients: tuple[str, ...]
    """Of each photograph."""
    truth: tuple[int, ...]
    """The grade, or 1 with the finding and 0 without; 1 throughout for pairs."""
    said: tuple[tuple[float | None, ...], ...]
    """See `tools.Said`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A line of a training's log."""

    images: int
    loss: float | None = None
    """Mean since the line before."""
    score: float | None = None
    """Of the validation."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The content of a cell's file."""

    threshold: float
    start: str
    """What the model's first weights were."""
    steps: int
    """Gradient steps."""
    answers: tuple[Answer, ...]
    curve: tuple[Point, ...]

    def on(self, where: str) -> Answer:
        """Return what was said of one set."""
        return next(answer for answer in self.answers if answer.where == where)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to be trained and read."""

    setting: str
    learner: str
    arm: str
    seed: int
    """Number of the seed, from 0."""
    training: tuple[Part, ...]
    """Parts that are learnt from."""
    val: Part
    sets: Mapping[str, tuple[Part, ...]]
    """What the model is read on, `val` among them; a set may lie in several folders."""
    truth: Mapping[str, tuple[int, ...]]
    """Per set, the truth of each photograph."""
    config: AnyConfig
    loop: LoopConfig
    given: Learner
    targets: tuple[str, ...]
    learnt: Mapping[str, int]
    """Training images: real and synthetic, by class."""
    weights: bool
    """Keep the weights."""

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the cell's numbers."""
        facts = {
            "schema": SCHEMA, "config": plain(self.config), "loop": deciding(self.loop),
            "training": [part.digest for part in self.training], "val": self.val.digest,
            "sets": {name: [part.digest for part in parts] for name, parts in self.sets.items()},
            "targets": self.targets,
        }  # fmt: skip
        return keyed(facts)

    @property
    def row(self) -> tuple[str, str, str]:
        """Setting, learner and arm."""
        return self.setting, self.learner, self.arm


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How cells are spread over cores, GPUs or a cluster."""

    jobs: int = 1
    """Cells at once."""
    backend: str | None = None
    """Of joblib: loky (processes here), ray (a cluster), threading; joblib's own choice if None."""
    devices: tuple[str, ...] = ("auto",)
    """Devices, which cells take in turn: cuda:0 cuda:1."""


def run_cells(
    jobs: Sequence[Job],
    out: Path,
    tools: Tools,
    *,
    pace: Pace,
    tell: Callable[[str], Any] = lambda text: None,
) -> dict[tuple[str, str, str, int], Outcome]:
    """Train and read every cell that is not there yet; return all, by setting, learner, arm and seed."""
    found = {(*job.row, job.seed): kept(out, job.key) for job in jobs}
    by_key = {job.key: job for job in jobs if found[*job.row, job.seed] is None}
    waiting = list(by_key.values())
    if waiting:
        tell(f"{len(waiting)} of {len(jobs)} cells are to be trained")
    numbered = enumerate(waiting)
    pool = Parallel(n_jobs=pace.jobs, backend=pace.backend, return_as="generator_unordered")
    done = pool(
        delayed(run_cell)(job, out, tools, pace.devices[place % len(pace.devices)]) for place, job in numbered
    )
    for count, key in enumerate(cast("Sequence[str]", done), 1):
        job = by_key[key]
        tell(f"{count} of {len(waiting)}: {' '.join(part for part in job.row if part)}, seed {job.seed}")
    return {
        (*job.row, job.seed): cast(Outcome, found[*job.row, job.seed] or kept(out, job.key)) for job in jobs
    }


def run_cell(job: Job, out: Path, tools: Tools, device: str) -> str:
    """Train and read one cell, write its file, return its key."""
    place = out / job.key
    run = place / "run"
    place.mkdir(parents=True, exist_ok=True)
    tools.train(
        Training(
            folders=(*(part.folder for part in job.training), job.val.folder), run=run, config=job.config,
            loop=job.loop, learner=job.given, device=device,
        )
    )  # fmt: skip
    answers: list[Answer] = []
    said: list[Said] = []
    for where, parts in job.sets.items():
        said = [tools.read(run, part, job.targets, device) for part in parts]
        patients = tuple(record.patient for part in parts for record in part.records)
        rows = tuple(_row(row) for each in said for row in each.rows.tolist())
        answers.append(Answer(where=where, patients=patients, truth=job.truth[where], said=rows))
    outcome = Outcome(
        threshold=said[0].threshold, start=said[0].start, steps=steps_of(job.loop), answers=tuple(answers),
        curve=tuple(curve_of(run / LOG)),
    )  # fmt: skip
    write_text(place / "cell.json", json.dumps(asdict(outcome)) + "\n")
    tidy(run, weights=job.weights)
    return job.key


def _row(values: Sequence[float]) -> tuple[float | None, ...]:
    """Return numbers as JSON can hold them."""
    return tuple(None if math.isnan(value) else round(value, 7) for value in values)


def kept(out: Path, key: str) -> Outcome | None:
    """Return a cell that is finished, or None."""
    file = out / key / "cell.json"
    return from_json(Outcome, file.read_text("utf-8"), where=str(file)) if file.is_file() else None


def steps_of(loop: LoopConfig) -> int:
    """Return the number of gradient steps of a training."""
    images = parse_budget(loop.stop_after).images
    assert images is not None
    return math.ceil(images / loop.batch)


def curve_of(log: Path) -> list[Point]:
    """Return the losses and validation scores of a training's log, empty where there is none."""
    names = {"validation/auc", "validation/kappa", "validation/f1"}
    points: list[Point] = []
    for line in log.read_text("utf-8").splitlines() if log.is_file() else ():
        row: dict[str, Any] = json.loads(line)
        losses = [v for name, v in row.items() if name.startswith("main/") and not name.endswith("/gradient")]
        scores = [value for name, value in row.items() if name in names]
        if losses or scores:
            loss, score = (sum(losses) if losses else None), (scores[0] if scores else None)
            points.append(Point(images=row["images"], loss=loss, score=score))
    return points


def tidy(run: Path, *, weights: bool) -> None:
    """Remove what nobody reads again."""
    if not weights:
        shutil.rmtree(run, ignore_errors=True)
        return
    for name in ("samples", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("state.safetensors", "state.previous.safetensors"):
        with suppress(FileNotFoundError):
            (run / name).unlink()


def plain(config: AnyConfig | None) -> dict[str, Any] | None:
    """Return a model's configuration as plain values."""
    return None if config is None else asdict(config)


def deciding(loop: LoopConfig | None) -> dict[str, Any] | None:
    """Return the settings of a loop that change what is learnt."""
    if loop is None:
        return None
    return {name: value for name, value in asdict(loop).items() if name not in _MACHINE}


def keyed(facts: Mapping[str, Any]) -> str:
    """Return 20 hexadecimal digits that name these facts."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
