"""Adaptive grading manipulation: how severe a painted retina is, drawn from a Gaussian per grade.

Zhou et al. 2020 (DR-GAN), section II-D. The features of a trained grader, grade by grade, make five
Gaussians, the latent grading spaces (`fundusforge.annotate.spaces` fits them). A vector z is drawn from that
of the wanted grade; four linear layers turn it into what scales and shifts the channels of every synthesis
block (eq. 2, adaptive instance normalisation of Huang and Belongie 2017), after a volume of noise with a
quarter of the block's channels was fused into its features by a 1x1 convolution.

Severity between two grades is between their Gaussians: mean and covariance are interpolated (the paper has
whole grades only).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.severity import GRADES

STYLE = 512
"""Numbers between the mapping network and the blocks, for a width of 64; in proportion for others. The paper
leaves them open; this is the length of Karras et al. 2019, after whom the network is made."""
Gaussian = tuple[Tensor, Tensor, float]
"""Mean (D,); factor (r, D), of which factor' factor is the covariance along r directions; and the variance
around them, the same in all directions."""


class GradingSpaces(nn.Module):
    """The Gaussian of each grade, kept with the weights, so that nobody needs the grader to paint.

    Before `fit` they are fixed: means on a line, one apart in every second number, deviations of a half.
    """

    means: Tensor
    factors: Tensor
    around: Tensor
    known: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, length: int, directions: int) -> None:
        """Prepare for vectors of this length, whose covariance is kept along so many directions at most."""
        super().__init__()
        grades = len(GRADES)
        line = torch.arange(grades) - (grades - 1) / 2
        means = line[:, None] * (1.0 - 2.0 * (torch.arange(length) % 2))
        self.register_buffer("means", means)
        self.register_buffer("factors", torch.zeros(grades, directions, length))
        self.register_buffer("around", torch.full((grades,), 0.25))
        self.register_buffer("known", torch.ones(grades, dtype=torch.bool))
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("spread", torch.full((length,), 1.5))

    @property
    def draws(self) -> int:
        """Standard normal numbers that a vector is made of, some for each grade."""
        _, directions, length = self.factors.shape
        return len(GRADES) * (directions + length)

    @torch.no_grad()
    def fit(self, gaussians: Mapping[int, Gaussian]) -> None:
        """Take the Gaussians of a grader's features, by grade; grades that are missing become unknown.

        Of more directions than are kept those with the largest variance stay; the variance of the others is
        spread evenly over all directions.

        Raises:
            ValueError: None at all, another length, or no grade of 0 to 4.
        """
        length, directions = self.means.shape[1], self.factors.shape[1]
        odd = [grade for grade, (mean, _, _) in gaussians.items() if mean.shape != (length,)]
        if not gaussians or odd or set(gaussians) - set(GRADES):
            lengths = {grade: tuple(mean.shape) for grade, (mean, _, _) in gaussians.items()}
            raise ValueError(f"expected means ({length},) of grades 0 to 4, not {lengths}")
        for buffer in (self.means, self.factors, self.around, self.known):
            buffer.zero_()
        for grade, (mean, factor, around) in gaussians.items():
            order = factor.square().sum(1).argsort(descending=True)
            kept, rest = factor[order[:directions]], factor[order[directions:]]
            self.means[grade] = mean
            self.factors[grade, : len(kept)] = kept
            self.around[grade] = around + rest.square().sum() / length
            self.known[grade] = True
        means = self.means[self.known]
        within = self.factors[self.known].square().sum(1) + self.around[self.known, None]
        self.centre.copy_(means.mean(0))
        self.spread.copy_((within.mean(0) + means.var(0, correction=0)).sqrt().clamp_min(1e-6))

    def check(self, severity: float) -> None:
        """Refuse a severity that has no Gaussian.

        Raises:
            ValueError: Outside 0 to 4, or beside a grade that the grader did not see.
        """
        last = GRADES[-1]
        if not 0 <= severity <= last:
            raise ValueError(f"severity must be between 0 and {last}, not {severity}")
        needed = {int(severity), min(last, int(severity) + (severity % 1 > 0))}
        if lacking := sorted(grade for grade in needed if not self.known[grade]):
            raise ValueError(f"severity {severity:g}: this model never saw grade {lacking[0]}")

    def forward(self, severity: Tensor, draws: Tensor) -> Tensor:
        """Draw vectors from N((1 - t) m_a + t m_b, (1 - t) C_a + t C_b) of the grades a and b next to each.

        Args:
            severity: (N,) in [0, 4], a + t.
            draws: (N, `draws`) standard normal; with zeros the mean is drawn.

        Returns:
            (N, D), in deviations from the mean of all grades.
        """
        grades, directions, length = self.factors.shape
        along, about = draws.view(len(draws), grades, -1).split([directions, length], 2)
        below = severity.detach().floor().clamp(0, grades - 2).long()
        share = (severity - below)[:, None]  # (N, 1)
        found = torch.zeros(len(draws), length, device=draws.device)
        for grade, weight in ((below, 1 - share), (below + 1, share)):
            rows = torch.arange(len(draws), device=draws.device)
            deviation = torch.einsum("nr,nrd->nd", along[rows, grade], self.factors[grade])
            deviation = deviation + self.around[grade].sqrt()[:, None] * about[rows, grade]
            found = found + weight * self.means[grade] + weight.clamp_min(0).sqrt() * deviation
        return (found - self.centre) / self.spread


class MappingNetwork(nn.Sequential):
    """Four linear layers with leaky ReLU, from a grading vector to a style."""

    def __init__(self, length: int, style: int) -> None:
        """Map (N, length) to (N, style)."""
        layers: list[nn.Module] = []
        for inputs in (length, style, style, style):
            layers += [nn.Linear(inputs, style), nn.LeakyReLU(0.2)]
        super().__init__(*layers)


class Manipulation(nn.Module):
    """A block's features with noise fused in, normalised, then scaled and shifted by the style (eq. 2)."""

    def __init__(self, channels: int, style: int) -> None:
        """Prepare for (N, channels, H, W) features and (N, style) styles."""
        super().__init__()
        self.volume = channels // 4
        self.fuse = nn.Conv2d(channels + self.volume, channels, 1)
        self.split = nn.Linear(style, 2 * channels)
        nn.init.zeros_(self.split.bias)
        with torch.no_grad():
            self.split.bias[:channels] = 1.0  # begins near plain instance normalisation

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Return features (N, C, H, W) after manipulation.

        Args:
            x: (N, C, H, W).
            style: (N, style).
            noise: (N, C / 4, H, W) standard normal; zeros if None.
        """
        noise = x.new_zeros(len(x), self.volume, *x.shape[2:]) if noise is None else noise.to(x.dtype)
        scale, shift = self.split(style)[..., None, None].chunk(2, 1)  # gamma and beta, (N, C, 1, 1) each
        return torch.addcmul(shift, F.instance_norm(self.fuse(torch.cat([x, noise], 1)), eps=1e-5), scale)
