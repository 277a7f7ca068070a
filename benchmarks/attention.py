"""Spatial attention over whole feature maps: against the naive form, and where the naive form has no room.

    python benchmarks/attention.py [--side 160] [--large 320] [--repeats 5] [--threads 2]

Naive means the equation of Zhou et al. word by word: the map of all places against all, its softmax, and its
product with the values. At 160x160 places with 16 numbers compared and 256 channels the map has 2.4 GiB, and
its softmax as much again; sides take turns. At 320x320 places (4 and 128) it would have 39 GiB, so ours is
run alone, once, in a process of its own.

Prints a line of JSON each: `sca_attention_160`, the median over repeats of the ratio of wall times, naive
over ours (`low`, `high` the extreme repeats, `seconds` ours and the naive one's); `sca_attention_320_mib`,
what the process holds at its peak beyond what it held before; `sca_attention_320_s`, its wall time. Fails if
outputs differ by more than 1e-3 of the largest, if the ratio is below 1, or at 256 MiB or 40 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from fundusforge.models.attention import attend
from pggan import timed

SHAPES = {"side": (16, 256), "large": (4, 128)}
"""Numbers compared and channels, at 160x160 and at 320x320 places (section II-B)."""
LEAST, MOST_MIB, MOST_SECONDS, LARGEST_DIFFERENCE = 1.0, 256.0, 40.0, 1e-3


def naive(ask: Tensor, answer: Tensor, value: Tensor) -> Tensor:
    """The equation word by word."""
    return value @ (answer.mT @ ask).softmax(1)


def drawn(side: int, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what asks, what answers, and values, of so many places a side."""
    torch.manual_seed(0)
    compared, channels = SHAPES[what]
    ask, answer = torch.randn(2, 1, compared, side * side)
    return ask, answer, torch.randn(1, channels, side * side)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides by turns; returns a figure."""
    given = drawn(options.side, "side")
    ratios: list[float] = []
    seconds: list[tuple[float, float]] = []
    difference = 0.0
    for repeat in range(options.repeats + 1):
        sides = [attend, naive] if repeat % 2 else [naive, attend]
        found = {side is attend: timed(lambda side=side: side(*given)) for side in sides}
        wrong = (found[True][1] - found[False][1]).abs().max() / found[False][1].abs().max()
        difference = max(difference, float(wrong))
        if repeat:  # the first pass warms up
            ratios.append(found[False][0] / found[True][0])
            seconds.append((found[True][0], found[False][0]))
    own, theirs = (statistics.median(column) for column in zip(*seconds, strict=True))
    return {
        "name": f"sca_attention_{options.side}", "value": round(statistics.median(ratios), 2),
        "low": round(min(ratios), 2), "high": round(max(ratios), 2), "n": len(ratios), "unit": "ratio",
        "peer": "literal", "seconds": [round(own, 2), round(theirs, 2)], "difference": difference,
    }  # fmt: skip


def alone(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and added mebibytes of one forward pass in this process."""
    attend(*drawn(8, "large"))  # loads the kernels
    given = drawn(options.large, "large")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(lambda: attend(*given))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Spatial attention against its naive form")
    parser.add_argument("--side", type=int, default=160, help="side in places of the comparison")
    parser.add_argument("--large", type=int, default=320, help="side in places of the pass alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["ratio", "large"], help="one of the two")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    command, failed = "python " + shlex.join(sys.argv), False
    with torch.inference_mode():
        if options.alone:
            print(json.dumps(alone(options)))
            return 0
        if options.only != "ratio":  # first: a new process counts what its parent holds
            words = [sys.executable, __file__, "--alone", "--large", str(options.large)]
            words += ["--threads", str(options.threads)]
            answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            seconds, mebibytes = json.loads(answer)
            name = f"sca_attention_{options.large}"
            for end, value, unit in (("mib", round(mebibytes), "MiB"), ("s", round(seconds, 1), "s")):
                line = {"name": f"{name}_{end}", "value": value, "n": 1, "unit": unit, "command": command}
                print(json.dumps(line), flush=True)
            failed |= mebibytes >= MOST_MIB or seconds >= MOST_SECONDS
        if options.only != "large":
            line: dict[str, Any] = {**measure(options), "command": command}
            print(json.dumps(line), flush=True)
            failed |= line["value"] < LEAST or line["difference"] > LARGEST_DIFFERENCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
