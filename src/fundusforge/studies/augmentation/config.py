"""What a study asks: a JSON file, read to frozen dataclasses, with every mistake named.

Three designs: `ratios`, a finding that is made rare (Kim et al., Scientific Reports 12, 2022); `grades` (Zhou
et al. 2020, DR-GAN); `segmentation`, pairs of photograph and mask.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.models import FAMILIES, LOOPS, PRESETS, AnyConfig, ModelConfig
from fundusforge.models.classifier import GRADE, ClassifierConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.records import MASKS, DatasetError
from fundusforge.training.run import LoopConfig, parse_budget

VALIDATIONS = 8
"""How often a training is judged where its settings do not say."""
CHAIN = "chain"
"""The family that is no single model: trees, paint and enlarging of `fundusforge chain`."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What is trained: a family and preset of `fundusforge train`, and what differs from it."""

    family: str
    """classifier, unet; of a generator stylegan, pggan, pix2pix, drgan, chain."""
    preset: str | None = None
    """Named settings of the family to start from."""
    model: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the model that differ."""
    loop: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the training loop that differ; `stop_after` must be in images."""

    def __post_init__(self) -> None:
        """Refuse a family or preset that does not exist."""
        known = (*FAMILIES, CHAIN)
        if self.family not in known:
            raise ValueError(f"unknown family {self.family!r}; known are {', '.join(known)}")
        presets = PRESETS.get(self.family, {})
        if self.preset is not None and self.family != CHAIN and self.preset not in presets:
            raise ValueError(f"{self.family} has no preset {self.preset!r}; it has {', '.join(presets)}")

    def config(self, *, where: str) -> AnyConfig:
        """Return the model's configuration.

        Raises:
            ConfigError: A setting that the family does not have, or a value out of range.
        """
        given: AnyConfig = PRESETS[self.family][self.preset][1] if self.preset else FAMILIES[self.family]()
        settings = json.loads(to_json(given, kind=ModelConfig)) | self.model
        return cast(
            AnyConfig, from_json(cast(Any, ModelConfig), json.dumps(settings), where=f"{where}.model")
        )

    def schedule(self, *, seed: int, where: str) -> LoopConfig:
        """Return the settings of the loop.

        Raises:
            ConfigError: An unknown setting, or a length that is no number of images.
        """
        settings: dict[str, Any] = {**LOOPS.get(self.family, {}), "tensorboard": False, "sample_count": 4}
        settings |= {**self.loop, "seed": seed}
        loop = from_json(LoopConfig, json.dumps(settings), where=f"{where}.loop")
        images = parse_budget(loop.stop_after).images
        if "validate_every" not in self.loop and images is not None:
            loop = replace(loop, validate_every=f"{max(loop.batch, images // VALIDATIONS)}img")
        for name in ("stop_after", "validate_every"):
            if parse_budget(getattr(loop, name)).images is None:
                raise ConfigError(
                    f"{where}.loop.{name}: {getattr(loop, name)!r} is a time; arms that are compared need "
                    'the same number of steps, so give images ("4000img")'
                )
        return loop


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """A finding made rare: so many photographs with it for one without."""

    kind: Literal["ratios"] = "ratios"
    rare: str
    """The finding: a mask's name (epiretinal_membrane) or a label."""
    common: str | None = None
    """Label of the photographs without it (normal); all that are known to be without it if None."""
    ratios: tuple[float, ...] = (1.0, 0.5, 0.4, 0.3, 0.2, 0.1)
    """Photographs with the finding for one without; training alone is changed."""
    most_common: int | None = None
    """Most training photographs without it."""
    teaching: Literal["shared", "apart"] = "shared"
    """Who the generator learns from: the photographs that the baseline has too; or, `apart`, others that
    nobody else learns from (Kim et al.)."""
    apart: float = 0.8
    """Share of the photographs with the finding that goes to the generator where it is apart."""
    beyond: float = 0.0
    """Synthetic images at 1:1, where nothing is to be filled, as a share of the real ones with the finding.
    Classes are then drawn equally often."""

    def __post_init__(self) -> None:
        """Refuse ratios out of range or given twice."""
        if not self.ratios or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"ratios must be given, each once, not {self.ratios}")
        if not all(0 < ratio <= 1 for ratio in self.ratios) or not 0 < self.apart < 1 or self.beyond < 0:
            raise ValueError("ratios must be in (0, 1], apart in (0, 1), beyond 0 or more")
        if self.rare in {GRADE, self.common} or (self.most_common is not None and self.most_common < 2):
            raise ValueError("rare and common must be two different findings, most_common 2 or more")


