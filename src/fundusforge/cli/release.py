"""`fundusforge release`: the gate between a folder of synthetic images and the world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fundusforge.audit.terms import Level
from fundusforge.cli.command import DONE, REJECTS, UsageError, emit, listing, only, say


@dataclass(frozen=True, kw_only=True)
class Release:
    """Check synthetic images and write a folder that may be passed on.

    Needs a finished audit of exactly this folder, made with the images that its models have learnt from.
    Images that the audit found too like a training image are left out. Refused are a folder with images
    painted on a patient's mask, without marks in metadata and file, or of a model that is not known or does
    not say what it learnt from; and one whose audit shows that training patients can be told. The release
    inherits the strictest terms of all training data, and holds a data card, a card of every model,
    release.json and SHA256SUMS. With --train and --holdout an audit that is missing is made first.

    Exit codes: 0 released (or verified), 1 refused, with the reasons, 2 wrong use.

    Examples:
      fundusforge release synthetic --audit audit --out released
      fundusforge release painted --audit audit --models runs/painter --results results --out released
      fundusforge release synthetic --audit audit --train data/train --holdout data/test --out released
      fundusforge release --verify released
    """

    folder: Annotated[tuple[Path, ...], Positional, arg(metavar="[FOLDER]")] = ()
    """Dataset folder of synthetic images."""
    audit: Annotated[Path | None, arg(metavar="AUDIT")] = None
    """audit.json of this folder, or the folder that holds it."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder to write; must not exist, or be empty."""
    models: Annotated[tuple[Path, ...], arg(metavar="RUN...")] = ()
    """Runs or files of weights that painted the images; the embedded ones are known."""
    results: Annotated[Path | None, arg(metavar="RESULTS")] = None
    """results.json of this folder, or the folder that holds it: figures for the cards."""
    train: Annotated[tuple[Path, ...], arg(metavar="FOLDER...")] = ()
    """Folders of the training images, all of them, if one has moved since the audit, or to make a missing
    audit."""
    holdout: Annotated[tuple[Path, ...], arg(metavar="FOLDER...")] = ()
    """Folders of real images of other patients, to make a missing audit."""
    at_most: Level = "unknown"
    """Strictest terms that the release may inherit."""
    tolerance: float = 0.05
    """Area above its control's that an attack of membership inference may be proven to have."""
    verify: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Check the hashes and marks of a release, and do nothing else."""
    device: str = "auto"
    """Where the networks of a missing audit run: auto, cpu, cuda."""
    seed: int = 0
    """Seed of intervals."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Release or verify."""
        folder = only(self.folder, "FOLDER")
        if self.verify is not None:
            if folder or self.audit or self.out:
                raise UsageError("--verify stands alone: it checks a release and writes nothing")
            return self._verify(self.verify)
        if folder is None or self.audit is None or self.out is None:
            raise UsageError("expected FOLDER, --audit AUDIT and --out FOLDER; or --verify FOLDER")
        return self._release(folder, self.audit, self.out)

    def _verify(self, folder: Path) -> int:
        from fundusforge.audit.release import verify

        faults = verify(folder)
        text = "\n".join(faults) or f"{folder}: every hash and every mark is as it was"
        emit({"folder": str(folder), "faults": faults}, text, as_json=self.json)
        return REJECTS if faults else DONE

    def _release(self, folder: Path, audit: Path, out: Path) -> int:
        import json

        from fundusforge.audit.release import ReleaseConfig, release
        from fundusforge.config import to_json

        file = audit if audit.suffix == ".json" else audit / "audit.json"
        if not file.exists() and self.train and self.holdout:
            self._audit(folder, file.parent)
        config = ReleaseConfig(
            synthetic=folder, audit=audit, out=out, models=self.models, train=self.train,
            results=self.results, at_most=self.at_most, tolerance=self.tolerance, seed=self.seed,
        )  # fmt: skip
        found = release(config, progress=None if self.quiet else say)
        checks = {check.name: _words(check) for check in found.checks}
        done = f"released {found.images} images in {out}" if not found.reasons else "refused"
        emit(json.loads(to_json(found)), "\n".join([listing(checks, indent=0), done]), as_json=self.json)
        for reason in found.reasons:
            say(f"refused: {reason}")
        return REJECTS if found.reasons else DONE

    def _audit(self, folder: Path, out: Path) -> None:
        """Make the audit that is missing, with membership inference."""
        from fundusforge.audit.attacks import infer, splits_of
        from fundusforge.audit.stage import AuditConfig, audit
        from fundusforge.cli.audit import quick_judge
        from fundusforge.evaluate.extractors import has_retina, load_extractor
        from fundusforge.evaluate.features import default_cache

        tell = None if self.quiet else say
        extractor = load_extractor("retina", device=self.device) if has_retina() else None
        options: dict[str, Any] = {"extractor": extractor, "cache": default_cache(), "progress": tell}
        generator = self.models[0] if len(self.models) == 1 else None
        audit(
            AuditConfig(synthetic=folder, train=self.train, holdout=self.holdout, out=out, seed=self.seed),
            judge=quick_judge(None, device=self.device),
            further=lambda sets: infer(
                splits_of(sets, seed=self.seed), generator=generator, device=self.device, **options
            ),
            **options,
        )


def _words(check: Any) -> str:
    return f"{'passed' if check.passed else 'FAILED'}: {check.detail}"
