"""The one training loop, shared by every model family.

Per batch, for each phase that is due: unfreeze its networks, zero, losses, backward on their sum, average the
gradients over processes, step. Then the averages of the weights, the clock, and what the observer does. The
clock counts images. Before each step torch is seeded anew from (seed, clock, rank) and batches are a function
of the clock, so a killed run goes on bit for bit without any generator's state being stored.
"""

# torch and torchvision annotate themselves only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fundusforge.models.recipe import Phase, Recipe
from fundusforge.training import checkpoint, parallel
from fundusforge.training.checkpoint import Clock
from fundusforge.training.observe import Batch, Feed, Nets, Observer, Validation, images_in
from fundusforge.training.parallel import Process
from fundusforge.training.run import LoopConfig, RunError, check_run, open_run, parse_budget
from fundusforge.training.warm import WarmStart, load_warm

__all__ = ["Feed", "LoopConfig", "Trained", "TrainingError", "Validation", "train", "update_averages"]


@dataclass(frozen=True)
class Trained:
    """What a training ended with."""

    nets: nn.ModuleDict
    """The released networks: averages where kept, in evaluation mode."""
    clock: Clock
    finished: bool
    """False if it was interrupted before its budget was spent."""
    best: float | None
    """Highest validation score (on the main process)."""


class TrainingError(RuntimeError):
    """Training broke down: a loss or a gradient is no longer finite."""


def train(
    recipe: Recipe,
    batches: Feed,
    c: LoopConfig,
    run_dir: Path,
    *,
    config_json: str,
    data: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    validate: Validation | None = None,
    resume: bool = True,
    warm_start: Path | None = None,
    quiet: bool = False,
) -> Trained:
    """Train a model in a run folder until its budget is spent.

    SIGINT and SIGTERM end it early: the step is finished and the state saved. To be the same in every
    sitting, the recipe must be built from the same configuration; its fresh weights do not matter when a run
    is resumed.

    Args:
        recipe: The model, freshly built.
        batches: Its data; each batch is this process's share of `c.batch` images.
        c: How to train.
        run_dir: The run folder, made if missing.
        config_json: The family's configuration, which the weights carry.
        data: What the model was trained on, for `config.json`.
        metadata: What else the model files carry, say the `patients` and `terms` of the data; see
            `checkpoint.save_model`.
        validate: How to judge it for `best.safetensors`.
        resume: Go on where the folder's run stood; False refuses a folder that holds a run.
        warm_start: Weights to start from, if the run is new (see `training.warm`).
        quiet: No progress on standard error.

    Raises:
        TrainingError: A loss or gradient was not finite; the last saved state is untouched.
        RunError, CheckpointError: The folder or the weights do not fit.
        ValueError: The device is unknown, or the batch cannot be split evenly.
        OSError: The folder cannot be written; the last saved state is untouched.
    """
    run_dir = Path(run_dir)
    process = parallel.start(c.device)
    if c.batch % (process.world * c.accumulate):
        raise ValueError(
            f"batch {c.batch} is no multiple of {process.world} processes x {c.accumulate} parts"
        )
    check_run(run_dir, resume=resume)
    trainer = _Trainer(recipe, c, process)
    clock = checkpoint.load_state(
        run_dir, recipe, trainer.nets.averages, config_json=config_json, say=process.main
    )
    _check_agreement(run_dir, clock, process)
    report = None if clock else trainer.begin(warm_start)
    if not process.main:
        with _interrupts() as interrupted:
            return trainer.run(batches, clock or Clock(), None, interrupted)
    open_run(run_dir, config_json=config_json, loop=c, data=data or {})
    observer = Observer(
        trainer.nets,
        c,
        run_dir,
        config_json=config_json,
        clock=clock or Clock(),
        device=process.device,
        feed=batches,
        validation=validate,
        metadata=metadata or {},
        quiet=quiet,
    )
    try:
        if warm_start and report:
            observer.warm_started(warm_start, report)
        with _interrupts() as interrupted:
            return trainer.run(batches, clock or Clock(), observer, interrupted)
    finally:
        observer.close()


