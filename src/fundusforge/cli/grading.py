"""What `fundusforge train drgan` adds: a plan in images, graded photographs, latent grading spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fundusforge import weights
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.spaces import GradingSpaces
from fundusforge.cli.classifying import SPACES, squares_of
from fundusforge.cli.command import say
from fundusforge.cli.judges import spread
from fundusforge.models.drgan import DRGANConfig, Generator
from fundusforge.models.flow import FlowConfig
from fundusforge.records import DatasetError, Record
from fundusforge.training.batches import knows
from fundusforge.training.run import LoopConfig, parse_budget

READ = 600
"""Training photographs whose features make the spaces where the grader brings none, evenly spread."""


def settled(config: DRGANConfig, loop: LoopConfig) -> tuple[DRGANConfig, Grader | None]:
    """Return the configuration with its budget and the length of its grading vectors, and the grader.

    The path of the grader is left out of it, as of everything that a model carries; there is no grader where
    severity is not manipulated.

    Raises:
        DatasetError: The length of the training is a time, or the grader tells findings.
        CheckpointError, ConfigError: No grader there.
    """
    budget = config.budget or parse_budget(loop.stop_after).images
    if budget is None:
        raise DatasetError(
            f"stop after {loop.stop_after}: the second part of this generator joins after half of the "
            "images, so its length must be in images (--stop-after 200000img), or --model.budget must say it"
        )
    if config.perceptual and config.perceptual_weights is None:
        say(
            "perceptual loss: without --model.perceptual-weights (a file of VGG-19) the embedded features of "
            "the retina take its place"
        )
    config = replace(config, budget=budget)
    if not config.agm:
        return config, None
    file = config.grader or weights.default("classifier", masks=("grade",))
    grader = Grader.load(file)
    if not grader.config.graded:
        raise DatasetError(
            f"{file}: tells {', '.join(grader.config.targets)}; a classifier of grades is needed"
        )
    return replace(config, grader=None, vector=grader.net.head.in_features), grader


def learnable(config: DRGANConfig | FlowConfig, records: Sequence[Record]) -> list[Record]:
    """Return the records that have a grade, where one is needed.

    A lesion that a record does not know is shown to the networks as unknown, but one that no record knows
    cannot be learnt.

    Raises:
        DatasetError: No record has a grade, or knows one of the masks.
    """
    graded = [record for record in records if record.grade is not None]
    needed = isinstance(config, DRGANConfig) and (config.agm or config.classification > 0)
    if not graded and needed:
        raise DatasetError(
            f"none of {len(records)} training images has a grade, which this generator learns; `fundusforge "
            "annotate` can add predicted grades"
        )
    kept = graded if needed else list(records)
    for name in config.conditions:
        if not any(name in record.masks for record in kept):
            raise DatasetError(
                f"none of {len(kept)} training images has the mask {name!r}; `fundusforge annotate` can add "
                "predicted masks, and --model.masks can leave it out"
            )
    if len(kept) < len(records):
        say(f"{len(records) - len(kept)} of {len(records)} training images have no grade and are left out")
    for name in config.conditions:
        if unknown := sum(not knows(record, name) for record in kept):
            say(f"{name}: not known of {unknown} of {len(kept)} training images")
    return kept


def spaces_of(grader: Grader, run: Path | None, records: Sequence[Record]) -> GradingSpaces:
    """Return the latent grading spaces of a grader: its run's own, or those of its features of the records.

    Raises:
        DatasetError: A field of view is empty.
        CheckpointError: The run's file is broken.
    """
    if run is not None and (run / SPACES).is_file():
        return GradingSpaces.load(run / SPACES)
    chosen = [record for record in records if record.grade is not None]
    chosen = [record for grade in range(5) for record in spread(_of(chosen, grade), READ // 5)]
    features = [grader.features(squares_of(grader, chosen[k : k + 8])) for k in range(0, len(chosen), 8)]
    grades = np.array([record.grade for record in chosen])
    return GradingSpaces.fit(np.concatenate(features), grades, model=grader.name)


def _of(records: Sequence[Record], grade: int) -> list[Record]:
    return [record for record in records if record.grade == grade]


def give_spaces(generator: Generator, spaces: GradingSpaces) -> None:
    """Put latent grading spaces into a generator.

    Raises:
        DatasetError: No grade has enough photographs for a space.
    """
    if not spaces.spaces:
        raise DatasetError(f"no grade has the two photographs that a grading space needs: {spaces.counts}")
    generator.spaces.fit(
        {
            grade: (
                space.mean,
                (1 - space.shrinkage) ** 0.5 * space.factor,
                space.shrinkage * space.scale,
            )
            for grade, space in spaces.spaces.items()
        }
    )
    if lacking := [grade for grade in range(5) if grade not in spaces.spaces]:
        say(f"too few images of grade {', '.join(map(str, lacking))}: it cannot be asked for")