@dataclass(frozen=True, kw_only=True)
class Grades:
    """Grades of retinopathy, 0 to 4."""

    kind: Literal["grades"] = "grades"
    per_grade: int | None = None
    """Synthetic images of each grade; as many as each lacks to the most frequent one if None."""

    def __post_init__(self) -> None:
        """Refuse a number out of range."""
        if self.per_grade is not None and self.per_grade < 1:
            raise ValueError(f"per_grade must be 1 or more, not {self.per_grade}")


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Pairs of photograph and masks, tested on the same camera and on others."""

    kind: Literal["segmentation"] = "segmentation"
    mask: str = "vessels"
    """The structure or lesion that is scored."""
    pairs: int = 100
    """Synthetic pairs."""
    counts: tuple[int, ...] = ()
    """Numbers of real training photographs, a setting each; all if empty."""

    def __post_init__(self) -> None:
        """Refuse an unknown mask and numbers out of range."""
        if self.mask not in MASKS:
            raise ValueError(f"unknown mask {self.mask!r}; known are {', '.join(MASKS)}")
        if self.pairs < 1 or min(self.counts, default=2) < 2 or len(set(self.counts)) < len(self.counts):
            raise ValueError("expected one pair or more, and counts of 2 or more, each once")


Design = Annotated[Ratios | Grades | Segmentation, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A generator that the study trains itself, one for each setting."""

    kind: Literal["trained"] = "trained"
    learner: Learner
    """Family, settings and budget."""
    learns: Literal["wanted", "all"] = "wanted"
    """Learn from the photographs of the class that is to be drawn, or from all of the baseline's."""
    warm_start: Path | None = None
    """Run or weights to start from; its patients may not be those of validation or test."""
    masks: str = "phantom"
    """What painters paint on: `phantom`, a dataset folder, or a model that draws masks."""
    lesions: Literal["own", "imitated"] = "own"
    """Lesions of that structure, or imitated ones of the wanted grade."""
    truncation: float = 1.0
    """Of a style-based generator."""
    trusted: bool = False
    """Take weights to start from that do not say whom they learnt from."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Synthetic images that are there."""

    kind: Literal["folder"] = "folder"
    folder: Path
    """Dataset folder; labels, grades or masks say what each image is worth."""
    models: tuple[Path, ...] = ()
    """Runs or weights that made them, to learn who taught them; embedded ones are known."""
    trusted: bool = False
    """Take images of models that do not say whom they learnt from."""


