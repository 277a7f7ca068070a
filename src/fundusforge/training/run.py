"""A training run: its settings, its budget, and its folder on disk.

    run/
      config.json          the model's, the loop's and the data's settings
      log.jsonl            one line per log interval: the clock, mean losses, rate; and validations
      samples/             preview grids, named by the clock
      tensorboard/         the same scalars as events
      state.safetensors    everything needed to go on (state.previous.safetensors: the one before)
      model.safetensors    the averaged networks, to be used
      best.safetensors     the same at its best validation

Nothing here needs torch, so that a command line can show the settings quickly.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from fundusforge.config import to_json
from fundusforge.records import write_text

STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"
MODEL, BEST = "model.safetensors", "best.safetensors"
SNAPSHOTS = "snapshots"
CONFIG, LOG = "config.json", "log.jsonl"

_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_IMAGES = {"img": 1, "image": 1, "images": 1, "kimg": 1000}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "hours": 3600}


def version() -> str:
    """Version of this package, or "unknown" where it is not installed."""
    try:
        return metadata.version("fundusforge")
    except metadata.PackageNotFoundError:
        return "unknown"


class RunError(ValueError):
    """A run folder cannot be used as asked; the message says which and why."""


@dataclass(frozen=True)
class Budget:
    """An amount of training: either images or wall-clock seconds, the other being None."""

    images: int | None = None
    seconds: float | None = None

    def fraction(self, images: int, seconds: float) -> float:
        """Share of the budget that `images` and `seconds` have used, in [0, 1]."""
        if self.images is not None:
            return min(1.0, images / self.images)
        return min(1.0, seconds / (self.seconds or math.inf))


def parse_budget(text: str) -> Budget:
    """Read an amount of training: `20000img`, `20kimg`, `90s`, `30min`, `2h`.

    Raises:
        ValueError: No number, no unit, an unknown unit, or nothing at all (zero).

    >>> parse_budget("30min")
    Budget(images=None, seconds=1800.0)
    >>> parse_budget("20kimg").images
    20000
    """
    expected = 'expected images ("20000img", "20kimg") or time ("90s", "30min", "2h")'
    found = _BUDGET.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no amount of training; {expected}")
    number, unit = float(found[1]), found[2].lower()
    if not unit:
        raise ValueError(f"{text!r} lacks a unit; {expected}")
    if unit not in _IMAGES and unit not in _SECONDS:
        raise ValueError(f"{text!r} has the unknown unit {found[2]!r}; {expected}")
    if unit in _SECONDS and number > 0:
        return Budget(seconds=number * _SECONDS[unit])
    if unit in _IMAGES and number * _IMAGES[unit] >= 1:
        return Budget(images=round(number * _IMAGES[unit]))
    raise ValueError(f"{text!r} is nothing; {expected}")


@dataclass(frozen=True)
class LoopConfig:
    """How to train, whatever the model."""

    batch: int = 8
    """Images per step, over all processes and accumulated parts together."""
    stop_after: str = "20000img"
    """Length of the whole training, images ("20000img") or time ("30min", "2h"), over which rates fall."""
    ema_images: float = 5000.0
    """Half-life of the average of the weights, in images; 0 keeps the last weights instead of an average."""
    ema_rampup: float = 0.1
    """The half-life is at most this share of the images seen so far, lest the random start linger."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How learning rates fall to zero over the whole training."""
    warmup: int = 0
    """Images over which learning rates rise from zero at the start."""
    clip: float | None = None
    """Largest norm of a phase's gradient; longer ones are scaled down."""
    accumulate: int = 1
    """Parts into which each process cuts its share of a batch, one after the other, to save memory."""
    save_every: str = "5min"
    """How often the state is saved: images or time."""
    keep_every: str | None = None
    """How often a snapshot of the model is kept in the folder `snapshots`: images or time; None for never."""
    sample_every: str = "10min"
    """How often a grid of samples is drawn: images or time."""
    sample_count: int = 16
    """Images on which the grid of samples is drawn."""
    validate_every: str = "5min"
    """How often the model is validated, where the command does so: images or time."""
    patience: int = 0
    """Validations in a row without a better score after which training ends early; 0 for never."""
    log_every: int = 200
    """Images between two lines of log.jsonl."""
    tensorboard: bool = True
    """Also write TensorBoard events."""
    seed: int = 0
    """Seed of every random draw: with it, a run is a pure function of its settings and data."""
    device: str = "auto"
    """Where to train: auto (a GPU where there is one), cpu, cuda, cuda:1."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU, float32 on a CPU (where bf16 pays only with AMX and many channels)."""
    channels_last: bool | None = None
    """Memory layout of images and weights; None: channels last, which is faster for most networks."""
    deterministic: bool = False
    """Allow only deterministic algorithms on a GPU (slower); a CPU is always deterministic."""
    half: bool = False
    """Store the released model in half precision."""
    threads: int | None = None
    """CPU threads per process; None leaves torch's choice."""
    workers: int = 1
    """Background threads per process that prepare batches; 0 prepares them in between steps."""
    cache_gb: float = 2.0
    """Memory per process for decoded images; those beyond it are decoded anew for each use."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("stop_after", "save_every", "keep_every", "sample_every", "validate_every"):
            try:
                if getattr(self, name) is not None:
                    parse_budget(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        for name in ("batch", "accumulate", "sample_count", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("patience", "ema_images", "ema_rampup", "warmup", "workers", "cache_gb", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, not {self.clip}")

    def rate(self, images: int, progress: float) -> float:
        """Factor on every learning rate at this point of the clock; `progress` in [0, 1] drives the decay."""
        factor = min(1.0, (images + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "linear":
            return factor * (1.0 - progress)
        if self.schedule == "cosine":
            return factor * 0.5 * (1.0 + math.cos(math.pi * progress))
        return factor

    def decay(self, images: int, batch: int) -> float:
        """Factor by which the averages keep their old value over a step of `batch` images that ends here."""
        half_life = min(self.ema_images, images * self.ema_rampup) if self.ema_rampup else self.ema_images
        return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


class Every:
    """Says when something that recurs is due; counts from the point at which it is made."""

    def __init__(self, budget: Budget, *, images: int, seconds: float) -> None:
        self.budget, self.images, self.seconds = budget, images, seconds

    def due(self, images: int, seconds: float) -> bool:
        """Whether a whole interval has passed since the last time; if so, begins the next one."""
        if self.budget.fraction(images - self.images, seconds - self.seconds) < 1.0:
            return False
        self.images, self.seconds = images, seconds
        return True


def check_run(run_dir: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be trained in.

    Raises:
        RunError: It is a file, or it holds a run and `resume` is False.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"{run_dir}: is a file; a run needs a folder")
    if not resume and any((run_dir / name).exists() for name in (STATE, PREVIOUS)):
        raise RunError(f"{run_dir}: holds a run already; resume it or name another folder")


def open_run(run_dir: Path, *, config_json: str, loop: LoopConfig, data: Mapping[str, Any]) -> None:
    """Make the run folder and write `config.json`.

    Raises:
        OSError: The folder cannot be written.
    """
    (run_dir / "samples").mkdir(parents=True, exist_ok=True)
    settings = {
        "version": version(),
        "model": json.loads(config_json),
        "loop": json.loads(to_json(loop)),
        "data": dict(data),
    }
    write_text(run_dir / CONFIG, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


class Log:
    """`log.jsonl` and, where wanted and installed, TensorBoard events."""

    def __init__(self, run_dir: Path, *, images: int, tensorboard: bool) -> None:
        """Open the log at this point of the clock; lines of a later one (from a killed run) are dropped."""
        path = run_dir / LOG
        if path.exists():
            write_text(path, "".join(line + "\n" for line in _lines_until(path, images)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = _event_writer(run_dir / "tensorboard", images) if tensorboard else None

    def write(self, images: int, row: Mapping[str, Any]) -> None:
        """Add one line; numbers among the values also go to TensorBoard."""
        self._file.write(json.dumps({"images": images, **row}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, images)

    def picture(self, images: int, name: str, pixels: Any) -> None:
        """Show HWC uint8 pixels in TensorBoard."""
        if self._events:
            self._events.add_image(name, pixels, images, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events:
            self._events.close()


def _lines_until(path: Path, images: int) -> list[str]:
    """Whole lines of a log up to a point of the clock; a killed run may have left half a line."""
    kept: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["images"] <= images:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _event_writer(folder: Path, images: int) -> Any:
    """A TensorBoard writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=images)


