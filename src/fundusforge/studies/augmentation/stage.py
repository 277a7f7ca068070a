"""The experiment itself: from dataset folders to `study.json`, a table, figures and plain sentences.

    study/                       private: it holds patients' photographs
      study.json                 everything that was found
      tables.md methods.md figures/    the same for readers
      parts/ generators/ cells/  what was made on the way, named by the hash of what decided it

The order: power; generators, what they draw, the audit; the free baselines sifted on validation; all seeds of
those that are left and of the arms with synthetic images; the choice on validation; the comparison on test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from joblib import Parallel, delayed

from fundusforge.models.classifier import ClassifierConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.studies.augmentation.analysis import FAKE, Place
from fundusforge.studies.augmentation.arms import PLAIN, UNDERSAMPLE, WEIGHTS, Arm, arms_of, settled
from fundusforge.studies.augmentation.cells import Job, Outcome, Pace, run_cells
from fundusforge.studies.augmentation.choice import ranked, sifted
from fundusforge.studies.augmentation.conclusion import Run, conclude
from fundusforge.studies.augmentation.config import Grades, Ratios, Study
from fundusforge.studies.augmentation.measures import measures_of
from fundusforge.studies.augmentation.parts import Parts
from fundusforge.studies.augmentation.power import Power, power
from fundusforge.studies.augmentation.power import words as power_words
from fundusforge.studies.augmentation.result import StudyResult
from fundusforge.studies.augmentation.settings import (
    COMMON,
    RARE,
    TEST,
    VAL,
    Classed,
    Pool,
    Setting,
    evened,
    pool_of,
    settings_of,
)  # fmt: skip
from fundusforge.studies.augmentation.supply import Supplied, Supplier
from fundusforge.studies.augmentation.tools import Tools
from fundusforge.training.run import LoopConfig

_BALANCING = {"oversample", UNDERSAMPLE, WEIGHTS}
"""Techniques that change nothing where classes are equal."""


def augmentation(
    study: Study, out: Path, tools: Tools, *, pace: Pace | None = None, command: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> StudyResult:  # fmt: skip
    """Run a study, or go on with it, and write what was found.

    Figures: `<name>_<measure>_real`, `_free`, `_synthetic`, `_gain` (over the best free baseline) and
    `_gain_over_plain`, followed by the setting (`_1_to_01`), by the learner unless it is the first, and by an
    external set: `erm_auc_gain_1_to_01`, `grade_kappa_gain`.

    Args:
        study: The question.
        out: Folder of the study; private.
        tools: What trains, draws, audits and reads.
        pace: How cells are spread.
        command: The command line, for the record.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: Broken folders, a patient in two sets, too few photographs, a supply that may not be
            used.
        ConfigError: Arms or models that make no sense.
        OSError: `out` cannot be written.
    """
    tell, pace = progress or (lambda text: None), pace or Pace()
    free, made, curve = arms_of(study)
    pool = pool_of(study)
    settings = settings_of(study, pool)
    models = {name: study.trained(name) for name in study.learners}
    parts = Parts(out=out / "parts", side=study.side)
    cells = _Cells(study, out, tools, pace, tell, pool, parts, models)
    supplier = Supplier(study=study, pool=pool, parts=parts, out=out / "generators", tools=tools)
    supplier.check()
    foreseen = foresee(study, pool, settings)
    for one in foreseen:
        tell(power_words(one))
    cells.write_sets()
    cells.supply(supplier, settings)
    places = cells.run(settings, free, made, curve)
    run = Run(study=study, out=out, pool=pool, settings=settings, supplied=cells.supplied, jobs=cells.jobs,
              device=pace.devices[0])  # fmt: skip
    return conclude(run, places, foreseen, command or f"fundusforge study augmentation {study.name}.json")


def foresee(study: Study, pool: Pool, settings: Sequence[Setting]) -> list[Power]:
    """Return the power of the study on its test set and on each external one; nothing but for areas."""
    if not isinstance(study.design, Ratios):
        return []
    sets = [pool.test, *(part for _, part in pool.external.values())]
    comparisons = len(study.learners) * len(sets) * sum(bool(setting.wanted) for setting in settings)
    return [
        power(
            part.counts[RARE], part.counts[COMMON], study.seeds, study.power, level=study.level,
            comparisons=max(1, comparisons), seed=study.seed,
        )
        for part in sets
    ]  # fmt: skip


@dataclass
class _Cells:
    """What is trained of a study, and what it is trained on."""

    study: Study
    out: Path
    tools: Tools
    pace: Pace
    tell: Callable[[str], Any]
    pool: Pool
    parts: Parts
    models: Mapping[str, tuple[ClassifierConfig | UNetConfig, LoopConfig]]
    """What is trained, by learner."""
    sets: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    truth: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    supplied: dict[str, Supplied] = field(default_factory=dict[str, Supplied])
    jobs: dict[tuple[str, str, str, int], Job] = field(default_factory=dict[tuple[str, str, str, int], Job])
    outcomes: dict[tuple[str, str, str, int], Outcome] = field(
        default_factory=dict[tuple[str, str, str, int], Outcome]
    )

    # ---- data ----------------------------------------------------------------------------------------------

    def write_sets(self) -> None:
        """Write validation and test sets, and every picture that is read, before processes share them."""
        pool = self.pool
        self.parts.write(pool.folder, pool.train.records, split="train")
        sets = {VAL: (pool.folder, pool.val), TEST: (pool.folder, pool.test), **pool.external}
        for name, (folder, part) in sets.items():
            split = "val" if name == VAL else "test"
            self.sets[name] = (self.parts.write(folder, part.records, split=split),)
            self.truth[name] = self._truth(part)

    def _truth(self, part: Classed) -> tuple[int, ...]:
        """Return the truth of every photograph as numbers."""
        if isinstance(self.study.design, Grades):
            return tuple(int(name) for name in part.classes)
        alone = isinstance(self.study.design, Ratios)
        return tuple(int(name == RARE or not alone) for name in part.classes)

    def supply(self, supplier: Supplier, settings: Sequence[Setting]) -> None:
        """Train generators, draw and audit, settings side by side."""
        wanted, devices = [setting for setting in settings if setting.wanted], self.pace.devices
        giver = replace(supplier, tell=self.tell) if self.pace.jobs == 1 else supplier
        pool = Parallel(n_jobs=self.pace.jobs, backend=self.pace.backend)
        found = pool(
            delayed(giver.give)(setting, devices[place % len(devices)])
            for place, setting in enumerate(wanted)
        )
        given = zip(wanted, cast("list[Supplied]", found), strict=True)
        self.supplied = {setting.name: one for setting, one in given}

    # ---- cells ---------------------------------------------------------------------------------------------

    def run(
        self, settings: Sequence[Setting], free: Sequence[Arm], made: Sequence[Arm], curve: Sequence[Arm]
    ) -> list[Place]:
        """Sift the free arms, then train what is left, and return it by setting and learner."""
        names = [(setting, learner) for setting in settings for learner in self.study.learners]
        sieve = {place: self._sensible(setting, free) for place, (setting, _) in enumerate(names)}
        screened = self._screen(names, sieve)
        jobs: list[Job] = []
        chosen: list[tuple[list[Arm], list[Arm], list[Arm]]] = []
        for place, (setting, learner) in enumerate(names):
            left = [arm for arm in sieve[place] if arm.name == PLAIN or arm.name in screened[place][1]]
            with_made = list(made) if setting.wanted else []
            at = self.study.amounts_at
            points = list(curve) if setting.wanted and (not at or setting.name in at) else []
            for arm in [*left, *with_made, *points]:
                jobs += [self._job(setting, learner, arm, seed) for seed in range(self.study.seeds)]
            chosen.append((left, with_made, points))
        self._train(jobs)
        return [
            self._place(setting, learner, chosen[place], screened[place][0])
            for place, (setting, learner) in enumerate(names)
        ]

    def _screen(
        self, names: Sequence[tuple[Setting, str]], sieve: Mapping[int, Sequence[Arm]]
    ) -> list[tuple[dict[str, float], list[str]]]:
        """Return, by place, the validation scores of the sifting and the free arms that are kept."""
        screen, measures = self.study.screen, measures_of(self.study)
        seeds = range(min(screen.seeds, self.study.seeds)) if screen else range(0)
        crowded = [(place, arm) for place, arms in sieve.items() if self._crowded(arms) for arm in arms]
        self._train(self._job(*names[place], arm, seed) for place, arm in crowded for seed in seeds)
        found: list[tuple[dict[str, float], list[str]]] = []
        for place, (setting, learner) in enumerate(names):
            arms = sieve[place]
            if screen is None or not self._crowded(arms):
                found.append(({}, [arm.name for arm in arms]))
                continue
            scores = ranked(
                measures,
                {
                    arm.name: [self.outcomes[setting.name, learner, arm.name, s] for s in seeds]
                    for arm in arms
                },
            )
            found.append((scores, sifted(scores, screen.keep)))
        return found

    def _crowded(self, arms: Sequence[Arm]) -> bool:
        """Whether there are more free arms than are kept."""
        screen = self.study.screen
        return screen is not None and len(arms) - 1 > screen.keep

    def _sensible(self, setting: Setting, free: Sequence[Arm]) -> list[Arm]:
        """Return the free arms that make sense in a setting."""
        if not setting.wanted:
            return [arm for arm in free if arm.name == PLAIN]
        equal = len(set(setting.real.counts.values())) == 1
        return [
            arm for arm in free
            if arm.name == PLAIN or not equal or not {*arm.techniques} <= _BALANCING
        ]  # fmt: skip

    def _train(self, jobs: Iterable[Job]) -> None:
        """Train what is not there yet."""
        some = {(*job.row, job.seed): job for job in jobs}
        self.jobs |= some
        self.outcomes |= run_cells(
            list(some.values()), self.out / "cells", self.tools, pace=self.pace, tell=self.tell
        )

    def _job(self, setting: Setting, learner: str, arm: Arm, seed: int) -> Job:
        """Return the cell of one arm and seed."""
        study = self.study
        number = 1000 * study.seed + seed
        real = evened(setting.real, seed=number) if arm.undersampled else setting.real
        training = [self.parts.write(self.pool.folder, real.records, split="train")]
        learnt, sets, truth = dict(real.counts), dict(self.sets), dict(self.truth)
        given = self.supplied.get(setting.name)
        if arm.amount and given is not None:
            wanted = {name: round(arm.amount * count) for name, count in setting.wanted.items()}
            training += given.take(wanted, self.parts)
            learnt |= {f"synthetic {n}": min(c, len(given.images.get(n, ()))) for n, c in wanted.items()}
        elif arm.name == PLAIN and isinstance(study.design, Grades) and given is not None:
            sets[FAKE] = tuple(given.take(setting.wanted, self.parts))
            truth[FAKE] = tuple(r.grade or 0 for part in sets[FAKE] for r in part.records)
        config, loop = self.models[learner]
        return Job(
            setting=setting.name, learner=learner, arm=arm.name, seed=seed, training=tuple(training),
            val=self.sets[VAL][0], sets=sets, truth=truth, targets=study.targets, learnt=learnt,
            config=settled(config, arm, real.counts, even=setting.even and not arm.free),
            loop=replace(loop, seed=number), given=study.learners[learner],
            weights=study.keep == "all" or (study.keep == "first" and seed == 0),
        )  # fmt: skip

    def _place(
        self, setting: Setting, learner: str, arms: tuple[list[Arm], list[Arm], list[Arm]],
        screened: Mapping[str, float],
    ) -> Place:  # fmt: skip
        """Gather what was run of one setting and learner."""
        free, made, curve = ([arm.name for arm in each] for each in arms)
        seeds = range(self.study.seeds)
        every = [*free, *made, *curve]
        return Place(
            study=self.study, setting=setting, learner=learner, measures=measures_of(self.study),
            ran={arm: [self.outcomes[setting.name, learner, arm, seed] for seed in seeds] for arm in every},
            free=tuple(free), synthetic=tuple(made), screened=screened,
            learnt={arm: self.jobs[setting.name, learner, arm, 0].learnt for arm in every},
        )  # fmt: skip
