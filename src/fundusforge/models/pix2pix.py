"""Translation of structure masks to photographs (pix2pix), modulated by a camera-and-colour code.

Isola et al. 2017, "Image-to-image translation with conditional adversarial networks": U-Net generator,
PatchGAN discriminator of 70 x 70 pixels, least weight on the adversary and 100 on L1. Added, each an option:
feature matching and several discriminator scales (Wang et al. 2018), spectral norm (Miyato et al. 2018), a
perceptual loss, noise at every level (Karras et al. 2019) and a code. One mask fits many photographs: the
code says which camera and which colours, is measured from the real image in training
(`fundusforge.images.colour_code`), drawn from a Gaussian per camera after, and acts through the normalisation
layers, because instance norm removes a code that is only concatenated to the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from fundusforge.images import CODE_SIZE
from fundusforge.models import losses
from fundusforge.models.layers import ModulatedNorm
from fundusforge.models.recipe import Phase, View, check_masks

STYLE = 64


@dataclass(frozen=True)
class Pix2PixConfig:
    """Photographs painted on vessel and other structure masks."""

    kind: Literal["pix2pix"] = "pix2pix"
    masks: tuple[str, ...] = ("vessels", "disc")
    """Masks to paint on, one input channel each; the field of view is always one more."""
    size: int = 512
    """Side of the images in pixels, 256 to 1024, a multiple of 2 ** (levels - 1), at least twice that."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 256, 256)
    """Channels of the generator at each level, from full resolution down."""
    residual_blocks: int = 1
    """Residual blocks at the coarsest level."""
    code: bool = True
    """Modulate with a camera-and-colour code."""
    cameras: tuple[str, ...] = ()
    """Cameras of which code distributions are kept; filled from the data."""
    noise: bool = True
    """Add noise of learned strength at every level, for texture that no mask explains."""
    discriminator_widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each PatchGAN layer; four layers see 70 x 70 pixels."""
    scales: int = 2
    """Discriminators, each on images of half the side of the one before."""
    spectral_norm: bool = False
    """Spectral normalisation of the discriminators."""
    adversarial: Literal["least_squares", "hinge", "logistic"] = "least_squares"
    """Form of the adversarial loss."""
    l1: float = 100.0
    """Weight of the mean absolute error inside the field of view."""
    feature_matching: float = 10.0
    """Weight of discriminator feature matching; 0 turns it off."""
    perceptual: float = 0.0
    """Weight of the perceptual loss; needs weights."""
    perceptual_model: str = "vgg19"
    """timm model of the perceptual loss."""
    perceptual_weights: Path | None = None
    """Local safetensors file of that model; None asks timm to download it."""
    lr: float = 2e-4
    """Learning rate of Adam, both networks."""

    def __post_init__(self) -> None:
        """Refuse unknown masks, and sizes that the levels do not divide or discriminators cannot read."""
        check_masks(self.masks)
        step = 2 ** (len(self.widths) - 1)
        lowest = max(64, 2 * step)  # instance normalisation needs more than one pixel at the coarsest level
        if self.size % step or not lowest <= self.size <= 2048:
            raise ValueError(f"size must be a multiple of {step} between {lowest} and 2048, not {self.size}")
        reduction = 2 ** (self.scales - 1 + len(self.discriminator_widths) - 1)
        if self.scales < 1 or self.size < 3 * reduction:
            raise ValueError(
                f"{self.scales} scales of discriminators with {len(self.discriminator_widths)} layers need a "
                f"size of {3 * reduction} or more, not {self.size}"
            )

    def build(self) -> Pix2Pix:
        """Return the recipe with fresh networks."""
        return Pix2Pix(self)


class Noise(nn.Module):
    """Add the given noise, thinned to the features' resolution, with a learned strength per channel."""

    def __init__(self, channels: int) -> None:
        """Begin without any noise."""
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features: Tensor, noise: Tensor | None) -> Tensor:
        """Return features (N, C, h, w) plus noise (N, 1, H, W) taken at every (H / h)-th pixel."""
        if noise is None:
            return features
        step = noise.shape[-1] // features.shape[-1]
        return torch.addcmul(features, self.strength, noise[..., ::step, ::step])


