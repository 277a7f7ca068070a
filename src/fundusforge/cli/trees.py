"""What `fundusforge train` adds for auto-encoders of vessel trees: judge, warning, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fundusforge.cli.command import say
from fundusforge.cli.judges import field_of, spread
from fundusforge.evaluate.anatomy.measure import Anatomy, measure
from fundusforge.images import read_mask, resize_mask
from fundusforge.models.vae import Decoder, Encoder, VAEConfig, active_share
from fundusforge.records import Record
from fundusforge.sample.cleaning import blur_of, deblurred, threshold_of
from fundusforge.sample.latents import Drawer, Drawn
from fundusforge.training import checkpoint
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import model_file
from fundusforge.training.loop import Validation

SEEN = 20
"""Training trees on which a model is measured, evenly spread."""
DRAWN = 12
"""Drawn trees that are measured."""
MEASURES = ("vessel_fraction", "calibre", "bifurcations", "curvature", "broken_vessels", "orphan_share")
"""What drawn trees are compared by (see `evaluate.anatomy.measure.Anatomy`)."""
COLLAPSED = 0.05
"""Share of active numbers below which a training is warned of."""


def tree_judge(config: VAEConfig, learnt: Sequence[Record], judged: Sequence[Record]) -> Validation | None:
    """Watch an auto-encoder, and judge it by how the trees that it draws are built.

    `active` is the share of numbers that tell training trees apart; `overlap` the Dice of trees of split
    `val` with what is drawn from their own vectors, before any cleaning; `unlike` the mean difference, over
    `MEASURES`, of drawn trees to those of `val` in standard deviations of the training trees (vessels only).
    The state with the least is kept as the best.
    """
    learnt, judged = ([r for r in rows if set(config.masks) <= r.masks.keys()] for rows in (learnt, judged))
    if not learnt or not judged:
        return None
    seen, unseen = (pictures_of(config, spread(rows, SEEN)) for rows in (learnt, judged))
    real = anatomies(config, spread(learnt, SEEN)), anatomies(config, spread(judged, SEEN))

    @torch.no_grad()
    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        encoder, decoder = cast(Encoder, nets["encoder"]), cast(Decoder, nets["decoder"])
        device = decoder.seen.device
        active = active_share(encoder(seen.to(device))[0])
        if active < COLLAPSED:
            say(
                f"warning: {active:.0%} of the vector's numbers tell trees apart (posterior collapse). Lower "
                "--model.kl, or raise --model.free or --model.warmup"
            )
        again = ((decoder(encoder(unseen.to(device))[0]) + 1) / 2).cpu()
        scores = {"active": active, "overlap": overlap(again, unseen)}
        if "vessels" in config.masks:
            settle(encoder, decoder, seen)
            drawer = Drawer.of(decoder)
            drawn = [drawer.draw(drawer.latent(0, index)) for index in range(DRAWN)]
            scores["unlike"] = unlike([anatomy_of(one) for one in drawn], *real)
            scores["quality"] = -scores["unlike"]
        return scores

    return Validation(judge=judge, score="quality" if "vessels" in config.masks else None)


def pictures_of(config: VAEConfig, records: Sequence[Record]) -> Tensor:
    """Read masks as the model sees them, unchanged: (N, channels, S, S) in [0, 1], in order."""
    view = replace(config.build().view, augment="none", draws=0)
    batches = Batches(Path("/"), records, view, batch=1, seed=0)
    rows = {int(row["index"]): row["masks"] for row in map(batches.sample, range(len(records)))}
    return torch.stack([rows[index] for index in range(len(records))])


def anatomies(config: VAEConfig, records: Sequence[Record]) -> list[Anatomy]:
    """Measure the vessels of records at the model's side."""
    found: list[Anatomy] = []
    for record in records if "vessels" in config.masks else ():
        vessels = resize_mask(read_mask(Path(record.masks["vessels"].path)), config.size)
        field = field_of(record)
        inside = np.full_like(vessels, 255) if field is None else resize_mask(field, config.size)
        found.append(measure(np.zeros((*vessels.shape, 3), np.uint8), vessels, field_of_view=inside))
    return found


def anatomy_of(drawn: Drawn) -> Anatomy:
    """Measure the vessels of a drawn tree."""
    return measure(np.zeros_like(drawn.image), drawn.masks["vessels"], field_of_view=drawn.field_of_view)


def unlike(drawn: Sequence[Anatomy], learnt: Sequence[Anatomy], judged: Sequence[Anatomy]) -> float:
    """Mean difference of drawn trees to judged ones in deviations of learnt ones, each at most 10."""
    found: list[float] = []
    for name in MEASURES:
        a, b, c = (
            np.array([np.nan if getattr(x, name) is None else getattr(x, name) for x in rows], float)
            for rows in (drawn, judged, learnt)
        )
        if np.isnan(b).all() or np.isnan(c).all():
            continue
        apart = 10.0 if np.isnan(a).all() else abs(np.nanmean(a) - np.nanmean(b)) / max(np.nanstd(c), 1e-6)
        found.append(min(10.0, float(apart)))
    return float(np.mean(found))


def overlap(drawn: Tensor, pictures: Tensor) -> float:
    """Dice of two stacks of maps (N, C, H, W) in [0, 1]."""
    return float(
        2 * (drawn * pictures).sum() / (drawn.square().sum() + pictures.square().sum()).clamp(min=1e-9)
    )


@torch.no_grad()
def settle(encoder: Encoder, decoder: Decoder, pictures: Tensor, field: np.ndarray | None = None) -> None:
    """Measure on training pictures how drawings are blurred and where outlines begin, into the decoder.

    Args:
        encoder: Its own.
        decoder: In evaluation mode.
        pictures: (N, channels, S, S) in [0, 1].
        field: (S, S) of 0 and 1, the field of view to draw in; left as it is if None.
    """
    device = decoder.seen.device
    again = [((decoder(encoder(one[None].to(device))[0])[0] + 1) / 2).cpu().numpy() for one in pictures]
    truth = [one.numpy() for one in pictures]
    blur = blur_of([layer for one in truth for layer in one], [layer for one in again for layer in one])
    decoder.blur.fill_(blur)
    for channel in range(decoder.config.channels):
        sharp = [deblurred(one[channel], blur) for one in again]
        decoder.threshold[channel] = threshold_of([one[channel] for one in truth], sharp)
    if field is not None:
        decoder.field.copy_(torch.from_numpy(field))


def conclude(run: Path, config: VAEConfig, nets: nn.ModuleDict, learnt: Sequence[Record]) -> None:
    """Measure a released auto-encoder on its training pictures and write that into the model."""
    learnt = spread([record for record in learnt if set(config.masks) <= record.masks.keys()], SEEN)
    encoder, decoder = cast(Encoder, nets["encoder"]), cast(Decoder, nets["decoder"])
    fields_of = [field for record in learnt if (field := field_of(record)) is not None]
    inside = [resize_mask(field, config.size) > 0 for field in fields_of]
    field = np.mean(inside, axis=0) > 0.5 if inside else np.ones((config.size, config.size))
    settle(encoder, decoder, pictures_of(config, learnt), field.astype(np.uint8))
    file = model_file(run)
    tensors, metadata = checkpoint.read(file)
    measured = {f"decoder.{name}": getattr(decoder, name) for name in ("blur", "threshold", "field")}
    checkpoint.write(file, tensors | measured, metadata)