class _Trainer:
    """A recipe made ready to step on a device, with the averages of its weights."""

    def __init__(self, recipe: Recipe, c: LoopConfig, process: Process) -> None:
        """Move the networks and set what torch keeps per process."""
        _set_up(c, process)
        self.recipe, self.c, self.process = recipe, c, process
        self.budget = parse_budget(c.stop_after)
        self.bf16 = c.precision == "bf16" or (c.precision == "auto" and process.device.type == "cuda")
        self.channels_last = c.channels_last is not False
        recipe.nets.to(process.device).train()
        if self.channels_last:
            recipe.nets.to(memory_format=torch.channels_last)
        self.learnt = {n: [p for p in net.parameters() if p.requires_grad] for n, net in recipe.nets.items()}
        averages = nn.ModuleDict({n: copy.deepcopy(recipe.nets[n]) for n in recipe.ema})
        self.nets = Nets(recipe, averages.requires_grad_(False).eval())
        self.full_rates = [
            (group, group["lr"])
            for optimizer in checkpoint.optimizers(recipe).values()
            for group in optimizer.param_groups
        ]

    def begin(self, warm: Path | None) -> WarmStart | None:
        """Begin a new run: from warm weights if given, all processes from the same."""
        pictures = getattr(self.recipe, "pictures", ())
        report = load_warm(self.recipe.nets, warm, pictures=pictures) if warm else None
        parallel.share_state(self.recipe.nets)
        update_averages(self.nets.averages, self.recipe.nets, 0.0)
        return report

    def run(
        self, batches: Feed, clock: Clock, observer: Observer | None, interrupted: threading.Event
    ) -> Trained:
        """Take steps until the budget is spent or someone interrupts."""
        source = batches.starting_at(clock.images)
        began = time.monotonic() - clock.seconds
        progress, stop = self.budget.fraction(clock.images, clock.seconds), 0.0
        while progress < 1.0 and not stop:
            scalars = self.step(next(source), clock.images, progress)
            bad = [name for name, value in scalars.items() if not math.isfinite(value)]
            images = clock.images + self.recipe.view.batch_at(clock.images, self.c.batch)
            clock = replace(clock, images=images, seconds=time.monotonic() - began)
            ahead = self.budget.fraction(clock.images, clock.seconds) if self.process.main else 0.0
            ahead = 1.0 if observer and observer.enough else ahead
            failed, stop, progress = parallel.agree(
                [float(bool(bad)), float(interrupted.is_set()), ahead], self.process.device
            )
            if failed:
                _fail(bad, clock, observer)
            if observer:
                observer.step(clock, scalars, progress, interrupted=bool(stop))
        parallel.agree([0.0], self.process.device)  # the others stay until the last files are written
        for parameter in (p for learnt in self.learnt.values() for p in learnt):
            parameter.requires_grad_(True)
        best = observer.best if observer else None
        return Trained(self.nets.released().eval(), clock, finished=progress >= 1.0, best=best)

    def step(self, batch: Batch, images: int, progress: float) -> dict[str, float]:
        """Train on one batch (this process's share) that begins at this image of the clock.

        Returns:
            Losses and gradient norms by `phase/name`.
        """
        c, share, size = self.c, images_in(batch), self.recipe.view.batch_at(images, self.c.batch)
        if share * self.process.world != size:
            raise ValueError(
                f"{share} images on each of {self.process.world} processes are no batch of {size}"
            )
        parallel.seed_step(c.seed, images, self.process.rank)
        for group, rate in self.full_rates:
            group["lr"] = rate * c.rate(images, progress)
        whole = parallel.to_device(batch, self.process.device, channels_last=self.channels_last)
        parts = split(whole, c.accumulate)
        scalars: dict[str, Tensor] = {}
        for phase in self.recipe.phases:
            if images // size % phase.every == 0:
                scalars |= self._phase(phase, parts, images)
        update_averages(self.nets.averages, self.recipe.nets, c.decay(images + size, size))
        values: list[float] = torch.stack(list(scalars.values())).tolist()
        return dict(zip(scalars, values, strict=True))

    def _phase(self, phase: Phase, parts: list[Batch], images: int) -> dict[str, Tensor]:
        """One optimizer step of one phase."""
        self.recipe.nets.requires_grad_(False)
        learnt = [p for name in phase.nets for p in self.learnt[name]]
        for parameter in learnt:
            parameter.requires_grad_(True)
        phase.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for part in parts:
            with torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.bf16):
                losses = self.recipe.losses(phase.name, part, images)
            shares = {f"{phase.name}/{n}": value.float() / len(parts) for n, value in losses.items()}
            torch.stack(list(shares.values())).sum().backward()
            totals = {n: value.detach() + totals.get(n, 0.0) for n, value in shares.items()}
        parallel.average_gradients(learnt)
        totals[f"{phase.name}/gradient"] = self._norm(learnt)
        phase.optimizer.step()
        return totals

    def _norm(self, parameters: list[nn.Parameter]) -> Tensor:
        """Norm of the gradients before they are clipped, where that is configured."""
        if self.c.clip is not None:
            norm = clip_grad_norm_(parameters, self.c.clip)
        else:
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm.to(self.process.device, torch.float32)


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into equal parts."""
    pieces = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(parts)]


@torch.no_grad()
def update_averages(averages: nn.ModuleDict, nets: nn.ModuleDict, decay: float) -> None:
    """Move averages towards the current networks: weights and batch statistics; counters are copied.

    Running statistics come from the last few batches only. Copied into the averages, their noise moved the F1
    of a vessel segmenter on its validation images by up to 0.03.
    """
    pairs = [(average, nets[name]) for name, average in averages.items()]
    old: list[Tensor] = [p for average, _ in pairs for p in average.parameters()]
    new: list[Tensor] = [p for _, net in pairs for p in net.parameters()]
    for average, net in pairs:
        for kept, current in zip(average.buffers(), net.buffers(), strict=True):
            if kept.is_floating_point():
                old.append(kept)
                new.append(current)
            else:
                kept.copy_(current)
    if old:
        get_ema_multi_avg_fn(decay)(old, new, 0)


def _check_agreement(run_dir: Path, clock: Clock | None, process: Process) -> None:
    """Refuse to train if processes found different states, or some of them none."""
    images = -1.0 if clock is None else float(clock.images)
    most, least = parallel.agree([images, -images], process.device)
    if most != -least:
        raise RunError(
            f"{run_dir}: process {process.rank} stands at {images:.0f} images and another elsewhere; "
            "all processes must see the same folder"
        )


def _fail(bad: list[str], clock: Clock, observer: Observer | None) -> None:
    """Stop because the last step broke down."""
    what = ", ".join(bad) or "a loss or gradient of another process"
    message = f"not finite in the step that ends at {clock.images} images: {what}"
    if observer:
        observer.failed(clock, message)
    raise TrainingError(f"{message}; the run folder keeps the last good state")


def _set_up(c: LoopConfig, process: Process) -> None:
    """Set what torch keeps per process."""
    if c.threads:
        torch.set_num_threads(c.threads)
    if process.device.type == "cuda":
        torch.backends.cudnn.benchmark = not c.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.use_deterministic_algorithms(c.deterministic, warn_only=True)


@contextmanager
def _interrupts() -> Generator[threading.Event]:
    """An event set by the first SIGINT or SIGTERM; a second one acts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    usual = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        event.set()
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
