"""Arms: what is learnt from, and how; every arm starts from the same settings.

An arm is a row of techniques joined by `+`: `plain`, `oversample+augment`, `synthetic`, `synthetic@0.5+mixup`
(half of the full amount of synthetic images).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fundusforge.config import ConfigError
from fundusforge.models.classifier import GRADE, ClassifierConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.studies.augmentation.config import Segmentation, Study

PLAIN, SYNTHETIC, UNDERSAMPLE, WEIGHTS = "plain", "synthetic", "undersample", "class_weights"
MIXUP = 0.2
"""Parameter of the Beta distribution (Zhang et al. 2018, ImageNet)."""
CLASSIFIER: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "oversample": ("classes drawn equally often", {"balance": True}),
    UNDERSAMPLE: ("as many photographs of every class as of the rarest", {}),
    WEIGHTS: ("classes weighted in the loss so that they count alike", {}),
    "focal": ("focal loss", {"loss": "focal"}),
    "augment": ("strong changes of the pictures", {"strong": True}),
    "mixup": ("mixup of photographs", {"mixup": MIXUP}),
}
"""Free techniques of classifiers: in words, and the settings that they change."""
SEGMENTER: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "augment": ("zoom over a wider range", {"zoom": (0.6, 1.7)}),
    "local": ("local contrast in place of colours", {"inputs": "local"}),
    "focal": ("focal loss", {"loss": "focal_dice"}),
    "focus": ("half of the crops near the structure", {"focus": 0.5}),
}
"""The same of segmenters."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    name: str
    """As asked for."""
    techniques: tuple[str, ...]
    """Free ones."""
    amount: float = 0.0
    """Synthetic images, as a part of the full amount; 0 for an arm without."""

    @property
    def free(self) -> bool:
        """Whether it costs nothing: no synthetic image."""
        return self.amount == 0

    @property
    def undersampled(self) -> bool:
        """Whether real photographs are left out."""
        return UNDERSAMPLE in self.techniques

    @classmethod
    def read(cls, name: str, known: Mapping[str, Any]) -> Arm:
        """Read an arm's name.

        Raises:
            ConfigError: An unknown technique, one given twice, or a part that is no number.
        """
        amount, techniques = 0.0, list[str]()
        for word in name.split("+"):
            kind, at, part = word.partition("@")
            if kind == SYNTHETIC and not amount:
                try:
                    amount = float(part) if at else 1.0
                except ValueError:
                    amount = -1.0
                if amount <= 0:
                    raise ConfigError(f"arm {name!r}: expected a part above 0 behind @, not {part!r}")
            elif word in known and word not in techniques:
                techniques.append(word)
            elif word != PLAIN or name != PLAIN:
                options = ", ".join([PLAIN, SYNTHETIC, *known])
                raise ConfigError(f"arm {name!r}: {word!r} stands twice or is unknown; known are {options}")
        if {"oversample", UNDERSAMPLE} <= {*techniques}:
            raise ConfigError(f"arm {name!r}: over- and undersampling undo each other")
        return cls(name=name, techniques=tuple(techniques), amount=amount)

    def words(self, known: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
        """Return in words what the arm does."""
        parts = [known[each][0] for each in self.techniques]
        if self.amount:
            parts.insert(
                0, "synthetic images" + (f", {self.amount:g} of the full" if self.amount != 1 else "")
            )
        return "; ".join(parts) or "as it is"


def techniques_of(study: Study) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Return the free techniques of a study's design."""
    return SEGMENTER if isinstance(study.design, Segmentation) else CLASSIFIER


def arms_of(study: Study) -> tuple[tuple[Arm, ...], tuple[Arm, ...], tuple[Arm, ...]]:
    """Return the free arms, `plain` first, those with synthetic images, and those of the curve of amounts.

    Raises:
        ConfigError: A wrong name, a free arm with synthetic images, or one of the others without.
    """
    known = techniques_of(study)
    free = [Arm.read(name, known) for name in dict.fromkeys((PLAIN, *study.free))]
    given = [Arm.read(name, known) for name in dict.fromkeys(study.arms)]
    if costly := [arm.name for arm in free if not arm.free]:
        raise ConfigError(f"free: {costly[0]!r} is not free")
    if without := [arm.name for arm in given if arm.free or arm.amount != 1]:
        raise ConfigError(f"arms: {without[0]!r} is without the full amount of synthetic images")
    curve = [Arm.read(f"{SYNTHETIC}@{amount:g}", known) for amount in sorted(study.amounts)]
    return tuple(free), tuple(given), tuple(curve)


def settled(
    config: ClassifierConfig | UNetConfig, arm: Arm, counts: Mapping[str, int], *, even: bool = False
) -> ClassifierConfig | UNetConfig:
    """Return a learner's settings as an arm changes them.

    Args:
        config: The learner's own.
        arm: The arm.
        counts: Training photographs by class, those without any left out: `rare` and `common`, or grades.
        even: Draw classes equally often in any case.
    """
    if isinstance(config, UNetConfig):
        changes: dict[str, Any] = {}
        for name in arm.techniques:
            changes |= SEGMENTER[name][1]
        return replace(config, **changes)
    changes = {"balance": even}
    for name in arm.techniques:
        changes |= CLASSIFIER[name][1]
    if WEIGHTS in arm.techniques:
        changes["class_weights"] = class_weights(config, counts)
    return replace(config, **changes)


def class_weights(config: ClassifierConfig, counts: Mapping[str, int]) -> tuple[float, ...]:
    """Return weights by which all classes count alike in the loss; 1 for a grade that does not occur."""
    if config.targets == (GRADE,):
        whole, seen = sum(counts.values()), sum(count > 0 for count in counts.values())
        found = [counts.get(str(grade), 0) for grade in range(config.outputs)]
        return tuple(whole / (seen * count) if count else 1.0 for count in found)
    return (counts["common"] / counts["rare"],)
