"""The whole study with stand-ins that train, draw, audit and read: cells, caches, choices and verdicts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from statsmodels.stats.multitest import multipletests

from conftest import write_drawn_folder
from fundusforge.annotate.segmenter import patient_digest
from fundusforge.config import ConfigError, from_json
from fundusforge.models.classifier import ClassifierConfig
from fundusforge.records import DatasetError, Mask, Provenance, Record, read_folder, write_metadata
from fundusforge.studies.augmentation import drawings
from fundusforge.studies.augmentation.cells import Pace
from fundusforge.studies.augmentation.config import (
    Foreseen,
    Grades,
    Learner,
    Quarantine,
    Ratios,
    Ready,
    Screen,
    Segmentation,
    Study,
    Trained,
)  # fmt: skip
from fundusforge.studies.augmentation.parts import Part
from fundusforge.studies.augmentation.result import STUDY, StudyResult
from fundusforge.studies.augmentation.settings import evened, pool_of, settings_of
from fundusforge.studies.augmentation.stage import augmentation
from fundusforge.studies.augmentation.tools import Auditing, Drawing, Said, Tools, Training
from fundusforge.training import checkpoint

LEARNER = Learner(
    family="classifier", model={"size": 32, "widths": [4, 4]}, loop={"stop_after": "80img", "batch": 8}
)
GENERATOR = Learner(family="stylegan", preset="small", model={"masks": []}, loop={"stop_after": "64img"})


@dataclass
class Fake:
    """Stands in for all that is handed in; what a model is worth is told beforehand.

    A model's score of a photograph is its truth times a skill, and noise that all models share in part.
    """

    skills: Mapping[str, float] = field(default_factory=dict[str, float])
    """By technique, and `synthetic`; what a plain model has lies under `plain`."""
    on_val: Mapping[str, float] = field(default_factory=dict[str, float])
    """The same on validation alone."""
    copies: int = 0
    """Every so-manieth drawn image is a copy."""
    trained: list[Training] = field(default_factory=list[Training])
    drawn: list[Drawing] = field(default_factory=list[Drawing])
    audited: list[Auditing] = field(default_factory=list[Auditing])
    stop_at: int | None = None

    @property
    def tools(self) -> Tools:
        return Tools(train=self.train, draw=self.draw, audit=self.audit, read=self.read)

    @property
    def models(self) -> list[Training]:
        """Trainings of classifiers and segmenters."""
        return [task for task in self.trained if task.learner.family in {"classifier", "unet"}]

    @property
    def generators(self) -> list[Training]:
        return [task for task in self.trained if task not in self.models]

    def train(self, task: Training) -> None:
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt
        self.trained.append(task)
        task.run.mkdir(parents=True, exist_ok=True)
        (task.run / "arm.json").write_text(
            json.dumps([self.arm(task), task.loop.seed, task.loop.stop_after]), "utf-8"
        )

    def arm(self, task: Training) -> str:
        """Tell an arm by what it learns from, and how."""
        config = task.config
        if not isinstance(config, ClassifierConfig):
            names = []
        else:
            told = {
                "oversample": config.balance, "focal": config.loss == "focal", "augment": config.strong,
                "mixup": config.mixup > 0, "class_weights": bool(config.class_weights),
            }  # fmt: skip
            names = [name for name, there in told.items() if there]
        made = sum(r.synthetic for folder in task.folders for r in read_folder(folder, check_files=False))
        return "+".join((["synthetic"] if made else []) + names) or "plain"

    def draw(self, task: Drawing) -> None:
        self.drawn.append(task)
        *_, budget = json.loads((task.run / "arm.json").read_text("utf-8"))
        write_drawn_folder(task.out, task.count, size=32, seed=task.seed + 10**6 * int(budget[:-3]))
        write_metadata(task.out, [
            synthetic(record, f"{task.seed}-{i}") for i, record in enumerate(read_folder(task.out))
        ])  # fmt: skip

    def audit(self, task: Auditing) -> Mapping[str, str]:
        self.audited.append(task)
        images = [record.image for record in read_folder(task.synthetic)]
        return {
            image: "copy" if self.copies and i % self.copies == 0 else "clear"
            for i, image in enumerate(images)
        }

    def read(self, run: Path, part: Part, targets: tuple[str, ...], device: str) -> Said:
        arm, seed, _ = json.loads((run / "arm.json").read_text("utf-8"))
        on_val = {record.split for record in part.records} == {"val"}
        skills = {**self.skills, **(self.on_val if on_val else {})}
        skill = skills.get(arm, skills.get("plain", 1.0))
        rows = np.random.default_rng([len(part.records), 5]).standard_normal(len(part.records))
        rows = rows + 0.2 * np.random.default_rng([seed, 6]).standard_normal(len(part.records))
        if targets[0] == "vessels":
            score = np.clip(0.5 + 0.1 * skill + 0.02 * rows, 0, 1)
            return Said(rows=np.stack([score, score], 1), threshold=0.5, start="none")
        if targets[0] == "grade":
            grades = np.array([record.grade for record in part.records])
            middle = np.clip(np.round(grades + rows / max(skill, 1e-3)), 0, 4).astype(int)
            return Said(rows=0.02 + 0.9 * np.eye(5)[middle], threshold=0.5, start="random")
        truth = np.array(["erm" in record.labels for record in part.records])
        return Said(
            rows=1 / (1 + np.exp(-(skill * truth + rows)))[:, None], threshold=0.5, start="random"
        )  # fmt: skip


def synthetic(record: Record, name: str) -> Record:
    made = Provenance(model="fake-000000000000", seed=0, index=0, condition="latent")
    masks = {"vessels": Mask(path=record.masks["vessels"].path, origin="generated")}
    return replace(
        record, synthetic=True, patient=f"made-{name}", split=None, grade=None, labels=(), provenance=made,
        masks=masks,
    )  # fmt: skip


def write_eyes(folder: Path, count: int = 90, *, seed: int = 0) -> Path:
    """Eyes, a third of them with ERM, of patients who have one or two, with ages and sexes."""
    folder.mkdir(parents=True)
    write_drawn_folder(folder, count, size=32, seed=seed)
    splits = ("train", "train", "val", "test", "test")
    records = [
        replace(
            record, labels=("erm",) if i % 3 == 0 else ("normal",),
            patient=f"p{seed}-{i // 3 * 2 + (i % 3 > 0)}",
            split=splits[i // 3 % 5], age=40.0 + i % 30, sex="male" if i % 2 else "female", grade=i % 5,
        )
        for i, record in enumerate(read_folder(folder))
    ]  # fmt: skip
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("eyes") / "real")


@pytest.fixture(autouse=True)
def sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes longer than all else, but in the test of pictures; wait for no disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for name in ("by_setting", "by_amount", "roc", "training"):
        if "pictures" not in request.node.name:
            monkeypatch.setattr(drawings, name, lambda *arguments: arguments[-1])


def study(real: Path, **changes: Any) -> Study:
    given: dict[str, Any] = {
        "name": "erm", "real": real, "learners": {"small": LEARNER},
        "design": Ratios(rare="epiretinal_membrane", common="normal", ratios=(0.5, 0.25)),
        "supply": Trained(learner=GENERATOR), "free": ("oversample", "focal"), "screen": None, "seeds": 2,
        "draws": 100, "keep": "none", "power": Foreseen(repeats=50),
    }  # fmt: skip
    return Study(**given | changes)


def run(asked: Study, out: Path, fake: Fake, **options: Any) -> StudyResult:
    return augmentation(asked, out, fake.tools, **options)


# ---- what is learnt from -----------------------------------------------------------------------------------


def test_every_arm_learns_from_what_it_should_and_from_nobody_who_is_judged(
    eyes: Path, tmp_path: Path
) -> None:
    fake = Fake()
    asked = study(eyes, free=("oversample", "undersample", "class_weights"))
    run(asked, tmp_path / "study", fake)
    pool = pool_of(asked)
    settings = settings_of(asked, pool)
    judged = {r.patient for part in (pool.val, pool.test) for r in part.records}
    val = {r.image for r in pool.val.records}
    assert len(fake.generators) == 2 and len(fake.models) == 2 * 5 * 2
    for task, setting in zip(fake.generators, settings, strict=True):
        teach, shown = (read_folder(folder) for folder in task.folders)
        assert {r.image for r in teach} == {r.image for r in setting.real.of("rare").records}
        assert {r.split for r in teach} == {"train"} and all("erm" in r.labels for r in teach)
        assert {r.image for r in shown} <= val and {r.split for r in shown} == {"val"}
    seen = set()
    for task in fake.models:
        learnt = [r for folder in task.folders for r in read_folder(folder, splits=None)]
        train, shown = ([r for r in learnt if r.split == split] for split in ("train", "val"))
        assert {r.image for r in shown} == val and not any(r.synthetic for r in shown)
        assert not judged & {r.patient for r in train}
        real = {r.image for r in train if not r.synthetic}
        made = [r for r in train if r.synthetic]
        whole = next(s for s in settings if real <= {r.image for r in s.real.records} and s.wanted)
        assert all("erm" in r.labels for r in made)
        counts = [sum("erm" in r.labels for r in train), sum("normal" in r.labels for r in train)]
        arm = fake.arm(task)
        if arm == "synthetic":
            assert counts[0] == counts[1], "filled up to 1:1"
        elif arm == "class_weights":
            assert task.config.class_weights == (counts[1] / counts[0],)
        elif counts[0] == counts[1]:
            arm = "undersample"
            number = task.loop.seed
            assert any(real == {r.image for r in evened(s.real, seed=number).records} for s in settings)
        seen.add((whole.name, arm, task.loop.seed))
    arms = ("plain", "oversample", "undersample", "class_weights", "synthetic")
    assert {arm for _, arm, _ in seen} == {*arms}
    assert len({(task.loop.stop_after, task.loop.batch) for task in fake.models}) == 1, (
        "as many steps for all"
    )


def test_apart_and_other_classes(eyes: Path, tmp_path: Path) -> None:
    """Kim's split: the generator's photographs are nobody else's. With `all`, it sees both classes."""
    design = Ratios(rare="erm", common="normal", ratios=(0.25,), teaching="apart", apart=0.5)
    fake = Fake()
    asked = study(eyes, design=design)
    found = run(asked, tmp_path / "apart", fake)
    taught = {r.image for r in read_folder(fake.generators[0].folders[0])}
    for task in fake.models:
        assert not taught & {
            r.image for folder in task.folders for r in read_folder(folder) if not r.synthetic
        }
    assert any("whom the baseline did not have" in text for text in found.sentences)
    fake = Fake()
    supply = Trained(
        learner=replace(GENERATOR, model={"masks": [], "classes": ["epiretinal_membrane"]}), learns="all"
    )
    asked = study(
        eyes, supply=supply, design=Ratios(rare="epiretinal_membrane", common="normal", ratios=(0.5,))
    )
    found = run(asked, tmp_path / "all", fake)
    (setting,) = settings_of(asked, pool_of(asked))
    taught = {r.image for r in read_folder(fake.generators[0].folders[0])}
    assert taught == {r.image for r in setting.real.records}
    assert [task.finding for task in fake.drawn] == ["epiretinal_membrane"]
    assert not any("whom the baseline did not have" in text for text in found.sentences)


