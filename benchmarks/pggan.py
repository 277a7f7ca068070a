"""Progressive GAN: the generator's forward pass against the papers' literal formulation, in the same run.

    python benchmarks/pggan.py [--pggan CHECKOUT] [--repeats 7] [--threads 2]

Literal means: nearest-neighbour upsampling, then a 3x3 convolution of what it gives, and every other layer
as an equation of its own, in torch's default layout. With `--pggan`, a checkout of pytorch_GAN_zoo is timed
in its place, on a copy of the weights. Batches of 4, at 256 and 512 px with the widths of Karras et al.
(512, ..., 512, 256, 128, 64, 32 filters), and with those of Beers et al. at 512 px. Sides take turns.

Prints a line of JSON for each, `pggan_forward_256_b4`, `pggan_forward_512_b4`, `pggan_forward_beers`: `value`
is the median over repeats of the ratio of wall times, `low` and `high` the extreme repeats; `ceiling` what
part of the machine's best convolution the peer reaches, `memory` our peak over the peer's, each in a process
of its own. Fails if outputs differ by more than 1e-4, if a ratio is below the 2.0 aimed at (1.5 with Beers'
widths), or if more memory is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fundusforge.models.equalized import EqualConv, EqualLinear
from fundusforge.models.pggan import Generator, PGGANConfig

CASES = {
    "pggan_forward_256_b4": (
        PGGANConfig(latent=512, masks=(), widths=(512, 512, 512, 512, 256, 128, 64)),
        2.0,
    ),
    "pggan_forward_512_b4": (
        PGGANConfig(latent=512, masks=(), widths=(512, 512, 512, 512, 256, 128, 64, 32)),
        2.0,
    ),
    "pggan_forward_beers": (PGGANConfig(), 1.5),
}
"""Configuration, and the ratio aimed at."""
BATCH, LARGEST_DIFFERENCE = 4, 1e-4
Forward = Callable[[Tensor], Tensor]


def literal(net: Generator) -> Forward:
    """The papers' formulation with the same weights, in the default layout."""
    weights = {name: p.detach().contiguous() for name, p in net.named_parameters()}

    def layer(name: str, x: Tensor) -> Tensor:
        module = net.get_submodule(name)
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if isinstance(module, EqualLinear):
            return F.linear(x, weight).mul_(module.scale).add_(bias)
        assert isinstance(module, EqualConv)
        found = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return found.mul_(module.scale).add_(bias[:, None, None])

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()

    def forward(latent: Tensor) -> Tensor:
        x = F.leaky_relu(layer("first", norm(latent)), 0.2).view(len(latent), -1, 4, 4)
        x = norm(F.leaky_relu(layer("conv", norm(x)), 0.2))
        for level in range(len(net.grow)):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = norm(F.leaky_relu(layer(f"grow.{level}.up", x), 0.2))
            x = norm(F.leaky_relu(layer(f"grow.{level}.conv", x), 0.2))
        return layer(f"paint.{len(net.paint) - 1}", x)

    return forward


def zoo(net: Generator, checkout: Path) -> Forward:
    """The generator of a checkout of pytorch_GAN_zoo with a copy of the weights."""
    sys.path.insert(0, str(checkout))
    widths = net.config.widths
    peer: Any = importlib.import_module("models.networks.progressive_conv_net").GNet(
        net.config.latent, widths[0], dimOutput=net.config.channels
    )
    for width in widths[1:]:
        peer.addScale(width)
    pairs = [(peer.formatLayer, net.first), (peer.groupScale0[0], net.conv)]
    for group, grow in zip(peer.scaleLayers, net.grow, strict=True):
        pairs += [(group[0], grow.up), (group[1], grow.conv)]
    pairs += list(zip(peer.toRGBLayers, net.paint, strict=True))
    for theirs, ours in pairs:  # they multiply the layer's output, bias and all, by their constant
        factor = ours.scale / theirs.weight
        theirs.module.weight.data.copy_(ours.weight.detach() * factor)
        theirs.module.bias.data.copy_(ours.bias.detach() / theirs.weight)
    return peer.eval()


def build(name: str, checkout: Path | None) -> tuple[Generator, Forward, Tensor]:
    """Return our side, the peer and a batch of latents."""
    torch.manual_seed(0)
    with torch.inference_mode(mode=False):  # weights like those that a user loads
        net = Generator(CASES[name][0]).eval().requires_grad_(False)
        for parameter in net.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, std=0.1)
        peer = zoo(net, checkout) if checkout else literal(net)
        return net.to(memory_format=torch.channels_last), peer, torch.randn(BATCH, net.config.latent)


def peak(name: str, side: str, options: argparse.Namespace) -> float:
    """Peak memory in MiB of one forward pass in a process of its own."""
    words = [sys.executable, __file__, "--measure", name, side, "--threads", str(options.threads)]
    words += ["--pggan", str(options.pggan)] if options.pggan else []
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def operations(net: Generator) -> float:
    """Multiplications and additions of one literal forward pass of a batch."""
    found = 2.0 * net.first.weight.numel()
    sizes = {"conv": 4} | {
        f"grow.{k}.{part}": 8 << k for k in range(len(net.grow)) for part in ("up", "conv")
    }
    sizes[f"paint.{len(net.paint) - 1}"] = net.config.size
    return BATCH * (
        found
        + sum(2.0 * net.get_parameter(f"{name}.weight").numel() * side * side for name, side in sizes.items())
    )


def ceiling() -> float:
    """Operations per second of the best convolution here: 3x3, 512 channels, both layouts tried."""
    best = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 512, 32, 32).to(memory_format=layout)
        weight = torch.randn(512, 512, 3, 3).to(memory_format=layout)
        for _ in range(4):
            seconds, _ = timed(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1))
            best = max(best, 2.0 * weight.numel() * 4 * 32 * 32 / seconds)
    return best


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Wall seconds of a call, and what it gives."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides by turns; returns a figure."""
    ours, peer, latent = build(name, options.pggan)
    ratios: list[float] = []
    seconds: list[float] = []
    best, difference = ceiling(), 0.0
    for repeat in range(options.repeats + 1):
        sides = [ours, peer] if repeat % 2 else [peer, ours]
        found = {side is ours: timed(lambda side=side: side(latent)) for side in sides}
        difference = max(difference, float((found[True][1] - found[False][1]).abs().max()))
        if repeat:  # the first pass warms up
            ratios.append(found[False][0] / found[True][0])
            seconds.append(found[False][0])
    memory = peak(name, "ours", options) / peak(name, "peer", options)
    return {
        "name": name, "value": round(statistics.median(ratios), 2), "low": round(min(ratios), 2),
        "high": round(max(ratios), 2), "n": len(ratios), "unit": "ratio",
        "peer": "pytorch_GAN_zoo" if options.pggan else "literal",
        "ceiling": round(operations(ours) / statistics.median(seconds) / best, 2),
        "memory": round(memory, 2), "difference": difference,
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Forward pass of the progressive GAN against its peers")
    parser.add_argument("--pggan", type=Path, help="checkout of pytorch_GAN_zoo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    failed = False
    with torch.inference_mode():
        if options.measure:
            name, side = options.measure
            ours, peer, latent = build(name, options.pggan)
            (ours if side == "ours" else peer)(latent)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return 0
        for name, (_, aim) in CASES.items():
            line = measure(name, options)
            print(json.dumps(line), flush=True)
            failed |= line["value"] < aim or line["difference"] > LARGEST_DIFFERENCE or line["memory"] > 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
