"""`fundusforge annotate`: add what trained models find in photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, REJECTS, UsageError, emit, progress, say


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Add masks, landmarks, findings and grades that trained models find in photographs.

    FOLDER is a dataset folder or any folder of pictures; in the latter the fields of view are found first.
    What a person drew or told is never replaced: a prediction fills gaps, and replaces older predictions.
    Whatever is filled in is marked as predicted, with a confidence; what was not found, or cannot be what
    it looks like, is reported and left out. A run that was interrupted goes on where it stopped.

    Vessels, disc, lesions and grades have embedded models. Findings and their maps need a classifier of
    your own (fundusforge train classifier), named by --model; a model named there is preferred for all that
    it predicts.

    Examples:
      fundusforge annotate photographs --vessels --disc --lesions --out annotated
      fundusforge annotate data/idrid --vessels --disc --landmarks
      fundusforge annotate data/odir --activations --model runs/findings --out data/odir-findings
      fundusforge annotate data/odir --vessels --tta --model runs/vessels --out data/odir-vessels
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder, or folder of pictures."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Dataset folder to write; FOLDER itself if left out, which must then be a dataset folder."""
    vessels: bool = False
    """Find vessels."""
    disc: bool = False
    """Find the optic disc."""
    landmarks: bool = False
    """Find fovea, cup, and whether the eye is a left or a right one; finds vessels and disc too."""
    lesions: bool = False
    """Find microaneurysms, haemorrhages, hard and soft exudates."""
    masks: tuple[str, ...] = ()
    """Other structures to find, as a model names them."""
    activations: bool = False
    """Tell findings (laser marks, membranes) and draw what speaks for them as soft masks."""
    grade: bool = False
    """Grade diabetic retinopathy, 0 to 4."""
    model: Annotated[tuple[Path, ...], arg(metavar="RUN ...")] = ()
    """Run folders or safetensors files, of unet or classifier models, to use before the embedded ones."""
    method: Literal["cam", "gradcam"] = "cam"
    """How activation maps are drawn: class activation mapping (Zhou et al.) or Grad-CAM."""
    tta: bool = False
    """Average masks over mirror images, four times the work; otherwise as each model was configured."""
    probabilities: bool = False
    """Also write probabilities/<mask>/<image>.png, 8 bit, 255 for certainty."""
    threshold: float | None = None
    """Probability from which a pixel belongs to a structure; each model's own, chosen on training images, if
    left out."""
    batch: int | None = None
    """Photographs at once; 1 on a CPU and 8 on a GPU if left out."""
    max_rejects: int | None = None
    """Rejects beyond which the exit code is 1; no limit if left out."""
    device: str = "auto"
    """Where the models run: auto, cpu, cuda."""
    seed: int = 0
    """Nothing is drawn here; accepted so that scripts can give it to every command."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Annotate."""
        if not (self._wanted() or self.activations or self.grade):
            raise UsageError(
                "nothing to find: give --vessels, --disc, --landmarks, --lesions, --activations, --grade, or "
                "--masks with the names of structures"
            )
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UsageError(f"--threshold must lie between 0 and 1, not {self.threshold}")
        from fundusforge.annotate.stage import AnnotateConfig, annotate, entries, rejects
        from fundusforge.cli.annotating import annotators
        from fundusforge.records import METADATA
        from fundusforge.training import parallel

        total = len(entries(self.folder))
        if self.out is None and not (self.folder / METADATA).exists():
            raise UsageError(f"{self.folder} is no dataset folder: name one to write with --out")
        asked = annotators(
            self._wanted(), landmarks=self.landmarks, activations=self.activations, grade=self.grade,
            models=self.model, threshold=self.threshold, tta=self.tta or None, method=self.method,
            device=self.device,
        )  # fmt: skip
        batch = self.batch or (1 if parallel.start(self.device).device.type == "cpu" else 8)
        config = AnnotateConfig(probabilities=self.probabilities, batch=batch)
        work = annotate(self.folder, self.out or self.folder, asked, config)
        results = list(progress(work, "annotating", total=total, quiet=self.quiet))
        rejected = rejects(results)
        for one in rejected:
            say(f"rejected {one.file}: {one.reason}")
        kept = sum(bool(one.kept) for one in results)
        if kept:
            say(f"{kept} images already had something that no model predicted; it was kept")
        for one in results:
            for name, reason in one.missing.items():
                say(f"{one.file}: no {name}: {reason}")
        result = {
            "out": str(self.out or self.folder), "images": len(results) - len(rejected),
            "rejected": len(rejected), "predicted": sum(bool(one.predicted) for one in results), "kept": kept,
            "missing": sum(bool(one.missing) for one in results), "models": [one.name for one in asked],
        }  # fmt: skip
        text = f"{result['images']} images in {result['out']}, {len(rejected)} rejected"
        emit(result, text, as_json=self.json)
        limit = self.max_rejects
        return REJECTS if limit is not None and len(rejected) > limit else DONE

    def _wanted(self) -> tuple[str, ...]:
        """Masks to find, those first on which others build."""
        from fundusforge.severity import LESIONS

        named = [
            *(["vessels"] if self.vessels or self.landmarks else []),
            *(["disc"] if self.disc or self.landmarks else []),
            *(LESIONS if self.lesions else []),
        ]
        return tuple(dict.fromkeys([*named, *self.masks]))
