"""The chain of Sengupta et al. 2019: trees from a few eyes, photographs painted on them, twice the pixels.

Every link is a model of its own in the chain's run folder, trained by `fundusforge.cli.fitting.fit` and
usable alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from fundusforge import __version__
from fundusforge.cli.command import UsageError, nearest
from fundusforge.cli.fitting import fit
from fundusforge.config import to_json
from fundusforge.models import LOOPS, PRESETS, AnyConfig
from fundusforge.models.edsr import EDSRConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.models.vae import VAEConfig
from fundusforge.records import METADATA, DatasetError, Record, read_folder, write_metadata, write_text
from fundusforge.sample.conditions import PHANTOM
from fundusforge.sample.painter import Painter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.sample.supply import DrawnConditions
from fundusforge.sample.upscaling import Upscaler, upscale_folder
from fundusforge.studies.chain.folds import Source
from fundusforge.studies.chain.parting import WARPED, write_warped
from fundusforge.studies.chain.result import slug
from fundusforge.studies.chain.scores import PLAIN, named
from fundusforge.training.run import LoopConfig

TREES, PAINTER, UPSCALER, CHAIN = "trees", "painter", "upscaler", "chain.json"
"""What a chain's run folder holds: one run for each link, and what they were made of."""
SOURCES = (PLAIN, PHANTOM, WARPED)
"""Sources of trees that are known by a word; any other is a model that draws them."""


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
    links: Sequence[str] = (TREES, PAINTER, UPSCALER), loop: dict[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train every link that is wanted and not finished, from where it stood.

    Args:
        folders: Dataset folders of photographs with the masks; split `train` is learnt from.
        run: Run folder of the chain.
        config: What to train.
        sharp: Dataset folders of photographs of at least twice the side, for super-resolution; it is left out
            where there are none.
        links: Those that are wanted; others may be trained later.
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
        if not data or name not in links:
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
    run: Path, out: Path, *, count: int, seed: int = 0, masks: str | None = None, upscale: bool = False,
    jobs: int = 1, device: str = "auto",
) -> Iterator[Record]:  # fmt: skip
    """Write a dataset folder of eyes whose trees are drawn and whose colours are painted.

    Args:
        run: Run folder of the chain.
        out: Dataset folder to write.
        count: Number of eyes.
        seed: Seed of the sequence; the same eyes come of it in any number.
        masks: What to paint on, as `fundusforge sample --masks` takes it; what the chain draws if None.
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
    config = SampleConfig(count=count, seed=seed, masks=masks or str(run / TREES), split="train", jobs=jobs)
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


def sources_of(
    words: Sequence[str], config: ChainConfig, *, count: int, seed: int = 0, jobs: int = 1,
    loop: dict[str, Any] | None = None, quiet: bool = False,
) -> dict[str, Source]:  # fmt: skip
    """Return the sources of trees that `chain folds --sources` names, by the names of their figures.

    All of a fold share its chain's folder, and so the painter. The auto-encoder is trained for its own trees
    only.

    Args:
        words: Of `SOURCES`, or a run folder or weights of a model that draws the masks.
        config: What to train.
        count: Number of eyes of each source.
        seed: Seed of the sequence of eyes.
        jobs: Processes that draw trees.
        loop: Settings of the training loop.
        quiet: No progress on standard error.

    Raises:
        UsageError: An unknown source, or two of one name.
        CheckpointError, ConfigError: A file or a folder that is no model of masks.
        DatasetError: A model that lacks a mask, or does not say whom it was trained on.
    """
    found: dict[str, Source] = {}
    for word in words:
        name, facts = (word, dict[str, Any]()) if word in SOURCES else _trained(word, config)
        if name in found:
            raise UsageError(f"--sources: two are called {name!r}; rename a run folder")
        make = partial(
            _drawn, source=name, masks=word, config=config, count=count, seed=seed, jobs=jobs, loop=loop,
            quiet=quiet,
        )  # fmt: skip
        found[name] = Source(make=make, **facts)
    return found


def _trained(word: str, config: ChainConfig) -> tuple[str, dict[str, Any]]:
    """Return the name of a model that draws masks, and what a study must know of it."""
    if not Path(word).exists():
        raise UsageError(
            f"unknown source {word!r}{nearest(word, SOURCES)}; known are {', '.join(SOURCES)}, and run "
            "folders of models that draw masks"
        )
    drawer = DrawnConditions.load(Path(word), masks=config.painter.masks, seed=0).drawer
    if not drawer.patients:
        raise DatasetError(
            f"{word}: the model does not say which patients it was trained on, so nobody can tell whether it "
            "knows an eye that is tested; finish its training"
        )
    name = slug(drawer.name.rpartition("-")[0])
    if name in SOURCES:
        raise UsageError(f"{word}: a model may not be called {name!r}, as a source is; rename its folder")
    return name, {"model": drawer.name, "patients": drawer.patients}


def _drawn(
    known: Path, place: Path, *, source: str, masks: str, config: ChainConfig, count: int, seed: int,
    jobs: int, loop: dict[str, Any] | None, quiet: bool,
) -> Path:  # fmt: skip
    """Train what a source needs, draw its eyes into the chain's folder, and return theirs."""
    links = (TREES, PAINTER) if source == PLAIN else (PAINTER,)
    train_chain([known], place, config, links=links, loop=loop, quiet=quiet)
    if source == PLAIN:
        masks = str(place / TREES)
    elif source == WARPED:
        trees = place / WARPED
        masks = str(write_warped(known, trees, masks=config.painter.masks, count=count, seed=seed))
    out = place / named("drawn", source)
    if not (out / METADATA).exists():
        device = (loop or {}).get("device", "auto")
        list(sample_chain(place, out, count=count, seed=seed, masks=masks, jobs=jobs, device=device))
    # Phantoms are of no split; here they are learnt from.
    write_metadata(out, [replace(record, split="train") for record in read_folder(out)])
    return out
