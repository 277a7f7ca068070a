"""The release gate: what must be true of a folder of synthetic images before it may be passed on.

Every check says what it looked at, whether it passed or not, so that the list can be read as the reasons of a
refusal and as the record of a release. Images that the audit found too like a training image are left out;
every other fault concerns how the folder was made, and stops the release as a whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from fundusforge.annotate.segmenter import known_patients
from fundusforge.audit.digests import digests, metadata_sha256
from fundusforge.audit.findings import Audit, Finding
from fundusforge.audit.membership import leaks
from fundusforge.audit.parents import Parent, read_mark
from fundusforge.audit.terms import LEVELS, Inherited, Level, strictest
from fundusforge.evaluate.figures import Results
from fundusforge.records import METADATA, DatasetError, Record, Split, read_folder, to_line

Name = Literal[
    "audit", "pictures", "memorised", "marks", "structure", "parents", "training data", "membership", "terms",
    "figures",
]  # fmt: skip
_SHOWN = 5
"""Most images named in one line."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition and what was found."""

    name: Name
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A folder that asks for release, with everything the gate looks at."""

    folder: Path
    records: Sequence[Record]
    audit: Audit
    parents: Mapping[str, Parent]
    """Known models by the digits of their weights."""
    training: Sequence[Path]
    """Where the folders of training images that the audit compared with are now, in any order."""
    quarantine: Path | None = None
    """The folder into which the audit moved images."""
    results: Results | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the metadata."""
        return metadata_sha256(self.folder)

    @cached_property
    def audited(self) -> bool:
        """Whether the audit is of exactly this folder, images that it moved aside put back.

        The stage writes metadata in one way only, so the lines of what stayed and of what was moved, in the
        order of the findings, are the file that was audited.
        """
        wanted, moved = self.audit.synthetic.metadata_sha256, set(self.audit.quarantined)
        if self.sha256 == wanted or not moved or self.quarantine is None:
            return self.sha256 == wanted
        if not (self.quarantine / METADATA).is_file():
            return False
        aside = read_folder(self.quarantine, check_files=False)
        records = {record.image: record for record in self.records}
        records |= {record.image: record for record in aside if record.image in moved}
        order = [finding.image for finding in self.audit.findings]
        if set(order) != records.keys():
            return False
        text = "".join(to_line(records[name]) + "\n" for name in order)
        return hashlib.sha256(text.encode()).hexdigest() == wanted

    @cached_property
    def left_out(self) -> dict[str, Finding]:
        """Images that the audit found too like a training image, with what was found."""
        return {found.image: found for found in self.audit.findings if found.offends}

    @cached_property
    def kept(self) -> list[Record]:
        """Records of the images that would be released."""
        out = self.left_out
        return [record for record in self.records if record.image not in out]

    @cached_property
    def models(self) -> dict[str, Parent | None]:
        """Models that painted the images that would be released, by the name in their records."""
        names = sorted({record.provenance.model for record in self.kept if record.provenance})
        return {name: self.parents.get(name.rpartition("-")[2]) for name in names}

    @cached_property
    def terms(self) -> Inherited:
        """Terms that the release inherits.

        Of all that the models say they learnt from, of the training folders that were audited, and of the
        records themselves.
        """
        learnt = [text for parent in self.models.values() if parent for text in parent.terms]
        return strictest([*learnt, *self.audit.train.terms, *{record.terms for record in self.kept}])


def gate(candidate: Candidate, *, at_most: Level = "unknown", tolerance: float = 0.05) -> tuple[Check, ...]:
    """Check everything; none of the checks stops the others.

    Args:
        candidate: What asks for release.
        at_most: The strictest terms that may be inherited.
        tolerance: Area above the control's, in membership inference, that may be proven without refusal.
    """
    return (
        _audit(candidate),
        _pictures(candidate),
        _memorised(candidate),
        _marks(candidate),
        _structure(candidate),
        _parents(candidate),
        _training(candidate),
        _membership(candidate, tolerance),
        _terms(candidate, at_most),
        _figures(candidate),
    )


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _audit(candidate: Candidate) -> Check:
    audited = {finding.image for finding in candidate.audit.findings}
    missing = [record.image for record in candidate.records if record.image not in audited]
    if not candidate.audited:
        detail = (
            "the audit is of another folder, or the metadata have changed since: audited "
            f"{candidate.audit.synthetic.metadata_sha256[:12]}, found {candidate.sha256[:12]}"
        )
    elif missing:
        detail = f"the audit did not look at {len(missing)} images: {_named(missing)}"
    else:
        found, train, holdout = len(audited), candidate.audit.train, candidate.audit.holdout
        detail = (
            f"{found} images against {train.images} training images of {train.patients} patients "
            f"({', '.join(train.sources)}); chance from {holdout.images} images of {holdout.patients} "
            f"held-out patients ({', '.join(holdout.sources)})"
        )
        return Check(name="audit", passed=True, detail=detail)
    return Check(name="audit", passed=False, detail=detail)


def _pictures(candidate: Candidate) -> Check:
    """Metadata alone would not tell that a picture was swapped."""
    audited = {finding.image: finding.sha256 for finding in candidate.audit.findings}
    changed: list[str] = []
    for record in candidate.kept:
        known, found = audited.get(record.image, {}), digests(candidate.folder, record)
        if other := [what for what, sha256 in found.items() if known.get(what) != sha256]:
            changed.append(f"{record.image} ({', '.join(other)})")
    detail = (
        f"{len(changed)} images are not those that were audited: {', '.join(changed)}"
        if changed
        else "every picture and every mask is the file that was audited"
    )
    return Check(name="pictures", passed=not changed, detail=detail)


