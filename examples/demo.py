"""The whole path in one go: synthetic photographs with masks, figures and a page, in `demo/`.

python examples/demo.py            needs neither data nor network; the embedded weights paint on drawn eyes
FUNDUSFORGE_DATA=... python ...    also compares with real photographs (CHASE_DB1, else HRF), figures only

    demo/synthetic/     dataset folder of 16 images of 512 px with vessels, disc and field of view
    demo/annotated/     the same with the embedded segmenter's vessel probabilities
    demo/drawn/         drawn eyes that the generator never saw, to compare with
    demo/contact.png    every image beside its vessels
    demo/report.html    figures and pictures; demo/results/results.json for programs

Every step is a command of `fundusforge`, printed before it runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from fundusforge.cli import main as fundusforge
from fundusforge.sources import recognise
from picture import Picture
from picture import main as draw

MADE = ("synthetic", "annotated", "drawn", "results", "real", "results-real", "contact.png", "report.html")
"""What the demo writes, and removes when it runs again."""
REAL = ("chase", "hrf")
"""Public sets with vessel masks to compare with, where they are at hand, in order of preference."""


def main(arguments: list[str] | None = None) -> int:
    """Run every step; return the exit code of the first that fails, or 0."""
    start = time.monotonic()
    options = parse(arguments)
    out: Path = options.out
    clear(out)
    for words in steps(options):
        print(f"$ fundusforge {shlex.join(words)}", file=sys.stderr, flush=True)
        if code := fundusforge(words):
            return code
    draw(Picture(folder=out / "synthetic", out=out / "contact.png", count=options.count))
    print(f"{out / 'report.html'} and {out / 'contact.png'}: {time.monotonic() - start:.1f} seconds")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description="Make synthetic photographs, judge them, write a page.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write")
    parser.add_argument("--count", type=int, default=16, help="number of images")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--generator", type=Path, help="run or weights instead of the embedded generator")
    parser.add_argument("--segmenter", type=Path, help="run or weights instead of the embedded segmenter")
    return parser.parse_args(arguments)


def clear(out: Path) -> None:
    """Remove what an earlier demo made, and nothing else."""
    for name in MADE:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def steps(options: argparse.Namespace) -> list[list[str]]:
    """The commands, in order."""
    out, size, count = options.out, str(options.size), str(options.count)
    generator = [str(options.generator)] if options.generator else []
    model = ["--model", str(options.segmenter)] if options.segmenter else []
    judge = ["--segmenter", str(options.segmenter)] if options.segmenter else []
    judge += ["--generator", *generator] if generator else []
    synthetic, drawn = str(out / "synthetic"), str(out / "drawn")
    found = [
        ["sample", *generator, "-n", count, "--size", size, "--seed", str(options.seed), "--out", synthetic],
        ["annotate", synthetic, "--vessels", "--probabilities", *model, "--out", str(out / "annotated")],
        # Without photographs at hand one can still compare with drawn eyes of another seed; the page says so.
        ["prepare", "--format", "phantom", "--source.count", count, "--source.seed", "1000",
         "--source.grades", "0", "--source.pixels", str(max(options.size, 256)), "--size", size,
         "--quality.no-enabled", "--out", drawn],
        ["evaluate", synthetic, "--against", drawn, *judge, "--out", str(out / "results")],
        ["report", str(out / "results"), "--out", str(out / "report.html"), "--images", count, "--title",
         "Synthetic fundus images, compared with drawn phantoms (not with real photographs)"],
    ]  # fmt: skip
    if real := real_set():
        name, root = real
        folder = str(out / "real")
        found += [
            ["prepare", str(root), "--format", name, "--size", size, "--out", folder],
            ["evaluate", synthetic, "--against", folder, *judge, "--out", str(out / "results-real")],
            ["report", str(out / "results-real"), "--images", count, "--title",
             f"Synthetic fundus images, compared with real photographs ({name}, figures only)"],
        ]  # fmt: skip
    return found


def real_set() -> tuple[str, Path] | None:
    """A public set of real photographs with vessel masks, if FUNDUSFORGE_DATA names a folder that has one."""
    place = os.environ.get("FUNDUSFORGE_DATA")
    folders = sorted(path for path in Path(place).iterdir() if path.is_dir()) if place else []
    for name in REAL:
        for folder in folders:
            if recognise(folder) == [name]:
                return name, folder
    return None


if __name__ == "__main__":
    sys.exit(main())