# ---- caching -----------------------------------------------------------------------------------------------


def test_a_study_goes_on_where_it_stopped_and_computes_nothing_twice(eyes: Path, tmp_path: Path) -> None:
    asked, fake = study(eyes), Fake(stop_at=9)
    with pytest.raises(KeyboardInterrupt):
        run(asked, tmp_path / "study", fake)
    fake.stop_at = None
    found = run(asked, tmp_path / "study", fake)
    assert len(fake.models) == 2 * 4 * 2 and len(fake.generators) == 2 and len(fake.drawn) == 2
    again = Fake()
    assert run(asked, tmp_path / "study", again) == found
    assert not again.trained and not again.drawn and not again.audited
    whole = run(asked, tmp_path / "whole", Fake())
    assert whole.figures == found.figures and whole.comparisons == found.comparisons
    assert from_json(StudyResult, (tmp_path / "study" / STUDY).read_text("utf-8")) == found


def test_only_what_changed_is_trained_again(eyes: Path, tmp_path: Path) -> None:
    out, base = tmp_path / "study", study(eyes, design=Ratios(rare="erm", common="normal", ratios=(0.5,)))
    run(base, out, Fake())

    def trained(changed: Study) -> tuple[int, int]:
        fake = Fake()
        run(changed, out, fake)
        return len(fake.generators), len(fake.models)

    assert trained(replace(base, worth=0.1, draws=200, level=0.01)) == (0, 0)
    assert trained(replace(base, free=("oversample", "focal", "mixup"))) == (0, 2), "the new arm alone"
    assert trained(replace(base, seeds=3)) == (0, 4), "a seed of each arm"
    more = replace(base.design, ratios=(0.5, 0.25))
    assert trained(replace(base, design=more)) == (1, 8), "the new setting alone"
    other = replace(LEARNER, model={**LEARNER.model, "lr": 5e-4})
    assert trained(replace(base, learners={"small": other})) == (0, 8)
    slower = replace(GENERATOR, loop={"stop_after": "128img"})
    assert trained(replace(base, supply=Trained(learner=slower))) == (1, 2), "what learns from its images"
    threads = replace(LEARNER, loop={**LEARNER.loop, "threads": 1, "save_every": "1min"})
    assert trained(replace(base, learners={"small": threads})) == (0, 0), "a machine changes no weight"


