"""The snapshots of a run: their weights, clock and verdicts, and what the training measured of them."""

# torch annotates itself only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fundusforge.config import ConfigError, from_json
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.sample.latents import DRAWING, GeneratorConfig
from fundusforge.studies.review.verdicts import Review, ReviewError
from fundusforge.training import checkpoint
from fundusforge.training.checkpoint import CheckpointError, model_file
from fundusforge.training.run import LOG, SNAPSHOTS

REVIEW = "review"
"""Metadata entry of weights that holds their verdicts, a JSON list of `Review`."""

FACTS = ("asked", "terms", "sources", "patients")
"""What a run notes at its end in the model it released, and what its snapshots lack."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a validation found; between two of them, the larger of each figure."""

    images: tuple[int, ...]
    """Clock of the validation, or of the two around."""
    distance: float | None
    leaked: float | None
    """Share of images nearer to a training image than chance allows; None if it was not looked for."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One file of weights that a reader may judge."""

    path: Path
    weights: str
    clock: int
    """Images that the training had seen."""
    side: int
    """Of a finished image in pixels."""
    conditions: int
    """Numbers of what is asked for; 0 if nothing can be."""
    measured: Measured | None
    reviews: tuple[Review, ...]
    """In the order in which they were recorded."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


def weights_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return what names weights whatever is noted beside them: SHA-256 of tensors, configuration and clock.

    The file's own SHA-256 will not do, since recording a verdict changes the file.
    """
    found = hashlib.sha256()
    fixed = {name: metadata.get(name, "") for name in ("kind", "config", "images")}
    found.update(json.dumps(fixed, sort_keys=True).encode() + b"\n")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def run_of(place: Path) -> Path:
    """Return the run folder that a run or a file of weights belongs to."""
    if place.is_dir():
        return place
    return place.parent.parent if place.parent.name == SNAPSHOTS else place.parent


def snapshots(place: Path) -> list[Snapshot]:
    """Find what may be judged, by clock: the snapshots of a run, else its best model, else its latest.

    Args:
        place: A run folder, or a file of weights, which then stands alone.

    Raises:
        CheckpointError: Nothing there, or a file that is no whole model.
        ReviewError: Weights that draw nothing, or whose verdicts cannot be read.
    """
    kept = sorted((place / SNAPSHOTS).glob("*.safetensors")) if place.is_dir() else []
    rows = validations(run_of(place) / LOG)
    found = [snapshot(path, rows) for path in kept or [model_file(place)]]
    return sorted(found, key=lambda one: (one.clock, one.name))


def snapshot(path: Path, rows: Sequence[Measured] = ()) -> Snapshot:
    """Describe one file of weights; `rows` are the validations of its run. See `snapshots`."""
    checkpoint.read_metadata(path)  # refuses what is no model of this package
    tensors, metadata = checkpoint.read(path)
    families = cast(Mapping[str, tuple[type[GeneratorConfig], Any]], DRAWING)
    if metadata["kind"] not in families:
        raise ReviewError(f"{path}: a model of kind {metadata['kind']!r}, expected {' or '.join(families)}")
    config = from_json(families[metadata["kind"]][0], metadata["config"], where=str(path))
    clock = int(metadata["images"])
    return Snapshot(
        path=path,
        weights=weights_sha256(tensors, metadata),
        clock=clock,
        side=config.size,
        conditions=config.conditions if isinstance(config, StyleGANConfig) else 0,
        measured=measured_at(rows, clock),
        reviews=_reviews(path, metadata.get(REVIEW, "[]")),
    )


def facts(run: Path, config: str) -> dict[str, str]:
    """Return what a run noted of its training data in the model it released, as metadata.

    Args:
        run: Run folder.
        config: Configuration of the weights that lack it, JSON; nothing is told of another.
    """
    try:
        metadata = checkpoint.read_metadata(run)
    except CheckpointError:
        return {}
    if json.loads(metadata["config"]) != json.loads(config):
        return {}
    return {name: metadata[name] for name in FACTS if name in metadata}


def unchanged(one: Snapshot) -> None:
    """Make sure that a file still holds the weights that were described.

    Raises:
        CheckpointError: A training has replaced them.
    """
    tensors, metadata = checkpoint.read(one.path)
    if weights_sha256(tensors, metadata) != one.weights:
        raise CheckpointError(f"{one.path}: was replaced while it was drawn from; begin again")


def _reviews(path: Path, text: str) -> tuple[Review, ...]:
    try:
        return from_json(tuple[Review, ...], text, where=str(path))
    except ConfigError as error:
        raise ReviewError(
            f"{error}; expected the metadata {REVIEW!r} as `fundusforge review` writes them"
        ) from None


def validations(log: Path) -> list[Measured]:
    """Read the validations of a run, by clock; none without a log. Broken lines are those of a killed run."""
    if not log.is_file():
        return []
    found: dict[int, Measured] = {}
    for line in log.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            images, distance = row["images"], _number(row.get("validation/distance"))
            leaked = _number(row.get("validation/leaked"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(images, int) and (distance is not None or leaked is not None):
            found[images] = Measured(images=(images,), distance=distance, leaked=leaked)
    return [found[images] for images in sorted(found)]


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def measured_at(rows: Sequence[Measured], clock: int) -> Measured | None:
    """Return the validation at a clock, else the larger figures of the two around it; None without any."""
    around = [row for row in rows if row.images[0] <= clock][-1:]
    if not around or around[0].images[0] != clock:
        around += [row for row in rows if row.images[0] > clock][:1]
    if not around:
        return None
    return Measured(
        images=tuple(row.images[0] for row in around),
        distance=max((row.distance for row in around if row.distance is not None), default=None),
        leaked=max((row.leaked for row in around if row.leaked is not None), default=None),
    )
