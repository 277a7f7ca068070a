"""Audit: what it finds of copies planted among real photographs, and how many false alarms it raises.

    fundusforge prepare ODIR-5K --format odir --size 512 --out runs/data/odir512
    python benchmarks/audit.py runs/data/odir512 [--rounds 2] [--each 23] [--jobs 1]

Every round draws the patients of a prepared folder anew into three parts that share none: a third trains, a
quarter is held out and sets the threshold, and the rest are honest images of a folder to be audited. To
these, `each` pictures of every kind are added (five kinds of copy, the same tree under a new texture, half
copies; 23 are 5 % of a folder with 300 honest images): made of training photographs, stored as files, read
and judged like any other by all three tests of the command: pixels, vessel trees, embedded features. A plant
counts as found if the verdict is an offence *and* the neighbour is the photograph it was made of, or another
of the same patient. Honest images are of patients who stand in neither other part, so that a false alarm is
one by construction. As in the command, held-out patients whose eye also stands among the training images
under another name do not tell chance.

Prints lines of JSON: `audit_planted_recall` (all five kinds of copy), one line for each of them,
`audit_same_tree_recall`, `audit_half_copy_recall`, `audit_false_alarm` (share of honest patients of whom an
image is called an offence), with 95 % Wilson intervals of plants and of patients, and the seconds it took.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before NumPy reads them

import numpy as np  # noqa: E402

from fundusforge.audit.findings import Finding  # noqa: E402
from fundusforge.audit.nearest import Training, Unrelated, View, hidden  # noqa: E402
from fundusforge.audit.planted import COPIES, KINDS, Plant, plant, repainter  # noqa: E402
from fundusforge.audit.stage import AuditConfig, search, views  # noqa: E402
from fundusforge.audit.tally import wilson  # noqa: E402
from fundusforge.cli.audit import quick_judge  # noqa: E402
from fundusforge.evaluate.evidence import ImageSet, Judge  # noqa: E402
from fundusforge.evaluate.extractors import load_extractor  # noqa: E402
from fundusforge.evaluate.features import Extractor, features  # noqa: E402
from fundusforge.records import Record, read_folder  # noqa: E402
from fundusforge.sample.painter import Painter  # noqa: E402

TRAIN, HOLDOUT = 0.34, 0.25
"""Shares of the patients."""


class Round:
    """One draw of the patients, one planted folder."""

    def __init__(self, folder: Path, records: list[Record], *, seed: int) -> None:
        patients = sorted({record.patient for record in records})
        order = [patients[place] for place in np.random.default_rng([seed, 9]).permutation(len(patients))]
        ends = int(TRAIN * len(order)), int((TRAIN + HOLDOUT) * len(order))
        parts = set(order[: ends[0]]), set(order[ends[0] : ends[1]]), set(order[ends[1] :])
        self.train, self.holdout, self.honest = (
            ImageSet(folder=folder, records=[r for r in records if r.patient in part]) for part in parts
        )

    def findings(
        self, known: dict[str, View], planted: list[View], *, plants: list[Record], jobs: int
    ) -> tuple[list[Finding], list[Finding]]:
        """Return the verdicts on planted and on honest images."""
        config = AuditConfig(synthetic=Path(), train=[Path()], holdout=[Path()], out=Path())
        train, holdout, honest = (
            [known[record.image] for record in images.records]
            for images in (self.train, self.holdout, self.honest)
        )
        training = Training(train, candidates=config.candidates)
        nearest = search(training, holdout, jobs=jobs)
        doubles = {self.holdout.patients[place] for place in hidden(nearest)}
        apart = [i for i, patient in enumerate(self.holdout.patients) if patient not in doubles]
        chance = Unrelated([nearest[i] for i in apart], [self.holdout.patients[i] for i in apart])
        queries, records = [*planted, *honest], [*plants, *self.honest.records]
        found = [
            chance.judge(record, near, self.train, level=config.level, margin=config.margin)
            for record, near in zip(records, search(training, queries, jobs=jobs), strict=True)
        ]
        return found[: len(planted)], found[len(planted) :]


def look(images: ImageSet, judge: Judge, extractor: Extractor, *, jobs: int) -> list[View]:
    """Look at pictures in every space."""
    return views(images, judge=judge, vectors=features(images, extractor, cache=None), jobs=jobs)


def hit(plant: Plant, finding: Finding, owners: dict[str, str]) -> bool:
    """Whether the plant was called an offence, and its patient named."""
    return finding.offends and owners[finding.neighbour] == owners[plant.source]


def line(name: str, hits: int, n: int, **more: object) -> dict[str, object]:
    """Return a figure: a share with its interval."""
    low, high = wilson(hits, n)
    command = " ".join(["python", "benchmarks/audit.py", *sys.argv[1:]])
    return {
        "name": name, "value": round(hits / n, 4), "low": round(low, 4), "high": round(high, 4), "n": n,
        "unit": "share", **more, "command": command,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="What the audit finds of planted copies")
    parser.add_argument("folder", type=Path, help="prepared dataset folder of many patients")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--each", type=int, default=23, help="planted pictures of every kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    options = parser.parse_args()
    records = read_folder(options.folder)
    owners = {record.image: record.patient for record in records}
    segmenter = quick_judge(None, device="cpu")
    assert segmenter is not None, "this installation has no vessel segmenter"
    extractor = load_extractor("retina", device="cpu")
    repaint = repainter(segmenter, Painter.load(device="cpu"))
    start = time.perf_counter()
    everything = ImageSet(folder=options.folder, records=records)
    seen = dict(zip(owners, look(everything, segmenter, extractor, jobs=options.jobs), strict=True))
    looked = time.perf_counter() - start
    found: dict[str, list[bool]] = defaultdict(list)
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    alarms: dict[tuple[int, str], bool] = {}
    for number in range(options.rounds):
        part = Round(options.folder, records, seed=options.seed + number)
        with tempfile.TemporaryDirectory() as name:
            plants = plant(
                Path(name), train=part.train, others=part.honest, each=options.each,
                seed=options.seed + number, repaint=repaint,
            )  # fmt: skip
            planted = ImageSet(folder=Path(name), records=[each.record for each in plants])
            shown = look(planted, segmenter, extractor, jobs=options.jobs)
            guilty, honest = part.findings(seen, shown, plants=list(planted.records), jobs=options.jobs)
        for each, finding in zip(plants, guilty, strict=True):
            found[each.kind].append(hit(each, finding, owners))
            verdicts[each.kind][finding.verdict] += 1
        for record, finding in zip(part.honest.records, honest, strict=True):
            key = number, record.patient
            alarms[key] = alarms.get(key, False) or finding.offends
            verdicts["honest"][finding.verdict] += 1
    copies = [value for kind in COPIES for value in found[kind]]
    print(json.dumps(line("audit_planted_recall", sum(copies), len(copies))))
    for kind in KINDS:
        label = kind if kind in COPIES else {"half": "half_copy"}.get(kind, kind)
        name = f"audit_planted_recall_{label}" if kind in COPIES else f"audit_{label}_recall"
        print(json.dumps(line(name, sum(found[kind]), len(found[kind]), verdicts=verdicts[kind])))
    people = len({patient for _, patient in alarms})
    print(
        json.dumps(
            line("audit_false_alarm", sum(alarms.values()), len(alarms), patients=people,
                 verdicts=verdicts["honest"])
        )
    )  # fmt: skip
    total = time.perf_counter() - start
    print(json.dumps({"name": "audit_seconds", "value": round(total, 1), "looking": round(looked, 1),
                      "images": len(records), "jobs": options.jobs, "unit": "s"}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
