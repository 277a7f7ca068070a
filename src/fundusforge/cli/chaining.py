"""The chain of Sengupta et al. 2019: trees from a few eyes, photographs painted on them, twice the pixels.

Every link is a model of its own in the chain's run folder, trained by `fundusforge.cli.fitting.fit` and
usable alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fundusforge import __version__
from fundusforge.cli.fitting import fit
from fundusforge.config import to_json
from fundusforge.models import LOOPS, PRESETS, AnyConfig
from fundusforge.models.edsr import EDSRConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.models.vae import VAEConfig
from fundusforge.records import DatasetError, Record, write_text
from fundusforge.sample.painter import Painter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.sample.upscaling import Upscaler, upscale_folder
from fundusforge.training.run import LoopConfig

TREES, PAINTER, UPSCALER, CHAIN = "trees", "painter", "upscaler", "chain.json"
"""What a chain's run folder holds: one run for each link, and what they were made of."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """What the links are, and how long each learns (time or images, as for --stop-after)."""

    trees: VAEConfig
    painter: Pix2PixConfig
    upscaler: EDSRConfig
    trees_for: str = "400kimg"
    painter_for: str = "60kimg"
    upscaler_for: str = "100kimg"

    @classmethod
    def named(cls, preset: str, *, masks: tuple[str, ...] = ("vessels",), **lengths: str) -> ChainConfig:
        """Return the links that go by one name among the presets of their families.

        Args:
            preset: `default` (512 px) or `small` (256 px).
            masks: What is drawn and painted on.
            **lengths: See the fields.
        """
        trees, painter = (cast(Any, PRESETS[kind][preset][1]) for kind in ("vae", "pix2pix"))
        return cls(
            trees=replace(trees, masks=masks),
            painter=replace(painter, masks=masks),
            upscaler=cast(EDSRConfig, PRESETS["edsr"]["default"][1]),
            **lengths,
        )

    def links(self) -> dict[str, tuple[AnyConfig, str]]:
        """Return configuration and length of every link by its name, in order."""
        return {
            TREES: (self.trees, self.trees_for),
            PAINTER: (self.painter, self.painter_for),
            UPSCALER: (self.upscaler, self.upscaler_for),
        }


def train_chain(
    folders: Sequence[Path], run: Path, config: ChainConfig, *, sharp: Sequence[Path] = (),
    loop: dict[str, Any] | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train every link that is not finished, from where it stood.

    Args:
        folders: Dataset folders of photographs with the masks; split `train` is learnt from.
        run: Run folder of the chain.
        config: What to train.
        sharp: Dataset folders of photographs of at least twice the side, for super-resolution; it is left out
            where there are none.
        loop: Settings of the training loop that all links share.
        quiet: No progress on standard error.

    Returns:
        What `fit` returns of each link, by its name.

    Raises:
        DatasetError, TrainingError, RunError: See `fit`; or the run was begun with other settings.
    """
    facts = {"version": __version__, "config": json.loads(to_json(config))}
    facts |= {"folders": [folder.name for folder in folders], "sharp": [folder.name for folder in sharp]}
    _same(run, facts)
    found: dict[str, Any] = {}
    for name, (link, length) in config.links().items():
        data = sharp if name == UPSCALER else folders
        if not data:
            continue
        done = run / f"{name}.json"
        if done.is_file():
            found[name] = json.loads(done.read_text("utf-8"))
            continue
        settings: dict[str, Any] = {**LOOPS[link.kind], **(loop or {}), "stop_after": length}
        made = fit(link, data, run / name, loop=LoopConfig(**settings), resume=True, quiet=quiet)
        if made is None:  # a process beside the first one
            continue
        found[name] = made
        if not made["finished"]:
            break
        write_text(done, json.dumps(made, ensure_ascii=False) + "\n")
    return found


def _same(run: Path, facts: dict[str, Any]) -> None:
    """Write what a chain is made of, or refuse to go on with something else."""
    file = run / CHAIN
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))
        if {**known, "version": ""} != {**facts, "version": ""}:
            raise DatasetError(
                f"{file}: this chain was begun with other settings or folders; name another folder"
            )
        return
    run.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(facts, ensure_ascii=False) + "\n")


def sample_chain(
    run: Path, out: Path, *, count: int, seed: int = 0, upscale: bool = False, jobs: int = 1,
    device: str = "auto",
) -> Iterator[Record]:  # fmt: skip
    """Write a dataset folder of eyes whose trees are drawn and whose colours are painted.

    Args:
        run: Run folder of the chain.
        out: Dataset folder to write.
        count: Number of eyes.
        seed: Seed of the sequence; the same eyes come of it in any number.
        upscale: Also double the side.
        jobs: Processes that draw trees.
        device: Where to paint.

    Yields:
        Records whose files are on the disk.

    Raises:
        DatasetError: No chain, or a folder that holds a dataset.
        CheckpointError: A link is missing that is needed.
    """
    if not (run / CHAIN).is_file():
        raise DatasetError(f"{run}: no {CHAIN}; expected a folder made by `fundusforge chain train`")
    painter = Painter.load(run / PAINTER, device=device)
    config = SampleConfig(count=count, seed=seed, masks=str(run / TREES), split="train", jobs=jobs)
    if not upscale:
        yield from sample(painter, out, config)
        return
    upscaler = Upscaler.load(run / UPSCALER, device=device)
    small = out.with_name(f".{out.name}.small")
    shutil.rmtree(small, ignore_errors=True)
    try:
        for _ in sample(painter, small, config):
            pass
        yield from upscale_folder(upscaler, small, out)
    finally:
        shutil.rmtree(small, ignore_errors=True)
