"""Training, validation and test: by patient, never by image; stratified; a function of the seed alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusforge.records import DatasetError, Record, Split


@dataclass(frozen=True, kw_only=True)
class Member:
    """One picture, as far as the split is concerned."""

    patient: str
    label: str = ""
    """What to stratify by."""
    publisher: Split | None = None
    """The publisher's split, where it is to be respected."""


def groups_of(patients: Iterable[str], together: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Return each patient's group: a name shared by patients who must not be parted.

    Args:
        patients: All patients.
        together: Pairs of patients who share a picture.
    """
    leader = {patient: patient for patient in patients}

    def find(patient: str) -> str:
        while leader[patient] != patient:
            patient = leader[patient]
        return patient

    for one, other in together:
        a, b = sorted((find(one), find(other)))
        leader[b] = a
    return {patient: find(patient) for patient in leader}


def assign(
    members: Sequence[Member], *, val: float, test: float, seed: int, together: Iterable[tuple[str, str]] = ()
) -> dict[str, Split]:
    """Assign every patient to a split.

    Patients are sorted by their rarest label, then by a keyed digest, and every so-manieth goes to `test` and
    to `val`: every label is spread evenly, and a patient's place depends neither on the order of the pictures
    nor on their number of them. A fraction above zero gets at least one patient if two or more are left for
    `train`.

    Args:
        members: One for each picture.
        val: Share of patients for validation, 0 to 1.
        test: Share of patients for test, 0 to 1.
        seed: Another seed, another split.
        together: Pairs of patients who must stay together, because they share a picture.

    Returns:
        Split by patient. Where members name the publisher's split, those of its `test` and `val` stay there,
        and a share of its `train` becomes `val` only if the publisher names none; patients whom the publisher
        tore apart go to `train`.
    """
    group = groups_of((member.patient for member in members), together)
    labels, told = _labels(members, group), _told(members, group)
    free = sorted(set(group.values()) - told.keys())
    held = sorted(name for name, split in told.items() if split == "train")
    splits: dict[str, Split] = dict(told)
    for names, share_test in ((free, test), (held, 0.0)):
        order = sorted(names, key=lambda name: (labels[name], _digest(seed, name)))
        has_val = bool(held) and names is held and "val" in told.values()
        splits |= _spread(order, val=0.0 if has_val else val, test=share_test, seed=seed)
    return {patient: splits[name] for patient, name in group.items()}


def _digest(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _labels(members: Sequence[Member], group: Mapping[str, str]) -> dict[str, str]:
    """Return each group's label: the rarest among its pictures."""
    counts = Counter(member.label for member in members)
    found: dict[str, str] = {}
    for member in members:
        name = group[member.patient]
        found[name] = min(
            found.get(name, member.label), member.label, key=lambda label: (counts[label], label)
        )
    return found


def _told(members: Sequence[Member], group: Mapping[str, str]) -> dict[str, Split]:
    """Return the publisher's split of the groups for which there is one."""
    named: dict[str, set[Split]] = {}
    for member in members:
        if member.publisher:
            named.setdefault(group[member.patient], set()).add(member.publisher)
    return {name: next(iter(splits)) if len(splits) == 1 else "train" for name, splits in named.items()}


def _spread(order: Sequence[str], *, val: float, test: float, seed: int) -> dict[str, Split]:
    """Give every so-manieth name to `test` and, of the others, to `val`."""
    chosen: dict[str, Split] = dict.fromkeys(_every(order, test, f"{seed}:test"), "test")
    rest = [name for name in order if name not in chosen]
    share = min(1.0, val / (1.0 - test)) if test < 1 else 0.0
    chosen |= dict.fromkeys(_every(rest, share, f"{seed}:val"), "val")
    return {name: chosen.get(name, "train") for name in order}


def _every(order: Sequence[str], share: float, salt: str) -> list[str]:
    """Return round(share * n) names at even distances, from a start that `salt` decides."""
    count = round(share * len(order))
    if share > 0 and count == 0 and len(order) > 1:
        count = 1
    if count == 0:
        return []
    start = int(hashlib.sha256(salt.encode()).hexdigest()[:8], 16) / 2**32
    return [order[int((index + start) * len(order) / count)] for index in range(count)]


def check_splits(*folders: tuple[Path, Sequence[Record]]) -> None:
    """Refuse patients that stand in more than one split, within a folder or between folders that meet.

    Raises:
        DatasetError: Names up to five such patients and where they stand.
    """
    places: dict[str, dict[str, Path]] = {}
    for folder, records in folders:
        for record in records:
            if record.split:
                places.setdefault(record.patient, {}).setdefault(record.split, folder)
    torn = {patient: found for patient, found in places.items() if len(found) > 1}
    if torn:
        shown = "; ".join(
            f"{patient}: " + ", ".join(f"{split} in {folder}" for split, folder in sorted(found.items()))
            for patient, found in sorted(torn.items())[:5]
        )
        raise DatasetError(f"{len(torn)} patients stand in more than one split ({shown})")
