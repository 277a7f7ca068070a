"""Where synthetic images come from: a generator trained on what the baseline has, or a folder that is there.

Before any of them is learnt from, the audit holds them against the photographs that their generator learnt
from; those that come too near are left out. Nothing of a patient of validation or test may have taught the
generator, nor the weights that it started from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fundusforge import weights
from fundusforge.annotate.segmenter import known_patients
from fundusforge.audit.findings import OFFENCES
from fundusforge.audit.parents import known_parents
from fundusforge.config import ConfigError
from fundusforge.models import AnyConfig
from fundusforge.models.drgan import DRGANConfig
from fundusforge.models.flow import FlowConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.records import METADATA, DatasetError, Record, read_folder, write_text
from fundusforge.studies.augmentation.cells import deciding, keyed, plain
from fundusforge.studies.augmentation.config import CHAIN, Grades, Ratios, Ready, Study, Trained
from fundusforge.studies.augmentation.parts import Part, Parts, content
from fundusforge.studies.augmentation.settings import (
    PAIRS,
    RARE,
    Classed,
    Pool,
    Setting,
    class_of,
    told,
)  # fmt: skip
from fundusforge.studies.augmentation.tools import Auditing, Drawing, Tools, Training
from fundusforge.training.checkpoint import model_file
from fundusforge.training.run import BEST, MODEL

Placed = tuple[Path, Record]
"""A folder and one of its records."""


@dataclass(frozen=True, kw_only=True)
class Supplied:
    """Synthetic images of one setting that passed the audit."""

    images: Mapping[str, Sequence[Placed]]
    """By class, in the order in which they are used."""
    source: str
    """What made them."""
    taught: int | None
    """Photographs that the generator learnt from; None if nobody knows."""
    beyond: int = 0
    """Patients that it learnt from and the baseline did not."""
    verdicts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Images by verdict of the audit; empty where none was made."""
    notes: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Images that came too near to a training photograph."""
        return sum(self.verdicts.get(verdict, 0) for verdict in OFFENCES)

    def take(self, wanted: Mapping[str, int], parts: Parts) -> list[Part]:
        """Return the first so many images of each class as parts of split train."""
        folders: dict[Path, list[Record]] = {}
        for name, count in wanted.items():
            for folder, record in self.images.get(name, ())[:count]:
                folders.setdefault(folder, []).append(record)
        return [parts.write(folder, records, split="train") for folder, records in folders.items()]


@dataclass(frozen=True, kw_only=True)
class Supplier:
    """Gives each setting its synthetic images; what was made is found again."""

    study: Study
    pool: Pool
    parts: Parts
    out: Path
    tools: Tools
    tell: Callable[[str], Any] = lambda text: None

    def check(self) -> None:
        """Refuse a supply that may not be used, before anything is trained.

        Raises:
            DatasetError, CheckpointError: It has seen patients of validation or test, or does not say whom.
            ConfigError: It cannot draw what is wanted.
        """
        supply = self.study.supply
        if isinstance(supply, Trained):
            config = None if supply.learner.family == CHAIN else supply.learner.config(where="supply.learner")
            check_drawn(self.study, config)
            teachers = [supply.warm_start] if supply.warm_start else []
            if isinstance(config, DRGANConfig) and config.agm:
                teachers.append(config.grader or weights.default("classifier", masks=("grade",)))
            for path in teachers:
                self._check_teacher(str(path), _patients_of(path), trusted=supply.trusted)
        else:
            self._parents(supply)

    def give(self, setting: Setting, device: str = "auto") -> Supplied:
        """Return the synthetic images of a setting, trained for, drawn and audited where they are not there.

        Raises:
            DatasetError: The supply is broken, or holds images that are not synthetic.
        """
        supply = self.study.supply
        if not setting.wanted:
            return Supplied(images={}, source="none", taught=0)
        most = max((1.0, *self.study.amounts))
        wanted = {name: math.ceil(count * most) for name, count in setting.wanted.items()}
        if isinstance(supply, Ready):
            return self._ready(supply, setting, wanted)
        return self._trained(supply, setting, wanted, device)

    # ---- a generator of its own ----------------------------------------------------------------------------

    def _trained(self, supply: Trained, setting: Setting, wanted: Mapping[str, int], device: str) -> Supplied:
        teaching = self._teaching(supply, setting.teaching)
        teach = self.parts.write(self.pool.folder, teaching.records, split="train")
        val = self.parts.write(self.pool.folder, self._teaching(supply, self.pool.val).records, split="val")
        family = supply.learner.family
        config = None if family == CHAIN else supply.learner.config(where="supply.learner")
        loop = supply.learner.schedule(seed=self.study.seed, where="supply.learner")
        facts: dict[str, Any] = {
            "learner": [family, supply.learner.preset, supply.learner.model], "config": plain(config),
            "loop": deciding(loop), "teach": teach.digest, "val": val.digest,
            "start": supply.warm_start and weights.sha256(model_file(supply.warm_start)),
        }  # fmt: skip
        place = self.out / keyed(facts)
        run, made = place / "run", place / "made.json"
        if not made.exists():
            self.tell(f"{setting.title}: training {family} on {len(teach)} photographs")
            place.mkdir(parents=True, exist_ok=True)
            self.tools.train(
                Training(
                    folders=(teach.folder, val.folder), run=run, config=config, loop=loop, device=device,
                    learner=supply.learner, warm_start=supply.warm_start,
                )
            )  # fmt: skip
            write_text(made, json.dumps(facts, default=str) + "\n")
        images: dict[str, list[Placed]] = {}
        verdicts, notes = Counter[str](), list[str]()
        for number, (name, count) in enumerate(wanted.items()):
            task = Drawing(
                run=run, supply=supply, out=place, count=count, real=teach.folder,
                seed=1000 * (self.study.seed + 1) + 100 * number, grade=int(name) if name.isdigit() else None,
                finding=self.study.targets[0] if name == RARE and supply.learns == "all" else None,
                device=device,
            )  # fmt: skip
            images[name], found = self._rounds(task, name, teach)
            verdicts.update(found)
            if len(images[name]) < count:
                notes.append(
                    f"{setting.title}: {len(images[name])} of {count} wanted synthetic images passed the "
                    f"audit in {self.study.quarantine.rounds} rounds of drawing."
                )
        known = {record.patient for record in setting.real.records}
        beyond = len({record.patient for record in teaching.records} - known)
        return Supplied(
            images=images, source=_named(run, family), taught=len(teach), beyond=beyond, notes=tuple(notes),
            verdicts=dict(verdicts),
        )  # fmt: skip

    def _teaching(self, supply: Trained, part: Classed) -> Classed:
        """Return the photographs of a set that the generator looks at."""
        alone = isinstance(self.study.design, Ratios) and supply.learns == "wanted"
        return part.of(RARE) if alone else part

    def _rounds(self, task: Drawing, name: str, teach: Part) -> tuple[list[Placed], Counter[str]]:
        """Draw, audit, and draw again what is missing."""
        quarantine, place = self.study.quarantine, task.out
        passed: list[Placed] = []
        verdicts = Counter[str]()
        for turn in range(quarantine.rounds):
            missing = task.count - len(passed)
            if missing <= 0:
                break
            spare = 0.0 if quarantine.spaces == "off" else quarantine.spare
            count, seed = math.ceil(missing * (1 + spare)), task.seed + turn
            facts = {
                "count": count, "seed": seed, "masks": _identity(task.supply.masks), "grade": task.grade,
                "lesions": task.supply.lesions, "truncation": task.supply.truncation, "finding": task.finding,
                "real": teach.digest if task.supply.masks == "train" else None,
            }  # fmt: skip
            drawn = place / f"drawn-{name}-{keyed(facts)}"
            if not (drawn / METADATA).is_file():
                self.tell(f"drawing {count} images of class {name}")
                self.tools.draw(replace(task, out=drawn, count=count, seed=seed))
            records = [self._marked(drawn, record, name) for record in read_folder(drawn)]
            fine, found = self._audited(drawn, records, [teach])
            verdicts.update(found)
            passed += [(drawn, record) for record in fine]
        return passed[: task.count], verdicts

    def _marked(self, folder: Path, record: Record, name: str) -> Record:
        """Return a drawn record that says its class.

        Raises:
            DatasetError: It is not synthetic, or has not the mask that a pair needs.
        """
        if not record.synthetic:
            raise DatasetError(f"{folder}: {record.image} is not synthetic")
        if name == PAIRS and self.study.targets[0] not in record.masks:
            raise DatasetError(f"{folder}: {record.image} has no mask {self.study.targets[0]!r}")
        return replace(told(self.study, record, name), split="train")

    # ---- a folder that is there ----------------------------------------------------------------------------

    def _ready(self, supply: Ready, setting: Setting, wanted: Mapping[str, int]) -> Supplied:
        records = self._fit(supply)
        teach = self.parts.write(self.pool.folder, self.pool.train.records, split="train")
        by_class: dict[str, list[Record]] = {}
        for record in records:
            name = class_of(self.study, supply.folder, record)
            if name is not None and name in wanted:
                by_class.setdefault(name, []).append(self._marked(supply.folder, record, name))
        images: dict[str, list[Placed]] = {}
        verdicts, notes = Counter[str](), list[str]()
        every = [record for found in by_class.values() for record in found]
        fine, verdicts = self._audited(supply.folder, every, [teach])
        passed = {record.image for record in fine}
        for name, count in wanted.items():
            left = [record for record in by_class.get(name, ()) if record.image in passed]
            images[name] = [(supply.folder, record) for record in left[:count]]
            if len(left) < count:
                notes.append(
                    f"{setting.title}: {supply.folder} has {len(left)} fit synthetic images of class {name}, "
                    f"but {count} are wanted."
                )
        known = known_patients(record.patient for record in setting.real.records)
        patients = self._parents(supply)
        return Supplied(
            images=images, source=", ".join(sorted({record.source for record in records})),
            taught=None, beyond=len(patients - known), verdicts=dict(verdicts), notes=tuple(notes),
        )  # fmt: skip

    def _fit(self, supply: Ready) -> list[Record]:
        """Return the records of a ready folder.

        Raises:
            DatasetError: Real images among them, or a patient of validation or test.
        """
        records = read_folder(supply.folder)
        if real := sum(not record.synthetic for record in records):
            raise DatasetError(f"{supply.folder}: {real} of {len(records)} images are not synthetic")
        apart = self._apart()
        if shown := {record.patient for record in records} & apart:
            raise DatasetError(
                f"{supply.folder}: {len(shown)} patients of validation or test stand among the images"
            )
        return records

    def _parents(self, supply: Ready) -> frozenset[str]:
        """Return digests of the patients who taught the models of a ready folder.

        Raises:
            DatasetError: Some are of validation or test, or nobody knows whom they learnt from.
        """
        known = known_parents(supply.models)
        found = frozenset[str]()
        names = {
            record.provenance.model if record.provenance else "an unnamed model"
            for record in self._fit(supply)
        }
        for name in sorted(names):
            parent = known.get(name.rpartition("-")[2])
            patients = parent.patients if parent else frozenset[str]()
            found |= self._check_teacher(f"{supply.folder}: {name}", patients, trusted=supply.trusted)
        return found

    # ---- both ----------------------------------------------------------------------------------------------

    def _apart(self) -> set[str]:
        """Return the patients of validation and test, here and elsewhere."""
        sets = [self.pool.val, self.pool.test, *(part for _, part in self.pool.external.values())]
        return {record.patient for part in sets for record in part.records}

    def _check_teacher(self, what: str, patients: frozenset[str], *, trusted: bool) -> frozenset[str]:
        """Return digests of patients who may teach.

        Raises:
            DatasetError: They may not, or are not known.
        """
        if not patients and not trusted:
            raise DatasetError(
                f"{what} does not say whom it learnt from; name its run (supply.models), or set "
                "supply.trusted if no patient of validation or test was among them"
            )
        if shared := len(patients & known_patients(self._apart())):
            raise DatasetError(f"{what} learnt from {shared} patients of validation or test")
        return patients

    def _audited(
        self, folder: Path, records: Sequence[Record], train: Sequence[Part]
    ) -> tuple[list[Record], Counter[str]]:
        """Return the records that do not come too near to a training photograph, and all verdicts."""
        quarantine = self.study.quarantine
        if quarantine.spaces == "off" or not records:
            return list(records), Counter()
        val = self.parts.write(self.pool.folder, self.pool.val.records, split="val")
        facts = {
            "folder": content(folder, records, split="train", side=None), "spaces": quarantine.spaces,
            "level": quarantine.level, "train": [part.digest for part in train], "val": val.digest,
        }  # fmt: skip
        place = self.out / "audits" / keyed(facts)
        file = place / "verdicts.json"
        if not file.exists():
            self.tell(f"auditing {len(records)} images of {folder.name}")
            place.mkdir(parents=True, exist_ok=True)
            task = Auditing(
                synthetic=folder, train=tuple(part.folder for part in train), holdout=(val.folder,),
                out=place, spaces=quarantine.spaces, level=quarantine.level, seed=self.study.seed,
            )  # fmt: skip
            write_text(file, json.dumps(dict(self.tools.audit(task))) + "\n")
        verdicts: dict[str, str] = json.loads(file.read_text("utf-8"))
        if unseen := [record.image for record in records if record.image not in verdicts]:
            raise DatasetError(f"{file}: the audit says nothing of {unseen[0]}")
        fine = [record for record in records if verdicts[record.image] not in OFFENCES]
        return fine, Counter(verdicts[record.image] for record in records)


def check_drawn(study: Study, config: AnyConfig | None) -> None:
    """Refuse a generator that cannot be asked for what a study wants of it.

    Raises:
        ConfigError: Which setting lacks what.
    """
    design, supply = study.design, study.supply
    assert isinstance(supply, Trained)
    setting, wished = "classes", None
    if isinstance(design, Grades):
        steered = (isinstance(config, DRGANConfig) and config.agm) or (
            isinstance(config, FlowConfig) and config.grades
        )
        paints = isinstance(config, DRGANConfig | FlowConfig | Pix2PixConfig)
        shown = supply.lesions == "imitated" and paints
        wished = None if steered or shown else "grade"
    elif isinstance(design, Ratios):
        wished = design.rare if supply.learns == "all" else None
    elif config is not None:
        setting, wished = "masks", design.mask
    draws: tuple[str, ...] = getattr(config, setting, ())
    if wished is not None and wished not in draws:
        raise ConfigError(
            f"supply.learner.model.{setting}: {', '.join(draws) or 'nothing'}; but {wished} is wanted of the "
            "generator"
        )


def _patients_of(path: Path) -> frozenset[str]:
    """Return digests of the patients that weights were trained on; empty if they do not say."""
    return frozenset(json.loads(weights.read_metadata(model_file(path)).get("patients", "[]")))


def _named(run: Path, family: str) -> str:
    """Return what a generator is called."""
    try:
        return weights.name_of(model_file(run))
    except ValueError:  # a chain, or a test's
        return family


def _identity(masks: str) -> str:
    """Return what a supply of structure is, whatever it is called."""
    path = Path(masks)
    for name in (METADATA, BEST, MODEL):
        if (path / name).is_file():
            return weights.sha256(path / name)
    return weights.sha256(path) if path.is_file() else masks
