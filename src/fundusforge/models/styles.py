"""Style-based generators: what they draw and how they are set, and the way from vectors to pictures.

Two generations of networks: the first (Karras et al. 2019, `models.adain`), which Kim et al. 2022 trained,
and the second (Karras et al. 2020, `models.modulated`). Masks are further channels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from fundusforge.models import adain, modulated
from fundusforge.models.growing import FIRST, Growth, Stage
from fundusforge.models.modulated import Mapping
from fundusforge.models.recipe import check_contrasts, check_masks

MANY = 1000
"""Training pictures from which their number changes no setting."""
GRADES = 5
"""Grades of diabetic retinopathy that may be asked for."""
_MEASURED = 4096
"""Vectors by which the centre and spread of styles are measured."""


@dataclass(frozen=True)
class StyleSettings:
    """What a style-based generator draws, and how it learns."""

    generation: Literal[1, 2] = 2
    """1: adaptive instance normalisation, grown from 8 px. 2: modulated kernels, full size from the start."""
    masks: tuple[str, ...] = ("vessels",)
    """Masks to draw beside the image; none draws images alone."""
    contrasts: tuple[str, ...] = ()
    """Magnetic-resonance contrasts to draw in place of colours."""
    classes: tuple[str, ...] = ()
    """What may be asked for: `grade`, or findings of the whole image by name (second generation)."""
    latent: int = 512
    """Numbers that an image is drawn from."""
    style: int = 512
    """Numbers of the styles that the mapping network makes of them."""
    widths: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64)
    """Filters of each level from 4 px on, doubling; their number says how large images become."""
    mirror: bool = False
    """Also learn from mirror images: twice as many eyes, of which left and right are no longer told apart by
    who has them."""
    lr: float = 2.5e-3
    """Learning rate of Adam."""
    gamma: float = 0.0
    """Weight of the gradient penalty at real pictures; 0 takes what suits their size and number."""
    penalty_every: int = 16
    """Batches from one gradient penalty to the next, which counts as often more."""
    paths: float = 2.0
    """Weight of the path length penalty, taken every fourth batch (second generation); 0 leaves it out."""
    mixing: float = 0.9
    """How often an image is drawn from two vectors, one for the coarse and one for the fine layers."""
    adaptive: bool = True
    """Change pictures before the discriminator sees them, as often as it needs."""
    adaptive_over: int = 0
    """Images over which the probability of a change can rise from 0 to 1; 0 takes what suits the number of
    pictures."""
    loss: Literal["logistic", "relativistic"] = "logistic"
    """Each picture by itself, or real and drawn ones against each other with a gradient penalty at both
    (Huang et al. 2024, "The GAN is dead; long live the GAN!")."""
    frozen: int = 0
    """Levels of the discriminator, from the picture on, that keep their weights (Mo et al. 2020)."""
    budget: int = 0
    """First generation: images of the whole schedule; 0 takes --stop-after."""
    fade: float = 0.5
    """First generation: part of each level's images over which it is faded in."""

    def __post_init__(self) -> None:
        """Refuse unknown masks, contrasts and classes, and numbers that cannot be.

        Raises:
            ValueError: Which setting, and what was expected.
        """
        if self.masks:
            check_masks(self.masks)
        check_contrasts(self.contrasts)
        if not self.widths or min(*self.widths, self.latent, self.style) < 1:
            raise ValueError(
                f"widths, latent and style must be positive, not {self.widths}, {self.latent}, {self.style}"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be given once each, not {self.classes}")
        if self.generation == 1 and (self.classes or len(self.widths) < 2):
            raise ValueError("the first generation asks for no classes, and grows from 8 px on")
        if not (0 <= self.mixing <= 1 and 0 <= self.fade <= 1) or self.penalty_every < 1:
            raise ValueError(
                "mixing and fade must be 0 to 1 and penalty_every positive, "
                f"not {self.mixing}, {self.fade}, {self.penalty_every}"
            )
        if min(self.gamma, self.paths, self.budget, self.adaptive_over) < 0:
            raise ValueError(
                "gamma, paths, budget and adaptive_over must not be negative, "
                f"not {self.gamma}, {self.paths}, {self.budget}, {self.adaptive_over}"
            )
        if not 0 <= self.frozen <= len(self.widths):
            raise ValueError(f"frozen must be 0 to {len(self.widths)} levels, not {self.frozen}")

    @property
    def channels(self) -> int:
        """Channels of what is drawn: colours or contrasts, then masks."""
        return (len(self.contrasts) or 3) + len(self.masks)

    @property
    def size(self) -> int:
        """Side in pixels of the finished images."""
        return FIRST << (len(self.widths) - 1)

    @property
    def conditions(self) -> int:
        """Numbers of what is asked for: five for the grade, one for each finding."""
        return sum(GRADES if name == "grade" else 1 for name in self.classes)

    @property
    def code(self) -> int:
        """Numbers of the code of a picture."""
        return self.style

    @property
    def findings(self) -> tuple[str, ...]:
        """The classes that are findings."""
        return tuple(name for name in self.classes if name != "grade")

    def condition(self, grade: int | None, findings: Sequence[str]) -> tuple[float, ...]:
        """Return the numbers by which a grade (None: unknown) and findings are asked for, in this order."""
        levels = range(GRADES) if "grade" in self.classes else ()
        return *(float(grade == level) for level in levels), *(float(n in findings) for n in self.findings)

    def shown(self, condition: Sequence[float]) -> tuple[int | None, tuple[str, ...]]:
        """Return the grade and the findings that the numbers of a condition mean."""
        own = [*condition[: self.conditions - len(self.findings)]]
        there = condition[len(own) :]
        grade = own.index(1.0) if 1.0 in own else None
        return grade, tuple(name for name, value in zip(self.findings, there, strict=True) if value > 0)

    def suited(self, pictures: int) -> Self:
        """Return the settings with what was left open chosen for so many training pictures.

        `gamma` is 0.0002 * side^2 / 16 (Karras et al. 2020; twenty times that where pairs are judged: 1 at
        64 px was tried) for 1,000 pictures or more, and grows as the root
        of how many fewer there are, to five times as much: the fewer, the sooner a discriminator knows them.
        For the same reason changes of pictures may become likely within fewer images, 500,000 for 1,000
        pictures, by the same root. Much faster, and the generator draws the changes.
        """
        few = min(1.0, pictures / MANY) ** 0.5
        base = (0.004 if self.loss == "relativistic" else 0.0002) * self.size**2 / 16
        gamma = self.gamma or base * min(5.0, 1 / max(few, 1e-6))
        over = self.adaptive_over or max(50_000, round(500_000 * few))
        return replace(self, gamma=gamma, adaptive_over=over)

    @property
    def growth(self) -> Growth:
        """The schedule of the first generation."""
        return Growth(len(self.widths), self.budget if self.generation == 1 else 0, self.fade, first=1)

    def stage(self, images: int) -> Stage:
        """Return where growing stands when so many images have been seen."""
        return self.growth.stage(images)


class Generator(nn.Module):
    """Latent vectors to pictures. Its buffer `seen` is the clock, so that weights know their stage."""

    seen: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, c: StyleSettings) -> None:
        """Build the mapping and every level."""
        super().__init__()
        self.config = c
        self.mapping = Mapping(c.latent, c.style, c.conditions)
        family = adain if c.generation == 1 else modulated
        self.synthesis = family.Synthesis(c.channels, c.widths, c.style)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centre", torch.zeros(c.style), persistent=False)
        self.register_buffer("spread", torch.ones(()), persistent=False)

    @property
    def stage(self) -> Stage:
        """Where the weights stand in the schedule."""
        return self.config.stage(int(self.seen))

    def forward(self, latents: Tensor, condition: Tensor | None = None, stage: Stage | None = None) -> Tensor:
        """Draw (N, channels, S, S) from latent vectors (N, latent) and what is asked for (N, conditions)."""
        return self.render(self.mapping(latents, condition), stage)

    @torch.no_grad()
    def settle(self, conditions: Tensor | None = None) -> None:
        """Measure the centre and spread of styles, to which codes refer, with fixed vectors.

        Args:
            conditions: (K, conditions) what is asked for, in turn; None if nothing can be.
        """
        random = torch.Generator().manual_seed(0)
        latents = torch.randn(_MEASURED, self.config.latent, generator=random).to(self.centre.device)
        if conditions is not None:
            conditions = conditions.to(latents.device)[torch.arange(len(latents)) % len(conditions)]
        styles = self.mapping(latents, conditions)
        self.centre.copy_(styles.mean(0))
        self.spread.copy_((styles - self.centre).square().mean().sqrt().clamp(min=1e-8))

    def codes(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the codes (N, style) of latent vectors: their styles, about the centre, in spreads.

        A code times 0.7 is what is called truncation at 0.7 (Karras et al. 2019).
        """
        return (self.mapping(latents, condition) - self.centre) / self.spread

    def tidy(self, codes: Tensor) -> Tensor:
        """Return codes (N, style) that were changed: any is one."""
        return codes

    def drawn(self, codes: Tensor) -> Tensor:
        """Draw codes (N, style)."""
        return self.render(self.centre + self.spread * codes)

    def render(self, styles: Tensor, stage: Stage | None = None, *, noisy: bool = False) -> Tensor:
        """Draw pictures from styles.

        Args:
            styles: (N, style), or (N, `synthesis.styles`, style) with one for each layer.
            stage: Where growing stands; where the weights do, if None.
            noisy: Draw the noise anew, from torch's generator.

        Returns:
            (N, channels, S, S): colours, or contrasts in units of `recipe.CONTRAST_UNIT`, then masks, all of
            them mostly in [-1, 1] (the last layer is linear), S being the side of the stage.
        """
        stage, synthesis = stage or self.stage, self.synthesis
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, synthesis.styles, -1)
        noises: list[Tensor] = []
        if noisy:
            sides = [FIRST << (layer // 2) for layer in range(2 * stage.level + 2)]
            if isinstance(synthesis, modulated.Synthesis):
                sides = sides[1:]  # its first level has one layer
            noises = [
                torch.randn(len(styles), 1, s, s, dtype=styles.dtype, device=styles.device) for s in sides
            ]
        if isinstance(synthesis, adain.Synthesis):
            return synthesis(styles, stage, noises)
        return synthesis(styles, noises)
