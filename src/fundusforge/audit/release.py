"""`release`: a folder of synthetic images through the gate, to a folder that may be passed on.

    release/
      metadata.jsonl, images/, ...   as in every dataset folder; images that the audit caught are left out
      README.md                      data card
      model-card-<model>.md          one per generator
      release.json                   what the gate checked, terms, models, what was left out
      SHA256SUMS                     of every other file; `sha256sum -c` reads it

The audit itself is not in it: it names training images. Everything is written aside and renamed at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fundusforge import __version__
from fundusforge.audit.cards import data_card, model_card, sizes_of
from fundusforge.audit.digests import copy, metadata_sha256, sha256
from fundusforge.audit.findings import AUDIT, Audit, read_audit
from fundusforge.audit.gate import Candidate, Check, gate
from fundusforge.audit.parents import known_parents, read_mark
from fundusforge.audit.scorecard import Evidence
from fundusforge.audit.stage import QUARANTINE
from fundusforge.audit.terms import Inherited, Level
from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.evaluate.figures import RESULTS, Results, read_results
from fundusforge.evaluate.subgroups import Subgroup, subgroups
from fundusforge.records import DatasetError, Record, read_folder, write_metadata, write_text

RELEASE, SUMS, CARD = "release.json", "SHA256SUMS", "README.md"
SCHEMA = 1
"""Version of the content of `release.json`; raised when a field changes its meaning or goes."""


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """What to release, and how strict to be."""

    synthetic: Path
    """Dataset folder of synthetic images."""
    audit: Path
    """`audit.json` of exactly this folder, or the folder that holds it."""
    out: Path
    """Folder to write; must not exist, or be empty."""
    models: tuple[Path, ...] = ()
    """Runs or weights that painted the images; embedded ones are known."""
    train: Sequence[Path] = ()
    """The audited folders of training images, all of them, if one has moved since."""
    results: Path | None = None
    """`results.json` of this folder, or the folder that holds it, for the cards."""
    at_most: Level = "unknown"
    """Strictest terms that the release may inherit; stricter ones refuse it."""
    tolerance: float = 0.05
    """Area above its control's that an attack of membership inference may be proven to have."""
    draws: int = 1000
    """Bootstrap draws of the figures by subgroup."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 0 <= self.tolerance <= 0.5:
            raise ValueError(f"tolerance must be between 0 and 0.5, not {self.tolerance}")
        if self.draws < 100:
            raise ValueError(f"draws must be at least 100, not {self.draws}")


@dataclass(frozen=True, kw_only=True)
class Release:
    """The content of `release.json`."""

    schema: int = SCHEMA
    images: int
    left_out: dict[str, str]
    """Images of the audited folder that are not here, and the audit's verdict on them."""
    terms: Inherited
    models: dict[str, str]
    """Models that painted the images, by name, and their families."""
    checks: tuple[Check, ...]
    metadata_sha256: str
    """Of the released `metadata.jsonl`."""
    audited_sha256: str
    """Of the `metadata.jsonl` that was audited."""
    audit_sha256: str
    """Of `audit.json`, which stays behind because it names training images."""
    version: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the gate refused for; nothing for a release."""
        return tuple(f"{check.name}: {check.detail}" for check in self.checks if not check.passed)


def release(config: ReleaseConfig, *, progress: Callable[[str], Any] | None = None) -> Release:
    """Check a folder and, if nothing is wrong with it, write the release.

    Args:
        config: Folders and strictness.
        progress: Called with a line of text as the work goes on.

    Returns:
        What was or would have been released: if `reasons` are not empty, nothing was written.

    Raises:
        DatasetError: A broken folder, no audit, something at `out` already, or a picture that changes while
            it is copied.
        CheckpointError: A named model is broken.
        ConfigError: `audit.json` or `results.json` cannot be read.
        OSError: The release cannot be written.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise DatasetError(f"{config.out}: exists already; a release is written to a new folder")
    path = _file(config.audit, AUDIT, "`fundusforge audit` makes it")
    audit = read_audit(path)
    candidate = Candidate(
        folder=config.synthetic,
        records=read_folder(config.synthetic),
        audit=audit,
        parents=known_parents(config.models),
        training=config.train or [path.parent / each.folder for each in audit.train.folders],
        quarantine=path.parent / QUARANTINE,
        results=_results(config),
    )
    if progress:
        progress(f"checking {len(candidate.records)} images")
    found = Release(
        images=len(candidate.kept),
        left_out={name: finding.verdict for name, finding in sorted(candidate.left_out.items())},
        terms=candidate.terms,
        models={name: parent.family if parent else "unknown" for name, parent in candidate.models.items()},
        checks=gate(candidate, at_most=config.at_most, tolerance=config.tolerance),
        metadata_sha256="",
        audited_sha256=audit.synthetic.metadata_sha256,
        audit_sha256=sha256(path),
        version=__version__,
    )
    return found if found.reasons else _write(candidate, found, config)


