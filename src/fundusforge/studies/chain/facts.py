"""What the paper prints (Sengupta et al. 2019, Tables 1 and 2), and the same row of a set of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fundusforge.evaluate.evidence import ImageSet


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A row of Table 2."""

    reference: str
    annotation: str
    """Whether every image comes with its blood vessels: Yes, No."""
    resolution: str
    online: str
    """Whether the images can be had."""
    training_images: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEAD`."""
        return (self.reference, self.annotation, self.resolution, self.online, str(self.training_images))


HEAD = ("Set", "Vessel annotation", "Resolution", "Online", "Training images")
PAPER_FACTS = (
    Fact(reference="[4]", annotation="No", resolution="512x512", online="No", training_images=614),
    Fact(reference="[3]", annotation="No", resolution="512x512", online="No", training_images=10),
    Fact(reference="[2]", annotation="Yes", resolution="256x256", online="No", training_images=634),
    Fact(reference="Sengupta et al.", annotation="Yes", resolution="512x512, 1024x1024",
         online="Will be available", training_images=20),
)  # fmt: skip
"""Table 2 as printed."""
PAPER_SIMILARITY = {"Sengupta et al.": 0.74, "real maps (DRIVE)": 0.78, "earlier public set [9]": 0.64}
"""Table 1 and the text beside it: mean similarity of vessel maps to one map of DRIVE.

The paper gives neither side, nor window, nor constants, and the index depends on all of them: compare gaps
within one table, not values with the paper's.
"""


def fact(name: str, images: ImageSet, *, training_images: int, online: bool) -> Fact:
    """Return the row of Table 2 of a set.

    Args:
        name: What to call it.
        images: The set.
        training_images: That the generator learnt from.
        online: Whether the set can be had by others.

    Raises:
        DatasetError: A picture cannot be read.
    """
    return Fact(
        reference=name,
        annotation="Yes" if all("vessels" in record.masks for record in images.records) else "No",
        resolution=_resolutions(images),
        online="Yes" if online else "No",
        training_images=training_images,
    )


def _resolutions(images: ImageSet) -> str:
    """Sizes of the pictures, the most frequent first, three at most."""
    shapes = Counter(images.image(index).shape[:2] for index in range(len(images)))
    shown = [f"{width}x{height}" for (height, width), _ in shapes.most_common(3)]
    return ", ".join([*shown, *(["others"] if len(shapes) > 3 else [])])


def laid_out(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return rows, of which the first is the head, as columns of text or as a Markdown table."""
    if markdown:
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(c.replace("|", "/") for c in line) + " |" for line in lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
