"""Starting from other weights: what fits is taken, and a report says what was not."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fundusforge.training.checkpoint import CheckpointError, model_file, read
from fundusforge.training.run import STATE


@dataclass(frozen=True)
class WarmStart:
    """What a warm start took from a file and what it did not."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Of the model, not in the file: these keep their fresh values."""
    mismatched: tuple[str, ...]
    """In both, but of another shape."""
    unused: tuple[str, ...]
    """In the file, not of the model."""
    partly: tuple[str, ...] = ()
    """Of another number of channels, of which those in both were loaded."""

    def __str__(self) -> str:
        """Say it in one line, with examples."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        rest = (
            ("in the channels that both have", self.partly), ("fresh", self.missing),
            ("of another shape", self.mismatched), ("unused", self.unused),
        )  # fmt: skip
        for what, names in rest:
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {what} ({shown})")
        return "; ".join(parts)


def load_warm(nets: nn.ModuleDict, path: Path, *, pictures: Collection[str] = ()) -> WarmStart:
    """Load what fits, by name and shape, from any safetensors file into `nets`.

    The file may be a run folder, a model, a training state, or a stranger's; a stranger's names may lack the
    name of the network, if only one network has such a parameter. A run folder also gives the networks that
    its model does not carry (a discriminator), as its last state has them.

    Args:
        nets: What to fill.
        path: Where from.
        pictures: Layers that read or write pictures, by a part of their names: where only the number of
            channels differs, those that both have are loaded.

    Raises:
        CheckpointError: Not a safetensors file, or nothing in it fits.
    """
    source = model_file(path)
    tensors, _ = read(source)
    if any(name.startswith("nets.") for name in tensors):
        tensors = _nets_of(tensors)
    elif Path(path).is_dir() and (Path(path) / STATE).is_file():
        carried = {name.partition(".")[0] for name in tensors}
        rest = _nets_of(read(Path(path) / STATE)[0])
        tensors |= {name: t for name, t in rest.items() if name.partition(".")[0] not in carried}
    own = nets.state_dict()
    found = {_target(name, own): t for name, t in tensors.items()}
    unused = tuple(sorted(name for name in tensors if _target(name, own) is None))
    fits = {name: t for name, t in found.items() if name is not None and t.shape == own[name].shape}
    parts = {
        name: t for name, t in found.items()
        if name is not None and set(name.split(".")) & {*pictures} and _differ(t, own[name]) == 1
    }  # fmt: skip
    if not fits:
        raise CheckpointError(f"{source}: no tensor of it has a name and shape of this model")
    with torch.no_grad():
        for name, tensor in (fits | parts).items():
            shared = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, own[name].shape, strict=True))
            own[name][shared].copy_(tensor[shared])
    return WarmStart(
        loaded=tuple(sorted(fits)),
        missing=tuple(sorted(own.keys() - found.keys())),
        mismatched=tuple(sorted(n for n in found.keys() - fits.keys() - parts.keys() if n is not None)),
        unused=unused,
        partly=tuple(sorted(parts)),
    )


def _differ(a: Tensor, b: Tensor) -> int | None:
    """Return in how many sides two tensors differ; None if they have different numbers of them."""
    return sum(x != y for x, y in zip(a.shape, b.shape, strict=True)) if a.ndim == b.ndim else None


def _nets_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the networks of a training state."""
    return {n.removeprefix("nets."): t for n, t in tensors.items() if n.startswith("nets.")}


def _target(name: str, own: Mapping[str, Tensor]) -> str | None:
    """The parameter a tensor's name means: itself, or the only one that is called so in some network."""
    if name in own:
        return name
    ends = [mine for mine in own if mine.partition(".")[2] == name]
    return ends[0] if len(ends) == 1 else None
