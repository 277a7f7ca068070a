"""`fundusforge prepare`: photographs as their publishers left them to a dataset folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, REJECTS, UsageError, chosen, emit, pick, restored, say, without

F = TypeVar("F")
P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Prepare(Generic[F, P]):
    """Turn photographs as published into a dataset folder.

    SOURCE is the folder of a public data set as it was unpacked, of DICOM files, or of plain pictures. The
    field of view is found, centred and cut out square; everything outside it becomes black, which removes
    most burned-in text; bad pictures and copies are rejected with a reason (rejected.jsonl); patients are
    named by a keyed hash and split into train, val and test. Stopped runs go on when called again.
    `fundusforge prepare SOURCE --format NAME --help` shows the options of a format (--source.*).

    Examples:
      fundusforge prepare DRIVE --format drive --size 584 --out data/drive
      fundusforge prepare scans --format dicom --source.keywords retinopathy --out data/clinic
      fundusforge prepare photographs --format folder --size 512 --clahe --out data/own
      fundusforge prepare --format phantom --source.count 20 --size 256 --out data/drawn
    """

    sources: Annotated[tuple[Path, ...], Positional, arg(metavar="SOURCE ...")]
    """Folders to read, all of one format."""
    format: str | None = None
    """Format of the folders; recognised from their files if left out. Known are: drive, chase, hrf, idrid,
    eyepacs,
    odir, fives, hvdropdb, brats, phantom, dicom, folder (pictures with an optional table)."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write."""
    image_format: Literal["png", "jpeg"] = "png"
    """Format of the pictures; masks are always PNG."""
    key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """File with the secret that the patients' hashes depend on: the same secret gives the same hashes, so
    that
    folders fit together; nobody without it can find a patient again."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""
    config: Annotated[P, arg(name="")]
    source: F

    @classmethod
    def fitted(cls, words: Sequence[str]) -> tuple[Any, Any]:
        """Return the type and defaults for the format that the words name, or that their folders have."""
        from fundusforge.prepare import PrepareConfig
        from fundusforge.sources import SOURCES

        settings = without(PrepareConfig, format="png")
        name = chosen(words, "--format") or _recognised(words)
        kind = pick(name, SOURCES, what="format") if name else None
        hidden = without(kind, **_fixed(kind)) if kind else tyro.conf.Suppress[None]
        missing = tyro.MISSING
        default = Prepare(
            sources=missing, format=name, out=missing, config=settings(), source=hidden() if kind else None
        )
        return Prepare[hidden, settings], default

    def run(self) -> int:
        """Prepare."""
        from fundusforge.prepare import PrepareConfig, prepare
        from fundusforge.sources import SOURCES

        if self.format is None:
            raise UsageError(
                f"the format of {', '.join(map(str, self.sources)) or 'SOURCE'} is not recognised: "
                f"give --format, one of {', '.join(SOURCES)}"
            )
        kind = pick(self.format, SOURCES, what="format")
        rooted = any(field.name == "root" and field.default is MISSING for field in fields(kind))
        if rooted and not self.sources:
            raise UsageError(f"a SOURCE folder of format {self.format} is needed")
        one = restored(self.source, kind)
        config = restored(self.config, PrepareConfig, format=self.image_format)
        found = [replace(one, root=root) for root in self.sources] if rooted else [one]
        summary = prepare(found, self.out, config, key_file=self.key_file, progress=not self.quiet)
        for reason, count in summary.reasons.items():
            say(f"rejected {count}: {reason}")
        splits = ", ".join(f"{count} {split}" for split, count in summary.splits.items())
        text = (
            f"{summary.kept} images of {summary.patients} patients in {self.out} ({splits}), "
            f"{summary.rejected} rejected"
        )
        emit(asdict(summary) | {"out": str(self.out), "format": self.format}, text, as_json=self.json)
        limit = config.max_rejects
        return REJECTS if limit is not None and summary.rejected > limit else DONE


def _fixed(kind: type) -> dict[str, Any]:
    """Fields of a format that the command itself fills."""
    defaults = {field.name: field.default for field in fields(kind)}
    root = defaults.get("root")
    fixed = {"kind": kind.kind, "root": Path() if root is MISSING else root}
    return {name: value for name, value in fixed.items() if name in defaults}


def _recognised(words: Sequence[str]) -> str | None:
    """The format of the first folder among the words, if it looks like exactly one."""
    from fundusforge.sources import recognise

    for word in words:
        if not word.startswith("-") and Path(word).is_dir():
            found = recognise(Path(word))
            return found[0] if len(found) == 1 else None
    return None
