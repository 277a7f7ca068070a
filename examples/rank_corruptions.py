"""Do features rank known corruptions? Distances of corrupted photographs to clean ones, at rising strengths.

    python examples/rank_corruptions.py data/idrid-grading --weights embedded --fit data/chase512 data/hrf512

Photographs of split `test` (of `val` where a folder has no such) are split at random into halves, by
patient. One half, corrupted, is compared with the other, clean one, for five strengths (0 is clean: the
floor) and each time with new halves, as two generators are compared by images of different patients. A kind
is ranked well if the distance rises with the strength (Spearman's rho of the five), and found if its median
distance lies above the 97.5th percentile of the floor. The extractor (`retina`) stands beside

- `random`: networks of the same architecture with random weights (their batch statistics fitted to clean
  photographs), the mean answers of the last level, as such controls are usually made;
- `random_fitted`: the same networks with features fitted to damage exactly as the extractor's are;
- the photographs themselves at 16 px (`pixels`), and their colour codes (`colours`).

Vessels are those that people drew where a record has them, else those the embedded segmenter finds. Prints
JSON lines as `docs/results/figures.jsonl` keeps them: mean rho over kinds of the Frechet distance, with a
95 % bootstrap interval over patients (widened to hold the value, where patients that stand twice in a draw
raise the floor so much that most draws lie below it); `found` is the share of kinds and strengths above the
floor, `kernel` and `kernel_found` are the same of the kernel distance, `kinds` says it of each kind.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from corruptions import FRESH, HARMLESS, SEEN, STRENGTHS, UNSEEN, Photograph, corrupt
from fundusforge import weights
from fundusforge.annotate.segmenter import Segmenter, detect_field
from fundusforge.cli.judges import spread
from fundusforge.evaluate.extractors import load_encoder
from fundusforge.evaluate.frechet import frechet_distance
from fundusforge.evaluate.kernel import kernel_distance
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.images import Image, colour_code, read_image, read_mask, resize
from fundusforge.models.selfsupervised import Encoder, fit_features
from fundusforge.prepare.split import check_splits
from fundusforge.records import Record, Split, read_folder

Features = np.ndarray
"""(N, D) one row per photograph."""
Extractor = Callable[[Sequence[Image]], dict[str, Features]]
"""Features of pictures of one size, by the name of the family."""
Table = dict[tuple[str, int], Features]
"""Features by kind and strength; those of the clean photographs under ("clean", 0)."""
COLLAPSE = "mode_collapse"
"""Ever fewer photographs, each many times: a corruption of the set, made from clean features."""


@dataclass(frozen=True)
class Rank:
    """Rank known corruptions by distances between features."""

    folders: Annotated[tuple[Path, ...], Positional]
    """Dataset folders of patients whom the extractor never saw."""
    splits: tuple[Split, ...] = ()
    """Splits to take from them; by default `test`, or `val` in a folder without it."""
    limit: int | None = None
    """Most photographs of each folder, evenly spread; all by default."""
    weights: Path = Path("embedded")
    """Run or weights of the extractor; `embedded` for those that ship."""
    fit: tuple[Path, ...] = ()
    """Dataset folders to whose split `train` random networks are fitted; by default, the photographs."""
    fitted: int = 600
    """Most photographs to fit to, evenly spread."""
    random: int = 2
    """Random networks."""
    suffix: str = ""
    """Ends the names of the figures."""
    halves: int = 100
    """Random halves for the figures; a twentieth of them in each draw of the bootstrap."""
    draws: int = 100
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of corruptions, halves, bootstrap and random networks."""


# ---- photographs and features ------------------------------------------------------------------------------


def held_out(records: Sequence[Record], splits: Sequence[Split]) -> list[Record]:
    """Return the records of the splits; by default of `test`, or of `val` where nothing is in it."""
    for some in (splits,) if splits else (("test",), ("val",)):
        if found := [record for record in records if record.split in some]:
            return found
    return []


def photographs(rows: Sequence[tuple[Path, Record]]) -> list[Photograph]:
    """Read photographs, their fields of view and their vessels."""
    segmenter = Segmenter.load(weights.judge("vessels"))
    found = []
    for folder, record in rows:
        image = read_image(folder / record.image)
        field = read_mask(folder / record.field_of_view) if record.field_of_view else detect_field(image)
        if mask := record.masks.get("vessels"):
            vessels = read_mask(folder / mask.path)
        else:
            vessels = (segmenter.probability(image, field) >= segmenter.threshold).astype(np.uint8) * 255
        found.append(Photograph(image=image, field=field, vessels=vessels))
    return found