Supply = Annotated[Trained | Ready, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """How the free baselines are sifted, on validation alone, before all seeds are spent on them."""

    seeds: int = 1
    """Seeds of each free baseline."""
    keep: int = 2
    """Free baselines that get all seeds, beside the plain one."""

    def __post_init__(self) -> None:
        """Refuse numbers below one."""
        if min(self.seeds, self.keep) < 1:
            raise ValueError("screen needs one seed or more, and must keep one baseline or more")


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """How synthetic images that come too near to a training photograph are kept out."""

    spaces: Literal["all", "pixels", "off"] = "all"
    """Where to look: pixels, vessel trees and features; pixels alone, for small pictures; or nowhere."""
    level: float = 0.01
    """False alarms allowed, as for `fundusforge audit`."""
    rounds: int = 3
    """How often missing images are drawn anew."""
    spare: float = 0.1
    """Share that is drawn beyond what is wanted."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.level <= 0.2 or self.rounds < 1 or self.spare < 0:
            raise ValueError("expected a level in (0, 0.2], one round or more, and spare of 0 or more")


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What is assumed when the power is worked out before anything is trained."""

    auc: float = 0.8
    """Of the best free baseline."""
    gain: float = 0.05
    """That should be found."""
    correlation: float = 0.5
    """Of two models' scores on the same photograph of a class."""
    seed_deviation: float = 0.02
    """Standard deviation of the area between seeds."""
    repeats: int = 400
    """Simulated studies."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0.5 <= self.auc < 1 or not 0 <= self.gain < 1 - self.auc or not 0 <= self.correlation < 1:
            raise ValueError("expected auc in [0.5, 1), auc + gain below 1 and correlation in [0, 1)")
        if self.seed_deviation < 0 or self.repeats < 50:
            raise ValueError("expected seed_deviation of 0 or more and 50 repeats or more")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The whole question."""

    name: str
    """First part of the figures' names: lower case, underscores."""
    real: Path
    """Dataset folder with splits train, val and test, by patient."""
    external: tuple[Path, ...] = ()
    """Dataset folders of other clinics or cameras, all of whose photographs are tested on."""
    design: Design
    supply: Supply
    learners: dict[str, Learner]
    """What is trained with and without synthetic images, by name; figures bear the names but the first."""
    free: tuple[str, ...] = ("oversample", "class_weights", "focal", "augment", "mixup")
    """Baselines that cost nothing beside `plain`; several techniques at once are joined by +."""
    arms: tuple[str, ...] = ("synthetic",)
    """Arms with synthetic images; free techniques can be joined by +."""
    screen: Screen | None = field(default_factory=Screen)
    """None gives every free baseline all seeds."""
    seeds: int = 5
    amounts: tuple[float, ...] = ()
    """Further amounts of synthetic images, as parts of the full one, for the curve."""
    amounts_at: tuple[str, ...] = ()
    """Settings (1_to_01, ...) that get the curve; all if empty."""
    side: int | None = None
    """Side in pixels to which every picture, real or synthetic, is brought first. Give that of the
    generator: else sharpness tells synthetic from real, and with it the class."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    power: Foreseen = field(default_factory=Foreseen)
    worth: float = 0.02
    """Smallest gain that would matter."""
    level: float = 0.05
    """Of the family of tests, after Holm's correction."""
    draws: int = 1000
    """Bootstrap draws."""
    keep: Literal["first", "all", "none"] = "first"
    """Whose weights are kept: each arm's first seed's, all, or none."""
    real_on_sheet: bool = False
    """Show test photographs on the sheet of activations; it is then patient data."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"name must be of lower-case letters, digits and underscores, not {self.name!r}")
        if not self.learners or self.seeds < 1 or self.seed < 0 or self.draws < 100 or not self.arms:
            raise ValueError("expected a learner, an arm, a seed or more, seed >= 0 and 100 draws or more")
        if not 0 < self.level < 0.5 or self.worth <= 0 or (self.side is not None and self.side < 32):
            raise ValueError("expected level in (0, 0.5), worth above 0 and a side of 32 or more")
        if not all(0 < amount <= 20 and amount != 1 for amount in self.amounts):
            raise ValueError(f"amounts are parts of the full one, above 0 and not 1, not {self.amounts}")
        names = [path.name for path in self.external]
        if len(set(names)) < len(names) or {"val", "test", "synthetic"} & set(names):
            raise ValueError(f"external folders need names of their own, not {names}")

    @property
    def targets(self) -> tuple[str, ...]:
        """What a model of this design tells."""
        if isinstance(self.design, Ratios):
            return (self.design.rare,)
        return (GRADE,) if isinstance(self.design, Grades) else (self.design.mask,)

    def trained(self, learner: str) -> tuple[ClassifierConfig | UNetConfig, LoopConfig]:
        """Return model and loop of a learner, checked against the design.

        Raises:
            ConfigError: Wrong settings, or a model that does not fit the design.
        """
        where, given = f"learners.{learner}", self.learners[learner]
        kind = UNetConfig if isinstance(self.design, Segmentation) else ClassifierConfig
        if given.family != kind.kind:
            raise ConfigError(f"{where}: this design trains a {kind.kind}, not a {given.family}")
        tells = "masks" if kind is UNetConfig else "targets"
        config = replace(given, model={tells: list(self.targets), **given.model}).config(where=where)
        loop = given.schedule(seed=self.seed, where=where)
        if loop.patience:
            raise ConfigError(f"{where}.loop.patience: arms need the same number of steps, so it must be 0")
        assert isinstance(config, UNetConfig | ClassifierConfig)
        told = config.masks if isinstance(config, UNetConfig) else config.targets
        if told != self.targets and not (isinstance(config, UNetConfig) and self.targets[0] in told):
            raise ConfigError(f"{where}.model: tells {', '.join(told)}, but the study {self.targets[0]}")
        return config, loop


def read_study(path: Path) -> Study:
    """Read a study's JSON file.

    Raises:
        DatasetError: There is no such file.
        ConfigError: It is wrong; the message names file and setting.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected the JSON of a study (see docs/augmentation.md)")
    study = from_json(Study, path.read_text("utf-8"), where=str(path))
    for learner in study.learners:
        try:
            study.trained(learner)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return study
