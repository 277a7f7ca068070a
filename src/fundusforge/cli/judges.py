"""How each kind of model is judged while it trains: on photographs of split `val`, before any threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import nn

from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.evaluate.vessels import best_threshold, vessel_scores
from fundusforge.images import colour_code, read_image, read_mask, resize
from fundusforge.models import drgan, flow, pix2pix
from fundusforge.models.drgan import DRGANConfig
from fundusforge.models.edsr import EDSRConfig, EDSRNet
from fundusforge.models.flow import FlowConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.models.selfsupervised import SelfSupervisedConfig, pretext_scores
from fundusforge.models.unet import Segmentation, UNetConfig
from fundusforge.records import DatasetError, Record
from fundusforge.sample.painter import Painter
from fundusforge.sample.severity_painter import AnyPainter, FlowPainter, SeverityPainter
from fundusforge.sample.upscaling import Upscaler, bicubic, psnr, shrink
from fundusforge.training.batches import Batches, knows
from fundusforge.training.loop import Validation

T = TypeVar("T")
Painting = Pix2PixConfig | DRGANConfig | FlowConfig
"""Models that paint on masks."""
ENLARGED = 8
"""Images of split `val` that a super-resolution network enlarges each time it is judged."""


def spread(records: Sequence[T], count: int) -> list[T]:
    """Return at most `count` records (or what goes with them), evenly spaced over all of them."""
    places = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[place] for place in places]


def field_of(record: Record) -> np.ndarray | None:
    """Read a located record's field of view; None if it has none."""
    return read_mask(Path(record.field_of_view)) if record.field_of_view else None


class Shown:
    """Pictures of the judged records, read once."""

    def __init__(self, records: Sequence[Record], names: Sequence[str]) -> None:
        self.rows = []
        for record in records:
            image, field = read_image(Path(record.image)), field_of(record)
            field = np.full(image.shape[:2], 255, np.uint8) if field is None else field
            found = {name: record.masks[name] for name in names if name in record.masks}
            masks = {name: read_mask(Path(mask.path), soft=mask.soft) for name, mask in found.items()}
            self.rows.append((image, field, masks))


def segmentation_scores(segmenter: Segmenter, shown: Shown, *, calibrated: bool) -> dict[str, float]:
    """F1 and AUC of every mask, over all pixels inside the fields of view, at the images' own size.

    Where the segmenter is not `calibrated` yet, F1 is that of the best threshold on these very images: good
    enough to choose among states of one training, not to be quoted.
    """
    found = [(segmenter.probabilities(image, field), masks, field) for image, field, masks in shown.rows]
    scores: dict[str, float] = {}
    for name in segmenter.config.masks:
        rows = [(maps[name], masks[name], field) for maps, masks, field in found if name in masks]
        if not any((mask[field > 0] > 0).any() for _, mask, field in rows):
            continue
        maps, masks, fields = (list(column) for column in zip(*rows, strict=True))
        threshold = segmenter.threshold_of(name) if calibrated else best_threshold(maps, masks, fields)
        result = vessel_scores(maps, masks, fields, threshold=threshold)
        scores |= {f"{name}_f1": result.f1 or 0.0, f"{name}_auc": result.auc or 0.0}
    return scores


def segmentation_judge(
    config: UNetConfig, records: Sequence[Record], *, diameter: float | None
) -> Validation | None:
    """Judge a segmenter by the mean F1 of its masks on split `val`; None if nothing there has one of them."""
    records = [record for record in records if set(config.masks) & set(record.masks)]
    if not records:
        return None
    shown = Shown(records, config.masks)

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        segmenter = Segmenter(net=cast(Segmentation, nets["net"]), config=config, diameter=diameter)
        scores = segmentation_scores(segmenter, shown, calibrated=False)
        f1 = [value for name, value in scores.items() if name.endswith("_f1")]
        return scores | {"f1": float(np.mean(f1)) if f1 else 0.0}

    return Validation(judge=judge, score="f1")


