"""What `fundusforge evaluate` hands to the metrics: judge, extractor, and whom the generator knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fundusforge import weights
from fundusforge.annotate.segmenter import Segmenter, patient_digest
from fundusforge.cli.command import say
from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.extractors import has_retina, load_extractor
from fundusforge.evaluate.features import Extractor
from fundusforge.records import DatasetError, Record, read_folder
from fundusforge.training.checkpoint import model_file, read_metadata

NONE = Path("none")
"""What is named instead of a segmenter where no segmenter shall read."""


def judge(
    path: Path | None, *, folders: Sequence[Path], mask: str = "vessels", device: str = "auto"
) -> Judge | None:
    """Return a segmenter of one structure as the metrics see it.

    Models store digests of their patients. The judge gets these, and beside them the patients of `folders`
    to whom they belong by the names that stand in the records.

    Args:
        path: A run or a file of weights; the embedded segmenter if None, no segmenter if `NONE`.
        folders: The dataset folders to be judged.
        mask: The structure.
        device: Where it runs.

    Returns:
        The judge; None if none is wanted, or no segmenter is named and this installation has none.

    Raises:
        CheckpointError, ConfigError, DatasetError: Broken or unfit weights, or a broken folder.
    """
    embedded = any(one.family == "unet" and mask in one.masks for one in weights.catalogue())
    if path == NONE or (path is None and not embedded):
        return None
    segmenter = Segmenter.load(path or weights.judge(mask), masks=(mask,), device=device)
    if mask not in segmenter.config.masks:
        raise DatasetError(f"{path}: finds {', '.join(segmenter.config.masks)}, not {mask}")
    return Judge(
        name=segmenter.name,
        segment=partial(segmenter.probability, mask=mask),
        threshold=segmenter.threshold_of(mask),
        patients=_named(segmenter.patients, folders) if segmenter.patients else None,
    )


def disc_judge(
    path: Path | None, *, folders: Sequence[Path], generator: frozenset[str] | None, device: str = "auto"
) -> Judge | None:
    """Return a segmenter of the disc as the metrics see it; see `judge`.

    The embedded one is left out, and standard error says so, if it shares patients with the generator:
    nobody asked for it. One that was named is refused later, as a segmenter of vessels is.

    Args:
        path: See `judge`.
        folders: The dataset folders to be judged.
        generator: Digests of the patients whom the generator knows; None if it is silent.
        device: Where it runs.
    """
    found = judge(path, folders=folders, mask="disc", device=device)
    if found and path is None and (shared := (found.patients or frozenset()) & (generator or frozenset())):
        say(
            f"{found.name} shares {len(shared)} patients with the generator, so it does not read the disc; "
            "name another with --disc-segmenter"
        )
        return None
    return found


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
    stored = read_metadata(file).get("patients")
    return frozenset(json.loads(stored)) if stored else None


def _embedded(records: Sequence[Record]) -> Path | None:
    """The embedded weights that made all of the images, if any did."""
    models = {record.provenance.model if record.provenance else "" for record in records}
    named = {weights.name_of(one.path): one.path for one in weights.catalogue()}
    return named.get(models.pop()) if len(models) == 1 else None
