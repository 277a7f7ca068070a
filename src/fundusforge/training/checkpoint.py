"""Weights and training states on disk: safetensors with JSON in the metadata, and nothing that runs code.

A **model** file holds the released networks under `<network>.<parameter>`; its metadata carries `format`,
`content` ("model"), `version`, `kind` (the family), `config` (the family's configuration as JSON), `images`
(the clock) and `calibration` (a JSON object for later stages). A **state** file holds what the loop needs to
go on: `nets.*`, `ema.*` and `opt.<phase>.<parameter>.<slot>`; optimizers that phases share are stored once,
under the first of them. Values of safetensors metadata are always text.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fundusforge.models.recipe import Recipe
from fundusforge.training.run import BEST, MODEL, PREVIOUS, STATE, version

FORMAT = "fundusforge-1"
T = TypeVar("T")


class CheckpointError(ValueError):
    """A file of weights is foreign, broken or does not fit; the message names it and what was expected."""


@dataclass(frozen=True)
class Clock:
    """Where a training stands."""

    images: int = 0
    seconds: float = 0.0
    """Wall-clock time spent, over all sittings."""


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, keep: Path | None = None
) -> None:
    """Write a safetensors file, whole or not at all even if the process dies; the older lives on as `keep`.

    Raises:
        OSError: The disk is full or the folder cannot be written; an older file of that name stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode & 0o777  # as any new file's; the library leaves 0600
        save_file(whole, partial, metadata=dict(metadata))
        partial.chmod(mode)
        _flush(partial)
        if keep and path.exists():
            path.replace(keep)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error})") from error
    _flush(path.parent)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read any safetensors file.

    Raises:
        CheckpointError: Missing, truncated or no safetensors.
    """
    return _open(path, lambda f: ({n: f.get_tensor(n) for n in list(f.keys())}, f.metadata() or {}))


def _open(path: Path, use: Callable[[Any], T]) -> T:
    """Use an open safetensors file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    try:
        with safe_open(path, "pt") as file:
            return use(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a model file alone.

    Raises:
        CheckpointError: As `load_model`.
    """
    path = model_file(path)
    return _own(path, _open(path, lambda file: file.metadata() or {}), "model")


def _flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _metadata(content: str, config_json: str, clock: Clock) -> dict[str, str]:
    """Metadata that models and states share."""
    return {
        "format": FORMAT,
        "content": content,
        "version": version(),
        "kind": str(json.loads(config_json).get("kind", "")),
        "config": config_json,
        "images": str(clock.images),
    }


def _read_own(path: Path, content: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file that this module wrote."""
    tensors, metadata = read(path)
    return tensors, _own(path, metadata, content)


def _own(path: Path, metadata: dict[str, str], content: str) -> dict[str, str]:
    """Refuse metadata that this module did not write, or that speak of another content."""
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "none")
        raise CheckpointError(f"{path}: not written by fundusforge (format {found!r}, expected {FORMAT!r})")
    if metadata.get("content") != content:
        raise CheckpointError(f"{path}: holds a {metadata.get('content')!r}, expected a {content!r}")
    if missing := sorted({"version", "kind", "config", "images"} - metadata.keys()):
        raise CheckpointError(f"{path}: the metadata lack {missing[0]!r}")
    return metadata


