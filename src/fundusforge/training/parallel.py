"""Several processes that train one model, started by `torchrun`.

Gradients are averaged by one hand-written all_reduce per phase. torch's DistributedDataParallel raises on the
double backward of R1 penalties, where parameters without gradient (the last bias of a discriminator) are
usual.
"""

# torch and torchvision annotate themselves only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

# Its functions keep the group of their import as a default: imported later (Adam does), they would keep ours
# alive beyond `stop`, and gloo's threads would then abort the process while the interpreter ends.
import torch.distributed.nn.functional  # noqa: F401  # pyright: ignore[reportUnusedImport]
from torch import Tensor, nn


@dataclass(frozen=True)
class Process:
    """This process among `world` ones; `rank` 0 writes the files and talks to the user."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


def start(device: str = "auto") -> Process:
    """Join the other processes, if `torchrun` started any; may be called again.

    Args:
        device: `auto` (a GPU where there is one), or a torch device; `auto` and `cuda` mean this process's
        GPU.

    Raises:
        ValueError: The device is unknown, or a GPU is asked for and none is there.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    place = _device(device, local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1 and not dist.is_initialized():
        # The others wait while the first process validates, which may take long.
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return Process(rank=int(os.environ.get("RANK", "0")) if world > 1 else 0, world=world, device=place)


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    """Resolve the name of a device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:<number>") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device {name!r}: torch finds no GPU here; use cpu or auto")
    return device if ":" in name else torch.device("cuda", local)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes; parameters without gradient stay without."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not (dist.is_initialized() and gradients):
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def share_state(module: nn.Module) -> None:
    """Give every process the weights and buffers of the first one."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


def agree(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the largest of each value over the processes; all of them wait for one another here."""
    if not dist.is_initialized():
        return list(values)
    shared: Tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    agreed: list[float] = shared.tolist()
    return agreed


def seed_step(seed: int, images: int, rank: int) -> None:
    """Make every draw of torch until the next call a function of these three."""
    low, high = np.random.SeedSequence([seed, images, rank]).generate_state(2).tolist()
    torch.manual_seed((high << 31 | low) & (2**63 - 1))


def to_device(batch: Mapping[str, Tensor], device: torch.device, *, channels_last: bool) -> dict[str, Tensor]:
    """Move a batch, (N, C, H, W) tensors in the wished layout."""
    return {
        name: tensor.to(
            device,
            non_blocking=True,
            memory_format=torch.channels_last
            if channels_last and tensor.ndim == 4
            else torch.preserve_format,
        )
        for name, tensor in batch.items()
    }