def test_cells_side_by_side_are_the_same(eyes: Path, tmp_path: Path) -> None:
    one = run(study(eyes), tmp_path / "one", Fake())
    two = run(
        study(eyes), tmp_path / "two", Fake(), pace=Pace(jobs=3, backend="threading", devices=("a", "b"))
    )
    assert one.rows == two.rows and one.comparisons == two.comparisons


# ---- choices and verdicts ----------------------------------------------------------------------------------


def test_the_baseline_is_chosen_on_validation_alone(eyes: Path, tmp_path: Path) -> None:
    """Focal loss is best on validation and worst on test; oversampling the other way round."""
    fake = Fake(
        skills={"plain": 1.0, "focal": 0.0, "oversample": 3.0}, on_val={"focal": 4.0, "oversample": 0.5}
    )
    found = run(study(eyes), tmp_path / "study", fake)
    assert {choice.free for choice in found.choices} == {"focal"}
    assert {one.free for one in found.comparisons} == {"focal"}
    on_test = {row.arm: row.values["auc"].value for row in found.rows if row.setting == "1_to_05"}
    assert on_test["oversample"] > on_test["focal"]
    gain = found.figure("erm_auc_gain_1_to_05").value
    assert gain == pytest.approx(on_test["synthetic"] - on_test["focal"])
    over = found.figure("erm_auc_gain_over_plain_1_to_05").value
    assert over == pytest.approx(on_test["synthetic"] - on_test["plain"])


