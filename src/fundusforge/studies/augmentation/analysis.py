"""From cells to rows, comparisons, curve and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fundusforge.audit.tally import wilson
from fundusforge.evaluate.comparison import holm
from fundusforge.evaluate.figures import Figure
from fundusforge.studies.augmentation import words
from fundusforge.studies.augmentation.arms import PLAIN, SYNTHETIC
from fundusforge.studies.augmentation.cells import Outcome
from fundusforge.studies.augmentation.choice import Choice, ranked
from fundusforge.studies.augmentation.config import Study
from fundusforge.studies.augmentation.measures import TITLES, Measures
from fundusforge.studies.augmentation.paired import Figure as Weighed
from fundusforge.studies.augmentation.paired import interval_of
from fundusforge.studies.augmentation.result import Amount, Comparison, Row, Source, Value
from fundusforge.studies.augmentation.settings import TEST, VAL, Setting
from fundusforge.studies.chain.result import slug

FAKE = "synthetic"
"""What the set of synthetic images is called, on which graders of real photographs are tested."""
Ran = Mapping[str, Sequence[Outcome]]
"""Outcomes of every seed, by arm; those that were only screened are not among them."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One setting and one learner, with all that was run of them."""

    study: Study
    setting: Setting
    learner: str
    measures: Measures
    ran: Ran
    free: tuple[str, ...]
    """Free arms with all seeds."""
    synthetic: tuple[str, ...]
    """Arms with synthetic images in their full amount."""
    learnt: Mapping[str, Mapping[str, int]]
    """Training images of every arm."""
    screened: Mapping[str, float]

    @property
    def sets(self) -> tuple[str, ...]:
        """Test sets that every arm was read on."""
        return tuple(a.where for a in self.ran[PLAIN][0].answers if a.where not in (VAL, FAKE))

    def choose(self) -> Choice:
        """Choose on validation."""
        free = ranked(self.measures, {name: self.ran[name] for name in self.free})
        made = ranked(self.measures, {name: self.ran[name] for name in self.synthetic})
        return Choice(
            setting=self.setting.title, learner=self.learner, free=next(iter(free)),
            synthetic=next(iter(made), None), validation=free | made, screened=self.screened,
        )  # fmt: skip

    def name(self, what: str, where: str = TEST, measure: str | None = None) -> str:
        """Return the name of a figure."""
        first = next(iter(self.study.learners))
        ends = [self.setting.name, "" if self.learner == first else slug(self.learner)]
        ends.append("" if where == TEST else slug(where))
        measure = measure or self.measures.main
        return "_".join([self.study.name, measure, what, *(end for end in ends if end)])

    def value(self, arm: str, where: str, measure: str, other: str | None = None) -> Value:
        """Return a measure of an arm, or its gain over another, with the interval of patients and seeds."""
        figures = self._weighed(arm, where, measure)
        others = None if other is None else self._weighed(other, where, measure)
        answer = self.ran[arm][0].on(where)
        everyone = np.ones(len(answer.truth))
        values = [figure(everyone) for figure in figures]
        values += [] if others is None else [figure(everyone) for figure in others]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return Value(value=None)
        seeds = len(figures)
        mean = float(np.mean(known[:seeds])) - (float(np.mean(known[seeds:])) if others else 0.0)
        interval = interval_of(
            figures, others, answer.patients, seed=self.study.seed, draws=self.study.draws
        )  # fmt: skip
        return Value(value=mean, low=interval.low, high=interval.high)

    def _weighed(self, arm: str, where: str, measure: str) -> list[Weighed]:
        return [self.measures.figures(outcome, where)[measure] for outcome in self.ran[arm]]

    def rows(self) -> list[Row]:
        """Return every arm on every set."""
        found: list[Row] = []
        for arm, outcomes in self.ran.items():
            for answer in outcomes[0].answers:
                if answer.where == VAL:
                    continue
                values = {name: self.value(arm, answer.where, name) for name in self.measures.names}
                found.append(
                    Row(
                        setting=self.setting.name, title=self.setting.title, learner=self.learner, arm=arm,
                        where=answer.where, seeds=len(outcomes), images=len(answer.truth),
                        patients=len(set(answer.patients)), learnt=self.learnt[arm], values=values,
                    )
                )  # fmt: skip
        return found

    def compare(self, choice: Choice, where: str) -> Comparison:
        """Compare the chosen arms on one set; Holm's correction, verdict and sentence come later."""
        made, main = choice.synthetic or "", self.measures.main
        first, second = self.ran[made], self.ran[choice.free]
        test, answer = self.measures.test(first, second, where), first[0].on(where)
        return Comparison(
            setting=self.setting.name, title=self.setting.title, learner=self.learner, where=where,
            synthetic=made, free=choice.free, measure=main, gain=self.value(made, where, main, choice.free),
            over_plain=self.value(made, where, main, PLAIN), p=test.p if test else None, holm=None,
            test=test.method if test else "none", mcnemar=self.measures.mcnemar(first, second, where),
            patients_error=test.patients_error if test else None,
            seeds_error=test.seeds_error if test else None, seeds=len(first), images=len(answer.truth),
            patients=len(set(answer.patients)), verdict="", sentence="",
        )  # fmt: skip

    def curve(self, choice: Choice) -> list[Amount]:
        """Return the curve of amounts on the test set; nothing where there is but the full one."""
        parts = sorted(float(arm.partition("@")[2]) for arm in self.ran if arm.startswith(f"{SYNTHETIC}@"))
        if not parts or SYNTHETIC not in self.ran:
            return []
        arms = {0.0: choice.free, **{part: f"{SYNTHETIC}@{part:g}" for part in parts}, 1.0: SYNTHETIC}
        return [
            Amount(
                setting=self.setting.title, learner=self.learner, amount=part,
                images=sum(count for name, count in self.learnt[arm].items() if name.startswith(SYNTHETIC)),
                value=self.value(arm, TEST, self.measures.main),
                gain=self.value(arm, TEST, self.measures.main, choice.free),
            )
            for part, arm in sorted(arms.items())
        ]  # fmt: skip

    # ---- figures -------------------------------------------------------------------------------------------

    def figures(self, choice: Choice, curve: Sequence[Amount]) -> list[Figure]:
        """Return the figures of this setting and learner."""
        found: list[Figure] = []
        for where in self.sets:
            for measure in self.measures.names:
                found += self._measured(choice, where, measure)
        for answer in self.ran[PLAIN][0].answers:
            if answer.where == FAKE:
                for measure in self.measures.names:
                    found.append(self._figure("real_on_synthetic", TEST, measure, PLAIN, read=FAKE))
        for one in curve:
            if 0 < one.amount != 1:
                arm = f"{SYNTHETIC}@{one.amount:g}"
                what = f"gain_of_{f'{one.amount:g}'.replace('.', '')}"
                found.append(self._figure(what, TEST, self.measures.main, arm, other=choice.free))
        return found

    def _measured(self, choice: Choice, where: str, measure: str) -> list[Figure]:
        found = [self._figure("real", where, measure, PLAIN)]
        if choice.synthetic is None:
            if measure == self.measures.main:
                common = self._common("gain", where, measure, PLAIN, None)
                reason = "nothing is to be filled: the classes are equal, and the design asks for no more"
                found.append(Figure(**common, value=None, reason=reason))
            return found
        found.append(self._figure("free", where, measure, choice.free))
        found.append(self._figure("synthetic", where, measure, choice.synthetic))
        found.append(self._figure("gain", where, measure, choice.synthetic, other=choice.free))
        if measure == self.measures.main:
            found.append(self._figure("gain_over_plain", where, measure, choice.synthetic, other=PLAIN))
        return found

    def _figure(
        self, what: str, where: str, measure: str, arm: str, *, other: str | None = None,
        read: str | None = None,
    ) -> Figure:  # fmt: skip
        common = self._common(what, where, measure, arm, other, read=read)
        value = self.value(arm, read or where, measure, other)
        if value.value is None:
            return Figure(**common, value=None, reason="a class is absent")
        how = f"95% bootstrap of patients and of {len(self.ran[arm])} seeds, {self.study.draws} draws"
        return Figure(**common, value=value.value, low=value.low, high=value.high, interval=how)

    def _common(
        self, what: str, where: str, measure: str, arm: str, other: str | None, *, read: str | None = None
    ) -> dict[str, Any]:
        against = "" if other is None else f" less {other}"
        title = f"{TITLES[measure]}, {self.setting.title}, {read or where}: {arm}{against}"
        return {
            "name": self.name(what, where, measure), "title": title, "better": "higher",
            "n": len(self.ran[arm][0].on(read or where).truth), "seed": self.study.seed,
            "unit": f"{measure}, mean of {len(self.ran[arm])} seeds",
            "extractor": f"{self.learner} ({self.study.learners[self.learner].family})",
            "resize": "none" if self.study.side is None else f"{self.study.side} px, area",
        }  # fmt: skip


