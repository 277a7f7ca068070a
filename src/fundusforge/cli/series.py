"""`fundusforge series`: the same eye at several grades of retinopathy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, UsageError, emit, only, progress, say

if TYPE_CHECKING:
    from fundusforge.records import Record


@dataclass(frozen=True, kw_only=True)
class Series:
    """Paint the same eyes at several grades: lesions are added, everything else stays.

    Vessels, disc, noise and colours of an eye are the same at every grade; a higher grade keeps the lesions
    of the lower ones. Lesions are imitated: drawn from statistics of real layouts, so that the rule of the
    international scale gives back the grade from the masks. Only lesions whose masks the generator takes are
    visible. Writes a dataset folder, a contact sheet (series.png) and what was asked for (series.json).

    --recount looks for the lesions in the painted images with the embedded annotator, and writes what it
    found beside what was asked for (recount.json).

    Examples:
      fundusforge series --grades 0-4 -n 4 --out series
      fundusforge series runs/drgan --grades 0 2 4 --masks data/idrid --split test --out series --recount
    """

    model: Annotated[tuple[Path, ...], Positional, arg(metavar="[MODEL]")] = ()
    """Run folder or safetensors file of a generator that paints on masks; the embedded flow model if left
    out."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Dataset folder to write; must not hold a dataset yet."""
    grades: Annotated[tuple[str, ...], arg(metavar="GRADES")] = ("0-4",)
    """Grades, single (0 2 4) or from-to (0-4)."""
    count: Annotated[int, arg(name="n", aliases=("-n",))] = 4
    """Number of eyes."""
    masks: Annotated[str, arg(metavar="phantom|FOLDER|RUN")] = "phantom"
    """Eyes to take: `phantom`, a dataset folder with vessels and disc, or a model that draws both."""
    split: Literal["train", "val", "test"] | None = None
    """Take only eyes of this split of the folder."""
    layouts: Annotated[Path | None, arg(metavar="FILE")] = None
    """Statistics of layouts (JSON); those that come with the package if left out."""
    size: int | None = None
    """Side of the images in pixels; the size of the training images if left out."""
    camera: str | None = None
    """Camera whose colours to imitate; drawn per eye if left out."""
    recount: bool = False
    """Count the lesions in the painted images."""
    seed: int = 0
    """Seed of the sequence of eyes."""
    device: str = "auto"
    """Where to paint: auto, cpu, cuda."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Make the series."""
        from fundusforge import weights
        from fundusforge.sample.layout_statistics import read_statistics
        from fundusforge.sample.series import SeriesConfig, series, shown_by
        from fundusforge.sample.severity_painter import load_painter

        config = SeriesConfig(
            grades=grades_of(self.grades), eyes=self.count, seed=self.seed, masks=self.masks,
            split=self.split, size=self.size, camera=self.camera,
        )  # fmt: skip
        statistics = read_statistics(self.layouts)
        painter = load_painter(only(self.model, "MODEL") or weights.named("flow"), device=self.device)
        shown = shown_by(painter)
        if not shown:
            told = (
                "only the grade it is told makes a difference" if painter.graded else "all grades look alike"
            )
            say(f"warning: {painter.name} takes no masks of lesions: {told}")
        total = self.count * len(config.grades)
        made = list(
            progress(series(painter, self.out, config, statistics), "painting", total=total, quiet=self.quiet)
        )
        from_patient = sum(record.structure_from_patient for record in made)
        if from_patient:
            say(
                f"warning: {from_patient} of {len(made)} images have the vessels of a patient: do not share "
                "them"
            )
        result: dict[str, Any] = {
            "out": str(self.out), "images": len(made), "eyes": self.count, "grades": list(config.grades),
            "model": painter.name, "shown": list(shown), "structure_from_patient": from_patient,
        }  # fmt: skip
        text = f"{len(made)} images of {self.count} eyes in {self.out}"
        if self.recount:
            rows = counted(self.out, made, device=self.device, quiet=self.quiet)
            result["recount"] = summary(rows)
            text += "\n" + table(result["recount"])
        emit(result, text, as_json=self.json)
        return DONE


def grades_of(words: tuple[str, ...]) -> tuple[int, ...]:
    """Return grades from words like `0-4` or `2`.

    Raises:
        UsageError: No such grades.
    """
    found: set[int] = set()
    for word in words:
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--grades {word}: expected grades such as 0-4, or 0 2 4")
        found |= set(range(int(first), int(last or first) + 1))
    if not found or min(found) < 0 or max(found) > 4:
        raise UsageError(f"--grades {' '.join(words)}: grades are 0 to 4, ascending")
    return tuple(sorted(found))


def counted(out: Path, records: list[Record], *, device: str, quiet: bool) -> list[dict[str, Any]]:
    """Count lesions in the images of a series with the embedded annotator; writes and returns `recount.json`.

    Returns:
        Per image its grade, what was asked for, and what was found, by kind; of `found`, only connected parts
        inside the field of view count.
    """
    import cv2

    from fundusforge.annotate.picture import Picture
    from fundusforge.annotate.segmenter import Segmenter
    from fundusforge.annotate.structures import Structures
    from fundusforge.images import read_image, read_mask
    from fundusforge.records import write_text
    from fundusforge.sample.series import TABLE
    from fundusforge.severity import LESIONS

    asked = {row["image"]: row for row in json.loads((out / TABLE).read_text("utf-8"))}
    finder = Structures(segmenter=Segmenter.load(masks=LESIONS, device=device), masks=LESIONS)
    rows: list[dict[str, Any]] = []
    for record in progress(records, "counting", total=len(records), quiet=quiet):
        inside = read_mask(out / str(record.field_of_view))
        found = finder.read([Picture(image=read_image(out / record.image), field_of_view=inside)])[0].masks
        numbers = {
            name: cv2.connectedComponents(mask & inside, connectivity=8)[0] - 1
            for name, mask in found.items()
        }
        rows.append(
            {
                "image": record.image, "grade": record.grade, "asked": asked[record.image]["counts"],
                "found": numbers, "shown": asked[record.image]["shown"], "annotator": finder.name,
            }
        )  # fmt: skip
    write_text(out / "recount.json", json.dumps(rows, indent=2) + "\n")
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean counts by grade and kind: asked for, and found."""
    cells: list[dict[str, Any]] = []
    for grade in sorted({row["grade"] for row in rows}):
        own = [row for row in rows if row["grade"] == grade]
        for name in own[0]["asked"]:
            means = [sum(row[what].get(name, 0) for row in own) / len(own) for what in ("asked", "found")]
            cells.append(
                {
                    "grade": grade, "lesion": name, "asked": means[0], "found": means[1], "images": len(own),
                    "shown": name in own[0]["shown"],
                }
            )  # fmt: skip
    return cells


def table(cells: list[dict[str, Any]]) -> str:
    """Lay a summary out for people."""
    lines = ["grade  lesion            asked   found   (mean of images)"]
    for cell in cells:
        note = "" if cell["shown"] else "   no mask of it was painted on"
        lines.append(
            f"{cell['grade']:>5}  {cell['lesion']:<15} {cell['asked']:>7.1f} {cell['found']:>7.1f}{note}"
        )
    return "\n".join(lines)
