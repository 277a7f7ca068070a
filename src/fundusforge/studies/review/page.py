"""The page on which a reader looks at samples: one HTML file that asks nothing of the network.

Pictures, styles and the script that gathers the verdict are inside it, and its content policy allows nothing
else: no address is loaded, and no other script runs. Without scripts the pictures are there all the same.
"""

# numpy's arrays are of any kind here.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fundusforge import __version__
from fundusforge.audit.watch import LEAKING
from fundusforge.images import SYNTHETIC_XMP, Image, encode_image, resize, resize_mask
from fundusforge.inspection import mask_colour, shown
from fundusforge.records import MASKS, write_text
from fundusforge.sample.latents import Drawer, Drawn
from fundusforge.studies.review.curve import curve
from fundusforge.studies.review.snapshots import (
    Snapshot,
    facts,
    run_of,
    snapshots,
    unchanged,
    validations,
)
from fundusforge.studies.review.verdicts import MOST, READER, REMARK, SCHEMA, Review, ReviewError
from fundusforge.training import checkpoint
from fundusforge.training.run import LOG

LARGEST = 512
"""Larger pictures are made as small as this, in pixels; smaller ones stay as they were drawn."""
LOSSLESS = 128
"""Pictures up to this side are kept as they are; larger ones become JPEG, lest the page be too heavy."""
_DIM = 38
"""Grey of the field of view under masks."""


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What to show."""

    place: Path
    """Run folder, or a file of weights."""
    out: Path
    """The page to write."""
    images: int = 100
    """Samples of each snapshot."""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 1 <= self.images <= MOST:
            raise ValueError(f"images must be 1 to {MOST}, not {self.images}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One sample."""

    number: int
    """As `fundusforge sample` of the same seed counts."""
    image: str
    """Data URI."""
    mask: str | None
    """Data URI of the masks in their colours."""
    masks: tuple[str, ...]
    """Names of the masks that are not empty."""
    side: int


@dataclass(frozen=True, kw_only=True)
class Section:
    """One snapshot."""

    snapshot: Snapshot
    title: str
    tiles: tuple[Tile, ...]
    legend: tuple[tuple[str, str], ...]
    """Names of masks and their colours."""
    reviews: tuple[Review, ...]


Progress = Callable[[Iterable[Snapshot]], Iterable[Snapshot]]


def write_page(config: PageConfig, *, progress: Progress = iter) -> list[Snapshot]:
    """Draw the samples and write the page.

    Args:
        config: What to show.
        progress: Passes the snapshots on, and may tell how far they are.

    Returns:
        The snapshots that it shows.

    Raises:
        ReviewError, CheckpointError, ConfigError: See `snapshots`.
        OSError: The page cannot be written.
    """
    if config.out.is_dir() or config.out.suffix not in {".html", ".htm"}:
        raise ReviewError(f"{config.out}: expected the name of an .html file to write")
    there = snapshots(config.place)
    sections = [_section(number, one, config) for number, one in enumerate(progress(there), 1)]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, page(sections, config))
    return there


def page(sections: Sequence[Section], config: PageConfig) -> str:
    """Return the page as HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    script = (files("fundusforge") / "templates" / "review.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    run = run_of(config.place)
    rows = validations(run / LOG)
    environment = Environment(
        loader=PackageLoader("fundusforge"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("review.html.j2").render(
        run=run.resolve().name,
        sections=sections,
        config=config,
        rows=rows,
        curve=curve(rows, [section.snapshot for section in sections], bar=LEAKING),
        leaking=LEAKING,
        limits={"reader": READER, "remark": REMARK},
        schema=SCHEMA,
        version=__version__,
        script=Markup(script),
        digest=digest,
    )


def _section(number: int, one: Snapshot, config: PageConfig) -> Section:
    """Draw one snapshot's samples."""
    drawer = _drawer(one, config)
    tiles = tuple(
        _tile(drawer.draw(drawer.latent(config.seed, index)), index) for index in range(config.images)
    )
    unchanged(one)
    names = [name for name in MASKS if any(name in tile.masks for tile in tiles)]
    return Section(
        snapshot=one,
        title=f"Snapshot {number}: {one.name}",
        tiles=tiles,
        legend=tuple(
            (name.replace("_", " "), "#" + "".join(f"{part:02x}" for part in mask_colour(name)))
            for name in names
        ),
        reviews=one.reviews,
    )


def _drawer(one: Snapshot, config: PageConfig) -> Drawer:
    """Load a generator; what may be asked of it, its run's model knows where a snapshot does not.

    Raises:
        ReviewError: It draws on request only, and nothing says what may be asked.
    """
    tensors, metadata = checkpoint.read(one.path)
    if "asked" in metadata or not one.conditions:
        return Drawer.load(one.path, device=config.device)
    known = facts(run_of(config.place), metadata["config"])
    if "asked" not in known:
        raise ReviewError(
            f"{one.path}: draws what it is asked for, and no model of the run says what that may be; "
            "a training notes it at its end"
        )
    with TemporaryDirectory() as folder:
        copy = Path(folder) / one.name
        checkpoint.write(copy, tensors, metadata | known)
        return Drawer.load(copy, device=config.device)


def _tile(drawn: Drawn, number: int) -> Tile:
    side = min(LARGEST, drawn.image.shape[0])
    image = drawn.image if side == drawn.image.shape[0] else np.asarray(resize(drawn.image, side))
    there = shown(name for name, mask in drawn.masks.items() if mask.any())
    return Tile(
        number=number,
        image=_data_uri(image, ".png" if side <= LOSSLESS else ".jpg"),
        mask=_data_uri(_painted(drawn, there, side), ".png") if there else None,
        masks=tuple(sorted(there, key=MASKS.index)),
        side=side,
    )


def _painted(drawn: Drawn, names: Sequence[str], side: int) -> Image:
    """Draw masks in their colours on the dim disc of the field of view."""
    canvas = np.zeros((side, side, 3), np.uint8)
    if drawn.field_of_view is not None:
        canvas[resize_mask(drawn.field_of_view, side) > 0] = _DIM
    for name in names:
        canvas[resize_mask(drawn.masks[name], side) > 0] = mask_colour(name)
    return canvas


def _data_uri(picture: Image, suffix: str) -> str:
    data = encode_image(picture, suffix=suffix, quality=95, xmp=SYNTHETIC_XMP)
    kind = "png" if suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")
