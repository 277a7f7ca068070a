"""`fundusforge drgan`: the study of a generator that is asked for a severity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, command_line, emit, only, pick, say

if TYPE_CHECKING:
    from fundusforge.models.drgan import DRGANConfig
    from fundusforge.sample.severity_painter import AnyPainter
    from fundusforge.studies.drgan.eyes import Bench, BenchConfig
    from fundusforge.studies.drgan.masks import Annotators
    from fundusforge.studies.drgan.result import Result

Part = Literal["fidelity", "grades", "masks", "diversity", "series"]
PARTS: tuple[Part, ...] = ("fidelity", "grades", "masks", "diversity", "series")


@dataclass(frozen=True, kw_only=True)
class Drgan:
    """Ask a generator whether it paints what it is asked for (Zhou et al. 2020).

    Every held-out eye of --real is painted again, on its own masks and at its grade. Then: `fidelity`, the
    distance of paintings from photographs of other eyes, by grade (Table II); `grades`, whether a grader that
    shares no patient with the generator (--grader) sees the grade; `masks`, whether annotators find vessels
    and lesions where they were asked for, beside photographs with masks that people drew (--human);
    `diversity`, how different paintings of one mask are; `series`, whether more lesions are found at higher
    grades. `tables` is all of these. RUN is a drgan model, or a rival that paints on masks (pix2pix).

    `ablations` trains a drgan on FOLDER ..., and again without each of its parts, and compares them.

    Each part writes PART.json, and the lines of its figures as PART.jsonl. The folder holds eyes of patients
    and is private. Called again, a study goes on where it stood.

    Examples:
      fundusforge drgan tables runs/drgan --real data/idrid --grader runs/grader --out study
      fundusforge drgan masks runs/drgan --real data/idrid --human data/drive data/lesions --out study
      fundusforge drgan tables runs/pix2pix --real data/idrid --name rival --out rival
      fundusforge drgan ablations data/idrid --real data/idrid --stop-after 60kimg --out ablations
    """

    action: Annotated[Literal["tables", Part, "ablations"], Positional, arg(metavar="ACTION")]
    """tables, fidelity, grades, masks, diversity, series or ablations."""
    folders: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN|FOLDER ...")]
    """Run folder or weights of the generator; of `ablations` dataset folders to learn from."""
    real: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder of graded photographs with the masks to paint on; patients whom the generator learnt
    from are left out."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Folder of the study."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    """Splits of held-out eyes."""
    each: int = 2
    """Paintings of each eye."""
    lesions: Literal["own", "imitated"] = "own"
    """Paint on the eyes' own lesions, or on ones laid out anew for their grade."""
    guidance: float = 1.0
    """Of a flow model; see `fundusforge sample`."""
    grader: Annotated[Path | None, arg(metavar="RUN")] = None
    """grades, ablations: classifier of grades that shares no patient with the generator."""
    human: Annotated[tuple[Path, ...], arg(metavar="FOLDER ...")] = ()
    """masks: dataset folders of photographs with masks that people drew."""
    vessel_annotator: Annotated[Path | None, arg(metavar="RUN")] = None
    """masks: finds vessels; the embedded annotator if left out."""
    lesion_annotator: Annotated[Path | None, arg(metavar="RUN")] = None
    """masks, series: finds lesions; the embedded annotator if left out."""
    read: int = 24
    """masks, ablations: eyes that annotators read, and photographs of each --human folder; 0 leaves
    annotators out of `ablations`."""
    eyes: int = 8
    """series: eyes to paint at every grade."""
    repeats: int = 20
    """fidelity, ablations: random halves of the patients."""
    least: int = 10
    """fidelity, ablations: eyes below which a grade has no distance."""
    extractor: Annotated[str | None, arg(metavar="NAME")] = None
    """fidelity, ablations: what turns images into vectors; see `fundusforge evaluate`."""
    extractor_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """fidelity, ablations: weights of the extractor."""
    preset: str = "small"
    """ablations: named settings of drgan to start from."""
    variants: tuple[str, ...] = ()
    """ablations: full, no_attention, no_lesions, no_agm, no_perceptual, no_classification, no_steering,
    no_pixels; all but the last two if left out."""
    stop_after: Annotated[str | None, arg(metavar="AMOUNT")] = None
    """ablations: length of each training, in images (60kimg)."""
    batch: int | None = None
    """ablations: images of a batch."""
    threads: int | None = None
    """ablations: threads of a training."""
    size: int | None = None
    """Side of the paintings in pixels; the generator's own if left out."""
    name: str = "drgan"
    """First part of the figures' names."""
    seed: int = 0
    """Seed of every random draw."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Paint, ask, compare."""
        found = [self._ablations()] if self.action == "ablations" else self._parts()
        text = "\n\n".join(f"{one.part.upper()}\n\n{one.text()}" for one in found)
        emit({"out": str(self.out), "parts": [one.to_dict() for one in found]}, text, as_json=self.json)
        return DONE

    def _config(self) -> BenchConfig:
        from fundusforge.studies.drgan.eyes import BenchConfig

        return BenchConfig(
            real=self.real, out=self.out, splits=self.splits, each=self.each, lesions=self.lesions,
            size=self.size, name=self.name, seed=self.seed,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {
            "command": command_line(), "progress": None if self.quiet else say,
        }  # fmt: skip

    def _parts(self) -> list[Result]:
        """Ask the generator, part after part."""
        from fundusforge.sample.severity_painter import guided, load_painter
        from fundusforge.studies.drgan.eyes import bench

        run = only(self.folders, "RUN")
        parts: list[Part] = list(PARTS) if self.action == "tables" else [cast(Part, self.action)]
        if self.read < 1:
            raise UsageError(f"--read {self.read}: annotators read at least one eye")
        if self.grader is None and "grades" in parts:
            if self.action == "grades":
                raise UsageError(
                    "grades asks a grader that shares no patient with the generator: --grader RUN"
                )
            say("without --grader RUN nobody looks at the grades")
            parts.remove("grades")
        painter = guided(load_painter(run, device=self.device), self.guidance)
        eyes = bench(self._config(), painter, **self._options())
        return [self._part(part, eyes, painter) for part in parts]

    def _part(self, part: Part, eyes: Bench, painter: AnyPainter) -> Result:
        from fundusforge.annotate.grades import Grader
        from fundusforge.annotate.segmenter import Segmenter
        from fundusforge.severity import LESIONS
        from fundusforge.studies.drgan.diversity import diversity
        from fundusforge.studies.drgan.fidelity import FidelityConfig, fidelity
        from fundusforge.studies.drgan.grades import grades
        from fundusforge.studies.drgan.masks import masks
        from fundusforge.studies.drgan.slider import slider

        if part == "fidelity":
            config = FidelityConfig(repeats=self.repeats, least=self.least)
            return fidelity(eyes, self._extractor(), config)
        if part == "grades":
            assert self.grader is not None
            return grades(eyes, Grader.load(self.grader, device=self.device))
        if part == "masks":
            return masks(eyes, self._annotators(eyes, painter.masks), most=self.read)
        if part == "diversity":
            return diversity(eyes)
        finder = Segmenter.load(self.lesion_annotator, masks=LESIONS, device=self.device)
        return slider(eyes, painter, finder, eyes=self.eyes)

    def _extractor(self) -> Any:
        from fundusforge.cli.judging import extractor

        found = extractor(self.extractor, self.extractor_weights, device=self.device, seed=self.seed)
        if found is None:
            raise UsageError("this installation has no embedded extractor; name one with --extractor")
        return found

    def _annotators(self, eyes: Bench, painted: Sequence[str]) -> Annotators:
        """Load who reads vessels, and lesions where they are painted; let them read drawn photographs."""
        from fundusforge.annotate.segmenter import Segmenter
        from fundusforge.severity import LESIONS
        from fundusforge.studies.drgan.masks import annotators

        vessels, lesions = None, None
        if "vessels" in painted:
            vessels = Segmenter.load(self.vessel_annotator, device=self.device)
        if set(LESIONS) & set(painted):
            lesions = Segmenter.load(self.lesion_annotator, masks=LESIONS, device=self.device)
        return annotators(eyes, self.human, vessels=vessels, lesions=lesions, most=self.read)

    def _ablations(self) -> Result:
        """Train every variant, and ask it."""
        from fundusforge.annotate.grades import Grader
        from fundusforge.cli.fitting import fit_whole
        from fundusforge.models import LOOPS, PRESETS
        from fundusforge.sample.severity_painter import load_painter
        from fundusforge.studies.drgan.ablations import PAPER, ablations
        from fundusforge.studies.drgan.fidelity import FidelityConfig
        from fundusforge.training.run import LoopConfig

        if not self.folders or self.stop_after is None:
            raise UsageError("ablations trains: it needs dataset folders, and --stop-after in images")
        base = cast("DRGANConfig", pick(self.preset, PRESETS["drgan"], what="drgan preset")[1])
        base = replace(base, size=self.size) if self.size else base
        given = {"batch": self.batch, "threads": self.threads, "stop_after": self.stop_after}
        settings: dict[str, Any] = {**LOOPS["drgan"], "seed": self.seed, "device": self.device}
        settings |= {name: value for name, value in given.items() if value is not None}
        if self.batch is not None and self.batch % settings["accumulate"]:
            settings["accumulate"] = 1

        def train(model: DRGANConfig, run: Path) -> None:
            fit_whole(model, self.folders, run, loop=LoopConfig(**settings), quiet=self.quiet)

        return ablations(
            self._config(), base, train=train, load=lambda run: load_painter(run, device=self.device),
            extractor=self._extractor(), variants=self.variants or PAPER,
            grader=Grader.load(self.grader, device=self.device) if self.grader else None,
            read=(lambda eyes: self._annotators(eyes, base.masks)) if self.read else None, most=self.read,
            compare=FidelityConfig(repeats=self.repeats, least=self.least),
            settings={**json.loads(json.dumps(settings)), "folders": [path.name for path in self.folders]},
            **self._options(),
        )  # fmt: skip
