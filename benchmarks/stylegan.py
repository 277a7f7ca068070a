"""Second style-based GAN: drawing and a training step against the paper's literal formulation, in one run.

    python benchmarks/stylegan.py [--stylegan2-ada CHECKOUT] [--only NAME] [--repeats 7] [--threads 2]

Literal means what `stylegan_literal.py` says: kernels for each image, in a grouped convolution, and every
other step a pass of its own, in torch's default layout. With `--stylegan2-ada`, a checkout of
stylegan2-ada-pytorch is timed in its place, on a copy of the weights and on its way for processors. Networks
are configuration f: latents and styles of 512 numbers, min(16384 / side, 512) filters at 256 px and
min(32768 / side, 512) at 512 px. Noise is fixed. Sides take turns.

Prints a line of JSON for each case: `value` is the median over repeats of the ratio of wall times, `low` and
`high` the extreme repeats; `ceiling` what part of the machine's best convolution the peer reaches; `memory`
our peak over the peer's, each in a process of its own; `difference` the largest between their results.
`stylegan_forward_256_b4` and `stylegan_forward_512_b1` draw from latents. `stylegan_step_256_b4` is what a
batch costs in training: the generator's loss backwards through the discriminator, then the discriminator's
on a real batch and on one drawn anew; nothing is updated. Its difference is that of all gradients together,
relative to their length; `worst` is that of the tensor that differs most. In single precision a value near
the rectifier's kink falls to either side; `tests/models/test_published.py` compares in double precision.
Fails if a ratio is below the one aimed at, if results differ (by 1e-4, gradients by 1e-3), or if more memory
is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stylegan_literal as literal
from fundusforge.models.modulated import Discriminator, Mapping, Synthesis
from fundusforge.models.published import Names, discriminator_names, generator_names, published

LATENT, CHANNELS = 512, 3


@dataclass(frozen=True)
class Case:
    """What is timed."""

    side: int
    base: int
    batch: int
    learns: bool
    aim: float
    limit: float
    """Of the difference."""

    def widths(self) -> list[int]:
        """Filters of each level from 4 px on."""
        sides = [4 << level for level in range((self.side // 4).bit_length())]
        return [min(self.base // side, 512) for side in sides]


CASES = {
    "stylegan_forward_256_b4": Case(256, 16384, 4, learns=False, aim=2.0, limit=1e-4),
    "stylegan_forward_512_b1": Case(512, 32768, 1, learns=False, aim=1.6, limit=1e-4),
    "stylegan_step_256_b4": Case(256, 16384, 4, learns=True, aim=1.3, limit=1e-3),
}


@dataclass(frozen=True)
class Side:
    """One of the two; its weights by published name, with their value over the published one."""

    draw: Callable[[Tensor], Tensor]
    judge: Callable[[Tensor], Tensor]
    drawing: dict[str, tuple[Tensor, float]]
    judging: dict[str, tuple[Tensor, float]]


@dataclass(frozen=True)
class Batch:
    """What both are given."""

    latent: Tensor
    other: Tensor
    real: Tensor


def build(case: Case, checkout: Path | None) -> tuple[dict[str, Side], Batch]:
    """Return `ours`, the `peer` and a batch."""
    torch.manual_seed(0)
    widths = case.widths()
    nets = nn.ModuleDict(
        {"mapping": Mapping(LATENT, LATENT), "synthesis": Synthesis(CHANNELS, widths, LATENT)}
    )
    judge = Discriminator(CHANNELS, widths)
    with torch.no_grad():
        for parameter in [*nets.parameters(), *judge.parameters()]:
            if parameter.ndim < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    names = (
        generator_names(len(widths), conditioned=False),
        discriminator_names(len(widths), conditioned=False),
    )
    weights = published(nets.state_dict(), names[0]), published(judge.state_dict(), names[1])
    sides = {
        "ours": ours(nets, judge, *names),
        "peer": zoo(*weights, case, checkout) if checkout else written(*weights),
    }
    pictures = torch.rand(case.batch, CHANNELS, case.side, case.side) * 2 - 1
    return sides, Batch(torch.randn(case.batch, LATENT), torch.randn(case.batch, LATENT), pictures)


def ours(nets: nn.ModuleDict, judge: Discriminator, drawing: Names, judging: Names) -> Side:
    """Our networks."""
    nets, judge = nets.to(memory_format=torch.channels_last), judge.to(memory_format=torch.channels_last)
    synthesis = nets["synthesis"]
    assert isinstance(synthesis, Synthesis)

    def draw(latent: Tensor) -> Tensor:
        return synthesis(nets["mapping"](latent)[:, None].expand(-1, synthesis.styles, -1))

    def own(net: nn.Module, names: Names) -> dict[str, tuple[Tensor, float]]:
        tensors = dict(net.named_parameters())
        return {theirs: (tensors[name], by) for theirs, (name, by) in names.items() if name in tensors}

    return Side(draw, judge, own(nets, drawing), own(judge, judging))


def written(drawing: dict[str, Tensor], judging: dict[str, Tensor]) -> Side:
    """The literal formulation."""
    for weights in (drawing, judging):
        for name in weights:
            learns = not name.endswith("noise_const")
            weights[name] = weights[name].clone(memory_format=torch.contiguous_format).requires_grad_(learns)

    def own(weights: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        return {name: (weight, 1.0) for name, weight in weights.items() if weight.requires_grad}

    return Side(
        lambda latent: literal.drawn(drawing, literal.mapped(drawing, latent)),
        lambda pictures: literal.judged(judging, pictures),
        own(drawing),
        own(judging),
    )


def zoo(drawing: dict[str, Tensor], judging: dict[str, Tensor], case: Case, checkout: Path) -> Side:
    """The networks of a checkout of stylegan2-ada-pytorch with a copy of the weights."""
    sys.path.insert(0, str(checkout))
    module: Any = importlib.import_module("training.networks")
    sizes = {"img_resolution": case.side, "img_channels": CHANNELS}
    wide = {"channel_base": case.base}
    generator: nn.Module = module.Generator(LATENT, 0, LATENT, synthesis_kwargs=wide, **sizes)
    judge: nn.Module = module.Discriminator(0, **sizes, **wide)
    for net, weights in ((generator, drawing), (judge, judging)):
        net.train(case.learns)
        found = net.load_state_dict(weights, strict=False)
        left = {n for n in found.missing_keys if not n.endswith(("resample_filter", "w_avg"))}
        if left or found.unexpected_keys:
            raise SystemExit(f"{checkout}: other networks than expected ({sorted(left)[:1]})")

    def own(net: nn.Module) -> dict[str, tuple[Tensor, float]]:
        return {name: (weight, 1.0) for name, weight in net.named_parameters()}

    return Side(
        lambda latent: generator(latent, None, noise_mode="const"),
        lambda pictures: judge(pictures, None),
        own(generator),
        own(judge),
    )


def run(case: Case, side: Side, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Wall seconds of one pass or step, and what it gives: the picture, or gradients by published name."""
    if not case.learns:
        began = time.perf_counter()
        with torch.inference_mode():
            found = side.draw(batch.latent)
        return time.perf_counter() - began, {"picture": found}
    began = time.perf_counter()
    for weight, _ in side.judging.values():
        weight.requires_grad_(False)
    F.softplus(-side.judge(side.draw(batch.latent))).mean().backward()
    for weight, _ in side.judging.values():
        weight.requires_grad_(True)
    with torch.no_grad():
        fake = side.draw(batch.other)
    (F.softplus(side.judge(fake)) + F.softplus(-side.judge(batch.real))).mean().backward()
    seconds = time.perf_counter() - began
    gradients: dict[str, Tensor] = {}
    for name, (weight, by) in (side.drawing | side.judging).items():  # none is in both
        assert weight.grad is not None, name
        gradients[name], weight.grad = weight.grad * by, None
    return seconds, gradients


