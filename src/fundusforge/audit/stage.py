"""The stage itself: synthetic, training and held-out folders in, `audit.json` out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from fundusforge import __version__
from fundusforge.audit import digests
from fundusforge.audit.findings import AUDIT, Audit
from fundusforge.audit.nearest import Nearest, Training, Unrelated, View, hidden, view_of
from fundusforge.audit.quarantine import quarantine
from fundusforge.audit.sets import Sets, described, joined
from fundusforge.audit.tally import figures
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.evaluate.features import Extractor, features
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.stage import summary
from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, Split, read_folder

QUARANTINE = "quarantine"
_FEW = 30
"""Images of a set below which it is called small."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What to audit, and how."""

    synthetic: Path
    """Dataset folder to audit."""
    train: Sequence[Path]
    """Dataset folders of the images that the generator learnt from, one or more."""
    holdout: Sequence[Path]
    """Dataset folders of real images of patients whom the generator never saw, one or more."""
    out: Path
    """Folder for `audit.json`."""
    train_splits: tuple[Split, ...] = ()
    """Splits of the training folders that were trained on; all by default."""
    holdout_splits: tuple[Split, ...] = ()
    """Splits of the held-out folders to take; all by default."""
    level: float = 0.01
    """False alarms allowed: the share of unrelated images that may be called copies."""
    margin: float = 3.0
    """Least excess of an offence over the held-out median, in steps from there to their 95th percentile."""
    candidates: int = 4
    """Training pictures that are registered with an image, in every space: so many as a whole, so many by
    halves."""
    max_holdout: int = 1000
    """Most held-out images; a seeded draw beyond that. Synthetic and training images are all looked at."""
    quarantine: bool = False
    """Move offending images aside, into the folder `quarantine` beside `audit.json`."""
    jobs: int = 1
    """Threads."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("train", "holdout"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name one folder or more")
        for name, low in (("candidates", 1), ("max_holdout", 10), ("draws", 100), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 < self.level <= 0.2:
            raise ValueError(f"level must be above 0 and at most 0.2, not {self.level}")
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, but is {self.margin}")
        if self.jobs == 0:
            raise ValueError("jobs must be 1 or more, or -1 for one a core")


def audit(
    config: AuditConfig,
    *,
    judge: Judge | None = None,
    extractor: Extractor | None = None,
    cache: Path | None = None,
    further: Callable[[Sets], Sequence[Figure]] | None = None,
    command: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Audit:
    """Search the training set for every synthetic image, write `audit.json`, and move offenders aside.

    Args:
        config: Folders and settings.
        judge: The segmenter that finds vessels; without one, vessel masks are compared as stored, if every
            image of the three folders has one.
        extractor: Turns pictures into vectors; without one, the features are not compared.
        cache: Folder that keeps vectors.
        further: Gives further figures of the three sets, such as membership inference.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, synthetic images among the real ones, patients in two splits, no
            held-out patient apart from the training patients, or a synthetic image that changes meanwhile.
    """
    sets = _sets(config)
    sha256 = digests.of_images(sets.synthetic)
    stored = judge is None and all(
        "vessels" in record.masks
        for images in (sets.synthetic, sets.train, sets.holdout) for record in images.records
    )  # fmt: skip
    tell = progress or (lambda text: None)

    def look(images: ImageSet) -> list[View]:
        tell(f"looking at {len(images)} images of {images.folder}")
        vectors = None if extractor is None else features(images, extractor, cache=cache, progress=progress)
        return views(images, judge=judge, stored=stored, vectors=vectors, jobs=config.jobs)

    training = Training(look(sets.train), candidates=config.candidates)
    names = np.array(sets.train.patients)
    tell("searching the training set for held-out and synthetic images")
    held = look(sets.holdout)
    skips = [names == record.patient for record in sets.holdout.records]
    chance = search(training, held, skips=skips, jobs=config.jobs)
    kin = _kin(training, held, sets, names, jobs=config.jobs)
    doubles = _doubles(sets, chance)
    apart = [i for i, record in enumerate(sets.holdout.records) if record.patient not in doubles]
    if not apart:
        raise DatasetError(
            f"{_named(config.holdout)}: every patient's eyes stand in {_named(config.train)} under other "
            "names"
        )
    sets = replace(sets, holdout=replace(sets.holdout, records=[sets.holdout.records[i] for i in apart]))
    chance = [chance[i] for i in apart]
    unrelated = Unrelated(chance, sets.holdout.patients)
    nearest = search(training, look(sets.synthetic), jobs=config.jobs)
    findings = tuple(
        replace(
            unrelated.judge(record, each, sets.train, level=config.level, margin=config.margin), sha256=files
        )
        for record, each, files in zip(sets.synthetic.records, nearest, sha256, strict=True)
    )
    result = Audit(
        synthetic=summary(sets.synthetic, config.out),
        train=described(sets.train, config.out),
        holdout=described(sets.holdout, config.out),
        level=unrelated.level(config.level),
        bar=unrelated.bar(config.level, config.margin),
        chance=unrelated.chance(config.level),
        findings=findings,
        figures=(*figures(sets.synthetic, sets.holdout, findings, nearest, chance, unrelated, kin,
                          bar=unrelated.bar(config.level, config.margin), extractor=_extractors(judge, stored,
                          extractor), seed=config.seed, draws=config.draws),
                 *(further(sets) if further else ())),
        warnings=(*_warnings(config, sets, unrelated, judge, stored), *doubles.values()),
        settings=_settings(config),
        command=command or _command(config),
        version=__version__,
    )  # fmt: skip
    digests.unchanged(sets.synthetic, sha256)
    config.out.mkdir(parents=True, exist_ok=True)
    result.write(config.out / AUDIT)
    offenders = [finding.image for finding in result.offenders()]
    if config.quarantine and offenders:
        quarantine(config.synthetic, offenders, config.out / QUARANTINE)
        result = replace(result, quarantined=tuple(offenders))
        result.write(config.out / AUDIT)
    return result


def views(
    images: ImageSet, *, judge: Judge | None = None, stored: bool = False,
    vectors: NDArray[np.float32] | None = None, jobs: int = 1,
) -> list[View]:  # fmt: skip
    """Look at all pictures of a set; see `fundusforge.audit.nearest.view_of`.

    Args:
        images: The set.
        judge: Segmenter that finds the vessels.
        stored: Without a judge, take the `vessels` masks as stored.
        vectors: (N, D) features.
        jobs: Threads.
    """
    return cast(
        list[View],
        Parallel(n_jobs=jobs, prefer="threads")(
            delayed(view_of)(
                images, index, judge=judge, stored=stored,
                feature=None if vectors is None else vectors[index],
            )
            for index in range(len(images))
        )
    )  # fmt: skip


def search(
    training: Training, queries: Sequence[View], *, skips: Sequence[NDArray[np.bool_]] | None = None,
    jobs: int = 1,
) -> list[Nearest]:  # fmt: skip
    """Return the nearest training pictures of every query.

    Args:
        training: Where to look.
        queries: What to look for.
        skips: Per query, (N,) training pictures to leave out.
        jobs: Threads.
    """
    each = skips if skips is not None else [None] * len(queries)
    return cast(
        list[Nearest],
        Parallel(n_jobs=jobs, prefer="threads")(
            delayed(training.nearest)(query, skip=skip) for query, skip in zip(queries, each, strict=True)
        ),
    )


def _kin(
    training: Training, held: Sequence[View], sets: Sets, names: NDArray[np.str_], *, jobs: int
) -> list[Nearest]:
    """Return the nearest training pictures of their own patient, of held-out images that have some."""
    own = [index for index, record in enumerate(sets.holdout.records) if (names == record.patient).any()]
    skips = [names != sets.holdout.records[index].patient for index in own]
    return search(training, [held[index] for index in own], skips=skips, jobs=jobs)


def _doubles(sets: Sets, chance: Sequence[Nearest]) -> dict[str, str]:
    """Return held-out patients who stand in the training set under another name, with a warning for each."""
    found: dict[str, str] = {}
    for place in hidden(chance):
        record, near = sets.holdout.records[place], max(chance[place].values(), key=lambda each: each.value)
        found[record.patient] = (
            f"Held-out {record.image} shows the eye of training image "
            f"{sets.train.records[near.index].image}, whose patient has another name. The patient is left "
            "out of chance; is somebody in both folders twice?"
        )
    return found


def _sets(config: AuditConfig) -> Sets:
    """Read and check the folders."""
    synthetic = ImageSet(folder=config.synthetic, records=read_folder(config.synthetic))
    train = joined([_read(folder, config.train_splits) for folder in config.train])
    learnt = {(part.folder.resolve(), record.image) for part in train.parts for record in part.records}
    holdout = joined([_read(folder, config.holdout_splits, but=learnt) for folder in config.holdout])
    if not set(holdout.patients) - set(train.patients):
        raise DatasetError(
            f"{_named(config.holdout)}: no patient here stands apart from the training patients, so chance "
            "cannot be told; name --train-splits and --holdout-splits, or another folder"
        )
    if len(holdout) > config.max_holdout:
        drawn = np.random.default_rng([config.seed, 2]).permutation(len(holdout))[: config.max_holdout]
        kept = [holdout.records[index] for index in sorted(int(index) for index in drawn)]
        holdout = replace(holdout, records=kept)
    check_splits(*((part.folder, part.records) for part in (*train.parts, *holdout.parts)))
    return Sets(synthetic=synthetic, train=train, holdout=holdout)


def _read(folder: Path, splits: Sequence[Split], *, but: Collection[tuple[Path, str]] = ()) -> ImageSet:
    """Read a folder of real images, but those of which folder and name are given."""
    records = read_folder(folder, splits=splits or None)
    if fake := sum(record.synthetic for record in records):
        raise DatasetError(
            f"{folder}: {fake} of {len(records)} images are synthetic; the audit needs the real images "
            "(were the folders swapped?)"
        )
    place = folder.resolve()
    return ImageSet(folder=folder, records=[r for r in records if (place, r.image) not in but])


def _named(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _extractors(judge: Judge | None, stored: bool, extractor: Extractor | None) -> dict[str, str]:
    trees = judge.name if judge else ("masks as stored" if stored else "none")
    return {
        "pixels": "pixels, green, shading taken away",
        "trees": f"vessels by {trees}",
        "features": extractor.name if extractor else "none",
    }


def _warnings(
    config: AuditConfig, sets: Sets, unrelated: Unrelated, judge: Judge | None, stored: bool
) -> tuple[str, ...]:
    found: list[str] = []
    if unrelated.level(config.level) > config.level:
        found.append(
            f"With {unrelated.patients} held-out patients a false alarm rate below "
            f"{unrelated.level(config.level):.2%} cannot be shown; {config.level:.2%} needs "
            f"{round(1 / config.level) - 1}."
        )
    if judge is None and not stored:
        found.append(
            "Vessel trees were not compared (no segmenter, and not every image has a vessel mask): a "
            "patient's tree under another texture may go unseen."
        )
    if shaped := sum(record.structure_from_patient for record in sets.synthetic.records):
        found.append(
            f"{shaped} of {len(sets.synthetic)} images were painted on a patient's own mask "
            "(structure_from_patient): they show that patient's tree whatever the verdict."
        )
    for images, what in ((sets.train, "training"), (sets.holdout, "held-out")):
        if len(images) < _FEW:
            found.append(f"The {what} set is small ({len(images)} images).")
    return tuple(found)


def _settings(config: AuditConfig) -> dict[str, Any]:
    """Return the settings without the folders, which the summaries name."""
    folders = {"synthetic", "train", "holdout", "out"}
    plain = {name: value for name, value in asdict(config).items() if name not in folders}
    return plain | {"train_splits": list(config.train_splits), "holdout_splits": list(config.holdout_splits)}


def _command(config: AuditConfig) -> str:
    parts = ["fundusforge", "audit", config.synthetic, "--train", *config.train]
    parts += ["--holdout", *config.holdout, "--out", config.out, "--seed", str(config.seed)]
    return shlex.join(os.fspath(part) for part in parts)
