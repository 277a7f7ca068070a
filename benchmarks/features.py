"""Inception features: how many times as fast as torch-fidelity's extractor, with the same weights.

    python benchmarks/features.py [--images 16] [--size 512] [--repeats 7] [--weights FILE]

Weights are drawn (speed does not depend on them), or those of a safetensors file. Both sides get the same
pictures as arrays of bytes and give 2,048 numbers each, resize included, by turns, on two threads.

Prints one line of JSON, `features_vs_torch_fidelity`: `value` is the median over repeats of the ratio of wall
times, `low` and `high` the extreme repeats, `cpu` the same median of processor times, `difference` the
largest difference of a feature, relative to the largest feature. Exits with 1 if that is above 1e-4.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch_fidelity import feature_extractor_inceptionv3 as peer

from fundusforge.evaluate import inception


class Seeded(peer.FeatureExtractorInceptionV3):
    """torch-fidelity's network with drawn weights that keep signals alive, instead of downloaded ones."""

    def load_state_dict(self, *_: object, **__: object) -> None:
        """Draw weights."""
        generator = torch.Generator().manual_seed(0)
        for name, value in self.state_dict().items():
            if name.endswith("conv.weight"):
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "bn.weight")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)


def networks(weights: Path | None) -> tuple[torch.nn.Module, inception.Inception]:
    """Return both networks with the same weights."""
    peer.load_state_dict_from_url = lambda *_, **__: {}  # its constructor would download them
    theirs = Seeded("inception", ["2048"])
    if weights is not None:
        torch.nn.Module.load_state_dict(theirs, load_file(weights))
    return theirs, inception.Inception(theirs.state_dict(), device=torch.device("cpu"))


def timed(call: Callable[[], torch.Tensor]) -> tuple[float, float, torch.Tensor]:
    """Return wall and processor seconds of a call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        value = call()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of Inception features against torch-fidelity")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=512, help="side of the pictures")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="safetensors file under torch-fidelity's names")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    theirs, ours = networks(options.weights)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (options.images, options.size, options.size, 3), np.uint8)
    walls, cpus, seconds, differences = [], [], [], []
    for repeat in range(options.repeats + 1):
        mine = timed(lambda: ours(inception.read(list(pictures))))
        other = timed(lambda: theirs(torch.from_numpy(pictures).permute(0, 3, 1, 2))[0])
        differences.append(float((mine[2] - other[2]).abs().max() / other[2].abs().max()))
        if repeat:  # the first round warms the libraries up
            walls.append(other[0] / mine[0])
            cpus.append(other[1] / mine[1])
            seconds.append(mine[0] / options.images)
    figure = {
        "name": "features_vs_torch_fidelity",
        "value": round(statistics.median(walls), 2),
        "low": round(min(walls), 2),
        "high": round(max(walls), 2),
        "n": options.repeats,
        "unit": "ratio",
        "cpu": round(statistics.median(cpus), 2),
        "images_per_second": round(1 / statistics.median(seconds), 2),
        "difference": max(differences),
        "images": options.images,
        "size": options.size,
        "threads": options.threads,
        "command": " ".join(["python", "benchmarks/features.py", *sys.argv[1:]]),
    }
    print(json.dumps(figure))
    return int(max(differences) > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
