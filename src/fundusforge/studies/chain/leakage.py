"""How many drawn trees are trees of the training set, told by real trees of different patients.

The search, the registration and the verdicts are those of the audit (`fundusforge.audit`), in the space of
trees alone and of masks as stored: here the trees are what the model drew, and pixels are the painter's. What
counts as too near is told by unrelated patients: each training patient against the others, and held-out ones
where there are any. Few of them alone would set the threshold by luck, so all are taken together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fundusforge.audit.findings import Chance, Finding
from fundusforge.audit.nearest import Nearest, Training, Unrelated, hidden
from fundusforge.audit.stage import AuditConfig, search, views
from fundusforge.audit.tally import wilson
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import bootstrap, weighted_mean
from fundusforge.records import DatasetError

_RESIZE = "field of view to 256 px, area"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What was found in one set of drawn trees."""

    share: Figure
    """Of the drawn trees that offend."""
    nearest: Figure
    """Mean likeness of a drawn tree to its nearest training tree, beside the same of unrelated patients."""
    findings: tuple[Finding, ...]
    """One for each tree; these name training pictures and are not for publishing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Training trees ready to be searched, and how near unrelated patients come by chance."""

    train: ImageSet
    training: Training
    unrelated: Unrelated
    values: tuple[float, ...]
    """Likeness of each unrelated tree to the nearest training tree of another patient."""
    patients: tuple[str, ...]
    """The patient of each."""
    against: str
    """Who the unrelated patients are."""
    level: float
    margin: float
    jobs: int
    doubles: int
    """Patients left out of chance because they stand in the training set under another name."""

    @property
    def chance(self) -> tuple[Chance, ...]:
        """What the unrelated patients show, with the thresholds."""
        return self.unrelated.chance(self.level)

    def leak(self, images: ImageSet, *, name: str, seed: int, draws: int) -> Leak:
        """Search the training trees for each tree of a set.

        Args:
            images: Images that all have a vessel mask; at least one.
            name: First part of the figures' names: `NAME_leaked_share`, `NAME_tree_likeness`.
            seed: Of the bootstrap.
            draws: Of the bootstrap.

        Raises:
            ValueError: No images.
            DatasetError: A picture cannot be read, or shows no field of view.
        """
        if not len(images):
            raise ValueError("a set without images leaks nothing")
        near = search(self.training, views(images, stored=True, jobs=self.jobs), jobs=self.jobs)
        findings = tuple(
            self.unrelated.judge(record, each, self.train, level=self.level, margin=self.margin)
            for record, each in zip(images.records, near, strict=True)
        )
        return Leak(
            share=self._share(findings, name=name, seed=seed),
            nearest=self._nearest(images, near, name=name, seed=seed, draws=draws),
            findings=findings,
        )

    def _share(self, findings: Sequence[Finding], *, name: str, seed: int) -> Figure:
        hits, n = sum(finding.offends for finding in findings), len(findings)
        low, high = wilson(hits, n)
        rows = "; ".join(
            f"{row.test} median {row.median:.3f}, largest {row.largest:.3f}, threshold {row.threshold:.3f}"
            for row in self.chance
        )
        return Figure(
            name=f"{name}_leaked_share", title="Drawn trees nearer to a training tree than chance explains",
            value=hits / n, low=low, high=high, interval=f"95% Wilson interval of {n} trees", better="lower",
            n=n, n_real=len(self.train), extractor="vessels by masks as stored", resize=_RESIZE, seed=seed,
            unit="share of drawn trees",
            notes=(
                f"Chance is told by {self.unrelated.patients} patients ({self.against}); at most the share "
                f"{self.unrelated.level(self.level):.3g} of unrelated trees may be called so.",
                f"Unrelated: {rows}.",
            ),
        )  # fmt: skip

    def _nearest(
        self, images: ImageSet, near: Sequence[Nearest], *, name: str, seed: int, draws: int
    ) -> Figure:
        values, real = np.array([each["trees"].value for each in near]), np.array(self.values)
        interval = bootstrap(lambda w: weighted_mean(values, w[0]), images.patients, seed=seed, draws=draws)
        beside = bootstrap(lambda w: weighted_mean(real, w[0]), self.patients, seed=seed, draws=draws)
        return Figure(
            name=f"{name}_tree_likeness", title="Share of a drawn tree matched by the nearest training tree",
            **measured(float(values.mean()), interval), real=float(real.mean()), real_low=beside.low,
            real_high=beside.high, better="none", n=len(values), n_real=len(real),
            extractor="vessels by masks as stored", resize=_RESIZE, seed=seed, unit="of the length",
            notes=(f"Beside it unrelated real trees: {self.against}.",),
        )  # fmt: skip


def calibrate(
    train: ImageSet, holdout: ImageSet | None = None, *, level: float = AuditConfig.level,
    margin: float = AuditConfig.margin, candidates: int = AuditConfig.candidates, jobs: int = 1,
) -> Calibration:  # fmt: skip
    """Look at the training trees, and at how near unrelated patients come to them.

    Args:
        train: Images that the model learnt from, each with a vessel mask.
        holdout: Images of other patients, each with a vessel mask, if there are any.
        level: False alarms allowed; few patients raise it (see `Unrelated.level`).
        margin: Least excess of an offence, as in the audit.
        candidates: Training trees that are registered with each.
        jobs: Threads.

    Raises:
        DatasetError: No unrelated patient, or a picture that cannot be read.
    """
    looked = views(train, stored=True, jobs=jobs)
    training, names = Training(looked, candidates=candidates), np.array(train.patients)
    queries, held = list(train.records), looked
    if holdout is not None:
        queries = [*queries, *holdout.records]
        held = [*held, *views(holdout, stored=True, jobs=jobs)]
    skips = [names == record.patient for record in queries]
    if any(skip.all() for skip in skips):
        raise DatasetError(f"{train.folder}: a single patient's trees, none of another to tell chance by")
    near = search(training, held, skips=skips, jobs=jobs)
    doubles = {queries[place].patient for place in hidden(near)}
    kept = [place for place, record in enumerate(queries) if record.patient not in doubles]
    if not kept:
        raise DatasetError(f"{train.folder}: every patient stands in the training set under another name")
    trees: list[Nearest] = [{test: near[i][test] for test in ("trees", "trees_half")} for i in kept]
    patients = tuple(queries[place].patient for place in kept)
    return Calibration(
        train=train, training=training, unrelated=Unrelated(trees, patients), patients=patients,
        values=tuple(each["trees"].value for each in trees),
        against="each training patient against the others" + (", held-out patients" if holdout else ""),
        level=level, margin=margin, jobs=jobs, doubles=len(doubles),
    )  # fmt: skip