def save_model(
    path: Path,
    nets: nn.ModuleDict,
    *,
    config_json: str,
    clock: Clock,
    half: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the released networks.

    Args:
        path: File to write; replaced at once.
        nets: The networks, averaged where an average is kept.
        config_json: The family's configuration as JSON, with its `kind`.
        clock: Where the training stands.
        half: Store floating-point weights in half precision.
        extra: Further metadata; what is not text is stored as JSON.
    """
    kind = torch.float16 if half else torch.float32
    tensors = {n: t.to(kind) if t.is_floating_point() else t for n, t in nets.state_dict().items()}
    metadata = _metadata("model", config_json, clock) | {"calibration": "{}"} | _texts(extra or {})
    write(path, tensors, metadata)


def model_file(path: Path) -> Path:
    """The file of weights that a path means: itself, or a run's best model, or its latest where none is best.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in (BEST, MODEL):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path}: a folder without {BEST} or {MODEL}; is it a run that has saved once?")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: expected a run folder or a .safetensors file")
    return path


def load_model(path: Path, *, kind: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read released networks.

    Args:
        path: A model file, or a run folder (its best model, else its latest).
        kind: The family it must be of; None takes any.

    Returns:
        Parameters and buffers by `<network>.<name>`, float32 where floating, and the metadata, all text:
        `format`, `content`, `version`, `kind`, `config` (JSON), `images`, `calibration` (JSON object).

    Raises:
        CheckpointError: Missing, truncated, foreign, a training state, or of another family.
    """
    path = model_file(path)
    tensors, metadata = _read_own(path, "model")
    if kind is not None and metadata["kind"] != kind:
        raise CheckpointError(f"{path}: a model of kind {metadata['kind']!r}, expected {kind!r}")
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, metadata


def fill(net: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Give a network its weights, all of them and no others.

    Raises:
        CheckpointError: They do not fit the configuration that is stored with them.
    """
    own = net.state_dict()
    odd = sorted(own.keys() ^ tensors.keys()) or sorted(n for n in own if own[n].shape != tensors[n].shape)
    if odd:
        raise CheckpointError(
            f"{where}: the weights do not fit their configuration ({len(odd)} tensors, {odd[0]} first)"
        )
    net.load_state_dict(dict(tensors))


def annotate_metadata(path: Path, **entries: Any) -> None:
    """Set metadata of a model file at once, say `calibration={"threshold": {"vessels": 0.43}}`.

    Args:
        path: A model file or a run folder (then the file that `load_model` would read).
        **entries: Values by name; what is not text is stored as JSON.

    Raises:
        CheckpointError: No model file, or an entry that belongs to the weights themselves.
    """
    path = model_file(path)
    tensors, metadata = _read_own(path, "model")
    if fixed := sorted(entries.keys() & {"format", "content", "version", "kind", "config", "images"}):
        raise CheckpointError(f"{path}: {fixed[0]!r} belongs to the weights and cannot be set")
    write(path, tensors, metadata | _texts(entries))


def _texts(entries: Mapping[str, Any]) -> dict[str, str]:
    """Metadata values must be text."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}


def optimizers(recipe: Recipe) -> dict[str, Optimizer]:
    """Every optimizer once, under the name of the first phase that uses it."""
    found: dict[int, tuple[str, Optimizer]] = {}
    for phase in recipe.phases:
        found.setdefault(id(phase.optimizer), (phase.name, phase.optimizer))
    return dict(found.values())


def _state_tensors(recipe: Recipe, averages: nn.ModuleDict) -> Iterator[tuple[str, Tensor]]:
    """Everything that training changes."""
    for prefix, nets in (("nets", recipe.nets), ("ema", averages)):
        for name, tensor in nets.state_dict().items():
            yield f"{prefix}.{name}", tensor
    for phase, optimizer in optimizers(recipe).items():
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if value is not None:
                    yield f"opt.{phase}.{index}.{slot}", torch.as_tensor(value)


def save_state(
    run_dir: Path, recipe: Recipe, averages: nn.ModuleDict, *, config_json: str, clock: Clock
) -> None:
    """Save what the loop needs to go on; the state before it is kept as `state.previous.safetensors`."""
    metadata = _metadata("state", config_json, clock) | {"seconds": repr(clock.seconds)}
    write(run_dir / STATE, dict(_state_tensors(recipe, averages)), metadata, keep=run_dir / PREVIOUS)


def load_state(
    run_dir: Path, recipe: Recipe, averages: nn.ModuleDict, *, config_json: str, say: bool = True
) -> Clock | None:
    """Go on where a run stood; None if it never saved.

    If the newest state is missing or broken (the machine died while it was renamed, or the disk failed), the
    one before it is taken and a line on standard error says so.

    Raises:
        CheckpointError: No whole state is left, or the run was started with another model configuration.
    """
    faults: list[str] = []
    for name in (STATE, PREVIOUS):
        path = run_dir / name
        if not path.exists():
            continue
        try:
            tensors, metadata = _read_own(path, "state")
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if faults and say:
            print(f"{faults[0]}; going on from {name}", file=sys.stderr)
        _check_config(path, metadata["config"], config_json)
        _restore(path, tensors, recipe, averages)
        return Clock(images=int(metadata["images"]), seconds=float(metadata["seconds"]))
    if faults:
        raise CheckpointError("; ".join(faults))
    return None


def _check_config(path: Path, stored: str, given: str) -> None:
    """Refuse to go on with another model than the one that was trained."""
    old, new = json.loads(stored), json.loads(given)
    names = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
    if names:
        changes = ", ".join(f"{n} was {old.get(n)!r} and is {new.get(n)!r}" for n in names)
        raise CheckpointError(f"{path}: trained with another model configuration: {changes}")


def _restore(path: Path, tensors: Mapping[str, Tensor], recipe: Recipe, averages: nn.ModuleDict) -> None:
    """Put the tensors of a state where they belong."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    try:
        recipe.nets.load_state_dict(part("nets."))
        averages.load_state_dict(part("ema."))
        for phase, optimizer in optimizers(recipe).items():
            _restore_optimizer(optimizer, part(f"opt.{phase}."))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: does not fit this model: {error}") from None


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put an optimizer's slots back; settings such as the learning rate come from the configuration."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # The layout must be the parameter's: vectorised updates round differently in another one.
                slots[slot] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
