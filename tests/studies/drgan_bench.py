"""Eyes and painters for the tests of the DR-GAN study: drawn eyes with grades and spots, a tiny generator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from conftest import draw_fundus
from fundusforge.annotate.segmenter import patient_digest
from fundusforge.config import to_json
from fundusforge.images import read_image, write_image
from fundusforge.models.drgan import DRGANConfig, Generator
from fundusforge.records import Mask, Provenance, Record, read_folder, write_metadata
from fundusforge.sample.severity_painter import SeverityPainter
from fundusforge.studies.drgan.eyes import Bench, BenchConfig, Eyes
from fundusforge.training.checkpoint import annotate_metadata, save_model
from fundusforge.training.loop import Clock

SIZE = 64
TINY = DRGANConfig(
    masks=("vessels", "disc", "hard_exudates"), size=SIZE, width=4, blocks=0, vector=6, directions=3,
    perceptual=0.0, attention=False,
)  # fmt: skip
STRANGERS = frozenset({patient_digest("nobody")})


def write_eyes(folder: Path, count: int = 12, *, seed: int = 0, grades: int = 3, size: int = SIZE) -> Path:
    """Write eyes of a patient each, of grades in turn, half `val` and half `test`; bright spots by grade."""
    for name in ("images", "vessels", "disc", "hard_exudates", "fields"):
        (folder / name).mkdir(parents=True)
    records = []
    for index in range(count):
        grade, drawing = index % grades, draw_fundus(size, seed=seed + index)
        rng = np.random.default_rng([seed, index])
        spots = np.zeros((size, size), np.uint8)
        for y, x in rng.integers(size // 4, 3 * size // 4, (3 * grade, 2)):
            spots[y : y + 3, x : x + 3] = 255
        image = drawing["image"].copy()
        image[spots > 0] = (255, 250, 180)
        pictures = {"images": image, "vessels": drawing["vessels"], "disc": drawing["disc"],
                    "hard_exudates": spots, "fields": drawing["field_of_view"]}  # fmt: skip
        for name, pixels in pictures.items():
            write_image(folder / name / f"{index:02d}.png", pixels)
        names = ("vessels", "disc", "hard_exudates")
        origins = dict.fromkeys(names, "human") | {"vessels": "predicted"}
        records.append(
            Record(
                image=f"images/{index:02d}.png", patient=f"eye-{seed}-{index}", source="drawn", grade=grade,
                masks={name: Mask(path=f"{name}/{index:02d}.png", origin=origins[name]) for name in names},
                field_of_view=f"fields/{index:02d}.png", split="val" if index % 2 else "test",
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


def painter_of(
    config: DRGANConfig = TINY, *, name: str = "tiny-1", patients: frozenset[str] = STRANGERS
) -> SeverityPainter:
    torch.manual_seed(3)
    return SeverityPainter(generator=Generator(config).eval(), name=name, patients=patients)


def write_model(path: Path, config: DRGANConfig = TINY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nets = nn.ModuleDict({"generator": painter_of(config).generator})
    save_model(path, nets, config_json=to_json(config), clock=Clock(images=4))
    annotate_metadata(path, patients=sorted(STRANGERS))
    return path


def repainted(folder: Path, out: Path, *, noise: float = 0.0, shift: int = 0, **changes: Any) -> Bench:
    """Return a bench whose paintings are the photographs themselves, with noise, or those of other eyes."""
    records, made = read_folder(folder), list[Record]()
    for turn in range(2):
        for index, record in enumerate(records):
            other = records[(index + shift * (turn + 1)) % len(records)]
            pixels = read_image(folder / other.image).astype(np.float64)
            pixels += noise * np.random.default_rng([turn, index]).normal(size=pixels.shape)
            file = f"images/{turn}-{index:02d}.png"
            (out / "painted" / "images").mkdir(parents=True, exist_ok=True)
            write_image(out / "painted" / file, pixels.clip(0, 255).round().astype(np.uint8))
            place = Provenance(model="copy-1", seed=0, index=len(made), condition=record.image)
            masks = {n: replace(m, path=f"{n}/{turn}-{index:02d}.png") for n, m in record.masks.items()}
            for path, copy in [(record.masks[n].path, masks[n].path) for n in masks] + [
                (str(record.field_of_view), f"fields/{turn}-{index:02d}.png")
            ]:
                (out / "painted" / copy).parent.mkdir(exist_ok=True)
                (out / "painted" / copy).write_bytes((folder / path).read_bytes())
            made.append(
                replace(
                    record, image=file, masks=masks, field_of_view=f"fields/{turn}-{index:02d}.png",
                    synthetic=True, provenance=place,
                )
            )  # fmt: skip
    write_metadata(out / "painted", made)
    config = BenchConfig(real=folder, out=out, draws=100, **changes)
    return Bench(
        config=config, model="copy-1", patients=STRANGERS, warnings=(), command="study",
        real=Eyes(folder=folder, records=records, side=SIZE),
        painted=Eyes(folder=out / "painted", records=read_folder(out / "painted"), side=SIZE),
        turns=np.arange(2 * len(records)).reshape(2, -1), tell=lambda text: None,
    )  # fmt: skip


class Reader:
    """Dark is vessel, bright is exudate; of the other lesions it sees none."""

    def __init__(self, names: tuple[str, ...], *, diameter: float = 64.0) -> None:
        self.name, self.diameter, self.patients = f"stub-{names[0]}", diameter, frozenset({"stranger"})
        self.config: Any = SimpleNamespace(masks=names, diameter=diameter)
        self.net = torch.nn.Linear(1, 1)
        self.read = 0

    def threshold_of(self, name: str) -> float:
        return 0.5

    def stream(self, pictures: Iterable[Any], *, batch: int = 1) -> Iterator[dict[str, np.ndarray]]:
        for image, field in pictures:
            self.read += 1
            bright = (image.astype(np.float32).mean(2) / 255) * (field > 0)
            maps = {"vessels": (1 - bright) * (field > 0), "hard_exudates": bright}
            yield {name: maps.get(name, np.zeros_like(bright)) for name in self.config.masks}

    def probabilities(self, image: np.ndarray, field: np.ndarray) -> dict[str, np.ndarray]:
        return next(self.stream([(image, field)]))
