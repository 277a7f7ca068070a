"""What `fundusforge train` puts together: data, model, judge, and at the end thresholds and facts.

The training core knows no metric; here the two meet.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fundusforge.annotate.segmenter import Probability, Segmenter, field_extent, known_patients
from fundusforge.cli import classifying, drawing, grading, trees
from fundusforge.cli.judges import (
    Painting,
    Shown,
    field_of,
    painting_judge,
    pretext_judge,
    segmentation_judge,
    segmentation_scores,
    spread,
    upscaling_judge,
)
from fundusforge.config import to_json
from fundusforge.evaluate.vessels import best_threshold
from fundusforge.images import Grey, colour_code, read_image, read_mask
from fundusforge.models import AnyConfig, ModelConfig, drgan
from fundusforge.models.classifier import Classification, ClassifierConfig
from fundusforge.models.drgan import DRGANConfig
from fundusforge.models.edsr import EDSRConfig, EDSRNet, fitted
from fundusforge.models.encoder import EncoderConfig
from fundusforge.models.flow import FlowConfig
from fundusforge.models.pggan import PGGANConfig
from fundusforge.models.pix2pix import Generator, Pix2PixConfig
from fundusforge.models.recipe import Recipe
from fundusforge.models.selfsupervised import Encoder, SelfSupervisedConfig, fit_features
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.models.vae import VAEConfig
from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, Record, read_folder
from fundusforge.sample.severity_painter import load_painter
from fundusforge.training import checkpoint, parallel
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import annotate_metadata, model_file
from fundusforge.training.loop import Validation, train
from fundusforge.training.run import STATE, LoopConfig
from fundusforge.training.warm import load_warm

JUDGED = 32
"""Images of split `val` on which a model is judged, evenly spread, so that judging stays quick."""
GRADED = 200
"""The same of a classifier, which reads them faster and needs more of them."""
CALIBRATED = 20
"""Training images on which thresholds are chosen."""
FITTED = 600
"""Training images to which self-supervised features are fitted, evenly spread."""
FILTER_BATCHES = 32
"""Batches of sixteen crops that a super-resolution network's first filter is fitted to."""
CHANGED_BATCHES = 40
"""Batches of eight changed crops on which thresholds are chosen instead, where the configuration says so."""


