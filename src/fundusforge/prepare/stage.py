"""The stage: a source in, a dataset folder out; resumable, parallel, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from fundusforge import __version__
from fundusforge.config import to_json
from fundusforge.prepare.duplicates import Print, find_duplicates
from fundusforge.prepare.journal import NAME as JOURNAL
from fundusforge.prepare.journal import Journal
from fundusforge.prepare.patients import hash_patient, patient_key
from fundusforge.prepare.produce import CannotWrite, Job, directories, plain, produce, shown
from fundusforge.prepare.settings import PrepareConfig
from fundusforge.prepare.split import Member, assign
from fundusforge.records import METADATA, DatasetError, Record, from_line, write_metadata, write_text
from fundusforge.sources.item import Item, Reject

REJECTED = "rejected.jsonl"
REPORT = "prepare.json"


class Source(Protocol):
    """A config of `fundusforge.sources`."""

    root: Path | None

    def items(self) -> Iterator[Item | Reject]:
        """Yield what the source holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a run."""

    kept: int
    rejected: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Rejects by kind of reason."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """Pictures by split."""
    patients: int = 0


def prepare(
    source: Source | Sequence[Source],
    out: Path,
    config: PrepareConfig,
    *,
    key_file: Path | None = None,
    progress: bool = True,
) -> Summary:
    """Prepare a source, or several together, into a dataset folder.

    A killed run goes on where it stood when it is called again with the same settings; a finished one is left
    as it is. Same input, settings and patient key give the same bytes, whatever the number of jobs.

    Args:
        source: Configs of `fundusforge.sources`.
        out: The folder to write.
        config: Settings.
        key_file: File with the secret key that patients' hashes depend on; see `prepare.patients`.
        progress: Show a progress bar on standard error, if that is a terminal.

    Raises:
        DatasetError: The source holds nothing, `out` cannot be written or holds something else, or nothing
        passed.
    """
    sources = list(source) if isinstance(source, Sequence) else [source]
    _keep_apart(sources, Path(out))
    key = patient_key(key_file)
    items, rejects = _collect(sources)
    print_ = _fingerprint(config, key, items, rejects)
    out = Path(out)
    if config.overwrite:
        _clear(out)
    if (done := _finished(out, print_)) is not None:
        return done
    roots = {name: _root_of(sources, place) for name, (place, _) in items.items()}
    jobs = [
        Job(item=item, name=name, root=roots[name], out=out, key=key, config=config)
        for name, (_, item) in items.items()
    ]
    with _writing(out):
        for directory in directories({name: item for name, (_, item) in items.items()}):
            (out / directory).mkdir(parents=True, exist_ok=True)
        journal = Journal(out, print_)
        try:
            _run(jobs, journal, config.jobs, progress=progress)
            summary = _finish(out, [journal.done[job.name] for job in jobs], rejects, config, print_)
        except BaseException:
            journal.close()
            raise
        journal.remove()
    return summary


def _keep_apart(sources: Sequence[Source], out: Path) -> None:
    """Refuse to write into, or around, what is read: a second run would read the first, or remove its input.

    Raises:
        DatasetError: The output lies in a source's folder or the other way round.
    """
    target = out.resolve()
    for root in (Path(place).resolve() for source in sources if (place := getattr(source, "root", None))):
        if target.is_relative_to(root) or root.is_relative_to(target):
            raise DatasetError(f"{out}: the output folder must lie apart from the source {root}")


def _collect(sources: Sequence[Source]) -> tuple[dict[str, tuple[int, Item]], list[dict[str, str]]]:
    """Return items by unique file name with the place of their source, and what the sources rejected."""
    items: dict[str, tuple[int, Item]] = {}
    rejects: list[dict[str, str]] = []
    taken: set[str] = set()
    for place, source in enumerate(sources):
        for found in source.items():
            if isinstance(found, Reject):
                root = _root_of(sources, place)
                file = shown(found.file)
                rejects.append({"file": file, "reason": plain(found.reason, root=root, file=file)})
                continue
            stem = f"{found.source}_{found.key}" if len(sources) > 1 else found.key
            items[_file_name(stem, taken)] = (place, found)
    return items, rejects


def _root_of(sources: Sequence[Source], place: int) -> str:
    root = getattr(sources[place], "root", None)
    return str(root) if root else ""


def _file_name(key: str, taken: set[str]) -> str:
    """Return a file name for a key: word characters of any script, `.`, `-`; unique whatever its case."""
    plain_key = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", key)).strip("._") or "image"
    while len(plain_key.encode()) > 120:
        plain_key = plain_key[:-1]
    name, count = plain_key, 1
    while name.casefold() in taken:
        count += 1
        name = f"{plain_key}-{count}"
    taken.add(name.casefold())
    return name


def _fingerprint(
    config: PrepareConfig, key: bytes, items: Mapping[str, tuple[int, Item]], rejects: list[dict[str, str]]
) -> str:
    """Name settings, patient key and inputs by 16 hexadecimal digits."""
    told = json.loads(to_json(replace(config, jobs=1, max_rejects=None, overwrite=False)))
    parts = [__version__, told, hash_patient(key, "key", ""), rejects]
    parts += [
        [name, item.source, item.file.as_posix(), sorted(item.masks)] for name, (_, item) in items.items()
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _finished(out: Path, fingerprint: str) -> Summary | None:
    """Return what `prepare.json` tells of a finished run of the same settings.

    Raises:
        DatasetError: The folder holds something else.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise DatasetError(f"{out}: is not a folder")
    if (out / REPORT).is_file() and not (out / JOURNAL).exists():
        report = json.loads((out / REPORT).read_text("utf-8"))
        if report.get("fingerprint") == fingerprint:
            return Summary(**report["summary"])
        raise DatasetError(
            f"{out}: holds a dataset made with other settings or inputs; choose another, or overwrite"
        )
    if not (out / JOURNAL).exists() and any(out.iterdir()):
        raise DatasetError(
            f"{out}: is not empty and holds no unfinished run; choose another folder, or overwrite"
        )
    return None


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else.

    Raises:
        DatasetError: The folder holds files that this stage did not write.
    """
    if not out.is_dir():
        return
    own = {"images", "masks", "field_of_view", "contrasts", METADATA, REJECTED, REPORT, JOURNAL}
    if (out / METADATA).exists() or (out / JOURNAL).exists():
        with _writing(out):
            for name in sorted(own):
                path = out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if foreign := sorted(path.name for path in out.iterdir()):
        raise DatasetError(f"{out}: holds {foreign[0]!r}, which `prepare` did not write; remove it yourself")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn any failure to write into an error that names the folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CannotWrite(f"{out}: cannot be written ({error.strerror or error})") from None


def _run(jobs: Sequence[Job], journal: Journal, processes: int, *, progress: bool) -> None:
    """Prepare what the journal does not hold yet."""
    left = [job for job in jobs if not _is_done(job, journal)]
    with _bar(len(jobs), len(jobs) - len(left), shown=progress and sys.stderr.isatty()) as advance:
        for entry in _entries(left, processes):
            journal.add(entry)
            advance()


def _is_done(job: Job, journal: Journal) -> bool:
    entry = journal.done.get(job.name)
    if entry is None or "reason" in entry:
        return entry is not None
    return all((job.out / path).is_file() for path in from_line(entry["record"]).files().values())


def _entries(jobs: Sequence[Job], processes: int) -> Iterator[dict[str, Any]]:
    if processes == 1 or len(jobs) < 2:
        yield from map(produce, jobs)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        entries = Parallel(n_jobs=processes, return_as="generator")(delayed(produce)(job) for job in jobs)
        yield from cast("Iterator[dict[str, Any]]", entries)


@contextmanager
def _bar(total: int, done: int, *, shown: bool) -> Iterator[Any]:
    """Show a progress bar on standard error; yields a function to call after each item."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("prepare", total=total, completed=done)
        yield lambda: bar.advance(task)


