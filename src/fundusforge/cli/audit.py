"""`fundusforge audit`: search the training set for every synthetic image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import Positional, arg

from fundusforge.cli.command import (
    DONE,
    REJECTS,
    UsageError,
    command_line,
    emit,
    listing,
    restored,
    say,
    without,
)

if TYPE_CHECKING:
    from fundusforge.audit.sets import Sets
    from fundusforge.audit.stage import AuditConfig
    from fundusforge.evaluate.evidence import Judge
    from fundusforge.evaluate.features import Extractor
    from fundusforge.evaluate.figures import Figure

S = TypeVar("S")
READING = 384
"""Diameter in pixels at which vessels are read: a quarter of the time, and the tree that identifies a person
is in the larger vessels."""
_SHOWN = 20
"""Offenders that are listed for people."""


@dataclass(frozen=True, kw_only=True)
class Audit(Generic[S]):
    """Find synthetic images that copy a training image.

    Searches the training images for every synthetic image, in the fine structure of the pictures and in the
    vessel trees, whole and by halves, whether flipped, shifted, turned, recoloured or painted anew. What is
    too near is told by real images of patients whom the generator never saw (--holdout): of such unrelated
    images at most the share --level may be called a copy. Also infers who was in the training set from the
    synthetic images as a whole, beside a control without them. Writes audit.json into the folder named by
    --out; --quarantine moves offending images aside. The exit code is 1 if more offend than --max-offenders.

    Examples:
      fundusforge audit synthetic --train data/hrf --holdout data/chase --out audit
      fundusforge audit painted --train data --train-splits train --holdout data --holdout-splits val test
      fundusforge audit painted --train data/chase data/hrf --holdout data/test --max-offenders 10
      fundusforge audit painted --train data/train --holdout data/test --quarantine
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder of synthetic images."""
    train: Annotated[tuple[Path, ...], arg(metavar="FOLDER...")]
    """Dataset folders of the real images that the generator learnt from, one or more."""
    holdout: Annotated[tuple[Path, ...], arg(metavar="FOLDER...")]
    """Dataset folders of real images of patients whom the generator never saw, one or more."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("audit")
    """Folder for audit.json, and for the quarantine."""
    segmenter: Annotated[Path | None, arg(metavar="RUN")] = None
    """Vessel model that reads the trees; the embedded one if left out."""
    extractor: Annotated[str | None, arg(metavar="NAME")] = None
    """What turns images into vectors to compare by, too, as for `evaluate`; the embedded retina if left
    out."""
    extractor_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of the extractor (.safetensors)."""
    cache: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder that keeps these vectors, to be guarded like the images; one in the user's cache if left out."""
    generator: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder of the generator: its discriminator infers membership, too."""
    max_offenders: int = 0
    """Offending images beyond which the exit code is 1."""
    device: str = "auto"
    """Where networks run: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print what audit.json holds on standard output."""
    settings: Annotated[S, arg(name="")]

    def __post_init__(self) -> None:
        """Refuse a number out of range."""
        if self.max_offenders < 0:
            raise UsageError(f"--max-offenders must not be negative, but is {self.max_offenders}")

    @classmethod
    def fitted(cls, words: Sequence[str]) -> tuple[Any, Any]:
        """Return the type with the settings of the stage."""
        from fundusforge.audit.stage import AuditConfig

        hidden = without(AuditConfig, synthetic=Path(), train=(Path(),), holdout=(Path(),), out=Path())
        missing = tyro.MISSING
        return Audit[hidden], Audit(folder=missing, train=missing, holdout=missing, settings=hidden())

    def run(self) -> int:
        """Audit."""
        from fundusforge.audit.findings import AUDIT
        from fundusforge.audit.stage import QUARANTINE, AuditConfig, audit
        from fundusforge.cli.judging import extractor
        from fundusforge.evaluate.features import default_cache

        config = restored(
            self.settings, AuditConfig, synthetic=self.folder, train=self.train, holdout=self.holdout,
            out=self.out,
        )  # fmt: skip
        vectors = extractor(self.extractor, self.extractor_weights, device=self.device, seed=config.seed)
        cache = self.cache or default_cache()
        result = audit(
            config,
            judge=quick_judge(self.segmenter, device=self.device),
            extractor=vectors,
            cache=cache,
            further=None if vectors is None else self._membership(config, vectors, cache),
            command=command_line(),
            progress=None if self.quiet else say,
        )
        say(f"findings in {self.out / AUDIT}")
        if result.quarantined:
            say(f"{len(result.quarantined)} images moved to {self.out / QUARANTINE}")
        emit(result.to_dict(), _text(result), as_json=self.json)
        return REJECTS if len(result.offenders()) > self.max_offenders else DONE

    def _membership(
        self, config: AuditConfig, extractor: Extractor, cache: Path
    ) -> Callable[[Sets], Sequence[Figure]]:
        """Return what infers membership from the three sets."""
        from fundusforge.audit.attacks import infer, splits_of

        def figures(sets: Sets) -> Sequence[Figure]:
            if len(set(sets.train.patients)) < 2:
                return ()
            splits = splits_of(sets, seed=config.seed, draws=config.draws)
            return infer(
                splits, extractor=extractor, cache=cache, generator=self.generator, device=self.device,
                progress=None if self.quiet else say,
            )  # fmt: skip

        return figures


def quick_judge(path: Path | None, *, device: str = "auto") -> Judge | None:
    """Return a vessel segmenter that reads pictures at `READING` pixels.

    The audit does not ask whom it learnt from: it only finds trees, alike in all sets.

    Args:
        path: A run or a file of weights; the embedded segmenter if None.
        device: Where it runs.

    Returns:
        The judge; None if no segmenter is named and this installation has none.

    Raises:
        CheckpointError, ConfigError, DatasetError: Broken or unfit weights.
    """
    from dataclasses import replace

    from fundusforge import weights
    from fundusforge.annotate.segmenter import Segmenter
    from fundusforge.evaluate.evidence import Judge

    if path is None and not any(
        one.family == "unet" and "vessels" in one.masks for one in weights.catalogue()
    ):
        return None
    segmenter = Segmenter.load(path or weights.judge("vessels"), device=device)
    scale = READING / segmenter.config.diameter
    small = replace(
        segmenter,
        config=replace(segmenter.config, diameter=READING),
        diameter=segmenter.diameter and segmenter.diameter * scale,
    )
    return Judge(name=segmenter.name, segment=small.probability, threshold=segmenter.threshold)


def _text(result: Any) -> str:
    """The verdicts in words."""
    lines = {finding.image: _words(finding) for finding in result.offenders()[:_SHOWN]}
    if more := len(result.offenders()) - len(lines):
        lines[f"and {more} more"] = "see audit.json"
    for figure in result.figures:
        lines[figure.name] = figure.words()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in result.counts().items() if count)
    return "\n".join([listing(lines, indent=0), counts, *(f"note: {text}" for text in result.warnings)])


def _words(finding: Any) -> str:
    largest = max(finding.likeness, key=lambda each: each.excess)
    region = "" if largest.region == "whole" else f", {largest.region} half"
    return f"{finding.verdict} of {finding.neighbour} ({largest.test} {largest.value:.2f}{region})"
