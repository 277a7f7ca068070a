"""`fundusforge review`: a specialist looks at samples before weights are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, REJECTS, UsageError, emit, progress, say

if TYPE_CHECKING:
    from fundusforge.studies.review.choice import Recorded


@dataclass(frozen=True, kw_only=True)
class Review:
    """Show samples of every snapshot of a generator to a reader, and keep the verdicts.

    With --out, one self-contained HTML page: the curve of the validations, and for each snapshot (else the
    best model, else the latest) a sheet of samples on which a reader ticks what looks wrong, accepts or
    rejects, and downloads verdict.json. With --verdict, that file is written into the metadata of the
    snapshots it is of; several readers add up. With --release, the accepted snapshot with the lowest distance
    of those that do not leak becomes best.safetensors; whoever rejects a snapshot last keeps it from that.

    Exit codes: 0 done, 1 no snapshot may be released, with the reasons, 2 wrong use.

    Examples:
      fundusforge review runs/eyes --out page.html
      fundusforge review runs/eyes --verdict verdict.json
      fundusforge review runs/eyes --verdict verdict.json --release
    """

    model: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run folder of a pggan or stylegan model, or one safetensors file."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Page to write."""
    verdict: Annotated[Path | None, arg(metavar="FILE")] = None
    """verdict.json to record."""
    release: bool = False
    """Copy the accepted snapshot with the lowest distance to best.safetensors."""
    images: int = 100
    """Samples of each snapshot."""
    seed: int = 0
    """Seed of the samples, which are numbered as `sample` with the same seed numbers them."""
    device: str = "auto"
    """Where to draw: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Make the page, or record and release."""
        if (self.out is not None) == (self.verdict is not None or self.release):
            raise UsageError("expected either --out FILE, or --verdict FILE and/or --release")
        return self._page(self.out) if self.out is not None else self._judge()

    def _page(self, out: Path) -> int:
        from fundusforge.studies.review.page import PageConfig, write_page

        config = PageConfig(place=self.model, out=out, images=self.images, seed=self.seed, device=self.device)
        there = write_page(
            config, progress=lambda all_: progress(all_, "drawing", total=len(list(all_)), quiet=self.quiet)
        )
        shown = [{"name": one.name, "weights": one.weights, "clock": one.clock} for one in there]
        emit({"page": str(out), "images": self.images, "snapshots": shown}, str(out), as_json=self.json)
        return DONE

    def _judge(self) -> int:
        from fundusforge.studies.review.choice import record, release
        from fundusforge.studies.review.verdicts import ReviewError

        recorded = record(self.model, self.verdict) if self.verdict is not None else []
        result: dict[str, Any] = {"recorded": [_facts(one) for one in recorded]}
        lines, refused = [_words(one) for one in recorded], ""
        if self.release:
            try:
                done = release(self.model)
            except ReviewError as error:
                result |= {"released": None, "refused": str(error)}
                refused = str(error)
            else:
                one = done.snapshot
                measured = one.measured
                assert measured is not None
                result["released"] = {
                    "name": one.name, "weights": one.weights, "clock": one.clock,
                    "distance": measured.distance, "leaked": measured.leaked, "to": str(done.path),
                }  # fmt: skip
                lines.append(f"released {one.name}, distance {measured.distance:.4g}, as {done.path}")
                for fact in done.lacking:
                    say(f"warning: {done.path} lacks {fact!r}; `fundusforge release` will refuse its images")
        if lines or self.json:
            emit(result, "\n".join(lines), as_json=self.json)
        if refused:
            say(f"refused: {refused}")
        return REJECTS if refused else DONE


def _facts(one: Recorded) -> dict[str, Any]:
    return {
        "name": one.path.name, "weights": one.weights, "reader": one.review.reader, "date": one.review.date,
        "verdict": one.review.verdict, "images": one.review.images, "wrong": list(one.review.wrong),
        "new": one.new, "readers": one.readers,
    }  # fmt: skip


def _words(one: Recorded) -> str:
    review = one.review
    told = f"{len(review.wrong)} of {review.images} images look wrong"
    stands = f"{one.readers} reader{'s' if one.readers > 1 else ''}"
    return (
        f"{one.path.name}: {review.verdict} by {review.reader}, {told} "
        f"({stands}{'' if one.new else '; recorded before'})"
    )
