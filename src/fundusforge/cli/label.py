"""`fundusforge label`: label a folder from a chart and a small review."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, emit, progress, say

if TYPE_CHECKING:
    from fundusforge.annotate.grades import Grader
    from fundusforge.annotate.labelling import Band
    from fundusforge.records import Record

TRAINED = "classifier.json"
"""How the finished classifier was trained."""
Figures = dict[str, dict[str, float | None]]
"""Figures by name: `value`, `low` and `high`; None where one cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """Label photographs from words of a chart and a small review.

    FOLDER is a dataset folder. Without --reviewed, images to review are drawn, half among those of which
    the chart has a keyword, and written to review.csv; fill in its column `label` with yes or no. With
    --reviewed, these images train a classifier of the finding (7:1:2 by patient), which sorts the rest: sure
    images get the label, marked as predicted, unsure ones get none and stand in a new review.csv, the most
    uncertain first. Filled in, that is given back beside the older ones. What a person said is never
    replaced. A run that was interrupted goes on where it stopped.

    Examples:
      fundusforge label data/clinic --finding erm --chart chart.csv --keywords "erm, macular pucker" --out r0
      fundusforge label data/clinic --finding erm --reviewed r0/review.csv --out r1
      fundusforge label data/clinic --finding erm --reviewed r0/review.csv r1/review.csv --out r2
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder."""
    finding: str
    """Finding of the whole image: epiretinal_membrane, laser_marks, or any other label."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Folder to write: review.csv, and with --reviewed the labelled dataset folder."""
    reviewed: Annotated[tuple[Path, ...], arg(metavar="FILE ...")] = ()
    """Reviews: CSV files with the columns image and label."""
    chart: Annotated[Path | None, arg(metavar="FILE")] = None
    """Chart: CSV with a column `file` or `patient`, and one `keywords` or `text`; visit and eye if known."""
    keywords: tuple[str, ...] = ()
    """Words that make an image of the chart a candidate; several, or separated by commas."""
    exclude: tuple[str, ...] = ()
    """Words that keep it from being one."""
    draw: int = 100
    """Without --reviewed, images to draw among the candidates, and as many among the others."""
    preset: Literal["findings", "kim"] = "findings"
    """Classifier: findings (small, on a CPU) or kim (ResNet-152, ImageNet weights)."""
    size: int | None = None
    """Side in pixels at which the classifier reads photographs; the preset's if left out."""
    stop_after: Annotated[str, arg(metavar="AMOUNT")] = "6000img"
    """Length of the training, as time (30min) or images (6000img)."""
    certainty: float = 0.95
    """Share of right answers that sure images must reach on the validation images, either side."""
    key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Secret of the patients' hashes, where the chart names patients; as of `fundusforge prepare`."""
    device: str = "auto"
    """Where the classifier runs: auto, cpu, cuda."""
    seed: int = 0
    """Seed of the draw, the split and the training."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Draw images to review, or train, sort and write."""
        if not 0.5 < self.certainty <= 1:
            raise UsageError(f"--certainty must be above 0.5 and at most 1, not {self.certainty}")
        if self.draw < 1:
            raise UsageError(f"--draw must be at least 1, not {self.draw}")
        if bool(self.chart) != bool(self.keywords):
            raise UsageError("--chart and --keywords belong together")
        from fundusforge.annotate.labelling import read_reviews
        from fundusforge.records import DatasetError, read_folder

        if self.out.resolve() == self.folder.resolve():
            raise DatasetError(f"{self.out}: name another folder than that of the photographs")
        records = read_folder(self.folder)
        hits = self._hits(records)
        if not self.reviewed:
            return self._ask(records, hits)
        return self._sort(records, hits, read_reviews(self.reviewed, records))

    def _hits(self, records: list[Record]) -> set[str]:
        """Return the images of which the chart has a keyword."""
        if self.chart is None:
            return set()
        from fundusforge.annotate.labelling import chart_hits
        from fundusforge.prepare.patients import patient_key
        from fundusforge.sources.chart import read_chart, split_words

        rows = read_chart(self.chart)
        key = patient_key(self.key_file) if any(row.patient and not row.file for row in rows) else b""
        words, unwanted = split_words(self.keywords), split_words(self.exclude)
        hits = chart_hits(records, rows, keywords=words, exclude=unwanted, key=key)
        say(f"{len(hits)} of {len(records)} images have a keyword in the chart")
        return hits

    def _ask(self, records: list[Record], hits: set[str]) -> int:
        """Write a list of images to review."""
        from fundusforge.annotate.labelling import REVIEW, draw, write_review
        from fundusforge.records import DatasetError

        path = self.out / REVIEW
        if path.exists():
            raise DatasetError(f"{path}: is there already and may be filled in; name another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        drawn = draw(records, hits, size=self.draw, seed=self.seed)
        write_review(path, [(record.image, None, record.image in hits) for record in drawn])
        chosen = sum(record.image in hits for record in drawn)
        result = {"review": str(path), "candidates": chosen, "others": len(drawn) - chosen}
        text = f"{len(drawn)} images to review in {path} ({chosen} with a keyword)"
        emit(result, f"{text}: fill in yes or no, then give it back with --reviewed", as_json=self.json)
        return DONE

    def _sort(self, records: list[Record], hits: set[str], reviews: dict[str, bool]) -> int:
        """Train on the reviewed images, sort the rest, and print the figures on the reviewed test part."""
        from fundusforge.annotate.files import link_records
        from fundusforge.annotate.grades import Grader
        from fundusforge.annotate.labelling import (
            REVIEW,
            review_lines,
            reviewed_records,
            sort_folder,
            write_review,
        )
        from fundusforge.records import METADATA, DatasetError, finding_label, read_folder, write_metadata

        label = finding_label(self.finding)
        learnt = reviewed_records(records, reviews, label, seed=self.seed)
        training = self.out / "training"
        if (training / METADATA).exists() and read_folder(training) != learnt:
            raise DatasetError(f"{self.out}: was begun with other reviews; name another folder")
        training.mkdir(parents=True, exist_ok=True)
        link_records(learnt, self.folder, training)
        write_metadata(training, learnt)
        run = self._train(training)
        grader = Grader.load(run, device=self.device)
        band, figures = self._judged(grader, learnt, training)
        work = sort_folder(
            self.folder, records, self.out, grader=grader, band=band, reviews=reviews, label=label
        )
        results = list(progress(work, "sorting", total=len(records), quiet=self.quiet))
        unsure = review_lines(results, grader.threshold_of(self.finding), hits)
        write_review(self.out / REVIEW, unsure)
        told = [one.told for one in results if one.probability is not None]
        result = {
            "out": str(self.out), "model": grader.name, "start": grader.start, "reviewed": len(learnt),
            "yes": told.count(True), "no": told.count(False), "unsure": len(unsure),
            "review": str(self.out / REVIEW), "sure_from": band.high if band.high <= 1 else None,
            "sure_up_to": band.low if band.low >= 0 else None, "test": figures,
        }  # fmt: skip
        emit(result, f"{_sentence(figures)}; {_counted(result)}", as_json=self.json)
        return DONE

    def _train(self, training: Path) -> Path:
        """Train the classifier of the finding, or go on with it; return its run folder."""
        from fundusforge.cli.fitting import fit_whole
        from fundusforge.models import LOOPS, PRESETS
        from fundusforge.models.classifier import ClassifierConfig
        from fundusforge.records import DatasetError, write_text
        from fundusforge.training.run import LoopConfig

        config = cast(ClassifierConfig, PRESETS["classifier"][self.preset][1])
        config = replace(config, targets=(self.finding,), size=self.size or config.size)
        settings = cast(dict[str, Any], LOOPS["classifier"])
        loop = replace(LoopConfig(**settings), stop_after=self.stop_after, seed=self.seed, device=self.device)
        run, note = self.out / "classifier", self.out / TRAINED
        settings = {"finding": self.finding, "preset": self.preset, "size": config.size}
        settings |= {"stop_after": self.stop_after, "seed": self.seed}
        if note.exists():
            if json.loads(note.read_text("utf-8")) != settings:
                raise DatasetError(f"{note}: the classifier was trained otherwise; name another folder")
            return run
        fit_whole(config, [training], run, loop=loop, quiet=self.quiet)
        write_text(note, json.dumps(settings, indent=2) + "\n")
        return run

    def _judged(self, grader: Grader, learnt: list[Record], training: Path) -> tuple[Band, Figures]:
        """Choose the band on the validation part; return it and the figures on the test part."""
        import numpy as np

        from fundusforge.annotate.labelling import choose_band, probability
        from fundusforge.evaluate.classification import finding_statistics, measure

        parts = {name: [r for r in learnt if r.split == name] for name in ("val", "test")}
        said = {
            name: np.array([probability(grader, training, record) for record in part])
            for name, part in parts.items()
        }
        there = {
            name: np.array([not record.labels[0].startswith("no_") for record in part])
            for name, part in parts.items()
        }
        band = choose_band(said["val"], there["val"], certainty=self.certainty)
        if not parts["test"]:
            return band, {}
        threshold = grader.threshold_of(self.finding)
        statistics = finding_statistics(said["test"], there["test"].astype(int), threshold=threshold)
        found = measure(statistics, [record.patient for record in parts["test"]], seed=self.seed)
        figures: Figures = {
            name: {"value": one.value, "low": one.interval.low, "high": one.interval.high}
            for name, one in found.items()
        }
        figures["n"] = {"value": float(len(parts["test"]))}
        return band, figures


def _sentence(figures: Figures) -> str:
    """Return the figures in words."""
    parts: list[str] = []
    for name in ("auc", "accuracy", "sensitivity", "specificity"):
        one = figures.get(name, {})
        if (value := one.get("value")) is None:
            parts.append(f"{name} not known")
            continue
        low, high = one.get("low"), one.get("high")
        parts.append(
            f"{name} {value:.3f}"
            + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")
        )
    return ", ".join(parts)


def _counted(result: dict[str, Any]) -> str:
    """Return in words what became of the images that nobody reviewed."""
    return (
        f"{result['yes']} images sorted as yes, {result['no']} as no, {result['unsure']} unsure ones to "
        f"review in {result['review']}"
    )