def _memorised(candidate: Candidate) -> Check:
    counts = Counter(finding.verdict for finding in candidate.left_out.values())
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "none"
    detail = f"{len(candidate.kept)} images kept; left out: {told}"
    return Check(name="memorised", passed=bool(candidate.kept), detail=detail)


def _marks(candidate: Candidate) -> Check:
    faults: list[str] = []
    for record in candidate.kept:
        found = [] if record.synthetic else ["its metadata do not say synthetic"]
        model = record.provenance.model if record.provenance else ""
        try:
            found += read_mark(candidate.folder / record.image).faults(model)
        except DatasetError as error:
            found.append(str(error))
        faults += [f"{record.image} ({'; '.join(found)})"] if found else []
    if faults:
        return Check(name="marks", passed=False, detail=f"{len(faults)} images lack marks: {_named(faults)}")
    return Check(
        name="marks", passed=True, detail="every image is marked synthetic in metadata and in its file"
    )


def _structure(candidate: Candidate) -> Check:
    """A file may remember what edited metadata deny."""
    shaped: list[str] = []
    for record in candidate.kept:
        inside = False
        try:
            said = read_mark(candidate.folder / record.image).text
            inside = said.get("structure_from_patient") == "true"
        except DatasetError:
            pass
        if record.structure_from_patient or inside:
            shaped.append(record.image)
    detail = (
        f"{len(shaped)} images show a patient's own vessel tree, which is a biometric: {_named(shaped)}"
        if shaped
        else "no image was painted on a patient's mask"
    )
    return Check(name="structure", passed=not shaped, detail=detail)


def _parents(candidate: Candidate) -> Check:
    orphans = [record.image for record in candidate.kept if record.provenance is None]
    if orphans:
        detail = f"{len(orphans)} images have no provenance: {_named(orphans)}"
        return Check(name="parents", passed=False, detail=detail)
    faults = []
    for name, found in candidate.models.items():
        if found is None:
            faults.append(f"{name} is neither embedded nor named by --models")
        elif not found.terms or not found.patients:
            lacking = "terms" if not found.terms else "patients"
            faults.append(f"{name} does not say the {lacking} of its training data")
    detail = "; ".join(faults) or _named(
        [f"{name} ({p.family})" for name, p in candidate.models.items() if p]
    )
    return Check(name="parents", passed=not faults, detail=detail)


def _training(candidate: Candidate) -> Check:
    """The audit is worth nothing unless it compared with the images that the models have learnt from."""
    learnt = frozenset[str]().union(*(p.patients for p in candidate.models.values() if p))
    if fault := _training_folders(candidate):
        return Check(name="training data", passed=False, detail=fault)
    splits = cast("list[Split] | None", candidate.audit.settings.get("train_splits") or None)
    there = known_patients(
        record.patient
        for path in candidate.training for record in read_folder(path, splits=splits, check_files=False)
    )  # fmt: skip
    if unseen := len(learnt - there):
        detail = f"the audit did not look at {unseen} of {len(learnt)} patients that the models learnt from"
        return Check(name="training data", passed=False, detail=detail)
    return Check(
        name="training data", passed=True,
        detail=f"the audit looked at all {len(learnt)} patients that the models learnt from",
    )  # fmt: skip


def _training_folders(candidate: Candidate) -> str:
    """Return what keeps the training folders from being those that were audited; nothing if they are."""
    audited = {folder.metadata_sha256 for folder in candidate.audit.train.folders}
    for path in candidate.training:
        if not (path / METADATA).is_file():
            return f"the audited training folder is not at {path}: name it with --train"
        if metadata_sha256(path) not in audited:
            return f"{path} is not the training folder that was audited, or has changed since"
    if missing := len(audited - {metadata_sha256(path) for path in candidate.training}):
        return f"{missing} of {len(audited)} audited training folders are not among those named by --train"
    return ""


def _membership(candidate: Candidate, tolerance: float) -> Check:
    figures = [f for f in candidate.audit.figures if f.name.startswith("membership_")]
    if proven := leaks(figures, tolerance=tolerance):
        detail = "; ".join(f"{f.title}: {f.words()}" for f in proven)
        return Check(name="membership", passed=False, detail=f"training patients can be told: {detail}")
    detail = f"no attack beats its control by more than {tolerance:g}" if figures else "not measured"
    return Check(name="membership", passed=True, detail=detail)


def _terms(candidate: Candidate, at_most: Level) -> Check:
    level = candidate.terms.level
    detail = f"{level} ({candidate.terms.meaning}), from {candidate.terms.text}"
    passed = LEVELS.index(level) <= LEVELS.index(at_most)
    return Check(
        name="terms", passed=passed, detail=detail if passed else f"stricter than {at_most}: {detail}"
    )


def _figures(candidate: Candidate) -> Check:
    if candidate.results is None:
        return Check(name="figures", passed=True, detail="no results.json given; the cards say not measured")
    audited = candidate.audit.synthetic.metadata_sha256
    fits = candidate.results.synthetic.metadata_sha256 in {candidate.sha256, audited}
    detail = f"{len(candidate.results.figures)} figures" if fits else "results.json is of another folder"
    return Check(name="figures", passed=fits, detail=detail)