@torch.no_grad()
def random_encoder(like: Encoder, clean: Sequence[Image], seed: int) -> Encoder:
    """Return an untrained encoder, its batch statistics and its features fitted to clean photographs."""
    torch.manual_seed(seed)
    encoder = Encoder(like.config).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    for start in range(0, min(len(clean), 64) - 7, 8):
        encoder.maps(_tensor(clean[start : start + 8]))
    fit_features(encoder.eval(), (_tensor([image]) for image in clean))
    return encoder


@torch.inference_mode()
def trained(encoder: Encoder, images: Sequence[Image]) -> dict[str, Features]:
    """Return the features of the extractor."""
    return {"retina": encoder(_tensor(images)).numpy().astype(np.float64)}


@torch.inference_mode()
def untrained(encoder: Encoder, images: Sequence[Image]) -> dict[str, Features]:
    """Return the mean answers of a random network's last level, and its fitted features."""
    pictures = _tensor(images)
    last = encoder.maps(pictures)[-1].mean((2, 3))
    return {
        "random": last.numpy().astype(np.float64),
        "random_fitted": encoder(pictures).numpy().astype(np.float64),
    }


def _tensor(images: Sequence[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def plain(images: Sequence[Image]) -> dict[str, Features]:
    """Return the pictures themselves at 16 px, in [0, 1], and their colour codes."""
    return {
        "pixels": np.stack([resize(image, 16).ravel() / 255.0 for image in images]),
        "colours": np.stack([colour_code(image).astype(np.float64) for image in images]),
    }


def tables(shown: Sequence[Photograph], extractors: Sequence[Extractor], seed: int) -> dict[str, list[Table]]:
    """Return features of the photographs, clean and corrupted: by family, a table for each extractor."""
    levels = [(kind, strength) for kind in SEEN | UNSEEN | FRESH for strength in STRENGTHS]
    levels += [("clean", 0), *((kind, 1) for kind in HARMLESS)]
    rows: dict[tuple[int, str], dict[tuple[str, int], list[Features]]] = {}
    for place, photograph in enumerate(shown):
        print(f"\r{place + 1} of {len(shown)} photographs", end="", file=sys.stderr, flush=True)
        pictures = [
            photograph.image
            if kind == "clean"
            else corrupt(kind, photograph, strength, np.random.default_rng([seed, place, strength]))
            for kind, strength in levels
        ]
        for start in range(0, len(levels), 8):
            for number, extract in enumerate(extractors):
                for family, some in extract(pictures[start : start + 8]).items():
                    of = rows.setdefault((number, family), {level: [] for level in levels})
                    for level, row in zip(levels[start : start + 8], some, strict=True):
                        of[level].append(row)
    print(file=sys.stderr)
    found: dict[str, list[Table]] = {}
    for (_, family), of in rows.items():
        found.setdefault(family, []).append({level: np.stack(some) for level, some in of.items()})
    return found


# ---- distances ---------------------------------------------------------------------------------------------


def compared(
    table: Table,
    kind: str,
    strength: int,
    halves: tuple[np.ndarray, np.ndarray],
    distance: Callable[..., float],
) -> float:
    """Distance of one half, corrupted, to the other, clean one; halves are places in the set."""
    first, second = halves
    clean = table["clean", 0]
    if not strength:
        return distance(clean[first], clean[second])
    if kind == COLLAPSE:
        kept = second[: max(2, len(second) // 2**strength)]
        return distance(clean[first], clean[np.resize(kept, len(second))])
    return distance(clean[first], table[kind, strength][second])


def split(
    patients: Sequence[str], counts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split images into halves by patient; an image counted twice stands twice in its half."""
    names, member = np.unique(patients, return_inverse=True)
    first = np.isin(member, rng.permutation(len(names))[: len(names) // 2])
    places = np.arange(len(member)).repeat(counts.astype(int))
    places = rng.permutation(places)
    return places[first[places]], places[~first[places]]


# ---- the study ---------------------------------------------------------------------------------------------


def distances(
    table: Table,
    kinds: Sequence[str],
    patients: Sequence[str],
    c: Rank,
    *,
    distance: Callable[..., float] = frechet_distance,
    counts: np.ndarray | None = None,
    halves: int,
) -> np.ndarray:
    """Return distances (kinds, halves, 5) at strengths 0 to 4, every strength with halves of its own."""
    counts = np.ones(len(patients)) if counts is None else counts
    found = []
    for repeat in range(halves):
        rng = np.random.default_rng([c.seed, repeat])
        each = [split(patients, counts, rng) for _ in (0, *STRENGTHS)]
        if min(len(half) for pair in each for half in pair) > 2:
            found.append(
                [[compared(table, kind, s, pair, distance) for s, pair in enumerate(each)] for kind in kinds]
            )
    return np.array(found).swapaxes(0, 1)  # fmt: skip


def rhos(found: np.ndarray) -> np.ndarray:
    """Return the mean of Spearman's rho over halves, (kinds,), from distances (kinds, halves, 5)."""
    ranks = found.argsort(-1).argsort(-1)
    n = found.shape[-1]
    return (1 - 6 * ((ranks - np.arange(n)) ** 2).sum(-1) / (n * (n**2 - 1))).mean(-1)


def above_floor(found: np.ndarray) -> np.ndarray:
    """Return which strengths lie above the floor, (kinds, strengths), from distances (kinds, halves, ...)."""
    return np.median(found[..., 1:], axis=1) > np.quantile(found[..., :1], 0.975, axis=1)


def figure(own: Sequence[Table], kinds: Sequence[str], patients: Sequence[str], c: Rank) -> dict[str, Any]:
    """Return one figure: rho averaged over kinds, and over extractors if there are several."""

    def drawn(counts: Sequence[np.ndarray]) -> float:
        few = partial(distances, kinds=kinds, patients=patients, c=c, counts=counts[0])
        return float(np.mean([rhos(few(table, halves=max(1, c.halves // 20))) for table in own]))

    interval = bootstrap(drawn, patients, seed=c.seed, draws=c.draws)
    plain = [distances(table, kinds, patients, c, halves=c.halves) for table in own]
    cubic = [distances(table, kinds, patients, c, halves=c.halves, distance=kernel_distance) for table in own]
    each, above = np.mean([rhos(f) for f in plain], 0), np.mean([above_floor(f) for f in plain], 0)
    value = round(float(each.mean()), 4)
    return {
        "value": value, "low": min(interval.low or 0, value), "high": max(interval.high or 0, value),
        "n": len(patients), "unit": "Spearman's rho",
        "found": round(float(above.mean()), 3),
        "kernel": round(float(np.mean([rhos(f) for f in cubic])), 4),
        "kernel_found": round(float(np.mean([above_floor(f) for f in cubic])), 3),
        "kinds": {
            kind: {"rho": round(float(r), 3), "found": np.round(a, 2).tolist()}
            for kind, r, a in zip(kinds, each, above, strict=True)
        },
    }  # fmt: skip


def harmless_found(table: Table, patients: Sequence[str], c: Rank) -> float:
    """Return the share of harmless changes that lie above the floor all the same."""
    found = []
    for repeat in range(c.halves):
        rng = np.random.default_rng([c.seed, repeat])
        pairs = [split(patients, np.ones(len(patients)), rng) for _ in range(2)]
        found.append(
            [
                [compared(table, kind, s, p, frechet_distance) for s, p in enumerate(pairs)]
                for kind in HARMLESS
            ]
        )
    return float(above_floor(np.array(found).swapaxes(0, 1)).mean())


def main(c: Rank) -> None:
    """Print the figures."""
    read = [(folder, read_folder(folder)) for folder in c.folders]
    check_splits(*read)
    rows = [
        row
        for folder, records in read
        for row in spread([(folder, r) for r in held_out(records, c.splits)], c.limit or len(records))
    ]
    shown, patients = photographs(rows), [record.patient for _, record in rows]
    encoder = load_encoder(None if c.weights == Path("embedded") else c.weights)
    learnt = [(folder, record) for folder in c.fit for record in read_folder(folder, splits=["train"])]
    clean = [read_image(folder / record.image) for folder, record in spread(learnt or rows, c.fitted)]
    extractors: list[Extractor] = [partial(trained, encoder), plain]
    for number in range(c.random):
        extractors.append(partial(untrained, random_encoder(encoder, clean, c.seed + number)))
    report(tables(shown, extractors, c.seed), patients, c)


def report(found: Mapping[str, Sequence[Table]], patients: Sequence[str], c: Rank) -> None:
    """Print a line for every family of extractors and group of kinds."""
    groups = {"seen": [*SEEN, COLLAPSE], "unseen": list(UNSEEN), "fresh": list(FRESH)}
    for family, own in found.items():
        harmless = float(np.mean([harmless_found(table, patients, c) for table in own]))
        for group, kinds in groups.items():
            row = {"name": f"{family}_ranking_{group}{c.suffix}", **figure(own, kinds, patients, c)}
            row |= {"harmless_found": harmless, "command": "python " + shlex.join(sys.argv)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Rank))
