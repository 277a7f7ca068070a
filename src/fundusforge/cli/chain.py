"""`fundusforge chain`: from twenty eyes to a thousand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, command_line, emit, progress, say

if TYPE_CHECKING:
    from fundusforge.cli.chaining import ChainConfig


@dataclass(frozen=True, kw_only=True)
class Chain:
    """From twenty photographs with vessel masks to a thousand (Sengupta et al. 2019).

    `train` teaches an auto-encoder to draw vessel trees, a painter to paint on them, and, where --sharp names
    photographs of at least twice the side, a network to double the side. FOLDER is a dataset folder; images
    of split `train` are learnt from. `sample` draws a dataset folder with the chain in RUN. `tables` compares
    dataset folders of drawn eyes (FOLDER ..., the chain's first) with the real eyes of --real: likeness,
    vessels, copies of training trees. `folds` trains chain and segmenters on parts of FOLDER and asks whether
    drawn eyes can take the place of real ones, or add to them, also on other cameras (--external), and
    whether other --sources of trees serve as well.

    Drawn trees are of no single patient as far as the audit can tell: read the share of leaked trees before
    you share any.

    Examples:
      fundusforge chain train data/drive --sharp data/idrid1024 --out runs/chain
      fundusforge chain sample runs/chain -n 1000 --upscale --out drawn
      fundusforge chain tables drawn phantoms --real data/drive --out tables
      fundusforge chain folds data/drive --external data/chase data/hrf --preset small --out folds
      fundusforge chain folds data/drive --sources vae phantom warped --out folds
    """

    action: Annotated[Literal["train", "sample", "tables", "folds"], Positional, arg(metavar="ACTION")]
    """train, sample, tables or folds."""
    folders: Annotated[tuple[Path, ...], Positional, arg(metavar="FOLDER ...")]
    """Dataset folders; of `sample` the chain's run folder."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Run folder, dataset folder or folder of results to write."""
    preset: Literal["default", "small"] = "default"
    """train, folds: `default` draws and paints 512 px, for a GPU; `small` draws 128 and paints 256 px, for a
    CPU."""
    masks: tuple[str, ...] = ("vessels",)
    """train, folds: masks to draw and to paint on."""
    trees_for: Annotated[str, arg(metavar="AMOUNT")] = "400kimg"
    """train, folds: length of the auto-encoder's training, as time or images."""
    painter_for: Annotated[str, arg(metavar="AMOUNT")] = "60kimg"
    """train, folds: length of the painter's training."""
    upscaler_for: Annotated[str, arg(metavar="AMOUNT")] = "100kimg"
    """train: length of the training of super-resolution."""
    segmenter_for: Annotated[str, arg(metavar="AMOUNT")] = "20kimg"
    """folds: length of the training of each segmenter."""
    sharp: tuple[Path, ...] = ()
    """train: dataset folders of photographs of at least twice the side, for super-resolution."""
    count: Annotated[int, arg(name="n", aliases=("-n",))] = 100
    """sample, folds: number of eyes to draw."""
    upscale: bool = False
    """sample: also double the side."""
    real: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """tables: dataset folder of the eyes that were learnt from."""
    held_out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """tables: dataset folder of real eyes that nobody learnt from."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """tables, folds: splits of the real folder that are learnt from."""
    external: tuple[Path, ...] = ()
    """folds: dataset folders of other cameras."""
    sources: Annotated[tuple[str, ...], arg(metavar="SOURCE [SOURCE ...]")] = ("vae",)
    """folds: whose trees to paint on, all by one painter: `vae`, the chain's own; `phantom`, of no patient;
    `warped`, those that are learnt from, warped, which stay the patients'; or a run folder of another model
    that draws the masks and has seen no eye that is tested. A finished study takes further ones."""
    folds: int = 4
    """folds: parts of the real eyes, by patient."""
    side: int = 512
    """tables: side in pixels at which pictures are compared."""
    seed: int = 0
    """Seed of every random draw."""
    batch: int | None = None
    """train, folds: images of a batch, for every link; each link's own if left out."""
    threads: int | None = None
    """train, folds: threads of a training."""
    jobs: int = 1
    """Processes that draw or search."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Train, sample, compare, or ask."""
        if not self.folders:
            raise UsageError(f"chain {self.action} needs a folder; see fundusforge chain --help")
        result, text = getattr(self, f"_{self.action}")()
        emit(result, text, as_json=self.json)
        return DONE

    def _config(self) -> ChainConfig:
        from fundusforge.cli.chaining import ChainConfig

        return ChainConfig.named(
            self.preset, masks=self.masks, trees_for=self.trees_for, painter_for=self.painter_for,
            upscaler_for=self.upscaler_for,
        )  # fmt: skip

    def _loop(self) -> dict[str, Any]:
        given = {"batch": self.batch, "threads": self.threads}
        shared = {"seed": self.seed, "device": self.device}
        return shared | {name: value for name, value in given.items() if value is not None}

    def _train(self) -> tuple[dict[str, Any], str]:
        from fundusforge.cli.chaining import train_chain

        made = train_chain(
            self.folders, self.out, self._config(), sharp=self.sharp, loop=self._loop(), quiet=self.quiet
        )
        text = [
            f"{name}: {one['images']} images in {one['seconds']:.0f} s" for name, one in made.items() if one
        ]
        if not self.sharp:
            say("no --sharp photographs: the chain has no link that doubles the side")
        return {"out": str(self.out), "links": made}, "\n".join(text)

    def _sample(self) -> tuple[dict[str, Any], str]:
        from fundusforge.cli.chaining import sample_chain
        from fundusforge.cli.command import only

        run = only(self.folders, "RUN")
        assert run is not None
        drawn = sample_chain(
            run, self.out, count=self.count, seed=self.seed, upscale=self.upscale, jobs=self.jobs,
            device=self.device,
        )  # fmt: skip
        made = list(progress(drawn, "painting", total=self.count, quiet=self.quiet))
        result = {"out": str(self.out), "images": len(made), "run": str(run), "seed": self.seed}
        return result, f"{len(made)} synthetic eyes in {self.out}"

    def _tables(self) -> tuple[dict[str, Any], str]:
        from fundusforge.studies.chain.tables import TablesConfig, tables

        if self.real is None:
            raise UsageError("tables compares with the eyes that were learnt from: --real FOLDER")
        config = TablesConfig(
            sources={path.name: path for path in self.folders}, real=self.real, out=self.out,
            splits=self.splits, held_out=self.held_out, side=self.side, jobs=self.jobs, seed=self.seed,
        )  # fmt: skip
        found = tables(config, command=command_line(), progress=None if self.quiet else say)
        return found.to_dict(), found.text()

    def _folds(self) -> tuple[dict[str, Any], str]:
        from fundusforge.cli.chaining import WARPED, sources_of
        from fundusforge.cli.command import only
        from fundusforge.cli.fitting import fit
        from fundusforge.config import to_json
        from fundusforge.models import LOOPS
        from fundusforge.models.unet import UNetConfig
        from fundusforge.studies.chain.folds import FoldsConfig, folds
        from fundusforge.training.run import LoopConfig

        real, chain = only(self.folders, "FOLDER"), self._config()
        assert real is not None
        segmenter = UNetConfig(diameter=chain.painter.size)
        loop: dict[str, Any] = {**LOOPS["unet"], **self._loop(), "stop_after": self.segmenter_for}

        sources = sources_of(
            self.sources, chain, count=self.count, seed=self.seed, jobs=self.jobs, loop=self._loop(),
            quiet=self.quiet,
        )  # fmt: skip
        if WARPED in sources:
            say("warning: eyes on warped trees have the vessels of patients; do not share them")

        def train(folders: Sequence[Path], run: Path) -> None:
            fit(segmenter, folders, run, loop=LoopConfig(**loop), resume=True, quiet=self.quiet)

        config = FoldsConfig(
            real=real, out=self.out, external=self.external, splits=self.splits, folds=self.folds,
            seed=self.seed,
        )  # fmt: skip
        settings = {"chain": json.loads(to_json(chain)), "drawn": self.count, "loop": self._loop()}
        settings |= {"segmenter": vars(segmenter), "segmenter_for": self.segmenter_for}
        found = folds(
            config, sources=sources, train=train, settings=settings, command=command_line(),
            progress=None if self.quiet else say,
        )  # fmt: skip
        return found.to_dict(), found.text()