def fit(
    config: AnyConfig,
    folders: Sequence[Path],
    run: Path,
    *,
    loop: LoopConfig,
    resume: bool = False,
    warm_start: Path | None = None,
    segmenter: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Train one model on dataset folders, judge it, and write into the model what its user must know.

    Args:
        config: The model.
        folders: Dataset folders; their patients may not stand in two splits.
        run: Run folder.
        loop: How to train.
        resume: Go on where the run stood.
        warm_start: Weights to start from.
        segmenter: For models that paint, a vessel model that shares no patient with the training images.
        quiet: No progress on standard error.

    Returns:
        `run`, `model`, `images`, `seconds`, `finished` and `figures` on split `val`, and the `start` of a
        classifier; None in processes other than the first.

    Raises:
        DatasetError: The folders do not fit each other, or lack what the model needs.
        RunError, CheckpointError, TrainingError: See `fundusforge.training.loop.train`.
    """
    if isinstance(config, EncoderConfig):
        return drawing.fit_encoder(config, run, loop=loop, resume=resume, warm_start=warm_start, quiet=quiet)
    records, graded = gather(folders), isinstance(config, ClassifierConfig)
    learnt = [record for record in records if record.split == "train"]
    judged = spread([record for record in records if record.split == "val"], GRADED if graded else JUDGED)
    if not learnt:
        raise DatasetError(f"{', '.join(map(str, folders))}: no record of split `train`")
    process, metadata = parallel.start(loop.device), dict[str, Any]()
    if isinstance(config, ClassifierConfig):
        learnt = classifying.learnable(config, learnt)
    if isinstance(config, PGGANConfig | StyleGANConfig):
        config = drawing.settled(config, loop, learnt)
    if isinstance(config, Pix2PixConfig):
        whole = (record for record in learnt if set(config.masks) <= set(record.masks))
        config = replace(config, cameras=tuple(sorted({_camera(record) for record in whole})))
    grader, spaces_run = None, None
    if isinstance(config, DRGANConfig):
        spaces_run = config.grader
        config, grader = grading.settled(config, loop)
    if isinstance(config, DRGANConfig | FlowConfig):
        learnt = grading.learnable(config, learnt)
    # A model's first weights are drawn here, before the loop takes the seeding over.
    torch.manual_seed(loop.seed)
    recipe = cast(Recipe, config.build())
    batches = Batches(
        Path("/"), learnt, recipe.view, batch=loop.batch, seed=loop.seed, rank=process.rank,
        world=process.world, workers=loop.workers, cache_gb=loop.cache_gb,
    )  # fmt: skip
    if isinstance(config, Painting) and warm_start and not (run / STATE).exists():
        # Not in the loop, because what is measured on this data must replace what was on the older data.
        print(f"warm start from {warm_start}: {load_warm(recipe.nets, warm_start)}", file=sys.stderr)
        warm_start = None
    if isinstance(config, Painting):
        if isinstance(config, Pix2PixConfig):
            fit_codes(cast(Generator, recipe.nets["generator"]), config, [learnt[i] for i in batches.members])
        if grader is not None:
            metadata["grader"] = grader.name
            if not (run / STATE).exists():
                generator = cast(drgan.Generator, recipe.nets["generator"])
                grading.give_spaces(generator, grading.spaces_of(grader, spaces_run, learnt))
        validation = painting_judge(config, judged, segmenter, learnt)
    elif isinstance(config, SelfSupervisedConfig):
        validation = pretext_judge(config, judged)
    elif isinstance(config, PGGANConfig | StyleGANConfig):
        validation = drawing.drawing_judge(cast(drawing.Drawing, recipe), learnt, judged)
    elif isinstance(config, VAEConfig):
        validation = trees.tree_judge(config, learnt, judged)
    elif isinstance(config, EDSRConfig):
        if config.start == "fitted" and warm_start is None and not (run / STATE).exists():
            fit_filter(cast(EDSRNet, recipe.nets["net"]), config, learnt)
        validation = upscaling_judge(config, judged)
    elif isinstance(config, ClassifierConfig):
        net = cast(Classification, recipe.nets["net"])
        warm_start, metadata["start"] = classifying.begin(net, config, run, warm_start)
        diameter = training_diameter(config.size, learnt)
        validation = classifying.classification_judge(config, judged, diameter=diameter)
    else:
        diameter = training_diameter(config.diameter, learnt)
        validation = segmentation_judge(config, judged, diameter=diameter)
    trained = train(
        recipe, batches, loop, run, config_json=to_json(config, kind=ModelConfig, indent=None),
        data=describe(folders, learnt, judged), metadata=metadata, validate=validation, resume=resume,
        warm_start=warm_start, quiet=quiet,
    )  # fmt: skip
    if not process.main:
        return None
    figures = finish(run, config, learnt, judged, validation)
    clock = trained.clock
    return {
        "run": str(run), "model": str(model_file(run)), "images": clock.images,
        "seconds": round(clock.seconds, 1), "finished": trained.finished, "figures": figures, **metadata,
    }  # fmt: skip


def fit_whole(
    config: AnyConfig, folders: Sequence[Path], run: Path, *, loop: LoopConfig, quiet: bool = False
) -> None:
    """Train one model to its end for a command that uses it next, going on where it stood; see `fit`.

    Raises:
        DatasetError: The training was interrupted, and besides what `fit` raises.
    """
    made = fit(config, folders, run, loop=loop, resume=True, quiet=quiet)
    if made is None or not made["finished"]:
        raise DatasetError(f"{run}: the training was interrupted; the same command goes on with it")


def gather(folders: Sequence[Path]) -> list[Record]:
    """Read folders that meet in one command into one list, with absolute paths.

    Raises:
        DatasetError: A folder is broken, or a patient stands in two splits.
    """
    read = [(folder, read_folder(folder)) for folder in folders]
    check_splits(*read)
    return [located(record, folder) for folder, records in read for record in records]


def located(record: Record, folder: Path) -> Record:
    """Return the record with absolute paths, so that records of several folders can stand in one list."""

    def place(path: str) -> str:
        return str((Path(folder) / path).resolve())

    return replace(
        record,
        image=place(record.image),
        masks={name: replace(mask, path=place(mask.path)) for name, mask in record.masks.items()},
        contrasts={name: replace(one, path=place(one.path)) for name, one in record.contrasts.items()},
        field_of_view=place(record.field_of_view) if record.field_of_view else None,
    )


def describe(folders: Sequence[Path], learnt: Sequence[Record], judged: Sequence[Record]) -> dict[str, Any]:
    """What a model was trained on, for the run's `config.json`."""
    return {
        "folders": [Path(folder).name for folder in folders],
        "sources": sorted({record.source for record in learnt}),
        "train": len(learnt),
        "judged": len(judged),
    }


def _camera(record: Record) -> str:
    return record.camera or record.source


def fit_codes(generator: Generator, config: Pix2PixConfig, records: Sequence[Record]) -> None:
    """Give a generator the camera-and-colour codes of its training images."""
    if not config.code:
        return
    codes = [colour_code(read_image(Path(record.image)), field_of(record)) for record in records]
    generator.fit_codes(torch.from_numpy(np.stack(codes)), [_camera(record) for record in records])


def fit_filter(net: EDSRNet, config: EDSRConfig, learnt: Sequence[Record]) -> None:
    """Let a super-resolution network begin as the linear filter that fits its training images best."""
    batches = Batches(Path("/"), learnt, config.build().view, batch=16, seed=1)
    crops = itertools.islice(batches, FILTER_BATCHES)
    net.begin(fitted(((one["image"], one["field_of_view"]) for one in crops), config.kernel))


# ---- the end -----------------------------------------------------------------------------------------------


def finish(
    run: Path,
    config: AnyConfig,
    learnt: Sequence[Record],
    judged: Sequence[Record],
    validation: Validation | None,
) -> dict[str, float]:
    """Write thresholds or fitted features, figures, terms and digests of training patients into the model."""
    facts: dict[str, Any] = {}
    if isinstance(config, SelfSupervisedConfig):
        fit_run(run, config, spread(learnt, FITTED))
    if isinstance(config, VAEConfig):
        trees.conclude(run, config, released(run, config), learnt)
    if isinstance(config, ClassifierConfig):
        diameter = training_diameter(config.size, learnt)
        figures, facts = classifying.conclude(run, config, learnt, judged, diameter=diameter)
    elif isinstance(config, UNetConfig):
        segmenter = replace(Segmenter.load(run), diameter=training_diameter(config.diameter, learnt))
        segmenter = replace(segmenter, thresholds=thresholds_of(segmenter, learnt))
        facts["calibration"] = {"threshold": segmenter.thresholds, "diameter": segmenter.diameter}
        shown = Shown(judged, config.masks)
        figures = segmentation_scores(segmenter, shown, calibrated=True) if judged else {}
    elif isinstance(config, PGGANConfig | StyleGANConfig):
        figures = drawing.conclude(run, config.build(), learnt, judged)
    elif validation:
        figures = dict(validation.judge(released(run, config)))
    else:
        figures = {}
    annotate_metadata(
        run,
        figures=figures,
        terms=sorted({f"{record.source}: {record.terms or 'unknown'}" for record in learnt}),
        sources=sorted({record.source for record in learnt}),
        patients=sorted(known_patients(record.patient for record in learnt)),
        **facts,
    )
    return figures


def fit_run(run: Path, config: SelfSupervisedConfig, records: Sequence[Record]) -> None:
    """Fit the features of a run's encoder to photographs and write them into its model."""
    encoder = cast(Encoder, released(run, config)["encoder"])
    batches = Batches(Path("/"), records, config.build().view, batch=1, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fit_features(encoder, (batches.load(number)["image"] for number in range(len(records))))
    file = model_file(run)
    tensors, metadata = checkpoint.read(file)
    fitted = {f"encoder.{name}": getattr(encoder, name) for name in ("centre", "projection")}
    checkpoint.write(file, tensors | fitted, metadata)


def released(run: Path, config: AnyConfig) -> nn.ModuleDict:
    """Networks that a run released, in evaluation mode."""
    if isinstance(config, Painting):
        return nn.ModuleDict({"generator": load_painter(run).generator})
    tensors, _ = checkpoint.load_model(model_file(run), kind=config.kind)
    recipe = cast(Recipe, config.build())
    nets = nn.ModuleDict({name: recipe.nets[name] for name in recipe.ema}).eval()
    checkpoint.fill(nets, tensors, where=model_file(run))
    return nets


def training_diameter(side: int, learnt: Sequence[Record]) -> float | None:
    """Median diameter in pixels of the training images' fields of view when images have this side."""
    fields = [field for record in spread(learnt, CALIBRATED) if (field := field_of(record)) is not None]
    extents = [field_extent(field) * side / max(field.shape) for field in fields]
    return float(np.median(extents)) if extents else None


def thresholds_of(segmenter: Segmenter, learnt: Sequence[Record]) -> dict[str, float]:
    """Choose each mask's threshold, that of highest F1, on training images as the configuration says.

    Where people drew some of the masks, only those count: drawn eyes are easier than photographs.
    """
    chosen = {}
    found: dict[str, tuple[dict[str, Probability], Grey]] = {}
    for name in segmenter.config.masks:
        owners = [record for record in learnt if name in record.masks]
        owners = [record for record in owners if record.masks[name].origin == "human"] or owners
        rows = (
            _changed_crops(segmenter, owners, name)
            if segmenter.config.calibration == "augmented"
            else [_whole(segmenter, record, name, found) for record in spread(owners, CALIBRATED)]
        )
        if any((mask[field > 0] > 0).any() for _, mask, field in rows):
            chosen[name] = best_threshold(*(list(column) for column in zip(*rows, strict=True)))
    return chosen


def _whole(
    segmenter: Segmenter, record: Record, name: str, found: dict[str, tuple[dict[str, Probability], Grey]]
) -> tuple[Probability, Grey, Grey]:
    """Prediction, mask and field of view of a whole photograph; predictions made before are `found`."""
    if record.image not in found:
        ((image, field, _),) = Shown([record], []).rows
        found[record.image] = segmenter.probabilities(image, field), field
    maps, field = found[record.image]
    return maps[name], read_mask(Path(record.masks[name].path)), field


def _changed_crops(
    segmenter: Segmenter, owners: Sequence[Record], name: str
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Predictions, masks and fields of view of crops changed as in training, each (H, W)."""
    channel = segmenter.config.masks.index(name)
    crops = iter(Batches(Path("/"), owners, segmenter.config.build().view, batch=8, seed=1))
    device = next(segmenter.net.parameters()).device
    rows = []
    for _ in range(CHANGED_BATCHES if owners else 0):
        batch = next(crops)
        with torch.inference_mode():
            logits = segmenter.net(batch["image"].to(device), batch["field_of_view"].to(device))
        found = logits.sigmoid()[:, channel].float().cpu().numpy()
        masks = batch["masks"][:, channel].numpy()
        rows += list(zip(found, masks, batch["field_of_view"][:, 0].numpy(), strict=True))
    return rows
