"""`fundusforge train`: dataset folders to a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import tyro
from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, chosen, emit, pick, restored, say, without
from fundusforge.training.run import LoopConfig

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Train(Generic[M]):
    """Train a model on dataset folders.

    FAMILY is the kind of model: `unet` finds structures (vessels, disc, lesions) in photographs, `pix2pix`
    paints photographs on structure masks, `drgan` and `flow` also of a wanted severity, `vae` draws such
    masks, `edsr` doubles the side of photographs, `pggan` and `stylegan` draw photographs and masks together,
    `encoder` finds what they would draw a photograph from (it needs no folder), `classifier` grades images or
    tells findings, `selfsupervised` learns features without labels. Images of split `train` are learnt from,
    those of split `val` only judge; folders may be several, and no patient may stand in two splits.
    `fundusforge train FAMILY --help` shows every setting of a family; `fundusforge models` lists the presets.

    The run folder then holds model.safetensors (the latest), best.safetensors (the best on `val`), log.jsonl,
    sample pictures and all settings. A run that was stopped or killed goes on with --resume. Several GPUs:
    torchrun --nproc-per-node 2 -m fundusforge train ...

    Examples:
      fundusforge train unet data/drive --preset drive --stop-after 30min --out runs/vessels
      fundusforge train pix2pix data/chase data/hrf --stop-after 20000img --loop.batch 4 --out runs/painter
      fundusforge train pggan data/chase --preset small --stop-after 30000img --out runs/eyes
      fundusforge train unet data/idrid --model.masks hard_exudates --model.lr 1e-3 --out runs/exudates
    """

    family: Annotated[str, Positional, arg(metavar="FAMILY")]
    """Kind of model: unet, pix2pix, drgan, flow, vae, edsr, pggan, stylegan, encoder, classifier or
    selfsupervised."""
    folders: Annotated[tuple[Path, ...], Positional, arg(metavar="FOLDER ...")] = ()
    """Dataset folders, as `fundusforge prepare` makes them."""
    out: Annotated[Path, arg(metavar="RUN")]
    """Run folder to write."""
    preset: str | None = None
    """Named settings of the family to start from; settings given as options win over it."""
    stop_after: Annotated[str | None, arg(metavar="AMOUNT")] = None
    """Length of the training, as time (30min, 2h) or images (20000img, 20kimg); learning rates decay over it.
    """
    resume: bool = False
    """Go on where the run in RUN stood, bit for bit; begin if there is none."""
    warm_start: Annotated[Path | None, arg(metavar="FILE")] = None
    """Run folder or safetensors file whose weights to start from, where names and shapes fit."""
    segmenter: Annotated[Path | None, arg(metavar="RUN")] = None
    """pix2pix, drgan, flow: keep as best the generator on whose images this vessel model finds the painted
    vessels again."""
    seed: int | None = None
    """Seed of every random draw; the same as --loop.seed."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""
    model: M
    loop: LoopConfig

    @classmethod
    def fitted(cls, words: Sequence[str]) -> tuple[Any, Any]:
        """Return the type and defaults for the family and preset that the words name."""
        if not words or words[0].startswith("-"):
            return Train[tyro.conf.Suppress[None]], _defaults(cls, None)
        from fundusforge.models import FAMILIES, PRESETS

        config = pick(words[0], FAMILIES, what="family")
        filled_in = {"cameras", "drawn", "side", "vector"} & {field.name for field in fields(config)}
        hidden = without(config, kind=config.kind, **{name: getattr(config(), name) for name in filled_in})
        preset = chosen(words, "--preset")
        named = pick(preset, PRESETS[config.kind], what=f"{config.kind} preset")[1] if preset else config()
        return Train[hidden], _defaults(cls, restored(named, hidden))

    def run(self) -> int:
        """Train, choose thresholds, print the figures on `val`."""
        if not self.folders and self.family != "encoder":
            raise UsageError(
                "at least one dataset folder is needed: fundusforge train FAMILY FOLDER --out RUN"
            )
        from fundusforge.cli.fitting import fit
        from fundusforge.models import FAMILIES

        changes = {"stop_after": self.stop_after, "seed": self.seed}
        result = fit(
            restored(self.model, FAMILIES[self.family]),
            self.folders,
            self.out,
            loop=replace(self.loop, **{name: value for name, value in changes.items() if value is not None}),
            resume=self.resume,
            warm_start=self.warm_start,
            segmenter=self.segmenter,
            quiet=self.quiet,
        )
        if result is None:  # a process beside the first one, under torchrun
            return DONE
        ending = "" if result["finished"] else " (interrupted; go on with --resume)"
        say(f"{self.out}: {result['images']} images in {result['seconds']:.0f} s{ending}")
        text = ", ".join(f"{name} {value:.4f}" for name, value in result["figures"].items())
        emit(result, text or "no image of split `val`: nothing was judged", as_json=self.json)
        return DONE


def _defaults(kind: type[Train], model: Any) -> Train:
    from fundusforge.models import LOOPS

    missing = tyro.MISSING
    loop = LoopConfig(**cast(dict[str, Any], LOOPS[model.kind])) if model is not None else LoopConfig()
    return kind(family=missing, folders=missing, out=missing, model=model, loop=loop)