def test_free_baselines_are_sifted_on_validation_alone(eyes: Path, tmp_path: Path) -> None:
    fake = Fake(
        skills={"plain": 1.0, "mixup": 9.0, "augment": 0.2},
        on_val={"focal": 4.0, "augment": 3.0, "mixup": 0.1, "oversample": 0.2},
    )
    asked = study(eyes, free=("oversample", "focal", "augment", "mixup"), screen=Screen(seeds=1, keep=2))
    found = run(asked, tmp_path / "study", fake)
    for choice in found.choices:
        assert list(choice.screened)[:2] == ["focal", "augment"] and len(choice.screened) == 5
        assert {*choice.validation} == {"plain", "focal", "augment", "synthetic"} and choice.free == "focal"
    assert len(fake.models) == 2 * (5 + 3 + 2), "one of each, one more of three, two with images"
    assert "2 best of 1 seed on validation" in found.methods


@pytest.mark.parametrize(("skill", "verdict"), [(4.0, "helps"), (1.0, "not shown"), (-2.0, "harms")])
def test_verdicts_are_what_was_planted(eyes: Path, tmp_path: Path, skill: float, verdict: str) -> None:
    fake = Fake(skills={"plain": 1.0, "synthetic": skill})
    found = run(study(eyes), tmp_path / "study", fake)
    words = {"helps": "synthetic images help", "not shown": "do not help", "harms": "synthetic images harm"}
    for one in found.comparisons:
        assert one.verdict == verdict and words[verdict] in one.sentence
        assert f"1:0.{one.setting[-1]}" in one.sentence or "1:0.25" in one.sentence
        assert one.gain.low <= one.gain.value <= one.gain.high
    plain, shown = (found.figure(f"erm_auc_{what}_1_to_05").value for what in ("real", "synthetic"))
    assert (shown > plain) == (skill > 1) and (shown < plain) == (skill < 1)


