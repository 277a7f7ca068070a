"""Photographs of a wanted severity on structure and lesion masks (DR-GAN).

Zhou et al. 2020, "DR-GAN: conditional generative adversarial network for fine-grained lesion synthesis on
diabetic retinopathy images". A generator in two parts (section II-A): G_m paints at half the side, through an
encoder, residual blocks and synthesis blocks with grading manipulation (`fundusforge.models.grading`) and
attention (`fundusforge.models.attention`); G_l adds what only the full side shows. Discriminators at three
scales judge and grade (section II-C, eq. 1). G_m learns alone for the first half of the images, then both.

What the paper leaves open, and what was chosen:

- Four convolutions of stride 2 would not meet the sizes of its attention (80, 160, 320 px of 640), so the
  first one, of kernel 7, keeps the side, as in Wang et al. 2018, after whom the generator is made. The same
  holds for G_l and, mirrored, for the last layers of both.
- The features of G_m that G_l takes are those of its last transposed convolution of stride 2; one more
  convolution makes them a picture while G_m is alone. Then the discriminators of the half and the quarter
  judge; that of the full side joins with G_l.
- The adversarial loss of the generator is the non-saturating one; the norm of feature matching is taken over
  the root of the number of features, so that layers of all sizes count alike.
- The network of the perceptual loss is not trained, though eq. 1 minimises over it: it could then make all
  pictures alike.
- Eq. 1 teaches grades to the discriminators alone. `steering` also lets the generator learn from how they
  grade what it paints (Odena et al. 2017); it is off in the preset `zhou`.
- Nothing in eq. 1 looks at pixels but through networks. `pixels` adds their mean absolute error (Isola et al.
  2017), counted for each mask alike, so that a lesion of a few pixels weighs as much as the ground
  (`docs/decisions/0017-pixels-of-every-mask.md`); it is off in the preset `zhou` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.classifier import grade_loss
from fundusforge.models.grading import STYLE, GradingSpaces, MappingNetwork
from fundusforge.models.perceptual import RetinaPerceptual
from fundusforge.models.pix2pix import Perceptual
from fundusforge.models.recipe import Phase, View, check_masks
from fundusforge.models.twostage import REDUCTIONS, Coarse, Fine, framed
from fundusforge.severity import GRADES, LESIONS

STRUCTURES = ("vessels", "arteries", "veins", "disc", "cup", "fovea")
"""Masks of what every retina has; all others are lesions."""
SCALES = 3
"""Discriminators."""
UNKNOWN = 0.5
"""What a mask shows inside the field of view where nobody knows it."""


@dataclass(frozen=True)
class DRGANConfig:
    """Photographs of a wanted severity, painted on structure and lesion masks."""

    kind: Literal["drgan"] = "drgan"
    masks: tuple[str, ...] = ("vessels", "disc", *LESIONS, "laser_marks", "proliferative_membranes")
    """Masks to paint on, one input channel each; the field of view is always one more. Photographs without
    one of the structures (vessels, disc, ...) are left out; a lesion that is not known is one half inside the
    field of view, one that a person's grade 0 rules out is empty."""
    size: int = 1280
    """Side of the images in pixels, 64 to 2048, a multiple of 16."""
    width: int = 64
    """Channels at half the side; others are multiples of it (64 in the paper)."""
    blocks: int = 7
    """Residual blocks."""
    budget: int = 0
    """Images of the whole training; G_m is alone for the first half. 0 takes --stop-after (the paper: 20
    times the training images)."""
    grader: Path | None = None
    """Run of a classifier that grades, whose latent grading spaces steer the generator; the embedded grader's
    features of the training images if None."""
    directions: int = 64
    """Directions along which the covariance of each grading space is kept."""
    vector: int = 64
    """Numbers of a grading vector; filled from the grader."""
    lesions: bool = True
    """Paint on lesion masks too; without them, severity alone says what is ill."""
    agm: bool = True
    """Adaptive grading manipulation; without it, masks alone say what is ill."""
    attention: bool = True
    """Spatial and channel attention in the synthesis blocks."""
    feature_matching: float = 10.0
    """Weight of discriminator feature matching (lambda_1)."""
    perceptual: float = 10.0
    """Weight of the perceptual loss (lambda_2)."""
    perceptual_weights: Path | None = None
    """Local safetensors file of timm's VGG-19 for the perceptual loss; if None, the embedded features of the
    retina take its place. Nothing is downloaded."""
    classification: float = 1.0
    """Weight of the grading loss of the discriminators (lambda_3)."""
    steering: float = 0.0
    """Weight of the same loss for the generator; not in the paper."""
    pixels: float = 0.0
    """Weight of the mean absolute error, which each mask and the whole field of view share alike; not in the
    paper."""
    lr: float = 1e-4
    """Learning rate of Adam, both networks."""

    def __post_init__(self) -> None:
        """Refuse unknown masks, and sizes that the networks cannot read.

        Raises:
            ValueError: Which setting, and what was expected.
        """
        check_masks(self.masks)
        if not self.conditions:
            raise ValueError(f"without lesions nothing is left to paint on of {', '.join(self.masks)}")
        if self.size % 16 or not 64 <= self.size <= 2048:
            raise ValueError(f"size must be a multiple of 16 between 64 and 2048, not {self.size}")
        if self.width < 2 or self.width % 2 or self.blocks < 0 or min(self.vector, self.directions) < 1:
            raise ValueError(
                "width must be even, blocks not negative, vector and directions positive, not "
                f"{self.width}, {self.blocks}, {self.vector} and {self.directions}"
            )
        weights = (self.feature_matching, self.perceptual, self.classification, self.steering, self.pixels)
        if min(*weights, self.budget) < 0 or (self.steering and not self.classification):
            raise ValueError("weights must not be negative, nor steering be without classification")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Masks that are painted on: all, or the structures alone."""
        return self.masks if self.lesions else tuple(name for name in self.masks if name in STRUCTURES)

    def whole(self, images: int) -> bool:
        """Whether G_l paints too when so many images have been seen; without a budget, always."""
        return 2 * images >= self.budget

    def build(self) -> DRGAN:
        """Return the recipe with fresh networks."""
        return DRGAN(self)


class Painted(NamedTuple):
    """What the generator gives while it learns."""

    picture: Tensor
    """(N, 3, H, W) in [-1, 1], of half the side while G_m is alone."""
    grade: Tensor | None
    """(N, 5) logits of the grade that the masks speak for."""


class Generator(nn.Module):
    """Masks and a grading vector to a photograph.

    Its buffer `seen` is the clock, so that weights know their stage.
    """

    seen: Tensor

    def __init__(self, c: DRGANConfig) -> None:
        """Build both parts at once; G_l is not used before its time."""
        super().__init__()
        self.config = c
        masks = len(c.conditions) + 1
        style = STYLE * c.width // 64 if c.agm else 0
        self.coarse = Coarse(masks, c.width, c.blocks, style=style, attention=c.attention)
        self.fine = Fine(masks, c.width)
        if c.agm:
            self.spaces = GradingSpaces(c.vector, c.directions)
            self.mapping = MappingNetwork(c.vector, style)
            self.grade = nn.Conv2d(8 * c.width, len(GRADES), 3, padding=1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def whole(self) -> bool:
        """Whether the weights are those of both parts."""
        return self.config.whole(int(self.seen))

    def forward(
        self, masks: Tensor, vector: Tensor | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Paint photographs.

        Args:
            masks: (N, M + 1, H, W) in [0, 1]: the masks `config.conditions`, then the field of view.
            vector: (N, `config.vector`) grading vectors of `spaces`; if None, the mean of the grade that the
                masks speak for. Not read without `agm`.
            noise: Per synthesis block (N, C / 4, h, w) standard normal, as `volumes` says; zeros if None.

        Returns:
            (N, 3, H, W) in [-1, 1], black (-1) outside the field of view. Weights that have no G_l yet paint
            at half the side, and what they paint is enlarged.

        Raises:
            ValueError: Another number of mask channels, or a side that is no multiple of 16.
        """
        if self.config.agm and vector is None:
            severity = self.predicted(masks).float()
            vector = self.spaces(severity, masks.new_zeros(len(masks), self.spaces.draws))
        found = self.paint(masks, vector, noise, whole=self.whole).picture
        return found if self.whole else framed(F.interpolate(found, scale_factor=2.0), masks[:, -1:])

    def paint(
        self, masks: Tensor, vector: Tensor | None, noise: Sequence[Tensor] | None, *, whole: bool
    ) -> Painted:
        """Paint as in `forward`, at half the side if not `whole`, and say what grade the masks speak for."""
        halved = self._halved(masks)
        skips = self.coarse.encoded(halved)
        style = self.mapping(vector) if self.config.agm else None
        features = self.coarse(skips, halved, style, noise or (None,) * len(REDUCTIONS))
        if whole:
            picture = framed(torch.tanh(self.fine(masks, features)), masks[:, -1:])
        else:
            picture = framed(torch.tanh(self.coarse.paint(features)), halved[:, -1:])
        return Painted(picture, self.grade(skips[-1]).mean((2, 3)) if self.config.agm else None)

    def predicted(self, masks: Tensor) -> Tensor:
        """Grade (N,) that masks (N, M + 1, H, W) speak for (section II-E); only with `agm`."""
        logits = self.grade(self.coarse.encoded(self._halved(masks))[-1]).mean((2, 3))
        return logits.masked_fill(~self.spaces.known, -torch.inf).argmax(1)

    def volumes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shapes of the noise of each synthesis block for pictures of these sides."""
        levels = range(len(REDUCTIONS), 0, -1)
        return [((self.config.width << k) // 4, height >> (k + 1), width >> (k + 1)) for k in levels]

    def _halved(self, masks: Tensor) -> Tensor:
        """Masks of half the side, by coverage; the field of view keeps an outline."""
        channels, sides = len(self.config.conditions) + 1, masks.shape[2:]
        if masks.shape[1] != channels or any(side % 16 or side < 64 for side in sides):
            raise ValueError(
                f"expected masks (N, {channels}, H, W) with sides divisible by 16, at least 64 "
                f"({', '.join(self.config.conditions)}, field of view), got {tuple(masks.shape)}"
            )
        small = F.avg_pool2d(masks, 2)
        return torch.cat([small[:, :-1], (small[:, -1:] >= 0.5).to(small.dtype)], 1)


class Judgement(NamedTuple):
    """What one discriminator says of pictures."""

    real: Tensor
    """(N, 1) logits."""
    grades: Tensor | None
    """(N, 5) logits; None without classification."""
    features: list[Tensor]
    """Of each layer."""


class Discriminator(nn.Module):
    """Four 4x4 convolutions of stride 2, and the mean over all places (section II-C)."""

    def __init__(self, c: DRGANConfig) -> None:
        """Build the layers; two linear maps of the mean judge and grade."""
        super().__init__()
        inputs, widths = len(c.conditions) + 4, [c.width << level for level in range(4)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))
            for a, b in zip([inputs, *widths], widths, strict=False)
        )
        self.real = nn.Linear(widths[-1], 1)
        self.grades = nn.Linear(widths[-1], len(GRADES)) if c.classification else None

    def forward(self, x: Tensor) -> Judgement:
        """Judge masks and pictures together, (N, M + 4, H, W)."""
        features: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        mean = x.mean((2, 3))
        return Judgement(self.real(mean), self.grades(mean) if self.grades is not None else None, features)


class Discriminators(nn.Module):
    """Identical discriminators of the full side, its half and its quarter."""

    def __init__(self, c: DRGANConfig) -> None:
        """Build them."""
        super().__init__()
        self.scales = nn.ModuleList(Discriminator(c) for _ in range(SCALES))

    def forward(self, masks: Tensor, picture: Tensor, *, whole: bool) -> list[Judgement]:
        """Judge pictures with their masks; those of half the side, if not `whole`, by the other two."""
        x, found = torch.cat([masks, picture], 1), list[Judgement]()
        for place, scale in enumerate(self.scales if whole else self.scales[1:]):
            x = F.avg_pool2d(x, 2) if place else x
            found.append(scale(x))
        return found


class DRGAN:
    """Recipe: one step of the generator, one of the discriminators on the same fake images."""

    def __init__(self, c: DRGANConfig) -> None:
        """Build networks and optimizers, and load what the perceptual loss needs.

        Raises:
            ValueError: The weights of the perceptual loss cannot be read.
        """
        self.config = c
        self.nets = nn.ModuleDict({"generator": Generator(c), "discriminator": Discriminators(c)})
        adam = {
            name: torch.optim.Adam(net.parameters(), c.lr, betas=(0.5, 0.999))
            for name, net in self.nets.items()
        }
        self.phases = tuple(Phase(name, (name,), adam[name]) for name in ("generator", "discriminator"))
        self.ema = ("generator",)
        needs = tuple(name for name in c.conditions if name in STRUCTURES)
        self.view = View(masks=c.conditions, size=c.size, augment="translation", needs=needs)
        self.perceptual = perceptual_of(c) if c.perceptual else None

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Losses of one phase; the generator's leaves its images in the batch for the discriminators'."""
        whole = self.config.whole(images)
        masks, real = conditions(batch), batch["image"]
        shown = masks if whole else F.avg_pool2d(masks, 2)
        real = real if whole else F.avg_pool2d(real, 2)
        if phase == "generator":
            cast(Generator, self.nets["generator"]).seen.fill_(images)
            return self._generator_losses(batch, masks, shown, real, whole=whole)
        net = self.nets["discriminator"]
        on_real, on_fake = net(shown, real, whole=whole), net(shown, batch.pop("fake"), whole=whole)
        pairs: list[tuple[Judgement, Judgement]] = list(zip(on_real, on_fake, strict=True))
        found = {
            "adversarial": total(losses.discriminator_loss(r.real, f.real, "logistic") for r, f in pairs)
        }
        if self.config.classification:
            graded = total(self._graded(side, batch) for pair in pairs for side in pair)
            found["classification"] = self.config.classification * graded
        return found

    def _generator_losses(
        self, batch: dict[str, Tensor], masks: Tensor, shown: Tensor, real: Tensor, *, whole: bool
    ) -> dict[str, Tensor]:
        c, net = self.config, self.nets["discriminator"]
        generator = cast(Generator, self.nets["generator"])
        fake, logits = generator.paint(
            masks, self._vectors(generator, batch, masks), _noise(generator, masks), whole=whole
        )
        batch["fake"] = fake.detach()
        judged: list[Judgement] = net(shown, fake, whole=whole)
        found = {"adversarial": total(losses.generator_loss(one.real, "logistic") for one in judged)}
        if c.feature_matching:
            with torch.no_grad():
                wanted: list[Judgement] = net(shown, real, whole=whole)
            distances = (
                losses.feature_distance(w.features, j.features) for w, j in zip(wanted, judged, strict=True)
            )
            found["feature_matching"] = c.feature_matching * total(distances)
        if self.perceptual:
            found["perceptual"] = c.perceptual * self.perceptual(fake, real)
        if c.pixels:
            found["pixels"] = c.pixels * losses.regional_error(fake, real, shown)
        if c.steering:
            found["steering"] = c.steering * total(self._graded(one, batch) for one in judged)
        if logits is not None:
            found["grading"] = grade_loss(logits.float(), batch["grade"], focal=True)
        return found

    def _graded(self, judged: Judgement, batch: dict[str, Tensor]) -> Tensor:
        """Focal loss of the grades that a discriminator tells; unknown grades weigh nothing."""
        return grade_loss(cast(Tensor, judged.grades).float(), batch["grade"], focal=True)

    def _vectors(self, generator: Generator, batch: dict[str, Tensor], masks: Tensor) -> Tensor | None:
        """Grading vectors of the photographs' grades; without one, of what the masks speak for."""
        if not self.config.agm:
            return None
        grade = batch["grade"]
        drawable = (grade >= 0) & generator.spaces.known[grade.clamp_min(0)]
        if not drawable.all():
            with torch.no_grad():
                grade = torch.where(drawable, grade, generator.predicted(masks))
        draws = torch.randn(len(masks), generator.spaces.draws, device=masks.device)
        return generator.spaces(grade.float(), draws)

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Painted photographs with their first mask below."""
        generator, masks = cast(Generator, nets["generator"]), conditions(batch)
        fake = generator(masks, self._vectors(generator, batch, masks), _noise(generator, masks))
        return torch.cat([fake, masks[:, :1].expand(-1, 3, -1, -1) * 2 - 1], 2)


def total(values: Iterable[Tensor]) -> Tensor:
    """Sum of scalars."""
    return torch.stack(list(values)).sum()


def _noise(generator: Generator, masks: Tensor) -> list[Tensor] | None:
    """Noise volumes for masks (N, M + 1, H, W), by torch's own random numbers; none without `agm`."""
    if not generator.config.agm:
        return None
    shapes = generator.volumes(masks.shape[2], masks.shape[3])
    return [torch.randn(len(masks), *shape, device=masks.device) for shape in shapes]


def conditions(batch: dict[str, Tensor]) -> Tensor:
    """Masks and field of view of a batch, (N, M + 1, H, W); unknown masks are `UNKNOWN` inside it."""
    field, known = batch["field_of_view"], batch["masks_known"][..., None, None]
    return torch.cat([batch["masks"] * known + UNKNOWN * field * (1 - known), field], 1)


def perceptual_of(c: DRGANConfig) -> Perceptual | RetinaPerceptual:
    """Return the perceptual distance that a configuration names: VGG-19 from a file, or the embedded one."""
    return Perceptual("vgg19", c.perceptual_weights) if c.perceptual_weights else RetinaPerceptual()