class ProgressLine:
    """One line on standard error: share done, images, rate, time left, losses.

    A terminal sees it move; elsewhere a new line is printed every minute.
    """

    def __init__(self, budget: Budget, *, images: int, seconds: float, quiet: bool = False) -> None:
        self._budget = budget
        self._start = (images, seconds, budget.fraction(images, seconds))
        self._next = 0.0
        self._bar = self._task = None
        if not quiet and sys.stderr.isatty():
            self._bar, self._task = _bar()
        self._quiet = quiet

    def show(self, images: int, seconds: float, losses: Mapping[str, float]) -> None:
        """Show where the run stands."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + (0.5 if self._bar else 60.0)
        images_before, seconds_before, done_before = self._start
        done, spent = self._budget.fraction(images, seconds), max(1e-9, seconds - seconds_before)
        rate = (images - images_before) / spent
        left = spent * (1.0 - done) / (done - done_before) if done > done_before else math.nan
        shown = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
        text = f"{images} img  {rate:.1f} img/s  {clock(left)} left  {shown}"
        if self._bar:
            self._bar.update(self._task, completed=100 * done, text=text)
        else:
            print(f"{done:4.0%}  {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own above the progress."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()


def _bar() -> tuple[Any, Any]:
    """A started rich progress bar on standard error and its task."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.percentage:3.0f}%"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
    )
    bar.start()
    return bar, bar.add_task("training", total=100, text="")


def clock(seconds: float) -> str:
    """Return a length of time as people write it.

    >>> clock(4210), clock(75), clock(float("nan"))
    ('1:10:10', '1:15', '?')
    """
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