def test_a_study_whose_baseline_guesses_says_so(eyes: Path, tmp_path: Path) -> None:
    """Where no model tells the classes, no gain is no answer; where one does, or images help, it is one."""
    for name, skills, said in (
        ("guess", {"plain": 0.0, "oversample": 0.0, "focal": 0.0, "synthetic": 0.0}, True),
        ("know", {"plain": 3.0, "oversample": 3.0, "focal": 3.0, "synthetic": 3.0}, False),
        ("help", {"plain": 0.0, "oversample": 0.0, "focal": 0.0, "synthetic": 6.0}, False),
    ):
        found = run(study(eyes), tmp_path / name, Fake(skills=skills))
        assert any("may do no better than chance (the AUC 0." in text for text in found.sentences) == said


def test_what_is_not_shown_may_be_excluded_or_not(eyes: Path, tmp_path: Path) -> None:
    same = run(study(eyes, worth=0.3), tmp_path / "study", Fake())
    assert all("A gain of 0.3 or more is excluded." in one.sentence for one in same.comparisons)
    fake = Fake(skills={"plain": 1.0, "synthetic": 1.5})
    near = run(study(eyes, worth=0.01), tmp_path / "other", fake)
    assert all(
        one.verdict == "helps" or "is not excluded; to settle it takes about" in one.sentence
        for one in near.comparisons
    )


def test_all_comparisons_are_corrected_together(eyes: Path, tmp_path: Path) -> None:
    external = write_eyes(tmp_path / "clinic", 45, seed=900)
    fake = Fake(skills={"plain": 1.0, "synthetic": 1.6})
    learners = {"small": LEARNER, "wide": replace(LEARNER, model={"size": 32, "widths": [4, 8]})}
    found = run(study(eyes, external=(external,), learners=learners), tmp_path / "study", fake)
    assert len(found.comparisons) == 2 * 2 * 2
    expected = multipletests([one.p for one in found.comparisons], method="holm")[1]
    assert [one.holm for one in found.comparisons] == pytest.approx(expected)
    names = {figure.name for figure in found.figures}
    assert {"erm_auc_gain_1_to_05", "erm_auc_gain_1_to_05_clinic", "erm_auc_gain_1_to_05_wide",
            "erm_auc_gain_1_to_025_wide_clinic", "erm_sensitivity_synthetic_1_to_05"} <= names  # fmt: skip
    assert len(names) == len(found.figures)
    assert len(found.foreseen) == 2 and {row["name"] for row in found.lines()} <= names


# ---- amounts and the audit ---------------------------------------------------------------------------------


def test_the_curve_of_amounts(eyes: Path, tmp_path: Path) -> None:
    design = Ratios(rare="erm", common="normal", ratios=(1.0, 0.25), beyond=1.0)
    fake = Fake()
    asked = study(eyes, design=design, amounts=(0.5, 2.0), amounts_at=("1_to_025",))
    found = run(asked, tmp_path / "study", fake)
    (full,) = (s.wanted["rare"] for s in settings_of(asked, pool_of(asked)) if s.name == "1_to_025")
    points = {point.amount: point for point in found.amounts}
    assert {amount: point.images for amount, point in points.items()} == {
        0.0: 0, 0.5: round(full / 2), 1.0: full, 2.0: 2 * full
    }  # fmt: skip
    assert points[0.0].gain.value == 0 and {p.setting for p in found.amounts} == {"1:0.25"}
    assert found.figure("erm_auc_gain_of_05_1_to_025").value == points[0.5].gain.value
    assert "figures/amounts.png" in found.pictures
    even = [task for task in fake.models if fake.arm(task) == "synthetic+oversample"]
    assert len(even) == 2, "at 1:1 the arm with synthetic images draws classes equally often"
    assert found.figure("erm_auc_gain_1_to_1").value is not None
    names = {choice.setting: {*choice.validation} for choice in found.choices}
    assert names["1:1"] == {"plain", "focal", "synthetic"}, (
        "oversampling changes nothing where classes are equal"
    )