class Synthesis(nn.Module):
    """Convolution, noise, modulated normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style: int, noise: bool) -> None:
        """Keep the resolution; change channels from `inputs` to `outputs`."""
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.noise = Noise(outputs) if noise else None
        self.norm = ModulatedNorm(outputs, style)

    def forward(self, x: Tensor, style: Tensor | None, noise: Tensor | None) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, h, w)."""
        x = self.convolution(x)
        if self.noise is not None:
            x = self.noise(x, noise)
        return F.leaky_relu(self.norm(x, style), 0.2)


class Generator(nn.Module):
    """U-Net from masks to photograph, with the code distributions of its training cameras."""

    code_mean: Tensor
    code_deviation: Tensor
    camera_means: Tensor
    camera_factors: Tensor

    def __init__(self, c: Pix2PixConfig) -> None:
        """Build the network that the configuration describes."""
        super().__init__()
        self.config = c
        style = STYLE if c.code else 0
        w, cameras = c.widths, max(len(c.cameras), 1)
        if c.code:
            self.mapping = nn.Sequential(
                nn.Linear(CODE_SIZE, STYLE), nn.LeakyReLU(0.2), nn.Linear(STYLE, STYLE), nn.LeakyReLU(0.2)
            )
        self.stem = nn.Conv2d(len(c.masks) + 1, w[0], 3, padding=1)
        self.encode = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False),
                nn.InstanceNorm2d(b, affine=True),
                nn.LeakyReLU(0.2),
            )
            for a, b in zip(w, w[1:], strict=False)
        )
        self.middle = nn.ModuleList(
            Synthesis(w[-1], w[-1], style, c.noise) for _ in range(2 * c.residual_blocks)
        )
        self.decode = nn.ModuleList(
            Synthesis(a + b, b, style, c.noise) for a, b in zip(w[:0:-1], w[-2::-1], strict=True)
        )
        self.paint = nn.Conv2d(w[0], 3, 3, padding=1)
        self.register_buffer("code_mean", torch.zeros(CODE_SIZE))
        self.register_buffer("code_deviation", torch.ones(CODE_SIZE))
        self.register_buffer("camera_means", torch.zeros(cameras, CODE_SIZE))
        self.register_buffer("camera_factors", torch.zeros(cameras, CODE_SIZE, CODE_SIZE))

    def fit_codes(self, codes: Tensor, cameras: Sequence[str]) -> None:
        """Store the code distribution of each training camera: a Gaussian with a shrunk covariance.

        Args:
            codes: (N, 10) codes of the training images.
            cameras: Camera of each, all of them named in the configuration.

        Raises:
            ValueError: A camera that the configuration does not name, or one of its cameras without image.
        """
        if self.config.cameras and (odd := sorted(set(cameras) ^ set(self.config.cameras))):
            raise ValueError(
                f"camera {odd[0]!r} is not both in the data and in the configuration "
                f"({', '.join(map(repr, self.config.cameras))})"
            )
        codes = codes.detach().cpu().double()
        self.code_mean.copy_(codes.mean(0))
        self.code_deviation.copy_(codes.std(0, correction=0).clamp_min(1e-3))
        pooled = torch.cov(codes.T, correction=0)
        for place, camera in enumerate(self.config.cameras or ("",)):
            own = codes[[found == camera for found in cameras]] if self.config.cameras else codes
            weight = len(own) / (len(own) + 10)  # ten images' worth of trust in the pooled diagonal
            covariance = weight * torch.cov(own.T, correction=0) if len(own) > 1 else torch.zeros_like(pooled)
            covariance = covariance + 0.3 * (1 - weight) * pooled.diag().diag() + 1e-8 * torch.eye(CODE_SIZE)
            self.camera_means[place] = own.mean(0)
            self.camera_factors[place] = torch.linalg.cholesky(covariance)

    def sample_codes(self, n: int, generator: torch.Generator, camera: str | None = None) -> Tensor:
        """Draw (n, 10) codes, from one camera's distribution or from all cameras equally.

        Deviates are cut at two standard deviations, so that no eye is green.

        Raises:
            ValueError: A camera that the model does not know.
        """
        known = self.config.cameras or ("",)
        if camera is not None and camera not in known:
            raise ValueError(f"unknown camera {camera!r}; this model knows {', '.join(map(repr, known))}")
        places = torch.randint(len(known), (n,), generator=generator)
        if camera is not None:
            places = torch.full((n,), known.index(camera))
        deviates = torch.randn(n, CODE_SIZE, generator=generator).clamp(-2, 2)
        factors, means = self.camera_factors.float().cpu(), self.camera_means.float().cpu()
        return means[places] + torch.einsum("nij,nj->ni", factors[places], deviates)

    def forward(self, masks: Tensor, code: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Paint photographs.

        Args:
            masks: (N, C + 1, H, W) in {0, 1}: the masks of the configuration, then the field of view.
            code: (N, 10) camera-and-colour codes; the mean of all training images if None.
            noise: (N, 1, H, W) standard normal; none is added if None.

        Returns:
            (N, 3, H, W) in [-1, 1], black (-1) outside the field of view.

        Raises:
            ValueError: Another number of mask channels, or a side that the levels do not divide.
        """
        self._check_shape(masks)
        style = None
        if self.config.code:
            code = self.code_mean.expand(len(masks), -1) if code is None else code
            style = self.mapping((code - self.code_mean) / self.code_deviation)
        skips = [F.leaky_relu(self.stem(masks), 0.2)]
        for block in self.encode:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for first, second in zip(self.middle[::2], self.middle[1::2], strict=True):
            x = x + second(first(x, style, noise), style, noise)
        for block in self.decode:
            skip = skips.pop()
            x = block(
                torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1), style, noise
            )
        field = masks[:, -1:]
        return torch.tanh(self.paint(x)) * field + (field - 1)

    def _check_shape(self, masks: Tensor) -> None:
        channels, step = len(self.config.masks) + 1, 2 ** (len(self.config.widths) - 1)
        sides = masks.shape[2:]
        if masks.shape[1] != channels or any(side % step or side < 2 * step for side in sides):
            raise ValueError(
                f"expected masks (N, {channels}, H, W) with sides divisible by {step}, at least {2 * step} "
                f"({', '.join(self.config.masks)}, field of view), got {tuple(masks.shape)}"
            )


class Discriminator(nn.Module):
    """PatchGAN: logits of overlapping patches, and the features on the way."""

    def __init__(self, inputs: int, widths: tuple[int, ...], spectral: bool) -> None:
        """Build strided 4x4 convolutions, the last two without stride."""
        super().__init__()
        wrap = spectral_norm if spectral else nn.Identity()
        self.layers = nn.ModuleList()
        for place, (a, b) in enumerate(zip((inputs, *widths), widths, strict=False)):
            stride = 1 if place == len(widths) - 1 else 2
            norm = nn.Identity() if spectral or place == 0 else nn.InstanceNorm2d(b, affine=True)
            convolution = wrap(nn.Conv2d(a, b, 4, stride=stride, padding=1))
            self.layers.append(nn.Sequential(convolution, norm, nn.LeakyReLU(0.2)))
        self.logits = wrap(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map pictures (N, inputs, H, W) to logits (N, 1, h, w) and each layer's features."""
        features: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.logits(x), features


class Discriminators(nn.Module):
    """Identical discriminators on ever smaller images."""

    def __init__(self, c: Pix2PixConfig) -> None:
        """Build `c.scales` of them."""
        super().__init__()
        self.scales = nn.ModuleList(
            Discriminator(len(c.masks) + 4, c.discriminator_widths, c.spectral_norm) for _ in range(c.scales)
        )

    def forward(self, masks: Tensor, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits of every scale, and all features of all scales."""
        logits: list[Tensor] = []
        features: list[Tensor] = []
        for place, scale in enumerate(self.scales):
            if place:
                masks, image = F.avg_pool2d(masks, 2), F.avg_pool2d(image, 2)
            found, layers = scale(torch.cat([masks, image], 1))
            logits.append(found)
            features += layers
        return logits, features


class Perceptual:
    """L1 distance of a frozen timm network's features, averaged over levels (Johnson et al. 2016)."""

    def __init__(self, model: str, weights: Path | None) -> None:
        """Load the network.

        Raises:
            ValueError: The weights are not at hand.
        """
        import timm

        overlay = {"file": str(weights)} if weights else None
        try:
            net = timm.create_model(
                model, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay
            )
        except Exception as error:
            raise ValueError(
                f"perceptual loss: no weights for {model!r} ({weights or 'download'}): {error}. "
                "Give perceptual_weights, or set perceptual to 0."
            ) from error
        self.net = net.eval().requires_grad_(False)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        """Distance of images (N, 3, H, W) in [-1, 1]."""
        self.net.to(fake.device)
        mean = fake.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = fake.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        a, b = (self.net(((image + 1) / 2 - mean) / deviation) for image in (fake, real))
        return torch.stack([F.l1_loss(x, y.detach()) for x, y in zip(a, b, strict=True)]).mean()


class Pix2Pix:
    """Recipe: one step of the generator, one of the discriminators on the same fake images."""

    def __init__(self, c: Pix2PixConfig) -> None:
        """Build networks and optimizers."""
        self.config = c
        self.nets = nn.ModuleDict({"generator": Generator(c), "discriminator": Discriminators(c)})
        adam = {
            name: torch.optim.Adam(net.parameters(), c.lr, betas=(0.5, 0.999))
            for name, net in self.nets.items()
        }
        self.phases = tuple(Phase(name, (name,), adam[name]) for name in ("generator", "discriminator"))
        self.ema = ("generator",)
        self.view = View(
            masks=c.masks,
            size=c.size,
            augment="translation",
            code=c.code,
            needs=c.masks,
        )
        self.perceptual = Perceptual(c.perceptual_model, c.perceptual_weights) if c.perceptual else None

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Losses of one phase; the generator's leaves its images in the batch for the discriminators'."""
        field, real = batch["field_of_view"], batch["image"]
        masks = torch.cat([batch["masks"], field], 1)
        if phase == "generator":
            return self._generator_losses(batch, masks, real, field)
        fake = batch.pop("fake")
        discriminator = self.nets["discriminator"]
        on_real, on_fake = discriminator(masks, real)[0], discriminator(masks, fake)[0]
        found = [
            losses.discriminator_loss(r, f, self.config.adversarial)
            for r, f in zip(on_real, on_fake, strict=True)
        ]
        return {"adversarial": torch.stack(found).mean()}

    def _generator_losses(
        self, batch: dict[str, Tensor], masks: Tensor, real: Tensor, field: Tensor
    ) -> dict[str, Tensor]:
        c, discriminator = self.config, self.nets["discriminator"]
        fake = self.nets["generator"](masks, batch.get("code"), torch.randn_like(field))
        batch["fake"] = fake.detach()
        logits, features = discriminator(masks, fake)
        found = {
            "adversarial": torch.stack([losses.generator_loss(one, c.adversarial) for one in logits]).mean(),
            "l1": c.l1 * losses.masked_mean((fake - real).abs(), field),
        }
        if c.feature_matching:
            with torch.no_grad():
                wanted = discriminator(masks, real)[1]
            found["feature_matching"] = c.feature_matching * losses.feature_matching(wanted, features)
        if self.perceptual:
            found["perceptual"] = c.perceptual * self.perceptual(fake, real)
        return found

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Painted photographs with their vessels below."""
        masks = torch.cat([batch["masks"], batch["field_of_view"]], 1)
        fake = nets["generator"](masks, batch.get("code"), torch.randn_like(masks[:, :1]))
        return torch.cat([fake, batch["masks"][:, :1].expand(-1, 3, -1, -1) * 2 - 1], 2)
