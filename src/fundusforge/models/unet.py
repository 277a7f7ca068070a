"""Segmentation: U-Net and FPN over any timm encoder, and a small U-Net that trains well on a CPU.

Ronneberger et al. 2015, "U-Net"; Kirillov et al. 2019, "Panoptic feature pyramid networks". Several masks can
be predicted at once (one logit channel each); a channel is trained only on records that have its mask. Beers
et al. 2018 segment vessels from 48 px patches of grey, gamma- and contrast-adjusted photographs with 8 px
overlap; Kim et al. 2022 use an FPN. Both are presets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.layers import LocalContrast, double_conv
from fundusforge.models.recipe import Phase, View, check_masks

TILE, MARGIN = 1536, 128
"""Pixels, multiples of 32: larger images are read in tiles of this side with this much around them."""


@dataclass(frozen=True)
class UNetConfig:
    """Segmentation of structures and lesions in fundus photographs."""

    kind: Literal["unet"] = "unet"
    masks: tuple[str, ...] = ("vessels",)
    """Masks to predict, one output channel each."""
    architecture: Literal["small", "unet", "fpn"] = "small"
    """`small`: own U-Net of `widths`; `unet` and `fpn`: segmentation-models-pytorch over `encoder`."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each level of the small U-Net."""
    encoder: str = "resnet34"
    """Any timm encoder with feature maps, for `unet` and `fpn`."""
    pretrained: bool = False
    """Start the encoder from ImageNet weights (downloaded by timm; needs the network)."""
    inputs: Literal["rgb", "local", "both", "grey"] = "rgb"
    """`local`: colour after removal of local mean and contrast, robust across cameras; `both`: colour and
    that; `grey`: grey, gamma and CLAHE as Beers."""
    diameter: int = 512
    """Field-of-view diameter in pixels at which the network reads images, in training and after."""
    crop: int = 128
    """Side of the random training crops, in pixels."""
    focus: float = 0.0
    """Share of the training crops near a pixel of one of the masks, for small lesions."""
    zoom: tuple[float, float] = (0.8, 1.25)
    """Range of the random zoom in training."""
    balance_cameras: bool = False
    """Learn from cameras equally often instead of from images equally often."""
    patch: int = 0
    """Predict in overlapping patches of this side; 0 predicts whole images."""
    overlap: int = 8
    """Overlap of neighbouring patches, in pixels."""
    tta: bool = False
    """Average predictions over the four mirror images."""
    calibration: Literal["images", "augmented"] = "images"
    """Choose thresholds on whole training images, or on crops changed as in training: the better stand-in for
    cameras that the model never saw."""
    loss: Literal["bce", "bce_dice", "focal_dice"] = "bce_dice"
    """Training loss inside the field of view."""
    positive_weight: float = 1.0
    """How often pixels of a mask count in the cross-entropy (not in the focal loss), for small lesions."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""

    def __post_init__(self) -> None:
        """Refuse unknown masks, and crops and patches that the levels do not divide."""
        check_masks(self.masks)
        for name, side in (("crop", self.crop), ("patch", self.patch)):
            if side % self.multiple or side < 0 or (name == "crop" and not side):
                raise ValueError(f"{name} must be a multiple of {self.multiple}, not {side}")
        if self.patch and not 0 <= self.overlap < self.patch:
            raise ValueError(f"overlap must be between 0 and the patch's {self.patch}, not {self.overlap}")

    @property
    def multiple(self) -> int:
        """Number of pixels that must divide the sides of what the network reads."""
        return 2 ** (len(self.widths) - 1) if self.architecture == "small" else 32

    def build(self) -> UNet:
        """Return the recipe with fresh networks."""
        return UNet(self)


class SmallUNet(nn.Module):
    """Plain U-Net: pairs of convolutions, max pooling down, transposed convolutions up, skip connections."""

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...]) -> None:
        """Build with `widths` channels per level; the sides of images must divide by 2 ** (levels - 1)."""
        super().__init__()
        self.down = nn.ModuleList(double_conv(a, b) for a, b in zip((inputs, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(double_conv(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to logits (N, outputs, H, W)."""
        skips: list[Tensor] = []
        for place, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if place else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.head(x)


class Segmentation(nn.Module):
    """Input transform and network: image and field of view to logits."""

    def __init__(self, c: UNetConfig) -> None:
        """Build the network that the configuration names."""
        super().__init__()
        self.contrast = LocalContrast(sigma=c.diameter / 40) if c.inputs in {"local", "both"} else None
        self.inputs = c.inputs
        channels = {"grey": 1, "both": 6}.get(c.inputs, 3)
        self.net = _network(c, channels)
        self.multiple = c.multiple

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        """Map image (N, 3, H, W) in [-1, 1] and field of view (N, 1, H, W) to logits (N, masks, H, W)."""
        return self.net(self.read(image, field))

    def read(self, image: Tensor, field: Tensor) -> Tensor:
        """Map image and field of view to what the network reads (N, 1, 3 or 6, H, W)."""
        if self.contrast is not None:
            even = self.contrast(image, field)
            return torch.cat([image, even], 1) if self.inputs == "both" else even
        return image[:, :1] if self.inputs == "grey" else image


def _network(c: UNetConfig, channels: int) -> nn.Module:
    if c.architecture == "small":
        return SmallUNet(channels, len(c.masks), c.widths)
    import segmentation_models_pytorch as smp

    kind = smp.Unet if c.architecture == "unet" else smp.FPN
    weights = "imagenet" if c.pretrained else None
    name = c.encoder if c.encoder.startswith("tu-") else f"tu-{c.encoder}"
    return kind(name, encoder_weights=weights, in_channels=channels, classes=len(c.masks))


