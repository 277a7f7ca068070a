"""`results.json` as one page: pictures, figures with interval and floor, provenance, warnings, and an audit.

The page is a single HTML file that asks nothing of the network: styles, drawings and pictures are inside it.
By default it shows synthetic images only; the real ones enter when asked for, and then the page says so.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fundusforge.audit.findings import AUDIT, Audit, read_audit
from fundusforge.evaluate.figures import RESULTS, Figure, FolderSummary, Judged, Results, read_results
from fundusforge.images import Image, encode_image, read_image, read_mask
from fundusforge.inspection import mask_colour, outlined, shown
from fundusforge.records import MASKS, DatasetError, Record, read_folder, write_text

_STRIP_WIDTH, _STRIP_HEIGHT = 210, 46
_BETTER = {"higher": "higher is better; ", "lower": "lower is better; ", "zero": "0 is best; ", "none": ""}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What to show."""

    results: Path
    """`results.json`, or the folder that holds it."""
    out: Path | None = None
    """The page to write; `report.html` beside the results by default."""
    audit: Path | None = None
    """`audit.json` of the judged folder, or the folder that holds it, to be shown too."""
    folder: Path | None = None
    """Folder of the judged images, if it has moved since."""
    against: Path | None = None
    """Folder of the real images, if it has moved since."""
    images: int = 12
    """Most pictures of each set."""
    include_real: bool = False
    """Show real photographs too; the page is then patient data."""
    title: str = "Synthetic fundus images, judged"
    tile: int = 256
    """Side of a picture in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name, low in (("images", 1), ("tile", 32)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One record on the page."""

    name: str
    caption: str
    image: str
    """Data URI."""
    mask: str | None
    """Data URI of the masks in their colours."""
    masks: tuple[str, ...]
    """Names of the masks that are not empty."""
    side: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure in words and as a drawing."""

    figure: Figure
    better: str
    value: str
    range: str
    real: str
    real_range: str
    floor: str
    matched: str
    strip: Any
    verdict: str


def write_report(config: ReportConfig) -> Path:
    """Write the page and return its path.

    Raises:
        DatasetError: No results there, or real images were asked for and their folder is gone.
        fundusforge.config.ConfigError: The results cannot be read.
        OSError: The page cannot be written.
    """
    path = config.results / RESULTS if config.results.is_dir() else config.results
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; `fundusforge evaluate` makes it")
    results = read_results(path)
    audit = _audit(config.audit, results) if config.audit else None
    out = config.out or path.with_name("report.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(results, config, beside=path.parent, audit=audit))
    return out


def _audit(path: Path, results: Results) -> Audit:
    """Read an audit of the folder that was judged.

    Raises:
        DatasetError: There is none, or it is of another folder or of another state of it.
    """
    path = path / AUDIT if path.is_dir() else path
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; `fundusforge audit` makes it")
    audit = read_audit(path)
    if audit.synthetic.metadata_sha256 != results.synthetic.metadata_sha256:
        raise DatasetError(
            f"{path}: is of other images than the results: {audit.synthetic.images} images of "
            f"{audit.synthetic.folder}, whose metadata.jsonl was not the one that was judged"
        )
    return audit


def page(results: Results, config: ReportConfig, *, beside: Path, audit: Audit | None = None) -> str:
    """Return the page as HTML text.

    Args:
        results: What was measured.
        config: What to show.
        beside: The folder that the results' own paths start from.
        audit: Of the same images.

    Raises:
        DatasetError: Real images were asked for and their folder is gone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = config.folder or beside / results.synthetic.folder
    records, absent = _drawn(folder, results.synthetic, config)
    real: list[Tile] = []
    if config.include_real:
        against = config.against or beside / results.against.folder
        real_records, missing = _drawn(against, results.against, config)
        if missing:
            raise DatasetError(f"{against}: real images were asked for, but {missing}")
        real = [_tile(against, record, config.tile) for record in real_records]
    tiles = [_tile(folder, record, config.tile) for record in records]
    environment = Environment(
        loader=PackageLoader("fundusforge"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=config.title,
        results=results,
        marked=results.synthetic.synthetic == results.synthetic.images,
        biometric=results.synthetic.structure_from_patient > 0,
        tiles=tiles,
        legend=_legend(tiles),
        absent=absent,
        atlas=[
            ("Least plausible", _judged(folder, results.atlas.least, config)),
            ("Most plausible", _judged(folder, results.atlas.most, config)),
        ],
        subgroups=_subgroups(results),
        real_sheet=real,
        patients=bool(real) or not all(record.synthetic for record in records),
        rows=[_row(figure) for figure in results.figures],
        audit=audit,
        audited=[_row(figure) for figure in audit.figures] if audit else [],
        offenders=_offenders(folder, audit, config) if audit else [],
        seed=config.seed,
        settings=_settings(results),
    )


def _settings(results: Results) -> str:
    """Return the settings in words, those left open out."""
    given = {key: value for key, value in results.settings.items() if value not in (None, [])}
    words = {key: ", ".join(value) if isinstance(value, list) else value for key, value in given.items()}
    return "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in words.items())


def _drawn(folder: Path, summary: FolderSummary, config: ReportConfig) -> tuple[list[Record], str]:
    """Return a seeded draw of the folder's records, or why there is none; none is real unless asked for."""
    if not folder.is_dir():
        return [], f"the folder {summary.folder} is no longer there."
    records = [record for record in read_folder(folder) if record.synthetic or config.include_real]
    if not records:
        return [], "none of its images is marked synthetic, and real ones were not asked for."
    order = np.random.default_rng(config.seed).permutation(len(records))[: config.images]
    return [records[index] for index in sorted(int(place) for place in order)], ""


def _captioned(folder: Path, pairs: Sequence[tuple[str, str]], config: ReportConfig) -> list[Tile]:
    """Return the pictures of images with these captions, those that are still there; real ones never."""
    if not pairs or not folder.is_dir():
        return []
    records = {record.image: record for record in read_folder(folder) if record.synthetic}
    return [
        replace(_tile(folder, records[image], config.tile), caption=f"{Path(image).name}; {words}")
        for image, words in pairs
        if image in records
    ]


def _judged(folder: Path, judged: Sequence[Judged], config: ReportConfig) -> list[Tile]:
    """Return the pictures of one end of the failure atlas, captioned with what is wrong."""
    return _captioned(folder, [(each.image, _fault(each)) for each in judged], config)


def _offenders(folder: Path, audit: Audit, config: ReportConfig) -> list[Tile]:
    """Return the pictures of the worst offenders; what they are like is never shown."""
    worst = audit.offenders()[: config.images]
    return _captioned(folder, [(each.image, each.verdict) for each in worst], config)


def _fault(judged: Judged) -> str:
    parts = list(judged.violations or ("no rule broken",))
    return "; ".join(parts + ([f"probe {judged.score:+.1f}"] if judged.score is not None else []))


def _subgroups(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each figure its subgroups and their values in words."""
    titles = {figure.name: figure.title for figure in results.figures}
    found: dict[str, list[tuple[str, str]]] = {}
    for row in results.subgroups:
        place = f"{'real' if row.real else 'synthetic'}, {row.attribute} {row.group}"
        decimals = _decimals(row.value)
        words = row.reason if row.value is None else _number(row.value, decimals)
        if row.low is not None and row.high is not None:
            words += f" [{_range(row.low, row.high, decimals)}]"
        if row.images is not None:
            words += f" ({row.images} images of {row.patients} patients)"
        found.setdefault(titles.get(row.figure, row.figure), []).append((place, words))
    return list(found.items())


def _tile(folder: Path, record: Record, side: int) -> Tile:
    name = Path(record.image).name
    painted, masks = _painted(folder, record, side)
    parts = [name]
    if record.provenance is not None:
        parts.append(f"seed {record.provenance.seed}, number {record.provenance.index}")
    parts += [f"grade {record.grade}"] if record.grade is not None else []
    parts += [f"masks: {', '.join(masks)}"] if masks else []
    parts += ["patient's structure"] if record.structure_from_patient else []
    photograph = outlined(read_image(folder / record.image), {}, tile=side)
    return Tile(
        name=name,
        caption="; ".join(parts).replace("_", " "),
        image=_data_uri(photograph, ".jpg"),
        mask=_data_uri(painted, ".png") if masks else None,
        masks=masks,
        side=side,
    )


def _painted(folder: Path, record: Record, side: int) -> tuple[Image, tuple[str, ...]]:
    """Draw a record's masks in their colours on the dim disc of the field of view; name those not empty."""
    canvas = np.zeros((*read_image(folder / record.image).shape[:2], 3), np.uint8)
    if record.field_of_view:
        canvas[read_mask(folder / record.field_of_view) > 0] = 38
    masks = {name: read_mask(folder / mask.path) > 0 for name, mask in record.masks.items() if not mask.soft}
    drawn = shown(name for name, mask in masks.items() if mask.any())
    for name in drawn:
        canvas[masks[name]] = mask_colour(name)
    return outlined(canvas, {}, tile=side), tuple(sorted(drawn, key=MASKS.index))


def _legend(tiles: Sequence[Tile]) -> list[tuple[str, str]]:
    names = [name for name in MASKS if any(name in tile.masks for tile in tiles)]
    return [(name.replace("_", " "), "#" + "".join(f"{c:02x}" for c in mask_colour(name))) for name in names]


def _data_uri(picture: Image, suffix: str) -> str:
    if suffix == ".png":  # few colours: a palette would be smaller still, but OpenCV writes none
        data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    data = encode_image(picture, suffix=suffix, quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _row(figure: Figure) -> Row:
    floor = figure.floor
    decimals = _decimals(figure.value)
    return Row(
        figure=figure,
        better=_BETTER[figure.better],
        value=_number(figure.value, decimals),
        range=_range(figure.low, figure.high, decimals) or "no interval",
        real=_number(figure.real, decimals),
        real_range=_range(figure.real_low, figure.real_high, decimals),
        floor=_range(floor.low, floor.high, decimals) if floor else "\N{EN DASH}",
        matched=_number(figure.matched, decimals) if figure.matched is not None else "",
        strip=_strip(figure),
        verdict=_verdict(figure),
    )


def _verdict(figure: Figure) -> str:
    if figure.held is None or figure.floor is None:
        return "not known"
    if figure.within_floor:
        return "inside"
    return "above" if figure.held > figure.floor.high else "below"


def _decimals(value: float | None) -> int:
    """Return how many decimals a figure and all that stands beside it are given: four digits or so."""
    size = abs(value or 0.0)
    if 0 < size < 0.1:
        return min(6, 2 - math.floor(math.log10(size)))
    return 3 if size < 10 else 2 if size < 100 else 1


def _number(value: float | None, decimals: int) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _range(low: float | None, high: float | None, decimals: int) -> str:
    return "" if low is None or high is None else f"{_number(low, decimals)} to {_number(high, decimals)}"


def _strip(figure: Figure) -> Any:
    """Draw value, interval, real value and floor on one small axis; the table says the same in numbers."""
    from markupsafe import Markup

    floor = (figure.floor.low, figure.floor.high) if figure.floor else (None, None)
    numbers = (figure.value, figure.low, figure.high, figure.real, figure.real_low, figure.real_high, *floor,
               figure.matched)  # fmt: skip
    known = [number for number in numbers if number is not None]
    if figure.better == "zero":
        known.append(0.0)
    if figure.value is None or max(known) == min(known):
        return ""
    least, most, decimals = min(known), max(known), _decimals(figure.value)

    def x(value: float) -> float:
        return round(12 + (value - least) / (most - least) * (_STRIP_WIDTH - 24), 1)

    parts: list[str] = []
    if floor[0] is not None and floor[1] is not None:
        wide = max(2.0, x(floor[1]) - x(floor[0]))
        parts.append(f'<rect x="{x(floor[0])}" y="3" width="{wide:.1f}" height="28" fill="var(--floor)"/>')
    if figure.better == "zero":
        nought = f'x1="{x(0.0)}" x2="{x(0.0)}" y1="2" y2="32"'
        parts.append(f'<line {nought} stroke="var(--quiet)" stroke-dasharray="2 2"/>')
    if figure.real is not None:
        parts.append(_whisker(figure.real_low, figure.real_high, x, 24, "real"))
        at = x(figure.real)
        parts.append(f'<path d="M{at} 19 {at + 5} 24 {at} 29 {at - 5} 24Z" fill="var(--real)"/>')
    parts.append(_whisker(figure.low, figure.high, x, 11, "synthetic"))
    parts.append(f'<circle cx="{x(figure.value)}" cy="11" r="4.5" fill="var(--synthetic)"/>')
    if figure.matched is not None:
        ring = 'r="4.5" fill="none" stroke="var(--synthetic)" stroke-width="1.5"'
        parts.append(f'<circle cx="{x(figure.matched)}" cy="24" {ring}/>')
    parts.append(f'<text x="12" y="44">{_number(least, decimals)}</text>')
    parts.append(f'<text x="{_STRIP_WIDTH - 12}" y="44" text-anchor="end">{_number(most, decimals)}</text>')
    label = f"{figure.title}: {figure.words()}"
    body = Markup("".join(parts))
    return Markup('<svg class="strip" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _STRIP_WIDTH, _STRIP_HEIGHT, label, body
    )


def _whisker(low: float | None, high: float | None, x: Any, y: int, colour: str) -> str:
    if low is None or high is None:
        return ""
    return f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="var(--{colour})" stroke-width="2"/>'
