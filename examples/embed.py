"""Turn a trained run into embedded weights: half precision, metadata kept, size checked.

    python examples/embed.py runs/painter pix2pix-512 --limit-mb 16

Writes `src/fundusforge/weights/<name>.safetensors`. The model card beside it is written by hand. Refuses
models whose training data may not ship.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import Positional

from fundusforge import weights
from fundusforge.training.checkpoint import load_model, model_file, write

MAY_SHIP = ("CC BY 4.0", "free of patients; CC0")
"""Terms of sources under which weights may ship."""
LEFT_OUT = ("discriminator.", "head.")
"""Networks that only training needs."""
SMALL = 4096
"""Tensors of fewer values keep single precision: statistics and biases cost nothing and suffer most."""


@dataclass(frozen=True)
class Embed:
    """Make embedded weights of a trained run."""

    run: Annotated[Path, Positional]
    """Run folder, or one of its model files."""
    name: Annotated[str, Positional]
    """Name of the embedded weights."""
    limit_mb: float = 16.0
    """Largest size in 10^6 bytes."""


def main(c: Embed) -> None:
    """Convert, check, write."""
    file = model_file(c.run)
    tensors, metadata = load_model(file)
    terms = json.loads(metadata["terms"])
    if closed := [entry for entry in terms if entry.split(": ", 1)[1] not in MAY_SHIP]:
        raise SystemExit(f"{file}: weights trained on {closed[0]!r} may not ship")
    lean = {
        name: tensor.half() if tensor.is_floating_point() and tensor.numel() >= SMALL else tensor
        for name, tensor in tensors.items()
        if not name.startswith(LEFT_OUT)
    }
    out = weights.FOLDER / f"{c.name}.safetensors"
    write(out, {name: tensor.contiguous() for name, tensor in lean.items()}, metadata)
    worst = max((tensors[n] - t.float()).abs().max().item() for n, t in lean.items() if t.dtype == torch.half)
    size = out.stat().st_size / 1e6
    print(f"{out.name}: {size:.2f} MB, sha256 {weights.sha256(out)[:12]}, largest rounding {worst:.2g}")
    if size > c.limit_mb:
        out.unlink()
        raise SystemExit(f"{size:.2f} MB is more than {c.limit_mb} MB")


if __name__ == "__main__":
    main(tyro.cli(Embed))
