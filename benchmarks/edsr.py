"""Super-resolution: the forward pass against the paper's literal formulation, in the same run.

    python benchmarks/edsr.py [--side 512] [--repeats 5] [--threads 2]

Literal means the layers of Lim et al. one by one in torch's default layout: convolution, rectifier,
convolution, multiplication by the residual scale, addition, and at the end a convolution,
`torch.nn.PixelShuffle` and a convolution. 16 blocks of 64 channels, one picture of 512 px to 1,024 px, a
copy of the same weights. Sides take turns.

Prints a line of JSON, `edsr_forward`: `value` is the median over repeats of the ratio of wall times, `low`
and `high` the extreme repeats; `seconds` ours and the literal one's; `ceiling` what part of the machine's
best convolution the literal side reaches, `memory` our peak over its, each in a process of its own
(`mebibytes` ours); `difference` the largest between the two over the range of what they draw. Fails if
outputs differ by more than 1e-4 of the range, if the ratio is below the 1.5 aimed at, or if more memory is
needed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.edsr import Block, EDSRConfig, EDSRNet
from pggan import ceiling, timed

AIM, LARGEST_DIFFERENCE = 1.5, 1e-4
Forward = Callable[[Tensor], Tensor]


def literal(net: EDSRNet) -> Forward:
    """The paper's formulation with a copy of the weights, in the default layout."""
    weights = {
        name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in net.named_parameters()
    }
    shuffle, scale = nn.PixelShuffle(2), net.config.residual_scale

    def layer(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def forward(x: Tensor) -> Tensor:
        x = layer("head", x)
        deep = x
        for place in range(net.config.blocks):
            found = layer(
                f"blocks.{place}.second", F.relu(layer(f"blocks.{place}.first", deep), inplace=True)
            )
            deep = found.mul(scale) + deep
        return layer("tail", shuffle(layer("up", layer("join", deep) + x)))

    return forward


def build(side: int) -> tuple[EDSRNet, Forward, Tensor]:
    """Return our side, the literal one and a picture."""
    torch.manual_seed(0)
    with torch.inference_mode(mode=False):  # weights like those that a user loads
        net = EDSRNet(EDSRConfig(start="random")).eval().requires_grad_(False)
        for block in net.blocks:  # of trained strength: the untrained blocks add next to nothing
            cast(Block, block).second.weight *= 2
        peer = literal(net)
        return net.to(memory_format=torch.channels_last), peer, torch.rand(1, 3, side, side) * 2 - 1


def operations(net: EDSRNet, side: int) -> float:
    """Multiplications and additions of one literal forward pass."""
    weights = sum(
        p.numel() for name, p in net.named_parameters() if p.ndim == 4 and not name.startswith("tail")
    )
    return 2.0 * side * side * (weights + 4 * net.tail.weight.numel())


def peak(side: str, options: argparse.Namespace) -> float:
    """Peak memory in MiB of one forward pass in a process of its own."""
    words = [sys.executable, __file__, "--measure", side, "--threads", str(options.threads)]
    words += ["--side", str(options.side)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides by turns; returns a figure."""
    # First: a new process counts what its parent holds, up to the moment it starts its own program.
    memory = peak("ours", options), peak("peer", options)
    ours, peer, picture = build(options.side)
    ratios: list[float] = []
    seconds: list[tuple[float, float]] = []
    best, difference = ceiling(), 0.0
    for repeat in range(options.repeats + 1):
        sides = [ours, peer] if repeat % 2 else [peer, ours]
        found = {side is ours: timed(lambda side=side: side(picture)) for side in sides}
        wrong, whole = found[True][1] - found[False][1], found[False][1]
        difference = max(difference, float(wrong.abs().max() / (whole.max() - whole.min())))
        if repeat:  # the first pass warms up
            ratios.append(found[False][0] / found[True][0])
            seconds.append((found[True][0], found[False][0]))
    own, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    return {
        "name": "edsr_forward", "value": round(statistics.median(ratios), 2), "low": round(min(ratios), 2),
        "high": round(max(ratios), 2), "n": len(ratios), "unit": "ratio", "peer": "literal",
        "seconds": [round(own, 2), round(theirs, 2)],
        "ceiling": round(operations(ours, options.side) / theirs / best, 2),
        "memory": round(memory[0] / memory[1], 2), "mebibytes": round(memory[0]), "difference": difference,
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Forward pass of super-resolution against the literal one")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", metavar="SIDE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        if options.measure:
            ours, peer, picture = build(options.side)
            (ours if options.measure == "ours" else peer)(picture)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return 0
        line = measure(options)
    print(json.dumps(line), flush=True)
    return int(line["value"] < AIM or line["difference"] > LARGEST_DIFFERENCE or line["memory"] > 1)


if __name__ == "__main__":
    sys.exit(main())