def apart(case: Case, one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, float]:
    """Largest difference of pictures, twice; of gradients that of all and the worst tensor's, relative."""
    if not case.learns:
        largest = float((one["picture"] - other["picture"]).abs().max())
        return largest, largest
    lengths = {name: (float((one[name] - other[name]).norm()), float(other[name].norm())) for name in other}
    whole = math.hypot(*(a for a, _ in lengths.values())) / math.hypot(*(b for _, b in lengths.values()))
    return whole, max(a / b for a, b in lengths.values())


def operations(case: Case) -> float:
    """Multiplications and additions of what the peer does in convolutions."""
    drawn = judged = 0.0
    widths = case.widths()
    for level, width in enumerate(widths):
        area = (4 << level) ** 2
        drawn += 2.0 * area * width * (9 * width + CHANNELS)
        if level:
            both = width * widths[level - 1] * area / 4
            drawn += 2.0 * 9 * both
            judged += 2.0 * (9 * area * width * width + 10 * both)
    judged += 2.0 * CHANNELS * widths[-1] * case.side**2 + 2.0 * (9 + 1) * 16 * widths[0] ** 2
    # one step: drawn twice, once backwards; judged three times, backwards once for pictures and twice for all
    return case.batch * (4 * drawn + 8 * judged if case.learns else drawn)