def _file(path: Path, name: str, hint: str) -> Path:
    file = path if path.suffix == ".json" else path / name
    if not file.is_file():
        raise DatasetError(f"{file}: no such file; {hint}")
    return file


def _results(config: ReleaseConfig) -> Results | None:
    if config.results is None:
        return None
    return read_results(_file(config.results, RESULTS, "`fundusforge evaluate` makes it"))


def _write(candidate: Candidate, found: Release, config: ReleaseConfig) -> Release:
    """Write everything aside, then rename."""
    out = config.out
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        records = [replace(record, terms=found.terms.text) for record in candidate.kept]
        audited = {finding.image: finding.sha256 for finding in candidate.audit.findings}
        for record in records:
            for what, name in record.files().items():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                copy(candidate.folder / name, aside / name, expected=audited[record.image][what])
        write_metadata(aside, records)
        found = replace(found, metadata_sha256=metadata_sha256(aside))
        write_text(aside / RELEASE, to_json(found) + "\n")
        _write_cards(aside, candidate, found, config)
        sums = "".join(f"{sha256(aside / name)}  {name}\n" for name in _files(aside))
        write_text(aside / SUMS, sums)
        with suppress(FileNotFoundError):
            out.rmdir()  # an empty one; Windows renames over no folder
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return found


def _write_cards(folder: Path, candidate: Candidate, found: Release, config: ReleaseConfig) -> None:
    figures = candidate.results.figures if candidate.results else None
    evidence = Evidence(
        records=candidate.kept, figures=figures, audit=candidate.audit, checks=found.checks,
        subgroups=audit_subgroups(candidate.audit, candidate.kept, seed=config.seed, draws=config.draws),
    )  # fmt: skip
    sizes = sizes_of(folder, [record.image for record in candidate.kept])
    card = data_card(config.out.resolve().name, evidence, terms=found.terms, sizes=sizes, version=__version__)
    write_text(folder / CARD, card)
    for name, parent in candidate.models.items():
        if parent is not None:
            text = model_card(parent, audit=candidate.audit, figures=figures)
            write_text(folder / f"model-card-{name}.md", text)


def audit_subgroups(audit: Audit, records: list[Record], *, seed: int, draws: int) -> tuple[Subgroup, ...]:
    """Return, by subgroup, the mean of what the audit measured of each image: its largest excess."""
    excess = {each.image: max((x.excess for x in each.likeness), default=np.nan) for each in audit.findings}
    values = np.array([excess.get(record.image, np.nan) for record in records], np.float64)
    return subgroups({"likeness_to_training": values}, records, seed=seed, draws=draws)


def _files(folder: Path) -> list[str]:
    """Every file of a folder, by its path with forward slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def verify(folder: Path) -> list[str]:
    """Check a release again: every hash, no file more or less, every mark.

    Returns:
        What is wrong; nothing if all is well.

    Raises:
        DatasetError: The folder is no release.
    """
    if not (folder / SUMS).is_file():
        raise DatasetError(f"{folder}: no release (it has no {SUMS})")
    faults: list[str] = []
    expected = dict(_sums(folder, faults))
    there = set(_files(folder)) - {SUMS}
    faults += [f"{name}: missing" for name in sorted(expected.keys() - there)]
    faults += [f"{name}: not of this release" for name in sorted(there - expected.keys())]
    for name in sorted(there & expected.keys()):
        path = folder / name
        if path.is_symlink() or sha256(path) != expected[name]:
            faults.append(f"{name}: changed since the release")
    try:
        faults += _record_faults(folder)
    except (DatasetError, ConfigError, OSError) as error:
        faults.append(str(error))
    return faults


def _sums(folder: Path, faults: list[str]) -> Iterable[tuple[str, str]]:
    for number, line in enumerate((folder / SUMS).read_text("utf-8").splitlines(), 1):
        digest, gap, name = line.partition("  ")
        if len(digest) != 64 or not gap or not name:
            faults.append(f"{SUMS}:{number}: not a hash and a file name")
        else:
            yield name, digest


def _record_faults(folder: Path) -> list[str]:
    told = from_json(Release, (folder / RELEASE).read_text("utf-8"), where=str(folder / RELEASE))
    faults = [f"{RELEASE}: {reason}" for reason in told.reasons]
    records = read_folder(folder)
    if (told.images, told.metadata_sha256) != (len(records), metadata_sha256(folder)):
        faults.append(f"{RELEASE}: does not belong to the metadata beside it")
    for record in records:
        mark = read_mark(folder / record.image)
        found = mark.faults(record.provenance.model if record.provenance else "")
        found += [] if record.synthetic else ["its metadata do not say synthetic"]
        if record.structure_from_patient or mark.text.get("structure_from_patient") == "true":
            found.append("it shows a patient's own structure")
        faults += [f"{record.image}: {'; '.join(found)}"] if found else []
    return faults
