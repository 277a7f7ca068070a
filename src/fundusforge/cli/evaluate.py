"""`fundusforge evaluate`: judge a folder of synthetic images against one of real images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, command_line, emit, listing, restored, say, without

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Generic[S]):
    """Judge synthetic images against real ones.

    Writes results.json into the folder named by --out; `fundusforge report` makes a page of it. A vessel
    segmenter reads the synthetic images again: the better it finds the vessels they were painted on, the
    more faithful they are, and the same figure on real images stands beside it. A second one looks for the
    optic disc, so that a disc that is missing or out of place is noticed. Neither may have learnt from the
    generator's training images; name the generator with --generator so that this is checked.

    Examples:
      fundusforge evaluate synthetic --against data/chase --out results
      fundusforge evaluate painted --against data/hrf --splits test --segmenter runs/vessels --out results
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder of synthetic images."""
    against: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder of real images."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("results")
    """Folder for results.json."""
    segmenter: Annotated[Path | None, arg(metavar="RUN")] = None
    """Vessel model that reads the images again; the embedded one if left out, none with the word none."""
    disc_segmenter: Annotated[Path | None, arg(metavar="RUN")] = None
    """Disc model that reads the images again; the embedded one if left out (unless it shares patients with
    the generator), none with the word none."""
    generator: Annotated[Path | None, arg(metavar="RUN")] = None
    """Model that painted the images, to check that segmenters and generator share no patient; the embedded
    one if left out and the images say that they are of it."""
    extractor: Annotated[str | None, arg(metavar="NAME")] = None
    """What turns images into vectors to compare sets by: retina, inception, dinov2, retfound, timm:MODEL
    (downloaded by timm unless weights are given) or random; the embedded retina if left out."""
    extractor_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of the extractor (.safetensors)."""
    cache: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder that keeps these vectors, to be guarded like the images; one in the user's cache if left out."""
    device: str = "auto"
    """Where networks run: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the figures as JSON on standard output."""
    settings: Annotated[S, arg(name="")]

    @classmethod
    def fitted(cls, words: Sequence[str]) -> tuple[Any, Any]:
        """Return the type with the settings of the stage."""
        from fundusforge.evaluate.stage import EvaluateConfig

        hidden = without(EvaluateConfig, synthetic=Path(), against=Path(), out=Path())
        missing = tyro.MISSING
        return Evaluate[hidden], Evaluate(folder=missing, against=missing, settings=hidden())

    def run(self) -> int:
        """Evaluate."""
        from fundusforge.cli.judging import disc_judge, extractor, generator_patients, judge
        from fundusforge.config import to_json
        from fundusforge.evaluate.features import default_cache
        from fundusforge.evaluate.stage import EvaluateConfig, evaluate

        config = restored(
            self.settings, EvaluateConfig, synthetic=self.folder, against=self.against, out=self.out
        )
        folders = (self.folder, self.against)
        generator = generator_patients(self.generator, self.folder)
        disc = disc_judge(self.disc_segmenter, folders=folders, generator=generator, device=self.device)
        results = evaluate(
            config,
            judge=judge(self.segmenter, folders=folders, device=self.device),
            judges={"disc": disc} if disc else {},
            generator_patients=generator,
            extractor=extractor(self.extractor, self.extractor_weights, device=self.device, seed=config.seed),
            cache=self.cache or default_cache(),
            command=command_line(),
            progress=None if self.quiet else say,
        )
        say(f"results in {self.out}")
        figures = {figure.name: _line(figure) for figure in results.figures}
        text = "\n".join([listing(figures, indent=0), *(f"note: {warning}" for warning in results.warnings)])
        emit(json.loads(to_json(results)), text, as_json=self.json)
        return DONE


def _line(figure: Any) -> str:
    """One figure in words: value, interval, and the same of the images compared with."""
    if figure.value is None:
        return f"none: {figure.reason}"
    parts = [f"{figure.value:.4g} {figure.unit}".rstrip()]
    if figure.low is not None and figure.high is not None:
        parts.append(f"[{figure.low:.4g}, {figure.high:.4g}]")
    if figure.real is not None:
        parts.append(f"(compared images {figure.real:.4g})")
    return " ".join(parts)