def concluded(study: Study, comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Return the comparisons with Holm's correction over all of them, verdicts and sentences."""
    tested = [one for one in comparisons if one.p is not None]
    adjusted = dict(zip(map(id, tested), holm([one.p or 0.0 for one in tested]), strict=True))
    found: list[Comparison] = []
    for one in comparisons:
        corrected = replace(one, holm=adjusted.get(id(one)))
        corrected = replace(corrected, verdict=words.verdict(corrected, level=study.level))
        found.append(replace(corrected, sentence=words.sentence(corrected, worth=study.worth)))
    return tuple(found)


def audited(study: Study, sources: Sequence[Source]) -> list[Figure]:
    """Return for every setting the share of drawn images that the audit left out."""
    found: list[Figure] = []
    for source in sources:
        count = sum(source.verdicts.values())
        if not count:
            continue
        low, high = wilson(source.left_out, count)
        found.append(
            Figure(
                name="_".join(part for part in (study.name, "left_out", source.setting) if part),
                title="Synthetic images left out by the audit", value=source.left_out / count, low=low,
                high=high, interval="95% Wilson interval of images", unit="share", better="lower", n=count,
                extractor=f"audit: {study.quarantine.spaces}", resize="none", seed=study.seed,
            )
        )  # fmt: skip
    return found
