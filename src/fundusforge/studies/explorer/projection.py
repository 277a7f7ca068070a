"""Real photographs drawn again by a generator: how near it comes, and whether the vessels are the same.

Beers et al. 2018, Figure 4. A drawn image that comes near a patient's photograph may show the patient's
vessels, so all of them are marked `structure_from_patient`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fundusforge.annotate.segmenter import known_patients
from fundusforge.evaluate.agreement import Pool
from fundusforge.evaluate.statistics import Interval, bootstrap
from fundusforge.evaluate.vessels import Tally, tally
from fundusforge.images import read_mask, resize_mask
from fundusforge.records import METADATA, DatasetError, Record, write_metadata, write_text
from fundusforge.sample.drawing import write_drawn
from fundusforge.sample.inversion import Inverter, refine
from fundusforge.sample.latents import Drawer, Latents

JOURNAL = "projection.jsonl"
NEIGHBOURS = 3
"""Nearest other images, by the angle between vectors, that are told of each."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Images in a latent space."""

    records: Sequence[Record]
    latents: Latents
    """(N, L), of mean square 1."""
    first: Tensor
    """(N,) distance of what is drawn from the encoder's vector."""
    distances: Tensor
    """(N,) the same after refinement."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a drawn mask tells the real one, over the pixels of all images."""

    auc: float
    interval: Interval
    n: int


def encode(
    drawer: Drawer, inverter: Inverter, folder: Path, records: Sequence[Record], *, steps: int = 0
) -> Encoded:
    """Find the latent vectors of records.

    Args:
        drawer: The generator.
        inverter: Its encoder.
        folder: Dataset folder.
        records: Of that folder.
        steps: Gradient steps of refinement.

    Raises:
        DatasetError: The encoder belongs to another generator, or a picture cannot be read.
    """
    inverter.check(drawer)
    pictures = inverter.pictures(folder, records)
    found = inverter.encode(pictures)
    latents, first = refine(drawer, pictures, found, steps=0)
    distances = first
    if steps:
        latents, distances = refine(drawer, pictures, latents, steps=steps)
    return Encoded(records=records, latents=latents, first=first, distances=distances)


def project(
    drawer: Drawer, inverter: Inverter, folder: Path, records: Sequence[Record], out: Path, *, steps: int = 0
) -> tuple[Encoded, dict[str, Agreement]]:
    """Write a dataset folder of records drawn again, and `projection.jsonl`, a line for each.

    Returns:
        The vectors, and of every mask that people drew how well the drawn one tells it.

    Raises:
        DatasetError: As `encode`; or the folder holds a dataset, or no record is left.
        OSError: The folder cannot be written.
    """
    if (out / METADATA).exists():
        raise DatasetError(f"{out}: holds a dataset already; name another folder")
    if not records:
        raise DatasetError(f"{folder}: no record to project")
    known = drawer.patients & known_patients(record.patient for record in records)
    encoded = encode(drawer, inverter, folder, records, steps=steps)
    near = nearest(encoded.latents)
    written: list[Record] = []
    lines: list[str] = []
    tallies: dict[str, list[tuple[str, Tally]]] = {}
    for index, (record, latent) in enumerate(zip(records, encoded.latents, strict=True)):
        picture = drawer.pictures(latent[None])[0]
        from_patient = record.structure_from_patient or not record.synthetic
        drawn = write_drawn(
            drawer, out, drawer.stored(picture), seed=0, index=index, condition=record.image,
            from_patient=from_patient,
        )  # fmt: skip
        drawn = replace(drawn, patient=record.patient, eye=record.eye, split=record.split)
        written.append(drawn)
        for name, counts in _tallies(drawer, folder, record, picture).items():
            tallies.setdefault(name, []).append((record.patient, counts))
        row: dict[str, Any] = {
            "real": record.image, "drawn": drawn.image, "encoded": round(float(encoded.first[index]), 5),
            "distance": round(float(encoded.distances[index]), 5),
            "learnt_from": bool(known & known_patients([record.patient])),
            "nearest": [records[other].image for other in near[index]],
            "latent": [round(float(value), 5) for value in latent],
        }  # fmt: skip
        lines.append(json.dumps(row))
    write_text(out / JOURNAL, "".join(line + "\n" for line in lines))
    write_metadata(out, written)
    return encoded, {name: agreement(rows) for name, rows in tallies.items()}


def nearest(latents: Latents, count: int = NEIGHBOURS) -> list[list[int]]:
    """Return the nearest other vectors of each (N, L), the nearest first."""
    unit = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    return [row[: min(count, len(latents) - 1)].tolist() for row in np.argsort(-likeness, axis=1)]


def agreement(rows: Sequence[tuple[str, Tally]], *, seed: int = 0) -> Agreement:
    """Pool the counts of images, each with its patient."""
    pool = Pool([counts for _, counts in rows])
    interval = bootstrap(pool.statistic("auc"), [patient for patient, _ in rows], seed=seed)
    return Agreement(auc=pool.value("auc") or float("nan"), interval=interval, n=len(rows))


def _tallies(drawer: Drawer, folder: Path, record: Record, picture: Tensor) -> dict[str, Tally]:
    """Compare the drawn masks with those that people drew, at the size and inside the field of the drawn."""
    values, names = picture.numpy(), drawer.config.masks
    found: dict[str, Tally] = {}
    field = None
    if record.field_of_view:
        field = resize_mask(read_mask(folder / record.field_of_view), picture.shape[-1])
    for name, layer in zip(names, values[len(values) - len(names) :], strict=True):
        mask = record.masks.get(name)
        if mask is None or mask.origin == "predicted":
            continue
        real = resize_mask(read_mask(folder / mask.path), picture.shape[-1])
        if real.any():
            found[name] = tally(((layer + 1) / 2).clip(0, 1), real, field, threshold=0.5)
    return found