def test_nothing_to_fill_is_said(eyes: Path, tmp_path: Path) -> None:
    asked = study(eyes, design=Ratios(rare="erm", common="normal", ratios=(1.0,)))
    fake = Fake()
    found = run(asked, tmp_path / "study", fake)
    assert len(fake.models) == 2 and not fake.generators and not found.comparisons
    assert "nothing is to be filled" in found.figure("erm_auc_gain_1_to_1").reason
    assert found.figure("erm_auc_real_1_to_1").value is not None


def test_copies_are_kept_out_and_drawn_anew(eyes: Path, tmp_path: Path) -> None:
    fake = Fake(copies=3)
    found = run(study(eyes, quarantine=Quarantine(spare=0.0)), tmp_path / "study", fake)
    copies = {
        (task.synthetic.name, record.image)
        for task in fake.audited for i, record in enumerate(read_folder(task.synthetic)) if i % 3 == 0
    }  # fmt: skip
    assert copies and len(fake.drawn) > 2, "what was missing is drawn again"
    bad = {
        r.patient for task in fake.audited for i, r in enumerate(read_folder(task.synthetic)) if i % 3 == 0
    }
    learnt = {r.patient for t in fake.models for folder in t.folders for r in read_folder(folder)}
    assert any(name.startswith("made-") for name in learnt) and not bad & learnt
    for source in found.sources:
        assert source.left_out == source.verdicts["copy"] > 0
        figure = found.figure(f"erm_left_out_{source.setting}")
        assert figure.value == pytest.approx(source.left_out / sum(source.verdicts.values()))
    for task in fake.audited:
        assert {r.split for folder in task.holdout for r in read_folder(folder)} == {"val"}, (
            "test is not touched"
        )
    fake = Fake(copies=1)
    found = run(study(eyes), tmp_path / "all", fake)
    assert any("0 of" in note and "passed the audit" in note for note in found.warnings)


def test_the_audit_can_be_left_out_and_says_so(eyes: Path, tmp_path: Path) -> None:
    fake = Fake()
    found = run(study(eyes, quarantine=Quarantine(spaces="off")), tmp_path / "study", fake)
    assert not fake.audited and "They were not audited for copies." in found.methods
    assert any("looked at: off" in warning for warning in found.warnings)


# ---- images that are there, and weights to start from ------------------------------------------------------


@pytest.fixture
def made(eyes: Path, tmp_path: Path) -> Path:
    """A folder of synthetic images, half of them with ERM."""
    folder = tmp_path / "made"
    folder.mkdir()
    write_drawn_folder(folder, 40, size=32, seed=500)
    write_metadata(folder, [
        replace(synthetic(r, str(i)), labels=("erm",) if i % 2 else ("normal",))
        for i, r in enumerate(read_folder(folder))
    ])  # fmt: skip
    return folder


def model_of(path: Path, patients: list[str]) -> Path:
    """Weights that say whom they learnt from."""
    metadata = {
        "format": checkpoint.FORMAT, "content": "model", "version": "0", "kind": "stylegan", "images": "1",
        "config": "{}", "patients": json.dumps([patient_digest(name) for name in patients]),
    }  # fmt: skip
    checkpoint.write(path, {"generator.weight": torch.zeros(1)}, metadata)
    return path


