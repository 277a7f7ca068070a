"""What `fundusforge train` adds for GANs that draw from vectors (budget, judge, warnings) and encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fundusforge.audit.watch import LEAKING, SIDE, Watch
from fundusforge.cli import judges
from fundusforge.cli.command import say
from fundusforge.config import to_json
from fundusforge.evaluate.extractors import load_extractor
from fundusforge.evaluate.features import Extractor, Features
from fundusforge.evaluate.kernel import kernel_distance
from fundusforge.images import read_image, resize
from fundusforge.models import ModelConfig, pggan, stylegan, vae
from fundusforge.models.encoder import EncoderConfig
from fundusforge.models.growing import at_stage, stacked
from fundusforge.models.pggan import PGGAN, PGGANConfig
from fundusforge.models.recipe import Recipe
from fundusforge.models.stylegan import StyleGAN, StyleGANConfig
from fundusforge.records import DatasetError, Record
from fundusforge.sample.latents import Drawer, Drawn
from fundusforge.training import parallel
from fundusforge.training.batches import Batches, finding
from fundusforge.training.checkpoint import annotate_metadata, model_file
from fundusforge.training.draws import Draws
from fundusforge.training.loop import Validation, train
from fundusforge.training.run import LoopConfig, parse_budget

Config = PGGANConfig | StyleGANConfig
Drawing = PGGAN | StyleGAN
WATCHED = 32
"""Pictures of each kind (of training, of validation, drawn) on which a training is watched."""
TABLE = 200
"""Training pictures of which a model keeps what they show, so that as much can be asked of it."""
JUDGED = 64
"""Drawn pictures that are compared with those of validation."""
ALIKE, BY_HEART, STEEP = 0.5, 0.5, 3.0
"""Limits of `diversity` (below), `overfit` and `slope` (above) at which a training is warned of."""


def settled(config: Config, loop: LoopConfig, learnt: Sequence[Record]) -> Config:
    """Return the configuration with what its data decide: the budget, and settings for few pictures.

    Raises:
        DatasetError: See `budgeted`.
    """
    config = budgeted(config, loop)
    if isinstance(config, StyleGANConfig):
        pictures = len(_fit(config, learnt)) * (1 + config.mirror)
        config = config.suited(pictures)
        said = f"gamma {config.gamma:.3g}"
        said += f", adaptive_over {config.adaptive_over}" if config.adaptive else ""
        say(f"{pictures} pictures to learn from: {said}")
    return config


def budgeted(config: Config, loop: LoopConfig) -> Config:
    """Return the configuration with its budget, where it grows: its own, or the loop's length.

    Raises:
        DatasetError: The length is a time, by which growing cannot be planned.
    """
    if config.budget or (isinstance(config, StyleGANConfig) and config.generation == 2):
        return config
    images = parse_budget(loop.stop_after).images
    if images is None:
        raise DatasetError(
            f"stop after {loop.stop_after}: this GAN grows by the images it has seen, so its length "
            "must be in images (--stop-after 200000img), or --model.budget must say when it is grown"
        )
    return replace(config, budget=images)


def drawing_judge(recipe: Drawing, learnt: Sequence[Record], judged: Sequence[Record]) -> Validation | None:
    """Watch a generator of photographs or contrasts, and judge photographs by their features.

    `distance` is the kernel distance of drawn photographs to those of split `val`, by the embedded features
    of the retina; of the states that draw the largest pictures that with the lowest is kept as the best
    (`quality`). The rest is `health`. A training that is about to fail is warned of, on standard error, with
    the setting to change. A state of which more than `LEAKING` of the drawn photographs are too near to one
    learnt from (`leaked`) is not kept as the best unless all are so, and two of them in a row end the
    training.
    """
    config = recipe.config
    seen, unseen = (_watched(recipe, records) for records in (learnt, judged))
    if seen is None:
        return None
    compare, asked = _Comparison.of(config, judged), asked_of(recipe, learnt)
    watch = None if compare is None or config.size < SIDE else Watch.of(_fit(config, learnt), judged)
    leaks: list[float] = []

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        generator = cast(pggan.Generator | stylegan.Generator, nets["generator"])
        scores = health(recipe, generator, seen, unseen)
        for warning in warnings(scores, config):
            say(f"warning: {warning}")
        if compare is not None:
            drawn = compare.draw(Drawer.of(generator, asked=asked))
            scores["distance"] = compare.distance(drawn)
            scores["quality"] = quality(scores["distance"], generator.stage.level)
            if watch is not None:
                scores["leaked"] = watch.leaked([(one.image, one.field_of_view) for one in drawn])
                scores["quality"] -= 2 * (scores["leaked"] > LEAKING)
                leaks.append(scores["leaked"])
        return scores

    def stop() -> str | None:
        if len(leaks) > 1 and min(leaks[-2:]) > LEAKING:
            return f"{leaks[-1]:.0%} of what is drawn is too near to a training picture, twice in a row"
        return None

    return Validation(judge=judge, score="quality" if compare else None, stop=stop)


def asked_of(recipe: Drawing, learnt: Sequence[Record]) -> list[list[float]]:
    """Return what each training picture shows, as numbers of the condition, at most `TABLE` of them."""
    if isinstance(recipe, PGGAN) or not recipe.config.classes:
        return []
    rows: list[list[float]] = []
    for record in judges.spread(_fit(recipe.config, learnt), TABLE):
        there = [name for name in recipe.config.findings if finding(Path("/"), record, name) == 1]
        rows.append([*recipe.config.condition(record.grade, there)])
    return rows


def quality(distance: float, level: int) -> float:
    """Return a score that prefers the larger picture, and of the same size the smaller distance."""
    return 2 * level - distance / (1 + abs(distance))


def conclude(
    run: Path, recipe: Drawing, learnt: Sequence[Record], judged: Sequence[Record]
) -> dict[str, float]:
    """Tell a generator that a run released what may be asked of it; return its figures."""
    if rows := asked_of(recipe, learnt):
        annotate_metadata(run, asked=rows)
    compare = _Comparison.of(recipe.config, judged)
    return {"distance": compare.distance(compare.draw(Drawer.load(run)))} if compare else {}


@dataclass(frozen=True)
class _Comparison:
    """Photographs of split `val` as features, at the side of the drawn ones, to compare these with."""

    extractor: Extractor
    judged: Sequence[Record]
    real: dict[int, Features] = field(default_factory=dict[int, Features])
    """By side in pixels."""

    @classmethod
    def of(cls, config: Config, judged: Sequence[Record]) -> _Comparison | None:
        """Load the extractor; None if contrasts are drawn, or there are fewer than two photographs."""
        return None if config.contrasts or len(judged) < 2 else cls(load_extractor("retina"), judged)

    def draw(self, drawer: Drawer) -> list[Drawn]:
        """Draw what is compared, always from the same vectors."""
        return [drawer.draw(drawer.latent(0, index)) for index in range(JUDGED)]

    def distance(self, drawn: Sequence[Drawn]) -> float:
        """Kernel distance of drawn photographs: larger real ones are made as small, or it would tell blur."""
        side = max(drawn[0].image.shape[:2])
        if side not in self.real:
            shown = (read_image(Path(record.image)) for record in self.judged)
            self.real[side] = self.extractor([resize(x, side) if max(x.shape) > side else x for x in shown])
        return kernel_distance(self.extractor([one.image for one in drawn]), self.real[side])


def _fit(config: Config, records: Sequence[Record]) -> list[Record]:
    """Return the records that have all that is drawn."""
    return [
        record
        for record in records
        if set(config.masks) <= record.masks.keys() and set(config.contrasts) <= record.contrasts.keys()
    ]


def _watched(recipe: Drawing, records: Sequence[Record]) -> Watched | None:
    """Up to `WATCHED` records as the discriminator sees them at full size; None if none has what is drawn."""
    fit = _fit(recipe.config, records)
    if not fit:
        return None
    view = replace(recipe.view, augment="none", halved_from=None)
    batch = Batches(Path("/"), fit, view, batch=min(WATCHED, len(fit)), seed=1).load(0)
    return Watched(stacked(batch), None if isinstance(recipe, PGGAN) else recipe.asked(batch))


class Watched(NamedTuple):
    """Pictures by which a training is watched."""

    pictures: Tensor
    """(N, channels, S, S) as `models.growing.stacked` gives them."""
    asked: Tensor | None = None
    """(N, conditions) what they show; None if nothing can be asked for."""


@torch.no_grad()
def health(
    recipe: Drawing, generator: pggan.Generator | stylegan.Generator, seen: Watched, unseen: Watched | None
) -> dict[str, float]:
    """Tell how a training fares.

    Args:
        recipe: What is trained.
        generator: The averaged generator.
        seen: Pictures of training.
        unseen: As many of validation, or None.

    Returns:
        `diversity`, the mean distance between two drawn pictures over that of two real ones (at most 32 px);
        `overfit`, how far the discriminator's opinion of unseen photographs lies from that of seen ones
        towards that of drawn ones (0 to 1, where there are unseen ones); `slope`, of a progressive GAN, the
        length of its gradient between real and drawn pictures, which the penalty holds near 1.
    """
    stage, device = generator.stage, generator.seen.device
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(len(seen.pictures), generator.config.latent, generator=random).to(device)
    asked = None if seen.asked is None else seen.asked.to(device)

    def opinion(pictures: Tensor, asked: Tensor | None) -> Tensor:
        if isinstance(recipe, PGGAN):
            return recipe.nets["discriminator"](pictures, stage)
        return recipe.opinion(pictures, stage, asked)

    drawn = generator.drawn(generator.codes(latents, asked)).float()
    real = at_stage(seen.pictures.to(device), stage)
    found = {"diversity": spread(drawn) / max(spread(real), 1e-9)}
    if unseen is not None:
        other = None if unseen.asked is None else unseen.asked.to(device)
        on_real, on_drawn = (float(opinion(x, asked).mean()) for x in (real, drawn))
        on_unseen = float(opinion(at_stage(unseen.pictures.to(device), stage), other).mean())
        gap = on_real - on_drawn
        found["overfit"] = (on_real - on_unseen) / gap if gap > 1e-6 else 0.0
    if not isinstance(recipe, PGGAN):
        return found
    with torch.enable_grad():
        between = torch.lerp(real, drawn, 0.5).requires_grad_(True)
        slope = torch.autograd.grad(opinion(between, asked).sum(), between)[0]
    return found | {"slope": float(slope.flatten(1).norm(dim=1).mean())}


def spread(pictures: Tensor) -> float:
    """Mean root-mean-square difference of two different pictures of (N, C, S, S), seen at 32 px at most."""
    small = nn.functional.adaptive_avg_pool2d(pictures, min(32, pictures.shape[-1])).flatten(1)
    return float(torch.pdist(small).mean() / small.shape[1] ** 0.5) if len(small) > 1 else 0.0


def warnings(scores: dict[str, float], config: Config) -> list[str]:
    """Say what the figures of `health` warn of, and which setting to change."""
    found: list[str] = []
    grown = isinstance(config, PGGANConfig)
    if scores["diversity"] < ALIKE:
        remedy = "Lower --model.generator-rate, or raise --loop.batch" if grown else (
            "Raise --model.gamma or --loop.batch, or lower --model.lr"
        )  # fmt: skip
        found.append(
            f"what is drawn grows alike: it differs {scores['diversity']:.2f} times as much as real pictures "
            f"do (mode collapse). {remedy}"
        )
    if scores.get("overfit", 0.0) > BY_HEART:
        further = "" if grown else ", a smaller --model.adaptive-over"
        found.append(
            f"the discriminator knows the training pictures by heart ({scores['overfit']:.0%} of the way "
            f"from seen to drawn lies before unseen ones). Give more pictures, --model.mirror{further}, "
            "narrower --model.widths, or a shorter training"
        )
    if not scores.get("slope", 1.0) < STEEP:
        found.append(
            f"the discriminator's slope is {scores['slope']:.1f} and should be 1: the training diverges. "
            "Lower --model.lr"
        )
    return found


# ---- the encoder -------------------------------------------------------------------------------------------


def fit_encoder(
    config: EncoderConfig,
    run: Path,
    *,
    loop: LoopConfig,
    resume: bool = False,
    warm_start: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Train the encoder of a generator on what that draws.

    Args:
        config: The encoder; its `generator` must be given, the rest of what is filled in is found there.
        run: Run folder.
        loop: How to train.
        resume: Go on where the run stood.
        warm_start: Weights to start from.
        quiet: No progress on standard error.

    Returns:
        `run`, `model`, `images`, `seconds`, `finished` and `figures`: `squared`, the mean squared error of
        the vectors of pictures that were never learnt from (1 for an encoder that knows nothing). None in
        processes other than the first.

    Raises:
        DatasetError: No generator is given.
        RunError, CheckpointError, TrainingError: See `fundusforge.training.loop.train`.
    """
    if config.generator is None:
        raise DatasetError("an encoder needs the generator that it inverts: --model.generator RUN")
    process, drawer = parallel.start(loop.device), Drawer.load(config.generator, device=loop.device)
    if isinstance(drawer.generator, vae.Decoder) or isinstance(drawer.config, vae.VAEConfig):
        raise DatasetError(f"{config.generator}: an auto-encoder has an encoder of its own")
    config = replace(config, drawn=drawer.config, side=drawer.size)
    torch.manual_seed(loop.seed)
    recipe = config.build()
    recipe.generator = drawer.generator
    recipe.asked = torch.tensor(drawer.asked) if drawer.asked else None
    count = recipe.view.draws
    feed = Draws(count=count, batch=loop.batch, seed=loop.seed, rank=process.rank, world=process.world)
    unseen = next(Draws(count=count, batch=JUDGED, seed=loop.seed + 1).starting_at(0))["draws"]

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        codes = recipe.codes(unseen.to(drawer.generator.seen.device))
        error = float((nets["encoder"](recipe.pictures(codes), config.stage) - codes).square().mean())
        return {"squared": error, "likeness": -error}

    trained = train(
        cast(Recipe, recipe), feed, loop, run, config_json=to_json(config, kind=ModelConfig, indent=None),
        data={"generator": drawer.name}, validate=Validation(judge=judge, score="likeness"), resume=resume,
        metadata={"generator": drawer.name, "terms": list(drawer.terms), "patients": sorted(drawer.patients)},
        warm_start=warm_start, quiet=quiet,
    )  # fmt: skip
    if not process.main:
        return None
    figures = {"squared": -(trained.best or 0.0)}
    annotate_metadata(run, figures=figures)
    return {
        "run": str(run), "model": str(model_file(run)), "images": trained.clock.images,
        "seconds": round(trained.clock.seconds, 1), "finished": trained.finished, "figures": figures,
    }  # fmt: skip
