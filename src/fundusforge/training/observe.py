"""What a training shows and keeps while it runs: progress, log, samples, validation, saved weights.

Only the main process observes; the others wait for it at the end of each step.
"""

# torch and torchvision annotate themselves only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fundusforge import images as pictures
from fundusforge.models.recipe import Recipe
from fundusforge.training import checkpoint, parallel
from fundusforge.training.checkpoint import Clock
from fundusforge.training.run import (  # fmt: skip
    BEST,
    MODEL,
    SNAPSHOTS,
    Every,
    Log,
    LoopConfig,
    ProgressLine,
    parse_budget,
)
from fundusforge.training.warm import WarmStart

Batch = dict[str, Tensor]


def images_in(batch: Batch) -> int:
    """Number of images of a batch."""
    return len(next(iter(batch.values())))


class Feed(Protocol):
    """Where batches come from; see `fundusforge.training.batches.Batches`."""

    def starting_at(self, image: int) -> Iterator[Batch]:
        """Endless batches of this process's share, from this image of the clock on."""
        ...


@dataclass(frozen=True)
class Validation:
    """How a model is judged while it trains."""

    judge: Callable[[nn.ModuleDict], Mapping[str, float]]
    """Scores of the networks (averages where kept, in evaluation mode)."""
    score: str | None
    """Score to maximise; the model with the highest is `best.safetensors`. None only logs the scores."""
    stop: Callable[[], str | None] = lambda: None
    """Why training should end after what was judged last; None if it should not."""


@dataclass(frozen=True)
class Nets:
    """The networks of a training and the averages of some of them."""

    recipe: Recipe
    averages: nn.ModuleDict

    def shown(self) -> nn.ModuleDict:
        """Every network, averages in place of those that are averaged."""
        return nn.ModuleDict(dict(self.recipe.nets.items()) | dict(self.averages.items()))

    def released(self) -> nn.ModuleDict:
        """The networks that a model file carries: the averages, or all networks where none is averaged."""
        return self.averages if len(self.averages) else self.recipe.nets