def _finish(
    out: Path,
    entries: Sequence[dict[str, Any]],
    rejects: list[dict[str, str]],
    config: PrepareConfig,
    fingerprint: str,
) -> Summary:
    """Find duplicates, split, and write the tables; a function of the journal, so it can be done twice."""
    rejects = rejects + [{"file": e["file"], "reason": e["reason"]} for e in entries if "reason" in e]
    passed = [entry for entry in entries if "record" in entry]
    records = [from_line(entry["record"]) for entry in passed]
    copies = find_duplicates(
        [Print(**entry["print"]) for entry in passed],
        distance=config.duplicate_distance,
        correlation=config.duplicate_correlation,
        scans=[record.patient if record.contrasts else None for record in records],
    )
    together = [(records[copy].patient, records[first].patient) for copy, first in copies.items()]
    if config.duplicates == "first":
        for copy, first in copies.items():
            reason = f"duplicate of {records[first].image}"
            rejects.append({"file": records[copy].image, "reason": reason})
            for path in records[copy].files().values():
                (out / path).unlink(missing_ok=True)
        records = [record for place, record in enumerate(records) if place not in copies]
    if not records:
        counts = ", ".join(f"{reason} ({count})" for reason, count in _reasons(rejects).items())
        write_text(out / REJECTED, _lines(rejects))
        raise DatasetError(f"{out}: no picture passed: {counts}; see {REJECTED}")
    records = _split(records, together, config)
    summary = Summary(
        kept=len(records),
        rejected=len(rejects),
        reasons=_reasons(rejects),
        splits=dict(sorted(Counter(str(record.split) for record in records).items())),
        patients=len({record.patient for record in records}),
    )
    write_text(out / REJECTED, _lines(rejects))
    write_metadata(out, records)
    told = json.loads(to_json(replace(config, jobs=1, max_rejects=None, overwrite=False)))
    report = {"version": __version__, "fingerprint": fingerprint, "config": told, "summary": asdict(summary)}
    write_text(out / REPORT, json.dumps(report, indent=2) + "\n")
    return summary


def _split(records: list[Record], together: Iterable[tuple[str, str]], config: PrepareConfig) -> list[Record]:
    """Return the records with their splits."""
    members = [
        Member(
            patient=record.patient,
            label=f"{record.source}|{record.grade}|{','.join(record.labels)}",
            publisher=record.split if config.publisher_split else None,
        )
        for record in records
    ]
    known = {record.patient for record in records}
    pairs = [pair for pair in together if known.issuperset(pair)]
    splits = assign(members, val=config.val, test=config.test, seed=config.seed, together=pairs)
    return [replace(record, split=splits[record.patient]) for record in records]


def _reasons(rejects: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Count reasons by what stands before the details."""
    kinds = Counter(re.split(r": | of images/|\(", reject["reason"])[0].strip() for reject in rejects)
    return dict(sorted(kinds.items()))


def _lines(rejects: Iterable[Mapping[str, str]]) -> str:
    return "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
