"""`fundusforge annotate`: add structure masks predicted by a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, REJECTS, UsageError, emit, progress, say


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Add structure masks that a trained model finds in photographs.

    FOLDER is a dataset folder or any folder of pictures; in the latter the fields of view are found first.
    Masks that a person drew are never replaced: a prediction fills gaps, and replaces older predictions. A
    run that was interrupted goes on where it stopped. Without --model the embedded segmenter of the structure
    is used: there is one of vessels and one of the disc.

    Examples:
      fundusforge annotate photographs --vessels --out annotated
      fundusforge annotate annotated --masks disc --out annotated-disc
      fundusforge annotate data/odir --vessels --probabilities --model runs/vessels --out data/odir-vessels
      fundusforge annotate data/chase --masks disc --model runs/disc --out data/chase-disc
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder, or folder of pictures."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write."""
    vessels: bool = False
    """Find vessels; the same as --masks vessels."""
    masks: tuple[str, ...] = ()
    """Structures to find, as the model names them (vessels, disc, ...)."""
    model: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder or safetensors file of a unet model; the embedded segmenter of the structure if left out."""
    probabilities: bool = False
    """Also write probabilities/<mask>/<image>.png, 8 bit, 255 for certainty."""
    threshold: float | None = None
    """Probability from which a pixel belongs to a structure; the model's own, chosen on training images, if
    left
    out."""
    max_rejects: int | None = None
    """Rejects beyond which the exit code is 1; no limit if left out."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda."""
    seed: int = 0
    """Nothing is drawn here; accepted so that scripts can give it to every command."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Annotate."""
        named = [*(["vessels"] if self.vessels else []), *self.masks]
        masks = tuple(dict.fromkeys(named))
        if not masks:
            raise UsageError("nothing to find: give --vessels, or --masks with the names of structures")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"--threshold must lie between 0 and 1, not {self.threshold}")
        from fundusforge.annotate.segmenter import Segmenter
        from fundusforge.annotate.stage import AnnotateConfig, annotate, entries, rejects

        config = AnnotateConfig(masks=masks, threshold=self.threshold, probabilities=self.probabilities)
        total = len(entries(self.folder))
        segmenter = Segmenter.load(self.model, masks=masks, device=self.device)
        work = annotate(self.folder, self.out, config, segmenter)
        results = list(progress(work, "annotating", total=total, quiet=self.quiet))
        rejected = rejects(results)
        for one in rejected:
            say(f"rejected {one.file}: {one.reason}")
        kept = sum(bool(one.kept) for one in results)
        if kept:
            say(f"{kept} images already had a mask that no model predicted; it was kept")
        for one in results:
            if one.missing:
                say(f"{one.file}: no plausible {' or '.join(one.missing)} found; none was added")
        result = {
            "out": str(self.out), "images": len(results) - len(rejected), "rejected": len(rejected),
            "predicted": sum(bool(one.predicted) for one in results), "kept": kept,
            "missing": sum(bool(one.missing) for one in results), "model": segmenter.name,
        }  # fmt: skip
        text = f"{result['images']} images in {self.out}, {len(rejected)} rejected"
        emit(result, text, as_json=self.json)
        limit = self.max_rejects
        return REJECTS if limit is not None and len(rejected) > limit else DONE
