"""`fundusforge study`: do synthetic images help to train?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, command_line, emit, only, say

if TYPE_CHECKING:
    from fundusforge.studies.augmentation.config import Study as Question
    from fundusforge.studies.augmentation.tools import Auditing, Drawing, Tools, Training


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ask whether synthetic images help to train, and whether the answer can be found.

    After Kim et al. 2022 and Zhou et al. 2020. `augmentation` runs the whole study that CONFIG describes:
    generators, their images, the audit, classifiers or segmenters with and without them, baselines that cost
    nothing, several seeds, tests and sentences. It writes study.json, tables.md, methods.md and figures into
    the folder named by --out, which holds patients' photographs, and goes on where it was stopped; what has
    not changed is not computed again. `power` simulates the study: how many test patients and seeds a gain
    needs. With CONFIG it takes patients, seeds and assumptions from there; options win.

    docs/augmentation.md explains the configuration; examples/studies has some.

    Examples:
      fundusforge study power examples/studies/erm-cpu.json
      fundusforge study power --positives 37 --negatives 91 --auc 0.75 --gain 0.05 --seeds 3 5 10
      fundusforge study augmentation examples/studies/erm-cpu.json --out studies/erm
      fundusforge study augmentation examples/studies/erm-full.json --jobs 4 --devices cuda:0 cuda:1 --out erm
    """

    action: Annotated[Literal["augmentation", "power"], Positional, arg(metavar="ACTION")]
    """augmentation or power."""
    config: Annotated[tuple[Path, ...], Positional, arg(metavar="[CONFIG]")] = ()
    """JSON file of the study; `power` can do without."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """augmentation: folder of the study; by default that of the configuration's name in `studies`."""
    jobs: int = 1
    """augmentation: models trained at once; -1 for one a core."""
    backend: Literal["loky", "threading", "ray"] | None = None
    """augmentation: how joblib spreads them; ray takes a cluster (pip install fundusforge[cluster])."""
    devices: tuple[str, ...] = ("auto",)
    """augmentation: where to compute, taken in turn: cuda:0 cuda:1."""
    threads: int | None = None
    """augmentation: threads of a training."""
    positives: int | None = None
    """power: test photographs with the finding."""
    negatives: int | None = None
    """power: test photographs without it."""
    seeds: tuple[int, ...] = ()
    """power: seeds of each arm; several for a table."""
    auc: float | None = None
    """power: area of the best free baseline."""
    gain: float | None = None
    """power: gain that should be found."""
    correlation: float | None = None
    """power: correlation of two models' scores within a class."""
    seed_deviation: float | None = None
    """power: standard deviation of the area between seeds."""
    comparisons: int = 1
    """power: comparisons that are corrected for, where no CONFIG says so."""
    seed: int = 0
    """power: seed of the simulation; a study's own is in CONFIG."""
    quiet: bool = False
    """No progress on standard error."""
    lines: bool = False
    """augmentation: print the figures as lines of JSON, for docs/results/record.py."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Run the study, or say what it could find."""
        result, text = self._augmentation() if self.action == "augmentation" else self._power()
        emit(result, text, as_json=self.json)
        return DONE

    def _augmentation(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.augmentation.cells import Pace
        from fundusforge.studies.augmentation.config import read_study
        from fundusforge.studies.augmentation.stage import augmentation

        path = only(self.config, "CONFIG")
        if path is None:
            raise UsageError("augmentation needs a CONFIG; examples/studies has some")
        study = read_study(path)
        found = augmentation(
            study, self.out or Path("studies") / study.name, tools_of(study, threads=self.threads),
            pace=Pace(jobs=self.jobs, backend=self.backend, devices=self.devices),
            command=command_line(), progress=None if self.quiet else say,
        )  # fmt: skip
        text = "\n".join(map(json.dumps, found.lines())) if self.lines else found.text()
        return found.to_dict(), text

    def _power(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.augmentation.config import Foreseen, Ratios, read_study
        from fundusforge.studies.augmentation.power import needed, words
        from fundusforge.studies.augmentation.settings import COMMON, RARE, pool_of, settings_of

        path = only(self.config, "CONFIG")
        positives, negatives, seeds = self.positives, self.negatives, self.seeds or (3, 5, 10)
        assumed, comparisons, level = Foreseen(), self.comparisons, 0.05
        if path is not None:
            study = read_study(path)
            if not isinstance(study.design, Ratios):
                raise UsageError(
                    f"{path}: power is simulated for areas under the curve, of the design `ratios`"
                )
            pool = pool_of(study)
            counts, assumed, level = pool.test.counts, study.power, study.level
            positives, negatives = positives or counts[RARE], negatives or counts[COMMON]
            settings = settings_of(study, pool)
            comparisons = len(study.learners) * sum(bool(one.wanted) for one in settings) or 1
            seeds = self.seeds or (study.seeds,)
        if positives is None or negatives is None:
            raise UsageError("power needs a CONFIG, or --positives and --negatives")
        given = {"auc": self.auc, "gain": self.gain, "correlation": self.correlation,
                 "seed_deviation": self.seed_deviation}  # fmt: skip
        assumed = replace(assumed, **{name: value for name, value in given.items() if value is not None})
        rows = needed(
            positives, negatives, seeds, assumed, level=level, comparisons=comparisons, seed=self.seed
        )  # fmt: skip
        result = {"assumed": asdict(assumed), "comparisons": comparisons, "rows": [asdict(r) for r in rows]}
        return result, "\n".join(map(words, rows))


# ---- what is handed in -------------------------------------------------------------------------------------


def tools_of(study: Question, *, threads: int | None = None) -> Tools:
    """Return what trains, draws, audits and reads for a study.

    Args:
        study: The study; its design says how models are read.
        threads: Threads of a training.
    """
    from fundusforge.studies.augmentation.reading import read_classes, read_masks
    from fundusforge.studies.augmentation.tools import Tools

    read = read_masks if study.design.kind == "segmentation" else read_classes
    return Tools(train=partial(train, threads=threads), draw=draw, audit=audit, read=read)


def train(task: Training, *, threads: int | None = None) -> None:
    """Train one model, from where it stood.

    Raises:
        KeyboardInterrupt: The training was interrupted.
    """
    from fundusforge.cli.chaining import train_chain
    from fundusforge.cli.fitting import fit

    if task.config is None or task.loop is None:
        loop = {"seed": task.loop.seed if task.loop else 0, "device": task.device, "threads": threads}
        made = train_chain(task.folders, task.run, _chain(task), loop=loop, quiet=True)
        finished = all(one["finished"] for one in made.values())
    else:
        loop = replace(task.loop, device=task.device, threads=threads)
        one = fit(
            task.config, task.folders, task.run, loop=loop, resume=True, warm_start=task.warm_start,
            quiet=True,
        )  # fmt: skip
        finished = one is not None and one["finished"]
    if not finished:
        raise KeyboardInterrupt


def _chain(task: Training) -> Any:
    """Return the links of a chain: its preset, masks and lengths."""
    from fundusforge.cli.chaining import ChainConfig

    settings = dict(task.learner.model)
    if isinstance(settings.get("masks"), list):
        settings["masks"] = tuple(settings["masks"])
    return ChainConfig.named(task.learner.preset or "default", **settings)


def draw(task: Drawing) -> None:
    """Draw synthetic images with a trained generator."""
    from fundusforge.cli.chaining import CHAIN, sample_chain
    from fundusforge.sample.latents import DRAWING, Drawer
    from fundusforge.sample.severity_painter import load_painter
    from fundusforge.sample.stage import SampleConfig, sample
    from fundusforge.training.checkpoint import read_metadata

    if (task.run / CHAIN).is_file():
        list(sample_chain(task.run, task.out, count=task.count, seed=task.seed, device=task.device))
        return
    if read_metadata(task.run)["kind"] in DRAWING:
        _draw_vectors(task, Drawer.load(task.run, device=task.device))
        return
    painter = load_painter(task.run, device=task.device)
    imitated = task.supply.lesions == "imitated"
    config = SampleConfig(
        count=task.count, seed=task.seed, lesions=task.supply.lesions,
        masks=str(task.real) if task.supply.masks == "train" else task.supply.masks,
        severity=float(task.grade) if task.grade is not None and painter.graded else None,
        grade=task.grade if imitated else None,
    )  # fmt: skip
    list(sample(painter, task.out, config))


def _draw_vectors(task: Drawing, drawer: Any) -> None:
    """Draw with a generator that draws from vectors."""
    from fundusforge.models.stylegan import StyleGANConfig
    from fundusforge.sample.drawing import draw as draw_all

    config = drawer.config
    if isinstance(config, StyleGANConfig):
        drawer = replace(drawer, truncation=task.supply.truncation)
    asked = task.grade is not None or task.finding is not None
    if asked and isinstance(config, StyleGANConfig):
        findings = [task.finding] if task.finding is not None else []
        drawer = replace(drawer, asked=(config.condition(task.grade, findings),))
    list(draw_all(drawer, task.out, count=task.count, seed=task.seed))


def audit(task: Auditing) -> Mapping[str, str]:
    """Return the audit's verdict on every synthetic image."""
    from fundusforge.audit.stage import AuditConfig
    from fundusforge.audit.stage import audit as search
    from fundusforge.cli.audit import quick_judge
    from fundusforge.evaluate.extractors import load_extractor
    from fundusforge.evaluate.features import default_cache

    config = AuditConfig(
        synthetic=task.synthetic, train=task.train, holdout=task.holdout, out=task.out, level=task.level,
        seed=task.seed,
    )  # fmt: skip
    whole = task.spaces == "all"
    found = search(
        config, judge=quick_judge(None, device=task.device) if whole else None,
        extractor=load_extractor("retina") if whole else None, cache=default_cache(),
        command="fundusforge study augmentation",
    )  # fmt: skip
    return {finding.image: finding.verdict for finding in found.findings}
