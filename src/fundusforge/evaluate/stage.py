"""The stage itself: two dataset folders in, `results.json` out."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fundusforge import __version__
from fundusforge.evaluate import (
    agreement,
    amount,
    atlas,
    coverage,
    diversity,
    frechet,
    kernel,
    lpips,
    mind,
    msssim,
    probe,
    ssim,
    subgroups,
    swd,
)
from fundusforge.evaluate.anatomy import population
from fundusforge.evaluate.evidence import Evidence, ImageSet, Judge
from fundusforge.evaluate.features import Extractor
from fundusforge.evaluate.figures import RESULTS, Atlas, Figure, FolderSummary, JudgeSummary, Results
from fundusforge.prepare.split import check_splits
from fundusforge.records import METADATA, DatasetError, Record, Split, read_folder
from fundusforge.weights import sha256

Metric = Literal[
    "agreement", "amount", "anatomy", "probe", "ssim", "msssim", "diversity", "lpips", "swd", "frechet",
    "kernel", "mind", "coverage",
]  # fmt: skip
METRICS: dict[Metric, Callable[[Evidence], list[Figure]]] = {
    "agreement": agreement.figures,
    "amount": amount.figures,
    "anatomy": population.figures,
    "probe": probe.figures,
    "ssim": ssim.figures,
    "msssim": msssim.figures,
    "diversity": diversity.figures,
    "lpips": lpips.figures,
    "swd": swd.figures,
    "frechet": frechet.figures,
    "kernel": kernel.figures,
    "mind": mind.figures,
    "coverage": coverage.figures,
}
"""Every metric: adding one is a file with such a function, and a line here."""
_FEW = 30
"""Patients below which a set is called small."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to judge, and how."""

    synthetic: Path
    """Dataset folder to judge."""
    against: Path
    """Dataset folder of real images."""
    out: Path
    """Folder for `results.json`."""
    metrics: tuple[Metric, ...] = tuple(METRICS)
    splits: tuple[Split, ...] = ()
    """Splits of the real folder to compare with; all by default. Held-out ones are the honest choice."""
    max_images: int = 1000
    """Most images of each folder; a seeded draw beyond that."""
    size: int = 512
    """Side in pixels at which pictures are compared pixel by pixel."""
    reference: str | None = None
    """Real image (as named in its metadata) for the similarity to one reference; the first by default."""
    lpips: Path | None = None
    """Weights of the perceptual distance LPIPS (safetensors)."""
    margin: float = 0.2
    """Largest standardised difference that counts as equivalent."""
    draws: int = 1000
    """Bootstrap draws."""
    floor_repeats: int = 100
    """Random halves of the real patients for the floor."""
    subgroups: bool = True
    """Give figures by age band, sex, eye, camera, source and grade too."""
    atlas: bool = True
    """List the least and the most plausible images."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name, low in (("max_images", 1), ("size", 32), ("draws", 100), ("floor_repeats", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 < self.margin < 10:
            raise ValueError(f"margin must be between 0 and 10 standard deviations, not {self.margin}")


def evaluate(
    config: EvaluateConfig,
    *,
    judge: Judge | None = None,
    judges: Mapping[str, Judge] | None = None,
    generator_patients: Collection[str] | None = None,
    extractor: Extractor | None = None,
    cache: Path | None = None,
    command: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Results:
    """Judge a folder of synthetic images against a folder of real ones and write `results.json`.

    Args:
        config: Folders and settings.
        judge: The vessel segmenter that re-reads the images; figures that need one say so if it is None.
        judges: Segmenters of further structures by the name of the mask, such as `disc`.
        generator_patients: Patients the generator was trained on, if known, to prove the judge independent.
        extractor: Turns pictures into vectors; figures that compare sets by them say so if it is None.
        cache: Folder that keeps these vectors; None keeps them for this evaluation alone.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, patients in two splits, real and synthetic folders swapped, or a judge
            that was trained on the generator's patients.
    """
    synthetic = _read(config.synthetic, (), config, place=0)
    real = _read(config.against, config.splits, config, place=1)
    check_splits((config.synthetic, synthetic.records), (config.against, real.records))
    if fake := sum(record.synthetic for record in real.records):
        raise DatasetError(
            f"{config.against}: {fake} of {len(real)} images are synthetic; figures need real ones "
            "to stand against (were the two folders swapped?)"
        )
    shared = agreement.check_judge(judge, generator_patients) if judge else "unknown"
    further = {
        mask: _judged(one, agreement.check_judge(one, generator_patients))
        for mask, one in (judges or {}).items()
    }
    unproven = [mask for mask, one in further.items() if one.shared_with_generator == "unknown"]
    unproven = ["vessels", *unproven] if judge and shared == "unknown" else unproven
    evidence = Evidence(
        synthetic=synthetic, real=real, judge=judge, judges=judges or {}, size=config.size,
        margin=config.margin, reference=config.reference, seed=config.seed, draws=config.draws,
        repeats=config.floor_repeats, extractor=extractor, cache=cache, progress=progress,
    )  # fmt: skip
    found = [figure for metric in dict.fromkeys(config.metrics) for figure in METRICS[metric](evidence)]
    results = Results(
        subgroups=subgroups.of_evidence(evidence) if config.subgroups else (),
        atlas=atlas.atlas(evidence) if config.atlas else Atlas(),
        synthetic=summary(synthetic, config.out),
        against=summary(real, config.out),
        judge=_judged(judge, shared) if judge else None,
        judges=further,
        figures=tuple(found),
        warnings=_warnings(synthetic, real, unproven, generator_patients),
        settings=_settings(config),
        command=command or _command(config),
        version=__version__,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    results.write(config.out / RESULTS)
    return results


def _read(folder: Path, splits: Sequence[Split], config: EvaluateConfig, *, place: int) -> ImageSet:
    """Read a folder; beyond `max_images`, keep a seeded draw in the folder's order."""
    records = read_folder(folder, splits=splits or None)
    if len(records) > config.max_images:
        drawn = np.random.default_rng([config.seed, place]).permutation(len(records))[: config.max_images]
        records = [records[index] for index in sorted(int(index) for index in drawn)]
    return ImageSet(folder=folder, records=records)


