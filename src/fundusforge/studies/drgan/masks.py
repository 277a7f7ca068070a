"""Are vessels and lesions where they were asked for? Annotators read the paintings again.

Beside each figure stand two others of the same annotator. Photographs of the same eyes, at the same side,
against the same masks, say what can be reached: such masks were mostly predicted from larger photographs.
Photographs with masks that people drew say how good the annotator is. Networks read eyes at the side at
which they learnt, so that small pictures are enlarged, and what they do not show cannot be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fundusforge.annotate.segmenter import Segmenter, patient_digest
from fundusforge.evaluate.agreement import Pool
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.evaluate.vessels import Tally, tally
from fundusforge.records import DatasetError, read_folder
from fundusforge.severity import LESIONS
from fundusforge.studies.drgan.eyes import Bench, Eyes, evenly
from fundusforge.studies.drgan.paper import AUPR
from fundusforge.studies.drgan.result import Result, Table, shown

SHORT = {"microaneurysms": "ma", "haemorrhages": "he", "hard_exudates": "ex", "soft_exudates": "se"}
"""What figures call the lesions."""
_TOGETHER = 8
"""Pictures that an annotator reads at once on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an annotator found in a set of images, against one mask."""

    tallies: list[Tally] = field(default_factory=list[Tally])
    patients: list[str] = field(default_factory=list[str])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.tallies)


Readings = dict[str, Reading]
"""By mask."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotators:
    """Who reads, and what stands beside."""

    vessels: Segmenter | None
    lesions: Segmenter | None
    human: Mapping[str, Readings]
    """What they found, per annotator, in photographs with masks that people drew, at the same side."""

    @property
    def each(self) -> list[tuple[Segmenter, tuple[str, ...]]]:
        """Every annotator with the masks it is asked for."""
        found = [(self.vessels, ("vessels",))] if self.vessels else []
        return [*found, *([(self.lesions, LESIONS)] if self.lesions else [])]


def annotators(
    bench: Bench, folders: Sequence[Any] = (), *, vessels: Segmenter | None, lesions: Segmenter | None,
    most: int = 24,
) -> Annotators:  # fmt: skip
    """Let annotators read photographs with masks that people drew.

    Args:
        bench: Whose side the photographs are brought to.
        folders: Dataset folders of such photographs; patients whom an annotator learnt from are left out.
        vessels: Finds vessels, or None.
        lesions: Finds lesions, or None.
        most: Images of each folder that are read for each annotator, evenly spread.

    Raises:
        DatasetError: A broken folder, an annotator that does not know its structures, or a picture that
            cannot be read.
    """
    who = Annotators(vessels=vessels, lesions=lesions, human={})
    human: dict[str, Readings] = {}
    for segmenter, masks in who.each:
        if unknown := [name for name in masks if name not in segmenter.config.masks]:
            raise DatasetError(
                f"{segmenter.name} finds {', '.join(segmenter.config.masks)}, not {unknown[0]}"
            )
        found = human.setdefault(segmenter.name, {})
        for folder in folders:
            records = [
                record for record in read_folder(folder)
                if not record.synthetic and patient_digest(record.patient) not in segmenter.patients
                and any(name in record.masks and record.masks[name].origin != "predicted" for name in masks)
            ]  # fmt: skip
            kept = [records[place] for place in evenly(len(records), most)]
            eyes = Eyes(folder=folder, records=kept, side=bench.real.side)
            bench.tell(f"{segmenter.name} reads {len(eyes)} photographs of {folder.name}")
            merge(found, read(eyes, segmenter, masks, drawn=True))
    return Annotators(vessels=vessels, lesions=lesions, human=human)


def merge(found: Readings, more: Readings) -> None:
    """Add what was read to what was read before."""
    for name, one in more.items():
        own = found.setdefault(name, Reading())
        own.tallies.extend(one.tallies)
        own.patients.extend(one.patients)


def read(
    images: Eyes,
    segmenter: Segmenter,
    masks: Sequence[str],
    *,
    drawn: bool = False,
    truth: Eyes | None = None,
) -> Readings:
    """Let an annotator read images, and hold what it finds against their masks.

    Args:
        images: What is read.
        segmenter: Who reads.
        masks: Masks to hold it against, where an image has them.
        drawn: Leave out masks that a model predicted.
        truth: Take the masks of these images, in the same order, in place of their own.
    """
    truth = truth or images
    gpu = next(segmenter.net.parameters()).device.type != "cpu"
    pictures = ((images.image(place), images.field_of_view(place)) for place in range(len(images)))
    found = {name: Reading() for name in masks}
    for place, maps in enumerate(segmenter.stream(pictures, batch=_TOGETHER if gpu else 1)):
        record, inside = truth.records[place], truth.field_of_view(place)
        for name in masks:
            if name not in record.masks or (drawn and record.masks[name].origin == "predicted"):
                continue
            limit = segmenter.threshold_of(name)
            one = tally(maps[name], truth.mask(place, name), inside, threshold=limit)
            found[name].tallies.append(one)
            found[name].patients.append(record.patient)
    return {name: one for name, one in found.items() if len(one)}


