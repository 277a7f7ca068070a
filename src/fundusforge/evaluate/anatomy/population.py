"""The anatomy of synthetic images compared with that of real ones.

Both sets are read in the same way: by the judges where there are any, else by the masks that came with the
images. All quantities are one family, whose tests are corrected together (`comparison`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fundusforge.annotate.shapes import implausible, largest_part
from fundusforge.evaluate.anatomy.measure import Anatomy, measure
from fundusforge.evaluate.anatomy.snr import ZONES
from fundusforge.evaluate.comparison import Quantity, Values, compare
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Better, Figure
from fundusforge.evaluate.plausibility import usual, violations
from fundusforge.images import Grey

_FIELD = "of the field's diameter"
_SNR = (
    "20 log10(mean intensity across the vessel / standard deviation of five pixels beyond each wall), green "
    "channel, five points a vessel. Compare sets of one size and compression only."
)
_OFFSET = "Where a segmenter found the disc, and the mask that made the image says where it should be."
_FOVEA = "Told from darkness alone: bright lesions hide a fovea, and dark ones feign it."

MEASURES: tuple[tuple[str, str, str, str, Better, str], ...] = (
    ("calibre", "vessel_calibre", "Mean calibre of vessels", f"thousandths {_FIELD}", "none", ""),
    ("arc_over_chord", "vessel_arc_over_chord", "Tortuosity: arc over chord", "", "none", ""),
    ("curvature", "vessel_curvature", "Tortuosity: curvature", "radians per diameter of the field", "none",
     ""),
    ("bifurcations", "vessel_bifurcations", "Bifurcations along the vessels", "per diameter of the field",
     "none", "Crossings are told apart where four vessels meet within a calibre."),
    ("fractal_dimension", "vessel_fractal_dimension", "Fractal dimension of the vessels", "", "none",
     "Boxes of 1/4 to 1/64 of the field of view, on the skeleton."),
    ("broken_vessels", "vessels_broken", "Broken vessels", "an image", "lower", ""),
    ("orphan_share", "vessels_orphan", "Orphan vessels", "of the vessels' length", "lower", ""),
    ("across_disc", "vessels_across_disc", "Vessels across the disc", "an image", "lower", ""),
    ("disc_found", "disc_found", "Images with an optic disc", "of images", "higher", ""),
    ("disc_diameter", "disc_diameter", "Diameter of the optic disc", _FIELD, "none", ""),
    ("disc_offset", "disc_offset", "From the painted disc to the disc found", "disc diameters", "lower",
     _OFFSET),
    ("fovea_found", "fovea_found", "Images with a fovea where it should be", "of images", "higher", _FOVEA),
    ("fovea_distance", "fovea_distance", "From the disc to the fovea", "disc diameters", "none", ""),
    ("fovea_drop", "fovea_drop", "Fovea below the disc", "degrees", "none", ""),
    ("snr_kim", "vessel_snr_kim", f"Vessel SNR, {ZONES['kim'][0]:g} to {ZONES['kim'][1]:g} disc diameters "
     "from the disc's centre (Kim's zone B)", "dB", "none", _SNR),
    ("snr_usual", "vessel_snr_usual", "Vessel SNR, 0.5 to 1 disc diameter from the disc's margin (the usual "
     "zone B)", "dB", "none", _SNR),
)  # fmt: skip
"""Attribute of `Anatomy`; name, title and unit of its figure; which way is better; a note."""


def figures(evidence: Evidence) -> list[Figure]:
    """Return mean and standardised difference of every measure, and of the rules that an image breaks."""
    synthetic, real = (readable(evidence, images) for images in (evidence.synthetic, evidence.real))
    found, found_real = anatomies(evidence, synthetic), anatomies(evidence, real)
    extractor = _readers(evidence, synthetic, real)
    family = [
        Quantity(
            name=name, title=title, unit=unit, better=better, extractor=extractor,
            synthetic=_values(synthetic, [getattr(each, attribute) for each in found]),
            real=_values(real, [getattr(each, attribute) for each in found_real]),
            reason=_reason(attribute, len(synthetic)), notes=(note,) if note else (),
        )
        for attribute, name, title, unit, better, note in MEASURES
    ]  # fmt: skip
    limits = usual(found_real)
    counts, counts_real = ([len(violations(each, limits)) for each in rows] for rows in (found, found_real))
    family.append(
        Quantity(
            name="anatomy_violations", title="Anatomical rules that an image breaks", unit="an image",
            better="lower", extractor=extractor, synthetic=_values(synthetic, counts),
            real=_values(real, counts_real), reason=_reason("vessels", len(synthetic)),
            notes=("No disc, no fovea, or beyond the Tukey fences of the real images.",),
        )
    )  # fmt: skip
    return compare(evidence, family)


def readable(evidence: Evidence, images: ImageSet) -> ImageSet:
    """Return the images whose vessels are known: all with a judge, else those with a vessel mask."""
    return images if evidence.judge is not None else images.having("vessels")


def anatomies(evidence: Evidence, images: ImageSet) -> list[Anatomy]:
    """Return the anatomy of every image of a set; an image is measured once.

    Vessels are read by the judge, or taken from the masks if there is none; so is the disc, whose mask may
    be of any origin where no judge reads it.

    Raises:
        ValueError: There is no judge and an image has no vessel mask.
    """
    paths = [images.folder / record.image for record in images.records]
    if missing := [index for index, path in enumerate(paths) if path not in evidence.anatomies]:
        evidence.tell(f"anatomy of {len(missing)} images in {images.folder.name}")
    for index in missing:
        evidence.anatomies[paths[index]] = _measured(evidence, images, index)
    return [evidence.anatomies[path] for path in paths]


def _measured(evidence: Evidence, images: ImageSet, index: int) -> Anatomy:
    record = images.records[index]
    if evidence.judge is None and "vessels" not in record.masks:
        raise ValueError(f"{record.image} has no vessel mask, and no segmenter was given")
    disc, painted = _discs(evidence, images, index)
    return measure(
        images.image(index),
        evidence.predicted_mask(images, index) if evidence.judge else images.mask(index, "vessels"),
        disc=disc,
        painted_disc=painted,
        field_of_view=images.field_of_view(index),
        eye=record.eye,
    )


def _discs(evidence: Evidence, images: ImageSet, index: int) -> tuple[Grey | None, Grey | None]:
    """Return the disc that the anatomy goes by and, if a segmenter found it, the one that was painted.

    Of what the segmenter finds, the largest part counts, if an optic disc can be that small or large; else
    the image has no disc. A mask that a model predicted does not say what was painted.
    """
    mask = images.records[index].masks.get("disc")
    if evidence.judge_of("disc") is None:
        return (images.mask(index, "disc") if mask else None), None
    found = largest_part(evidence.predicted_mask(images, index, "disc"))
    if implausible("disc", found, images.field_of_view(index)):
        found = np.zeros_like(found)
    return found, images.mask(index, "disc") if mask and mask.origin != "predicted" else None


def _values(images: ImageSet, values: Sequence[float | None]) -> Values:
    """Return the values that are known, and the record of each."""
    known = [place for place, value in enumerate(values) if value is not None]
    return np.array([values[place] for place in known], np.float64), [images.records[i] for i in known]


def _readers(evidence: Evidence, synthetic: ImageSet, real: ImageSet) -> str:
    """Say who read vessels and disc."""
    parts: list[str] = []
    for mask in ("vessels", "disc"):
        judge = evidence.judge_of(mask)
        origins = " against ".join(
            "/".join(sorted({r.masks[mask].origin for r in images.records if mask in r.masks})) or "no"
            for images in (synthetic, real)
        )
        parts.append(f"{mask}: {judge.name}, both sets" if judge else f"{mask}: {origins} masks")
    return "; ".join(parts)


def _reason(attribute: str, images: int) -> str:
    """Say why no synthetic image has a value."""
    if not images:
        return "it needs a segmenter, or vessel masks"
    if attribute == "disc_offset":
        return "it needs a segmenter of the disc, and the mask that made the image"
    if attribute.startswith(("disc", "fovea", "across", "snr")):
        return "no disc: it needs disc masks or a segmenter of the disc, and vessels or a fovea about it"
    return "no vessels, or none long enough"