def summary(images: ImageSet, out: Path) -> FolderSummary:
    """Return what a set holds; its folder is named relative to `out`."""
    made = [record for record in images.records if record.synthetic]
    return FolderSummary(
        folder=Path(os.path.relpath(images.folder, out)).as_posix(),
        images=len(images),
        patients=len(set(images.patients)),
        synthetic=len(made),
        structure_from_patient=sum(record.structure_from_patient for record in images.records),
        sources=dict(sorted(Counter(record.source for record in images.records).items())),
        models=dict(sorted(Counter(r.provenance.model for r in made if r.provenance).items())),
        conditions=dict(sorted(Counter(_condition(record) for record in made).items())),
        terms=tuple(sorted({record.terms for record in images.records if record.terms})),
        metadata_sha256=sha256(images.folder / METADATA),
    )


def _condition(record: Record) -> str:
    if record.provenance is None:
        return "unknown"
    return "phantom" if record.provenance.condition.startswith("phantom") else "record"


def _judged(judge: Judge, shared: Literal["none", "unknown"]) -> JudgeSummary:
    return JudgeSummary(
        name=judge.name,
        threshold=judge.threshold,
        training_patients=None if judge.patients is None else len(judge.patients),
        shared_with_generator=shared,
    )


def _warnings(
    synthetic: ImageSet, real: ImageSet, unproven: Sequence[str], generator: Collection[str] | None
) -> tuple[str, ...]:
    found: list[str] = []
    records = synthetic.records
    if shaped := sum(record.structure_from_patient for record in records):
        found.append(
            f"{shaped} of {len(records)} images were painted on a patient's own mask "
            "(structure_from_patient). A vessel tree is a biometric: treat them as patient data."
        )
    if plain := sum(not record.synthetic for record in records):
        found.append(f"{plain} of {len(records)} images to be judged are not marked synthetic.")
    if lost := sum(record.synthetic and record.provenance is None for record in records):
        found.append(f"{lost} synthetic images carry no provenance.")
    for images, what in ((synthetic, "synthetic"), (real, "real")):
        if (patients := len(set(images.patients))) < _FEW:
            found.append(f"The {what} set is small ({len(images)} images of {patients} patients).")
    if unproven:
        found.append(
            f"It is unknown whether the segmenter of {' and of '.join(unproven)} shares training patients "
            "with the generator; if it does, agreement is overstated."
        )
    if generator is not None and (seen := {r.patient for r in real.records} & frozenset(generator)):
        found.append(f"{len(seen)} real patients compared with were in the generator's training set.")
    return tuple(found)


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings without paths: summaries name the folders, figures the weights."""
    plain = {k: v for k, v in asdict(config).items() if k not in {"synthetic", "against", "out", "lpips"}}
    return plain | {"metrics": list(config.metrics), "splits": list(config.splits)}


def _command(config: EvaluateConfig) -> str:
    parts = ["fundusforge", "evaluate", str(config.synthetic), "--against", str(config.against)]
    return shlex.join([*parts, "--out", str(config.out), "--seed", str(config.seed)])
