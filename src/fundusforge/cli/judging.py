"""What `fundusforge evaluate` hands to the metrics: judge, extractor, and whom the generator knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fundusforge import weights
from fundusforge.annotate.vessels import Segmenter, patient_digest
from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.extractors import has_retina, load_extractor
from fundusforge.evaluate.features import Extractor
from fundusforge.records import Record, read_folder
from fundusforge.training.checkpoint import load_model, model_file


def judge(path: Path | None, *, folders: Sequence[Path], device: str = "auto") -> Judge | None:
    """Return a vessel segmenter as the metrics see it.

    Models store digests of their patients. The judge gets these, and beside them the patients of `folders`
    to whom they belong by the names that stand in the records.

    Args:
        path: A run or a file of weights; the embedded segmenter if None.
        folders: The dataset folders to be judged.
        device: Where it runs.

    Returns:
        The judge; None if no segmenter is named and this installation has none.

    Raises:
        CheckpointError, ConfigError, DatasetError: Broken or unfit weights, or a broken folder.
    """
    if path is None and not any(one.family == "unet" for one in weights.catalogue()):
        return None
    segmenter = Segmenter.load(path, device=device)
    return Judge(
        name=segmenter.name,
        segment=segmenter.probability,
        threshold=segmenter.threshold,
        patients=_named(segmenter.patients, folders) if segmenter.patients else None,
    )


def extractor(
    name: str | None, file: Path | None, *, device: str = "auto", seed: int = 0
) -> Extractor | None:
    """Return what turns images into vectors: the embedded one of retinas unless another is named.

    Args:
        name: See `fundusforge.evaluate.extractors`.
        file: Its weights.
        device: Where it runs.
        seed: Of an extractor with random weights.

    Returns:
        The extractor; None if nothing is named and this installation has none.

    Raises:
        ConfigError, CheckpointError: An unknown name, or weights that are missing or unfit.
    """
    if name is None and file is None and not has_retina():
        return None
    return load_extractor(name or "retina", weights=file, device=device, seed=seed)


def _named(digests: frozenset[str], folders: Sequence[Path]) -> frozenset[str]:
    """Digests, and the names of those patients of the folders that have one of them."""
    names = {record.patient for folder in folders for record in read_folder(folder, check_files=False)}
    return digests | {name for name in names if patient_digest(name) in digests}


def generator_patients(path: Path | None, folder: Path) -> frozenset[str] | None:
    """Return digests of the patients whom the generator of a folder's images knows; None if it is silent.

    Args:
        path: The generator; None looks among the embedded ones for the one that the images name.
        folder: Dataset folder of synthetic images.
    """
    file = model_file(path) if path else _embedded(read_folder(folder, check_files=False))
    if file is None:
        return None
    stored = load_model(file, kind="pix2pix")[1].get("patients")
    return frozenset(json.loads(stored)) if stored else None


def _embedded(records: Sequence[Record]) -> Path | None:
    """The embedded weights that made all of the images, if any did."""
    models = {record.provenance.model if record.provenance else "" for record in records}
    named = {weights.name_of(one.path): one.path for one in weights.catalogue()}
    return named.get(models.pop()) if len(models) == 1 else None
