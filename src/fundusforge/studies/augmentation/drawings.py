"""Pictures of a study: arms by setting, ROC curves, the curve of amounts, training curves, activations."""

# matplotlib annotates itself only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fundusforge.annotate.activations import Activations
from fundusforge.annotate.grades import Grader
from fundusforge.images import SYNTHETIC_XMP, Image, grid, resize, write_image
from fundusforge.records import MASKS, write_bytes
from fundusforge.studies.augmentation.cells import Outcome
from fundusforge.studies.augmentation.config import Study
from fundusforge.studies.augmentation.measures import TITLES, said
from fundusforge.studies.augmentation.parts import Part
from fundusforge.studies.augmentation.reading import square
from fundusforge.studies.augmentation.result import Amount, Row
from fundusforge.studies.augmentation.settings import TEST

SHOWN, TILE, STRENGTH = 6, 192, 0.45
"""Images on the sheet of activations, their side in pixels, and the share of the map's colour over them."""


def by_setting(rows: Sequence[Row], measure: str, out: Path) -> Path:
    """Draw a measure of every arm, by setting, with its interval."""
    figure, axes = _figure(width=max(6.0, 1.5 * len({row.title for row in rows}) + 3))
    settings = list(dict.fromkeys(row.title for row in rows))
    arms = list(dict.fromkeys(row.arm for row in rows))
    for place, arm in enumerate(arms):
        known = [row for row in rows if row.arm == arm and row.values[measure].value is not None]
        values = [row.values[measure] for row in known]
        middle: list[float] = [value.value or 0.0 for value in values]
        x = [settings.index(row.title) + (place - (len(arms) - 1) / 2) * 0.8 / len(arms) for row in known]
        ends = [
            [m - (v.low if v.low is not None else m) for m, v in zip(middle, values, strict=True)],
            [(v.high if v.high is not None else m) - m for m, v in zip(middle, values, strict=True)],
        ]
        axes.errorbar(x, middle, yerr=np.maximum(ends, 0), fmt="o", capsize=3, label=arm)
    axes.set_xticks(range(len(settings)), settings)
    axes.set_ylabel(TITLES[measure])
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, out)


def roc(arms: Mapping[str, Sequence[Outcome]], title: str, out: Path) -> Path:
    """Draw the ROC curve of each arm on the test set, by the mean of its seeds' probabilities."""
    figure, axes = _figure(width=6.0)
    for arm, outcomes in arms.items():
        scores = np.mean([said(outcome.on(TEST))[:, 0] for outcome in outcomes], axis=0)
        truth = np.array(outcomes[0].on(TEST).truth) == 1
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)  # tied scores pass together
        hits, alarms = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
        x, y = np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])
        axes.plot(x, y, label=arm)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="Sensitivity", title=title)
    axes.legend(fontsize="small")
    return _save(figure, out)


def by_amount(points: Sequence[Amount], measure: str, out: Path) -> Path:
    """Draw the curve of amounts; 0 is the best free baseline."""
    figure, axes = _figure(width=6.0)
    for name in dict.fromkeys((point.setting, point.learner) for point in points):
        here = [p for p in points if (p.setting, p.learner) == name and p.value.value is not None]
        x, middle = [point.images for point in here], [point.value.value or 0.0 for point in here]
        axes.plot(x, middle, marker="o", label=" ".join(name))
        low = [p.value.low if p.value.low is not None else m for p, m in zip(here, middle, strict=True)]
        high = [p.value.high if p.value.high is not None else m for p, m in zip(here, middle, strict=True)]
        axes.fill_between(x, low, high, alpha=0.15)
    axes.set(xlabel="Synthetic images (0: best free baseline)", ylabel=TITLES[measure])
    axes.legend(fontsize="small")
    return _save(figure, out)


def training(arms: Mapping[str, Sequence[Outcome]], title: str, out: Path) -> Path:
    """Draw loss and validation score of each arm's first seed over the training."""
    figure, axes = _figure(width=9.0, panels=2)
    for arm, outcomes in arms.items():
        curve = outcomes[0].curve
        losses = [(p.images, p.loss) for p in curve if p.loss is not None]
        scores = [(p.images, p.score) for p in curve if p.score is not None]
        for panel, points in zip(axes, (losses, scores), strict=True):
            if points:
                panel.plot(*zip(*points, strict=True), marker=".", label=arm)
    axes[0].set(xlabel="Images seen", ylabel="Loss in training", title=title)
    axes[1].set(xlabel="Images seen", ylabel="Score on validation")
    if axes[1].has_data():
        axes[1].legend(fontsize="small")
    return _save(figure, out)


def activations(study: Study, run: Path, part: Part, out: Path, *, device: str) -> Path | None:
    """Write images, and below them what spoke for the finding by Grad-CAM; None of grades and pairs.

    Args:
        study: The study.
        run: Of a classifier.
        part: Images with the finding; real ones only where the study wants them shown.
        out: Picture to write.
        device: Where to compute.
    """
    if study.targets[0] not in MASKS or study.design.kind != "ratios":
        return None
    records = [r for r in part.records if r.synthetic or study.real_on_sheet][:SHOWN]
    if not records:
        return None
    grader = Grader.load(run, device=device)
    squares = [square(grader, part.folder, record) for record in records]
    maps = Activations(grader=grader, method="gradcam").evidence(squares)[:, 0]
    above = [resize(picture, TILE) for picture in squares]
    below = [_overlaid(picture, resize(found, TILE)) for picture, found in zip(above, maps, strict=True)]
    xmp = None if study.real_on_sheet else SYNTHETIC_XMP
    write_image(out, grid([*above, *below], columns=len(above)), xmp=xmp)
    return out


def _overlaid(image: Image, evidence: Any) -> Image:
    """Return an image (S, S, 3) uint8 with a map (S, S) of 0 to 1 over it."""
    level = np.rint(255 * np.clip(evidence, 0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    share = level[..., None] / 255 * STRENGTH
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)


def _figure(*, width: float, panels: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.5), layout="constrained")
    return figure, figure.subplots(1, panels)


def _save(figure: Any, out: Path) -> Path:
    """Write a picture without a date: the same numbers give the same file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": "fundusforge"})
    write_bytes(out, data.getvalue())
    return out