class Observer:
    """Progress line, log, samples, validation and files of one training."""

    def __init__(
        self,
        nets: Nets,
        c: LoopConfig,
        run_dir: Path,
        *,
        config_json: str,
        clock: Clock,
        device: torch.device,
        feed: Feed,
        validation: Validation | None,
        metadata: Mapping[str, Any],
        quiet: bool,
    ) -> None:
        """Open the outputs at this point of the clock; previews are drawn on the first images of the feed."""
        self.nets, self.c, self.run_dir, self.config_json = nets, c, run_dir, config_json
        self.validation, self.metadata, self.device = validation, metadata, device
        self.line = ProgressLine(
            parse_budget(c.stop_after), images=clock.images, seconds=clock.seconds, quiet=quiet
        )
        self.log = Log(run_dir, images=clock.images, tensorboard=c.tensorboard)
        self.preview = _first_images(feed, c.sample_count)
        self.save_due, self.sample_due, self.validate_due = (
            Every(parse_budget(text), images=clock.images, seconds=clock.seconds)
            for text in (c.save_every, c.sample_every, c.validate_every)
        )
        self.keep_due = (
            Every(parse_budget(c.keep_every), images=clock.images, seconds=clock.seconds)
            if c.keep_every
            else None
        )
        self.best = _best_so_far(run_dir / BEST, validation)
        self.enough: str | None = None
        """Why training should end early."""
        self._since_best = 0
        self._sums: dict[str, list[float]] = {}

    def close(self) -> None:
        """Close the log and leave the terminal as it was."""
        self.line.close()
        self.log.close()

    def warm_started(self, path: Path, report: WarmStart) -> None:
        """Tell what a warm start took."""
        self.log.write(0, {"warm_start": str(report)})
        self.line.say(f"warm start from {path}: {report}")

    def failed(self, clock: Clock, message: str) -> None:
        """Note in the log why training broke down."""
        self.log.write(clock.images, {"failed": message})

    def step(self, clock: Clock, scalars: Mapping[str, float], progress: float, *, interrupted: bool) -> None:
        """Report a step; save, sample and validate where due, and at the end."""
        finished, now = progress >= 1.0, (clock.images, clock.seconds)
        self._report(clock, scalars, progress, ended=finished or interrupted)
        if self.save_due.due(*now) or finished or interrupted:
            self._save_model(MODEL, clock)
            checkpoint.save_state(
                self.run_dir, self.nets.recipe, self.nets.averages, config_json=self.config_json, clock=clock
            )
        if self.keep_due and self.keep_due.due(*now):
            (self.run_dir / SNAPSHOTS).mkdir(exist_ok=True)
            self._save_model(f"{SNAPSHOTS}/{clock.images:09}.safetensors", clock)
        if (self.sample_due.due(*now) and not interrupted) or finished:
            self._sample(clock)
        if self.validation and ((self.validate_due.due(*now) and not interrupted) or finished):
            self._validate(clock, self.validation)

    def _report(self, clock: Clock, scalars: Mapping[str, float], progress: float, *, ended: bool) -> None:
        """Show progress; write the means since the last line of the log when one is due."""
        for name, value in scalars.items():
            self._sums.setdefault(name, []).append(value)
        shown = {name: value for name, value in scalars.items() if not name.endswith("/gradient")}
        self.line.show(clock.images, clock.seconds, shown)
        crossed = clock.images // self.c.log_every > (clock.images - self.c.batch) // self.c.log_every
        if crossed or ended:
            row: dict[str, float] = {name: sum(v) / len(v) for name, v in self._sums.items()}
            row |= {"seconds": round(clock.seconds, 3), "rate": self.c.rate(clock.images, progress)}
            self.log.write(clock.images, row)
            self._sums.clear()

    def _sample(self, clock: Clock) -> None:
        """Draw a grid of previews."""
        with _judging(self.nets.recipe.nets):
            batch = parallel.to_device(
                self.preview, self.device, channels_last=self.c.channels_last is not False
            )
            parallel.seed_step(self.c.seed, 0, 0)
            drawn = self.nets.recipe.preview(self.nets.shown().eval(), batch)
        pixels = ((drawn.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        sheet = pictures.grid(list(pixels))
        pictures.write_image(self.run_dir / "samples" / f"{clock.images:09}.png", sheet)
        self.log.picture(clock.images, "samples", sheet)

    def _validate(self, clock: Clock, validation: Validation) -> None:
        """Judge the model; keep it as the best if it is."""
        with _judging(self.nets.recipe.nets):
            scores = {name: float(s) for name, s in validation.judge(self.nets.shown().eval()).items()}
        if validation.score is not None and validation.score not in scores:
            raise KeyError(
                f"validation gave {sorted(scores)}, not {validation.score!r}, which is to be maximised"
            )
        self.log.write(clock.images, {f"validation/{name}": value for name, value in scores.items()})
        if validation.score is None:
            self.line.say(f"{clock.images} img  " + "  ".join(f"{n} {s:.4f}" for n, s in scores.items()))
            return
        score = scores[validation.score]
        self.enough = validation.stop()
        best = self.best is None or score > self.best
        self.line.say(f"{clock.images} img  {validation.score} {score:.4f}{'  (best)' if best else ''}")
        self._since_best = 0 if best else self._since_best + 1
        if self.c.patience and self._since_best >= self.c.patience:
            self.enough = f"no better {validation.score} in {self._since_best} validations"
        if self.enough:
            self.line.say(f"ends early: {self.enough}")
            self.log.write(clock.images, {"ended": self.enough})
        if best:
            self.best = score
            self._save_model(BEST, clock, score=validation.score, value=repr(score))

    def _save_model(self, name: str, clock: Clock, **extra: str) -> None:
        """Write the released networks."""
        checkpoint.save_model(
            self.run_dir / name,
            self.nets.released(),
            config_json=self.config_json,
            clock=clock,
            half=self.c.half,
            extra={**self.metadata, **extra},
        )


def _best_so_far(path: Path, validation: Validation | None) -> float | None:
    """The score of the best model of an earlier sitting, if it was judged by the same score."""
    if not validation or validation.score is None or not path.exists():
        return None
    metadata = checkpoint.read_metadata(path)
    return float(metadata["value"]) if metadata.get("score") == validation.score else None


def _first_images(feed: Feed, count: int) -> Batch:
    """The first images of the feed, in one batch."""
    source, found = feed.starting_at(0), list[Batch]()
    while sum(map(images_in, found)) < count:
        found.append(next(source))
    return {name: torch.cat([batch[name] for batch in found])[:count] for name in found[0]}


@contextmanager
def _judging(nets: nn.ModuleDict) -> Generator[None]:
    """No gradients; the modes of the networks are put back afterwards."""
    modes = {module: module.training for module in nets.modules()}
    with torch.no_grad():
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