def test_ready_images_of_unknown_teachers_are_refused(eyes: Path, made: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not say whom it learnt from"):
        run(study(eyes, supply=Ready(folder=made)), tmp_path / "study", Fake())
    fake = Fake()
    found = run(study(eyes, supply=Ready(folder=made, trusted=True)), tmp_path / "study", fake)
    assert not fake.generators and not fake.drawn
    used = {
        r.patient for t in fake.models for folder in t.folders for r in read_folder(folder) if r.synthetic
    }
    erm = {r.patient for r in read_folder(made) if "erm" in r.labels}
    assert used <= erm and {source.source for source in found.sources} == {"drawn"}


def test_teachers_of_ready_images_may_not_be_judged(eyes: Path, made: Path, tmp_path: Path) -> None:
    pool = pool_of(study(eyes))
    patients = {name: [r.patient for r in getattr(pool, name).records] for name in ("train", "val", "test")}
    records = read_folder(made)

    def ask(who: list[str]) -> StudyResult:
        model = model_of(tmp_path / "gan.safetensors", who)
        from fundusforge import weights

        name = weights.name_of(model)
        write_metadata(made, [replace(r, provenance=replace(r.provenance, model=name)) for r in records])
        supply = Ready(folder=made, models=(model,))
        return run(study(eyes, supply=supply), tmp_path / "study", Fake())

    for split in ("val", "test"):
        with pytest.raises(DatasetError, match="learnt from 1 patients of validation or test"):
            ask([*patients["train"], patients[split][0]])
    assert any("whom the baseline did not have" in text for text in ask(patients["train"]).sentences), (
        "a smaller setting has fewer patients than the generator"
    )


def test_ready_images_that_show_the_judged_are_refused(eyes: Path, made: Path, tmp_path: Path) -> None:
    judged = pool_of(study(eyes)).test.records[0].patient
    records = read_folder(made)
    supply = Ready(folder=made, trusted=True)
    write_metadata(made, [replace(records[0], patient=judged), *records[1:]])
    with pytest.raises(DatasetError, match="patients of validation or test stand among"):
        run(study(eyes, supply=supply), tmp_path / "study", Fake())
    write_metadata(made, [replace(records[0], synthetic=False, provenance=None), *records[1:]])
    with pytest.raises(DatasetError, match="are not synthetic"):
        run(study(eyes, supply=supply), tmp_path / "study", Fake())


def test_too_few_ready_images_are_said(eyes: Path, made: Path, tmp_path: Path) -> None:
    write_metadata(made, read_folder(made)[:6])
    found = run(study(eyes, supply=Ready(folder=made, trusted=True)), tmp_path / "study", Fake())
    assert any("has 3 fit synthetic images of class rare" in warning for warning in found.warnings)


def test_weights_to_start_from_may_not_have_seen_the_judged(eyes: Path, tmp_path: Path) -> None:
    pool = pool_of(study(eyes))
    start = model_of(tmp_path / "start.safetensors", [pool.test.records[0].patient])
    supply = Trained(learner=GENERATOR, warm_start=start)
    fake = Fake()
    with pytest.raises(DatasetError, match="learnt from 1 patients of validation or test"):
        run(study(eyes, supply=supply), tmp_path / "study", fake)
    model_of(start, [])
    with pytest.raises(DatasetError, match="does not say whom"):
        run(study(eyes, supply=supply), tmp_path / "study", fake)
    assert not fake.trained
    model_of(start, ["somebody else"])
    run(study(eyes, supply=supply), tmp_path / "study", fake)
    assert {task.warm_start for task in fake.generators} == {start}


@pytest.mark.parametrize(
    ("design", "model", "said"),
    [
        (Ratios(rare="erm", common="normal"), {"masks": []}, "classes: nothing; but erm is wanted"),
        (Grades(), {"masks": [], "classes": ["erm"]}, "classes: erm; but grade is wanted"),
        (Segmentation(mask="disc"), {"masks": ["vessels"]}, "masks: vessels; but disc is wanted"),
    ],
)
def test_a_generator_that_cannot_draw_what_is_wanted_is_refused_first(
    eyes: Path, tmp_path: Path, design: Any, model: dict[str, Any], said: str
) -> None:
    changes: dict[str, Any] = {}
    if isinstance(design, Segmentation):
        unet = Learner(family="unet", model={"widths": [4, 8]}, loop={"stop_after": "80img"})
        changes = {"learners": {"small": unet}, "free": ("augment",)}
    supply = Trained(learner=replace(GENERATOR, model=model), learns="all")
    fake = Fake()
    with pytest.raises(ConfigError, match=said):
        run(study(eyes, design=design, supply=supply, **changes), tmp_path / "study", fake)
    assert not fake.trained


# ---- the other designs -------------------------------------------------------------------------------------


def test_grades_have_kappa_and_graders_are_tried_on_synthetic_images(eyes: Path, tmp_path: Path) -> None:
    fake = Fake(skills={"plain": 1.0, "synthetic": 2.5})
    learner = Learner(family="classifier", model={"size": 32, "widths": [4, 4]}, loop={"stop_after": "80img"})
    supply = Trained(
        learner=Learner(
            family="stylegan", preset="small", model={"masks": [], "classes": ["grade"]},
            loop={"stop_after": "64img"},
        ),
        learns="all",
    )  # fmt: skip
    asked = study(eyes, name="grade", design=Grades(per_grade=5), supply=supply, learners={"small": learner})
    found = run(asked, tmp_path / "study", fake)
    (one,) = found.comparisons
    assert one.measure == "kappa" and one.verdict == "helps" and one.test == "jackknife, by patient"
    assert [task.grade for task in fake.drawn] == [0, 1, 2, 3, 4] and len(fake.generators) == 1
    names = {f.name for f in found.figures}
    assert {"grade_kappa_gain", "grade_kappa_real", "grade_accuracy_gain", "grade_tpr_4_synthetic",
            "grade_kappa_real_on_synthetic"} <= names  # fmt: skip
    fakes = [row for row in found.rows if row.where == "synthetic"]
    assert [(row.arm, row.images) for row in fakes] == [("plain", 25)], "trained on real, tested on synthetic"
    grades = [r.grade for t in fake.models if fake.arm(t) == "synthetic" for r in read_folder(t.folders[1])]
    assert set(grades) == {0, 1, 2, 3, 4} or len(grades) > 0
    assert not found.foreseen and found.figure("grade_kappa_real_on_synthetic").n == 25


def test_segmenters_are_tried_on_other_cameras(eyes: Path, tmp_path: Path) -> None:
    external = write_eyes(tmp_path / "camera", 15, seed=700)
    fake = Fake(skills={"plain": 1.0, "synthetic": 2.0})
    asked = study(
        eyes, name="vessels", external=(external,), free=("augment", "local"),
        design=Segmentation(mask="vessels", pairs=6, counts=(8, 20)),
        learners={"unet": Learner(family="unet", model={"widths": [4, 8]}, loop={"stop_after": "80img"})},
        supply=Trained(
            learner=Learner(family="chain", preset="small", loop={"stop_after": "9img"}), learns="all"
        ),
    )  # fmt: skip
    records = [
        replace(r, masks={n: replace(m, origin="human") for n, m in r.masks.items()})
        for r in read_folder(eyes)
    ]
    real = tmp_path / "real"
    shutil.copytree(eyes, real)
    write_metadata(real, records)
    found = run(replace(asked, real=real), tmp_path / "study", fake)
    assert {one.measure for one in found.comparisons} == {"f1"} and len(found.comparisons) == 4
    assert found.figure("vessels_f1_gain_of_8_camera").value > 0.05
    assert {one.verdict for one in found.comparisons} == {"helps"} and found.comparisons[0].mcnemar is None
    assert {task.learner.family for task in fake.generators} == {"chain"} and fake.generators[
        0
    ].config is None
    eight = [task for task in fake.models if len(read_folder(task.folders[0])) == 8]
    assert {task.config.inputs for task in eight} == {"rgb", "local"}


# ---- what is written ---------------------------------------------------------------------------------------


def test_tables_pictures_and_methods(eyes: Path, tmp_path: Path) -> None:
    found = run(study(eyes), tmp_path / "study", Fake(skills={"plain": 1.0, "synthetic": 2.0}))
    text = (tmp_path / "study" / "tables.md").read_text("utf-8")
    assert text.startswith(found.sentences[0]) and "| 1:0.5 | small | synthetic | test | 2 |" in text
    assert "| train 1:0.25 | rare |" in text and "| test | common |" in text
    who = next(one for one in found.characteristics if (one.part, one.group) == ("test", "rare"))
    tests = [r for r in read_folder(eyes) if r.split == "test" and "erm" in r.labels]
    assert (who.images, who.patients) == (len(tests), len({r.patient for r in tests}))
    assert who.age == pytest.approx(np.mean([r.age for r in tests]))
    assert who.age_deviation == pytest.approx(np.std([r.age for r in tests], ddof=1))
    assert (who.male, who.female) == tuple(sum(r.sex == sex for r in tests) for sex in ("male", "female"))
    for picture in found.pictures:
        assert (tmp_path / "study" / picture).stat().st_size > 1000
    assert "10 gradient steps" in found.methods and "DeLong" in found.methods and "torch" in found.methods
    assert (tmp_path / "study" / "methods.md").read_text("utf-8").strip() == found.methods
    assert found.text().count("synthetic images help") == 2
    assert all("few to judge by" in w or "tell little" in w for w in found.warnings)