def masks(bench: Bench, who: Annotators, *, most: int = 24, beside: bool = True) -> Result:
    """Look for vessels and lesions in the paintings, and write `masks.json`.

    Figures: `drgan_vessel_auc`, `drgan_lesion_aupr_ma`, `..._he`, `..._ex`, `..._se`, pooled over pixels,
    each beside that of photographs with masks that people drew; `..._eyes` of photographs of the same eyes.

    Args:
        bench: Photographs and paintings.
        who: From `annotators`.
        most: Eyes that are read, one painting of each, evenly spread over the grades.
        beside: Also read the photographs of the same eyes.

    Raises:
        DatasetError: A picture cannot be read.
        OSError: The folder of the study cannot be written.
    """
    places = bench.spread(most)
    painted, real = bench.painted.some(bench.turns[0][places]), bench.real.some(places)
    figures: list[Figure] = []
    for segmenter, names in who.each:
        known = [name for name in names if name in painted.records[0].masks]
        if not known:
            continue
        bench.tell(f"{segmenter.name} reads {len(painted)} paintings")
        ours = read(painted, segmenter, known)
        same = Readings()
        if beside and bench.config.lesions == "own":
            bench.tell(f"{segmenter.name} reads {len(real)} photographs of the same eyes")
            same = read(real, segmenter, known, truth=painted)
        for name in known:
            figures += _of_mask(bench, segmenter, name, ours[name], same.get(name), who.human)
    return bench.result(
        "masks", tables=_tables(bench, figures), figures=figures, warnings=_warnings(bench, who), read=most,
        annotators=[segmenter.name for segmenter, _ in who.each],
    )  # fmt: skip


def _of_mask(
    bench: Bench, segmenter: Segmenter, mask: str, ours: Reading, same: Reading | None,
    human: Mapping[str, Readings],
) -> list[Figure]:  # fmt: skip
    lesion = mask in SHORT
    metric = "aupr" if lesion else "auc"
    name = f"{bench.config.name}_lesion_aupr_{SHORT[mask]}" if lesion else f"{bench.config.name}_vessel_auc"
    what = "precision-recall" if lesion else "the ROC curve"
    drawn = human.get(segmenter.name, {}).get(mask, Reading())
    reach = segmenter.diameter or segmenter.config.diameter
    common: dict[str, Any] = {
        "unit": f"area under {what}", "better": "higher", "extractor": segmenter.name,
        "resize": f"{bench.real.side} px, brought to the {reach:.0f} px at which the annotator reads",
        "seed": bench.config.seed,
    }  # fmt: skip
    title = mask.replace("_", " ").capitalize()
    beside = _pooled(bench, drawn, metric) if len(drawn) else {}
    own = {
        "name": name, "title": title, "n": len(ours), "n_real": len(drawn), "real": beside.get("value"),
        "real_low": beside.get("low"), "real_high": beside.get("high"),
        "notes": ("Real: photographs with masks that people drew.",),
    }  # fmt: skip
    found = [Figure(**common, **own, **_pooled(bench, ours, metric))]
    if same is not None:
        told = {"name": f"{name}_eyes", "title": f"{title}, photographs of the same eyes and masks"}
        told |= {"n": len(same), "n_real": len(same)}
        found.append(Figure(**common, **told, **_pooled(bench, same, metric)))
    return found


def _pooled(bench: Bench, one: Reading, metric: str) -> dict[str, Any]:
    """Return the arguments of `Figure` that a figure pooled over all pixels fills."""
    pool = Pool(one.tallies)
    interval = bootstrap(
        pool.statistic(metric), one.patients, seed=bench.config.seed, draws=bench.config.draws
    )
    value = pool.value(metric)
    reason = "" if value is not None else "none of the images has any"
    return {**measured(value, interval), "reason": reason}


def _tables(bench: Bench, figures: Sequence[Figure]) -> tuple[Table, ...]:
    rows = [
        ("Structure", "Paintings", "Photographs of these eyes", "Photographs, masks drawn", "n", "n drawn")
    ]
    by_name = {figure.name: figure for figure in figures}
    for one in figures:
        if one.name.endswith("_eyes"):
            continue
        same = by_name.get(f"{one.name}_eyes")
        cells = (
            f"{one.title} ({one.unit})", shown(one.value, one.low, one.high),
            shown(same.value, same.low, same.high) if same else "-",
            shown(one.real, one.real_low, one.real_high), str(one.n), str(one.n_real),
        )  # fmt: skip
        rows.append(cells)
    title = f"What annotators find again in paintings of {bench.model}"
    printed = [("Zhou et al.: their annotators on IDRiD's photographs", "Area under precision-recall")]
    printed += [(name.replace("_", " "), f"{value:.4f}") for name, value in AUPR.items()]
    return Table(title=title, rows=tuple(rows)), Table(title="As printed", rows=tuple(printed))


def _warnings(bench: Bench, who: Annotators) -> list[str]:
    found: list[str] = []
    for segmenter, _ in who.each:
        if not segmenter.patients or not bench.patients:
            found.append(f"It is unknown whether {segmenter.name} and the generator share patients.")
        elif shared := len(segmenter.patients & bench.patients):
            found.append(
                f"{segmenter.name} and the generator share {shared} patients: what it finds in the paintings "
                "may be flattered."
            )
        reach = segmenter.diameter or segmenter.config.diameter
        if reach > 1.5 * bench.real.side:
            found.append(
                f"{segmenter.name} reads pictures of {bench.real.side} px enlarged "
                f"{reach / bench.real.side:.1f} times: structures of a pixel or two are lost, in paintings "
                "and photographs alike."
            )
    return found
