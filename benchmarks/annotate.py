"""Annotation: how many times as fast per core as a plain sliding window of the same network, in the same run.

    python benchmarks/annotate.py [--masks vessels] [--size 1280] [--images 3] [--repeats 3]

The peer is what users of segmentation-models-pytorch write around its networks, since the library brings
none: the network as it was trained (normalisation as layers of its own, NCHW memory), in evaluation mode
without gradients, over windows of 512 px that overlap by half, one after the other over the whole square,
of each of which the middle is kept. A margin of 128 px is more than the network sees, so both must give the
same probabilities. Ours is `Segmenter.probabilities`, what `fundusforge annotate` runs. Cutting, scaling
and pasting are the same on both sides and are timed; one thread each.

Photographs are drawn. Prints one line of JSON, `annotate_vs_sliding_window`: `value` is the median over
repeats of the ratio of wall times, `low` and `high` the extreme repeats, `images_per_minute` ours on one
core. The run fails if a probability differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before NumPy reads them: both sides get one thread

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from fundusforge import weights  # noqa: E402
from fundusforge.annotate.segmenter import Probability, Segmenter  # noqa: E402
from fundusforge.images import Grey, Image  # noqa: E402
from fundusforge.models.unet import Segmentation  # noqa: E402
from fundusforge.severity import LESIONS  # noqa: E402
from fundusforge.sources.phantom.eye import draw_eye  # noqa: E402
from fundusforge.training.checkpoint import fill, load_model  # noqa: E402

WINDOW, MARGIN = 512, 128
LARGEST_DIFFERENCE = 1e-4


class Plain(Segmenter):
    """The same model, read by a plain sliding window."""

    @torch.no_grad()
    def _predict(self, pixels: Sequence[Image], inside: Sequence[Grey]) -> Probability:
        image = torch.from_numpy(pixels[0].astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None].contiguous()
        field = torch.from_numpy(inside[0].astype(np.float32))[None, None]
        mirrors = [(), (3,), (2,), (2, 3)] if self.config.tta else [()]
        found = [self._slide(image.flip(axes), field.flip(axes)).flip(axes) for axes in mirrors]
        return (torch.stack(found).mean(0) * field).numpy()

    def _slide(self, image: Tensor, field: Tensor) -> Tensor:
        """Probabilities (1, C, S, S) of the middles of windows."""
        side, step = image.shape[3], WINDOW - 2 * MARGIN
        read = self.net.read(image, field)
        total = torch.zeros(1, len(self.config.masks), side, side)
        for top in range(0, side, step):
            for left in range(0, side, step):
                y, x = max(0, top - MARGIN), max(0, left - MARGIN)
                window = read[:, :, y : top + step + MARGIN, x : left + step + MARGIN]
                pad = (0, -window.shape[3] % self.net.multiple, 0, -window.shape[2] % self.net.multiple)
                logits = self.net.net(F.pad(window, pad))
                kept = total[:, :, top : top + step, left : left + step]
                kept.copy_(logits[:, :, top - y :, left - x :][..., : kept.shape[2], : kept.shape[3]])
        return total.sigmoid()


def plain(ours: Segmenter, masks: Sequence[str]) -> Plain:
    """Return the embedded segmenter of these masks as it was trained."""
    tensors, _ = load_model(weights.default("unet", masks=masks), kind="unet")
    net = Segmentation(replace(ours.config, pretrained=False)).eval()
    fill(net, {name.removeprefix("net."): tensor for name, tensor in tensors.items()}, where=Path(ours.name))
    return Plain(
        net=net, config=ours.config, name=ours.name, thresholds=ours.thresholds, diameter=ours.diameter
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of annotation on one core")
    parser.add_argument("--masks", choices=["vessels", "disc", "lesions"], default="vessels")
    parser.add_argument("--size", type=int, default=1280, help="side of the drawn photographs")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    masks = LESIONS if options.masks == "lesions" else (options.masks,)
    torch.set_num_threads(1)
    ours = Segmenter.load(masks=masks, device="cpu")
    peer = plain(ours, masks)
    eyes = [draw_eye(seed, size=options.size, grade=seed % 5) for seed in range(options.images)]
    ratios, spent = [], []
    for _ in range(options.repeats):
        times = []
        found = []
        for segmenter in (ours, peer):
            began = time.perf_counter()
            found.append([segmenter.probabilities(eye.image, eye.field_of_view) for eye in eyes])
            times.append(time.perf_counter() - began)
        ratios.append(times[1] / times[0])
        spent.append(times[0] / options.images)
    worst = max(float(np.abs(a[name] - b[name]).max()) for a, b in zip(*found, strict=True) for name in masks)
    line = {
        "name": f"annotate_{options.masks}_vs_sliding_window", "value": round(statistics.median(ratios), 2),
        "low": round(min(ratios), 2), "high": round(max(ratios), 2), "n": options.repeats, "unit": "ratio",
        "images_per_minute": round(60 / statistics.median(spent), 1), "difference": worst,
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    print(json.dumps(line))
    return int(worst > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