def painting_judge(
    config: Painting,
    records: Sequence[Record],
    segmenter: Path | None,
    learnt: Sequence[Record],
) -> Validation | None:
    """Judge a generator on the masks of split `val`.

    `l1` is the mean difference to the real photographs in their own colours, or of their own grade;
    `agreement` the AUC of a
    segmenter's vessels on the painted image against the painted mask. Only agreement chooses the best
    state: the lowest L1 belongs to blurred early pictures.

    Raises:
        DatasetError: The segmenter has seen a patient whom the generator learns from.
    """
    names = config.masks if isinstance(config, Pix2PixConfig) else config.conditions
    exact = isinstance(config, Pix2PixConfig)  # a healthy retina has empty masks of lesions that nobody drew
    records = [r for r in records if all(name in r.masks if exact else knows(r, name) for name in names)]
    reader = Segmenter.load(segmenter) if segmenter else None
    if reader and (shared := reader.patients & known_patients(record.patient for record in learnt)):
        raise DatasetError(
            f"{segmenter}: was trained on {len(shared)} of the generator's training patients, so its "
            "agreement would flatter; name a segmenter of other patients"
        )
    if not records:
        return None
    shown = Shown(records, names)

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        painter = painter_of(nets["generator"])
        differences, maps, masks, fields = [], [], [], []
        for place, (image, field, structures) in enumerate(shown.rows):
            inputs = {name: structures.get(name, np.zeros_like(field)) for name in names}
            stack, inside = painter.stack(inputs, field, size=config.size)
            if isinstance(painter, Painter):
                code = colour_code(image, field)
            else:
                nothing = torch.Generator()  # nothing is drawn of a severity
                code = painter.choose(stack, inside, nothing, grade=records[place].grade).code
            painted = painter.paint(stack, inside, seed=place, code=code)
            real = resize(image, config.size).astype(np.float32)
            differences.append(np.abs(painted.astype(np.float32) - real)[inside > 0].mean() / 255)
            if reader and "vessels" in inputs:
                maps.append(reader.probability(painted, inside))
                masks.append(stack[names.index("vessels")])
                fields.append(inside)
        scores = {"l1": float(np.mean(differences))}
        if reader and maps:
            result = vessel_scores(maps, masks, fields, threshold=reader.threshold)
            scores |= {"agreement": result.auc or 0.0, "agreement_f1": result.f1 or 0.0}
        return scores

    return Validation(judge=judge, score="agreement" if reader and "vessels" in names else None)


def painter_of(generator: nn.Module) -> AnyPainter:
    """Return what paints with a generator of any family that does."""
    if isinstance(generator, drgan.Generator):
        return SeverityPainter(generator=generator)
    if isinstance(generator, flow.Generator):
        return FlowPainter(generator=generator)
    return Painter(generator=cast(pix2pix.Generator, generator))


def upscaling_judge(config: EDSRConfig, records: Sequence[Record]) -> Validation | None:
    """Judge a super-resolution network by whole photographs of split `val` that were made small.

    `psnr` is the mean peak signal-to-noise ratio inside the fields of view, `psnr_bicubic` that of cubic
    interpolation of the same small pictures, `gain_db` what the network gains on it; the gain chooses the
    best state. All colours count, and pixels are rounded to 8 bits as in files.
    """
    if not records:
        return None
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for image, field, _ in Shown(spread(records, ENLARGED), ()).rows:
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        pairs.append((shrink(image, config.kernel), image[:height, :width], field[:height, :width]))
    plain = float(np.mean([psnr(bicubic(small), sharp, field) for small, sharp, field in pairs]))

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        upscaler = Upscaler(net=cast(EDSRNet, nets["net"]))
        found = float(np.mean([psnr(upscaler.upscale(small), sharp, field) for small, sharp, field in pairs]))
        return {"psnr": found, "psnr_bicubic": plain, "gain_db": found - plain}

    return Validation(judge=judge, score="gain_db")


def pretext_judge(config: SelfSupervisedConfig, records: Sequence[Record]) -> Validation | None:
    """Judge features by the task they are learnt from, on split `val`; the same views each time.

    It does not choose the best state: the task is easy, and what the features are for is not measured by it.
    """
    if len(records) < 2:
        return None
    batches = Batches(Path("/"), records, config.build().view, batch=len(records), seed=1)
    pictures = batches.load(0)["image"]

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return pretext_scores(nets, config, pictures.to(next(nets.parameters()).device))

    return Validation(judge=judge, score=None)