class UNet:
    """Recipe: one phase, AdamW, cross-entropy with Dice inside the field of view."""

    def __init__(self, c: UNetConfig) -> None:
        """Build networks and optimizer."""
        self.config = c
        net = Segmentation(c)
        self.nets = nn.ModuleDict({"net": net})
        # A fused or "foreach" step saves little on a CPU and changes nothing else.
        optimizer = torch.optim.AdamW(net.parameters(), c.lr, weight_decay=c.weight_decay)
        self.phases = (Phase("main", ("net",), optimizer),)
        self.ema = ("net",)
        self.view = View(
            masks=c.masks,
            size=c.diameter,
            crop=c.crop,
            focus=c.focus,
            augment="segmentation",
            scale=c.zoom,
            grey=c.inputs == "grey",
            balance="cameras" if c.balance_cameras else "images",
        )

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Segmentation loss on crops; masks that a record lacks weigh nothing."""
        logits = self.nets["net"](batch["image"], batch["field_of_view"])
        weights = batch["field_of_view"] * batch["masks_known"][..., None, None]  # (N, C, H, W)
        target = batch["masks"]
        if self.config.loss == "focal_dice":
            found = {"cross_entropy": losses.focal(logits, target, weights)}
        else:
            found = {
                "cross_entropy": losses.bce(logits, target, weights, positive=self.config.positive_weight)
            }
        if self.config.loss != "bce":
            found["dice"] = losses.dice(logits, target, weights)
        return found

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Crops above, predicted probabilities of the first mask below."""
        probability = nets["net"](batch["image"], batch["field_of_view"]).sigmoid()[:, :1]
        return torch.cat([batch["image"], probability.expand(-1, 3, -1, -1) * 2 - 1], 2)


@torch.inference_mode()
def predict(net: Segmentation, c: UNetConfig, image: Tensor, field: Tensor) -> Tensor:
    """Predict whole images, in parts and with mirror images as the configuration says.

    Args:
        net: A trained network, in evaluation mode.
        c: Its configuration.
        image: (N, 3, H, W) in [-1, 1], the fields of view about `c.diameter` pixels across.
        field: (N, 1, H, W) in {0, 1}.

    Returns:
        (N, C, H, W) probabilities in the order of `c.masks`, 0 outside the field of view.
    """
    mirrors = [(), (3,), (2,), (2, 3)] if c.tta else [()]
    total = torch.zeros_like(image[:, :1])
    for axes in mirrors:
        logits = _logits(net, c, image.flip(axes), field.flip(axes))
        total = total + logits.sigmoid().flip(axes)
    return total / len(mirrors) * field


def _logits(net: Segmentation, c: UNetConfig, image: Tensor, field: Tensor) -> Tensor:
    """Logits of whole images (N, C, H, W): at once, in large tiles, or averaged over small patches."""
    height, width = image.shape[2:]
    if c.patch:
        return _patched(net, c, image, field)
    pad = (0, -width % net.multiple, 0, -height % net.multiple)
    image, field = F.pad(image, pad, value=-1.0), F.pad(field, pad)
    whole = max(image.shape[2:]) <= TILE + 2 * MARGIN
    logits = net(image, field) if whole else _tiled(net, c, net.read(image, field), field)
    return logits[..., :height, :width]


def _tiled(net: Segmentation, c: UNetConfig, read: Tensor, field: Tensor) -> Tensor:
    """Logits from tiles that overlap by twice `MARGIN`, each kept without it; none where no retina is.

    A small U-Net of five levels sees 92 pixels to each side, less than the margin, so that its tiles join to
    what the whole image would give.
    """
    height, width = read.shape[2:]
    total = read.new_zeros(len(read), len(c.masks), height, width)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            if not field[:, :, top : top + TILE, left : left + TILE].any():
                continue
            y, x = max(0, top - MARGIN), max(0, left - MARGIN)
            found = net.net(read[:, :, y : top + TILE + MARGIN, x : left + TILE + MARGIN])
            kept = total[:, :, top : top + TILE, left : left + TILE]
            kept.copy_(found[:, :, top - y :, left - x :][..., : kept.shape[2], : kept.shape[3]])
    return total


def _patched(net: Segmentation, c: UNetConfig, image: Tensor, field: Tensor) -> Tensor:
    """Logits of whole images, averaged over overlapping patches; a patch is all that the network sees."""
    (height, width), side = image.shape[2:], c.patch
    total = image.new_zeros(len(image), len(c.masks), height, width)
    count = torch.zeros_like(total)
    places = [(y, x) for y in _starts(height, side, c.overlap) for x in _starts(width, side, c.overlap)]
    for start in range(0, len(places), 64):
        cut = [(slice(y, y + side), slice(x, x + side)) for y, x in places[start : start + 64]]
        logits = net(
            torch.cat([image[:, :, a, b] for a, b in cut]), torch.cat([field[:, :, a, b] for a, b in cut])
        )
        for one, (a, b) in zip(logits.split(len(image)), cut, strict=True):
            total[:, :, a, b] += one
            count[:, :, a, b] += 1
    return total / count


def _starts(length: int, side: int, overlap: int) -> Iterator[int]:
    """Places of patches along one axis: every `side - overlap` pixels, the last flush with the border."""
    if length < side:
        raise ValueError(f"image side {length} is smaller than the patch side {side}")
    last = length - side
    yield from range(0, last, side - overlap)
    yield last
