"""Latent grading spaces: for each grade, the Gaussian of a classifier's penultimate features.

Zhou et al. 2020 (DR-GAN, section II-D) draw the vectors that steer a generator's grade from N(mean,
covariance) of a ResNet-50's features. Hundreds of photographs span few of 2048 directions, so the sample
covariance S is shrunk towards a multiple of the identity with the share a of Ledoit and Wolf (J Multivar Anal
88, 2004):

    C = (1 - a) S + a m I,    m = trace(S) / D

S is kept as a factor F of at most n - 1 rows with S = F'F, so a space takes n D numbers and not D D, and

    x = mean + sqrt(1 - a) F'z + sqrt(a m) e,    z and e standard normal,

has exactly the covariance C. The rows of F are the principal directions with their standard deviations: no
row belongs to one photograph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge.records import DatasetError
from fundusforge.severity import GRADE_NAMES, GRADES
from fundusforge.training import checkpoint

CONTENT = "grading spaces"
FEWEST = 2
"""Photographs that a space needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The Gaussian of one grade."""

    mean: Tensor
    """(D,) float32."""
    factor: Tensor
    """(r, D) float32; factor' factor is the sample covariance, with divisor n."""
    shrinkage: float
    """Share of the identity, 0 to 1."""
    scale: float
    """Mean of the variances: what the identity is multiplied by."""

    @classmethod
    def fit(cls, features: NDArray[np.floating]) -> Space:
        """Fit to the features (n, D) of at least two photographs.

        Raises:
            ValueError: Fewer than two.
        """
        if len(features) < FEWEST:
            raise ValueError(f"a grading space needs at least {FEWEST} photographs, not {len(features)}")
        from sklearn.covariance import ledoit_wolf_shrinkage

        rows = np.asarray(features, np.float64)
        mean = rows.mean(0)
        centred = (rows - mean) / np.sqrt(len(rows))
        _, deviations, directions = np.linalg.svd(centred, full_matrices=False)
        kept = deviations > 1e-6 * max(float(deviations[0]), 1e-12)
        return cls(
            mean=torch.from_numpy(mean.astype(np.float32)),
            factor=torch.from_numpy((deviations[:, None] * directions)[kept].astype(np.float32)),
            shrinkage=float(ledoit_wolf_shrinkage(rows)),
            scale=float((centred**2).sum() / rows.shape[1]),
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, D) vectors."""
        rank, length = self.factor.shape
        along = torch.randn(n, rank, generator=generator) @ self.factor
        around = torch.randn(n, length, generator=generator)
        return self.mean + (1 - self.shrinkage) ** 0.5 * along + (self.shrinkage * self.scale) ** 0.5 * around


@dataclass(frozen=True, kw_only=True, eq=False)
class GradingSpaces:
    """The spaces of all grades that have enough photographs."""

    spaces: dict[int, Space]
    counts: dict[int, int]
    """Photographs of every grade."""
    model: str = ""
    """Name of the classifier whose features they describe."""

    @classmethod
    def fit(
        cls, features: NDArray[np.floating], grades: NDArray[np.integer], *, model: str = ""
    ) -> GradingSpaces:
        """Fit the space of every grade that has at least two photographs.

        Args:
            features: (N, D) penultimate features.
            grades: (N,) 0 to 4; others are passed over.
            model: Name of the classifier.

        Raises:
            ValueError: Other shapes, or values that are not finite.
        """
        if features.ndim != 2 or grades.shape != features.shape[:1] or not np.isfinite(features).all():
            raise ValueError(
                f"expected finite features (N, D) and grades (N,), not {features.shape}, {grades.shape}"
            )
        rows = {grade: features[grades == grade] for grade in GRADES}
        return cls(
            spaces={grade: Space.fit(some) for grade, some in rows.items() if len(some) >= FEWEST},
            counts={grade: len(some) for grade, some in rows.items()},
            model=model,
        )

    def sample(self, grade: int, n: int, generator: torch.Generator) -> Tensor:
        """Draw n vectors (n, D) of a grade.

        Raises:
            DatasetError: Fewer than two photographs of that grade were there to learn it from.
        """
        if grade not in self.spaces:
            raise DatasetError(
                f"no latent space of grade {grade}: {self.counts.get(grade, 0)} training images have it, and "
                f"{FEWEST} are needed"
            )
        return self.spaces[grade].sample(n, generator)

    def save(self, path: Path) -> None:
        """Write everything to a safetensors file."""
        tensors = {}
        for grade, space in self.spaces.items():
            numbers = torch.tensor([space.shrinkage, space.scale], dtype=torch.float64)
            tensors |= {
                f"{grade}.mean": space.mean, f"{grade}.factor": space.factor, f"{grade}.shrinkage": numbers
            }  # fmt: skip
        counts = json.dumps({str(grade): count for grade, count in self.counts.items()})
        checkpoint.write(path, tensors, {"content": CONTENT, "counts": counts, "model": self.model})

    @classmethod
    def load(cls, path: Path) -> GradingSpaces:
        """Read what `save` wrote.

        Raises:
            CheckpointError: Missing, truncated, or another kind of file.
        """
        tensors, metadata = checkpoint.read(path)
        if metadata.get("content") != CONTENT:
            raise checkpoint.CheckpointError(f"{path}: holds no {CONTENT}")
        grades = sorted({int(name.partition(".")[0]) for name in tensors})
        spaces = {}
        for grade in grades:
            shrinkage, scale = tensors[f"{grade}.shrinkage"].tolist()
            mean, factor = tensors[f"{grade}.mean"], tensors[f"{grade}.factor"]
            spaces[grade] = Space(mean=mean, factor=factor, shrinkage=shrinkage, scale=scale)
        counts = {int(grade): count for grade, count in json.loads(metadata["counts"]).items()}
        return cls(spaces=spaces, counts=counts, model=metadata["model"])


def draw_features(features: NDArray[np.floating], grades: NDArray[np.integer], path: Path) -> None:
    """Draw features (N, D) in two dimensions (van der Maaten and Hinton 2008, t-SNE), coloured by grade.

    With fewer than four photographs there is nothing to see, and no picture is written.
    """
    if len(features) < 4:
        return
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for grade in GRADES:
        these = places[grades == grade]
        if len(these):
            colour = ("#4c9f70", "#b5c334", "#f2b134", "#e4572e", "#8b1e3f")[grade]
            axes.scatter(*these.T, s=14, color=colour, label=f"{grade} {GRADE_NAMES[grade]} ({len(these)})")
    axes.set(title=f"Penultimate features of {len(features)} training images, t-SNE", xticks=[], yticks=[])
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