def ceiling() -> float:
    """Operations per second of the best convolution here: 3x3, 512 channels, both layouts tried."""
    best = 0.0
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(4, 512, 32, 32).to(memory_format=layout)
        weight = torch.randn(512, 512, 3, 3).to(memory_format=layout)
        for _ in range(4):
            began = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            best = max(best, 2.0 * weight.numel() * 4 * 32 * 32 / (time.perf_counter() - began))
    return best


def peak(name: str, side: str, options: argparse.Namespace) -> float:
    """Peak memory in MiB of one pass or step in a process of its own."""
    words = [sys.executable, __file__, "--measure", name, side, "--threads", str(options.threads)]
    words += ["--stylegan2-ada", str(options.stylegan2_ada)] if options.stylegan2_ada else []
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides by turns; returns a figure."""
    case = CASES[name]
    sides, batch = build(case, options.stylegan2_ada)
    ratios: list[float] = []
    seconds: list[float] = []
    best, difference, worst = ceiling(), 0.0, 0.0
    for repeat in range(options.repeats + 1):
        order = ("ours", "peer") if repeat % 2 else ("peer", "ours")
        found = {side: run(case, sides[side], batch) for side in order}
        whole, largest = apart(case, found["ours"][1], found["peer"][1])
        difference, worst = max(difference, whole), max(worst, largest)
        if repeat:  # the first pass warms up
            ratios.append(found["peer"][0] / found["ours"][0])
            seconds.append(found["peer"][0])
    del sides, found
    memory = peak(name, "ours", options) / peak(name, "peer", options)
    return {
        "name": name, "value": round(statistics.median(ratios), 2), "low": round(min(ratios), 2),
        "high": round(max(ratios), 2), "n": len(ratios), "unit": "ratio",
        "peer": "stylegan2-ada-pytorch" if options.stylegan2_ada else "literal",
        "ceiling": round(operations(case) / statistics.median(seconds) / best, 2),
        "memory": round(memory, 2), "difference": difference, "worst": worst,
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Second style-based GAN against its literal formulation")
    parser.add_argument("--stylegan2-ada", type=Path, help="checkout of stylegan2-ada-pytorch")
    parser.add_argument("--only", choices=list(CASES), help="one case")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        name, side = options.measure
        sides, batch = build(CASES[name], options.stylegan2_ada)
        chosen = sides.pop(side)
        sides.clear()
        run(CASES[name], chosen, batch)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    failed = False
    for name, case in CASES.items():
        if options.only in (None, name):
            line = measure(name, options)
            print(json.dumps(line), flush=True)
            failed |= line["value"] < case.aim or not line["difference"] <= case.limit or line["memory"] > 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
