"""Super-resolution by two: a deep residual network without batch normalisation (EDSR).

Lim et al. 2017, "Enhanced deep residual networks for single image super-resolution": a 3x3 convolution,
residual blocks x + s * conv(relu(conv(x))) (their figure 2c; s is 0.1 in the large network, section 3.3), a
convolution and a long skip around the blocks, a convolution to four times the channels whose pixels are
shuffled to twice the side (Shi et al. 2016), and a convolution to colours. Mean absolute error, Adam.
Sengupta et al. 2019 enlarge their drawn photographs so.

What is learnt is to undo one stated `kernel`. Three things differ from the paper and change neither the
network nor its loss: it may start as the best linear filter (`start`), pictures need not be turned (`turns`;
both: `docs/decisions/0018-super-resolution-starts-linear.md`), and where nothing is learnt on a CPU the same
numbers are found faster (`EDSRNet.forward`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.recipe import Phase, View

Kernel = Literal["area", "bicubic"]
BAND = 65536
"""Pixels of a band of rows in which a block is computed on a CPU: what lies between its convolutions stays
in the cache, and its memory is used again instead of being asked for anew."""

BORDER = 8
"""Sharp pixels at the edge of a crop from which nothing is learnt, and small pixels by which a whole picture
is continued before it is enlarged: beyond an edge the network reads grey, in which no retina ends."""
TAPS = 5
"""Side in small pixels of the linear filter that a network can start as."""
RIDGE = 1.0
"""Squared grey levels added to the diagonal where that filter is fitted, for each small pixel."""


@dataclass(frozen=True)
class EDSRConfig:
    """Photographs enlarged to twice their side."""

    kind: Literal["edsr"] = "edsr"
    blocks: int = 16
    """Residual blocks."""
    width: int = 64
    """Channels."""
    scale: Literal[2] = 2
    """Side of what is drawn over that of what is read; only 2 is written."""
    residual_scale: float = 1.0
    """Factor on what each block adds; 0.1 where 256 channels would not train otherwise."""
    kernel: Kernel = "area"
    """How sharp photographs are made small for training: `area`, the mean of 2 x 2 pixels, as `fundusforge
    prepare` makes photographs smaller; or `bicubic`, antialiased. Rounded to 8 bits, as files are."""
    start: Literal["fitted", "interpolation", "random"] = "fitted"
    """Begin as the linear filter of 5 x 5 small pixels that fits the training photographs best, or as cubic
    interpolation, so that a short training need not learn it; or as the paper, at random."""
    turns: bool = False
    """Learn from crops in all eight orientations, as the paper; else from them and their mirror images. What
    a camera does to rows is not what it does to columns."""
    crop: int = 192
    """Side of the sharp training crops in pixels; even."""
    lr: float = 1e-4
    """Learning rate of Adam."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        least = 3 if self.start == "random" else 27
        if self.blocks < 1 or self.width < least:
            raise ValueError(
                f"at least 1 block and {least} channels are needed with start {self.start}, "
                f"not {self.blocks} and {self.width}"
            )
        if self.crop % 2 or self.crop < 4 * BORDER:
            raise ValueError(f"crop must be even and at least {4 * BORDER} pixels, not {self.crop}")
        if not 0 < self.residual_scale <= 1:
            raise ValueError(f"residual_scale must be above 0 and at most 1, not {self.residual_scale}")

    @property
    def reach(self) -> int:
        """Pixels of the small picture to each side that a drawn pixel depends on."""
        return 2 * self.blocks + 4

    def build(self) -> EDSR:
        """Return the recipe with fresh networks."""
        return EDSR(self)


class Block(nn.Module):
    """x + s * conv(relu(conv(x))), without normalisation."""

    def __init__(self, width: int, scale: float) -> None:
        """Keep `width` channels; s is `scale`."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        return torch.add(x, self.second(F.relu(self.first(x))), alpha=self.scale)

    def into(self, out: Tensor, x: Tensor) -> None:
        """Write what `forward` gives for x (1, width, H, W) into `out`, in bands of rows; keeps no gradients.

        Rows beside a band are computed with it and dropped, so that its edge is no border of the picture.
        """
        weight, bias = self.second.weight * self.scale, cast(Tensor, self.second.bias) * self.scale
        height = x.shape[2]
        for top, bottom in bands(height, x.shape[3]):
            far, end = max(0, top - 2), min(height, bottom + 2)
            near, last = max(0, top - 1), min(height, bottom + 1)
            between = F.relu_(self.first(x[:, :, far:end]))[:, :, near - far : last - far]
            found = F.conv2d(between, weight, bias, padding=1)[:, :, top - near : bottom - near]
            torch.add(x[:, :, top:bottom], found, out=out[:, :, top:bottom])


def bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield first row and row after the last of each band of a picture."""
    step = max(16, BAND // width)
    for top in range(0, height, step):
        yield top, min(height, top + step)


class EDSRNet(nn.Module):
    """Pictures to pictures of twice the side."""

    def __init__(self, c: EDSRConfig) -> None:
        """Build the network that the configuration describes."""
        super().__init__()
        self.config = c
        self.head = nn.Conv2d(3, c.width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(c.width, c.residual_scale) for _ in range(c.blocks))
        self.join = nn.Conv2d(c.width, c.width, 3, padding=1)
        self.up = nn.Conv2d(c.width, 4 * c.width, 3, padding=1)
        self.tail = nn.Conv2d(c.width, 3, 3, padding=1)
        if c.start != "random":
            self.begin(cubic())

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge pictures.

        Where no gradients are kept, on a CPU, an image at a time is computed in bands of rows with the
        factor of the blocks in their weights, and the last two convolutions as one (see `paint`); the
        numbers differ by rounding alone.

        Args:
            x: (N, 3, H, W), [-1, 1] from black to white.

        Returns:
            (N, 3, 2 H, 2 W), about [-1, 1].

        Raises:
            ValueError: Another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.numel():
            raise ValueError(f"expected pictures (N, 3, H, W), got {tuple(x.shape)}")
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
            return self.literal(x)
        return torch.cat([self._fast(one[None]) for one in x]) if len(x) > 1 else self._fast(x)

    def literal(self, x: Tensor) -> Tensor:
        """The paper's layers one by one; what `forward` computes where it learns."""
        x = self.head(x)
        deep = x
        for block in self.blocks:
            deep = block(deep)
        return self.tail(F.pixel_shuffle(self.up(x + self.join(deep)), 2))

    def _fast(self, x: Tensor) -> Tensor:
        """The same for one picture (1, 3, H, W), without gradients."""
        x = self.head(x.contiguous(memory_format=torch.channels_last))
        deep, other = x, torch.empty_like(x)
        for block in self.blocks:
            cast(Block, block).into(other, deep)
            deep, other = other, torch.empty_like(x) if deep is x else deep
        del other
        for top, bottom in bands(x.shape[2], x.shape[3]):
            above, below = max(0, top - 1), min(x.shape[2], bottom + 1)
            x[:, :, top:bottom] += self.join(deep[:, :, above:below])[:, :, top - above : bottom - above]
        return self.paint(x)

    def paint(self, x: Tensor) -> Tensor:
        """Map features (1, width, H, W) to colours (1, 3, 2 H, 2 W), never making the large features.

        Convolution, shuffling of pixels and convolution are linear, so all three are one convolution of 5 x 5
        small pixels to four times three colours. At the border they are not: the second convolution sees
        zeros outside the picture, not what the first would give there. The outermost small pixels are found
        layer by layer.
        """
        weight, bias = merged(self.up, self.tail)
        out = F.pixel_shuffle(F.conv2d(x, weight, bias, padding=2), 2)
        for place in (slice(None, 2), slice(-2, None)):
            rows = slice(None, 3) if place.start is None else slice(-3, None)
            out[:, :, place] = self._plain(x[:, :, rows])[:, :, place]
            out[..., place] = self._plain(x[..., rows])[..., place]
        return out

    def _plain(self, x: Tensor) -> Tensor:
        return self.tail(F.pixel_shuffle(self.up(x), 2))

    @torch.no_grad()
    def begin(self, kernel: Tensor) -> None:
        """Become a linear filter, but for the border, which the blocks then improve on.

        The first convolution copies the 3 x 3 neighbours of each colour into 27 channels, and the one before
        the shuffle takes 3 x 3 neighbours of those; together they reach 5 x 5.

        Args:
            kernel: (3, 2, 2, 3, 5, 5): colour, row and column of the large pixel in the middle small one,
                then colour, row and column of the small pixel.
        """
        for block in self.blocks:
            cast(Block, block).second.weight *= 0.1
        self.join.weight.zero_()
        for layer in (self.head, self.join, self.up, self.tail):
            cast(Tensor, layer.bias).zero_()
        self.head.weight[:27] = 0
        self.up.weight[:12] = 0
        self.tail.weight.zero_()
        wanted = kernel.flatten(0, 2)
        for colour in range(3):
            self.tail.weight[colour, colour, 1, 1] = 1
            for place in range(9):
                self.head.weight[9 * colour + place, colour, place // 3, place % 3] = 1
            for row in range(TAPS):
                for column in range(TAPS):
                    y, x = (min(max(at - 2, -1), 1) for at in (row, column))
                    near = 9 * colour + 3 * (row - 1 - y) + column - 1 - x
                    self.up.weight[:12, near, y + 1, x + 1] = wanted[:, colour, row, column]


def cubic() -> Tensor:
    """Return cubic interpolation (a = -0.75, as OpenCV and torch have it) as a kernel of `EDSRNet.begin`."""
    a = -0.75

    def weight(t: float) -> float:
        t = abs(t)
        if t >= 2:
            return 0.0
        return ((a + 2) * t - (a + 3)) * t * t + 1 if t < 1 else a * (((t - 5) * t + 8) * t - 4)

    line = torch.tensor([[weight(at - 2 - middle) for at in range(TAPS)] for middle in (-0.25, 0.25)])
    return torch.einsum("cd,iy,jx->cijdyx", torch.eye(3), line, line)


@torch.no_grad()
def fitted(pairs: Iterable[tuple[Tensor, Tensor]], kernel: Kernel = "area") -> Tensor:
    """Return the linear filter that enlarges pictures best, by least squares, as a kernel of `EDSRNet.begin`.

    It knows only how neighbours differ from the small pixel in the middle, so flat places stay what they are.

    Args:
        pairs: Sharp crops (N, 3, S, S) in [-1, 1], S even, and their field of view (N, 1, S, S).
        kernel: What makes pictures small.
    """
    size = 3 * TAPS * TAPS
    left, right = torch.zeros(size, size, dtype=torch.double), torch.zeros(size, 12, dtype=torch.double)
    for sharp, inside in pairs:
        small = degraded(sharp, kernel)
        within = F.unfold(1 - F.max_pool2d(1 - inside, 2), TAPS).amin(1).bool()
        near = F.unfold(small, TAPS).mT[within].unflatten(1, (3, TAPS * TAPS))
        middle = near[:, :, TAPS * TAPS // 2]
        large = F.pixel_unshuffle(sharp, 2)[:, :, 2:-2, 2:-2].flatten(2).mT[within].unflatten(1, (3, 4))
        seen = (near - middle[:, :, None]).flatten(1).double() * 127.5
        wanted = (large - middle[:, :, None]).flatten(1).double() * 127.5
        left, right = left + seen.T @ seen, right + seen.T @ wanted
        left.diagonal().add_(RIDGE * len(seen) / size)
    found = torch.linalg.solve(left + torch.eye(size), right).T.reshape(3, 2, 2, 3, TAPS, TAPS).float()
    found[..., TAPS // 2, TAPS // 2] = torch.eye(3)[:, None, None] - (
        found.sum((-2, -1)) - found[..., TAPS // 2, TAPS // 2]
    )
    return found


def merged(up: nn.Conv2d, tail: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return one convolution for two with a shuffling of pixels between them, but for the border.

    Args:
        up: 3x3, from I to 4 C channels, which are shuffled to twice the side.
        tail: 3x3, from C to O channels.

    Returns:
        Kernel (4 O, I, 5, 5) and bias (4 O,); what they give must be shuffled to twice the side.
    """
    outputs, channels = tail.weight.shape[:2]
    first = up.weight.unflatten(0, (channels, 2, 2))  # (C, 2, 2, I, 3, 3)
    first_bias = cast(Tensor, up.bias).unflatten(0, (channels, 2, 2))
    weight = up.weight.new_zeros(outputs, 2, 2, up.weight.shape[1], 5, 5)
    bias = cast(Tensor, tail.bias)[:, None, None].repeat(1, 2, 2)
    for place in range(4):
        row, column = divmod(place, 2)
        for tap in range(9):
            y, x = divmod(tap, 3)
            # The large pixel of this tap: in which small pixel (-1, 0 or 1 from here), and where in it.
            (down, inner), (right, side) = divmod(row + y - 1, 2), divmod(column + x - 1, 2)
            factor = tail.weight[:, :, y, x]  # (O, C)
            part = torch.einsum("oc,ciyx->oiyx", factor, first[:, inner, side])
            weight[:, row, column, :, down + 1 : down + 4, right + 1 : right + 4] += part
            bias[:, row, column] += factor @ first_bias[:, inner, side]
    return weight.flatten(0, 2).contiguous(memory_format=torch.channels_last), bias.flatten()


def degraded(sharp: Tensor, kernel: Kernel = "area") -> Tensor:
    """Make pictures small as the network expects what it reads.

    Args:
        sharp: (N, 3, H, W) in [-1, 1], sides even.
        kernel: `area` or `bicubic`; see `EDSRConfig.kernel`.

    Returns:
        (N, 3, H / 2, W / 2) in [-1, 1], rounded to 256 levels.

    Raises:
        ValueError: A side is odd.
    """
    if sharp.shape[-1] % 2 or sharp.shape[-2] % 2:
        raise ValueError(f"expected pictures with even sides, got {tuple(sharp.shape)}")
    if kernel == "area":
        small = F.avg_pool2d(sharp, 2)
    else:
        small = F.interpolate(sharp, scale_factor=0.5, mode="bicubic", antialias=True).clamp(-1, 1)
    return ((small + 1) * 127.5).round() / 127.5 - 1


def turned(pictures: Tensor, draws: Tensor) -> Tensor:
    """Turn each square picture (N, C, S, S) to one of its orientations, by the signs of draws.

    Args:
        pictures: The pictures.
        draws: (N, 3) for all eight orientations; (N, 1) for left and right exchanged or not.
    """
    ways = (lambda x: x.flip(3), lambda x: x.flip(2), lambda x: x.mT)
    for way, sign in zip(ways, draws.unbind(1), strict=False):
        pictures = torch.where((sign > 0)[:, None, None, None], way(pictures), pictures)
    return pictures


class EDSR:
    """Recipe: one phase, Adam, mean absolute error inside the field of view."""

    def __init__(self, c: EDSRConfig) -> None:
        """Build network and optimizer."""
        self.config = c
        net = EDSRNet(c)
        self.nets = nn.ModuleDict({"net": net})
        optimizer = torch.optim.Adam(net.parameters(), c.lr, betas=(0.9, 0.999), eps=1e-8)
        self.phases = (Phase("main", ("net",), optimizer),)
        self.ema = ("net",)
        self.view = View(crop=c.crop, draws=3 if c.turns else 1)

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Error of crops made small and enlarged again, in any orientation, less their edges."""
        sharp, inside = (turned(batch[name], batch["draws"]) for name in ("image", "field_of_view"))
        found = self.nets["net"](degraded(sharp, self.config.kernel))
        inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
        return {"l1": losses.masked_mean((found - sharp).abs()[inner], inside[inner])}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """The middle of a crop four times: cubic and enlarged above, sharp and the error (x 4) below."""
        sharp = batch["image"]
        small = degraded(sharp, self.config.kernel)
        found = nets["net"](small).clamp(-1, 1)
        bicubic = F.interpolate(small, scale_factor=2.0, mode="bicubic").clamp(-1, 1)
        wrong = (4 * (found - sharp)).clamp(-1, 1)
        quarter = sharp.shape[3] // 4
        middle = slice(quarter, quarter + sharp.shape[3] // 2)
        above, below = (
            torch.cat([one[..., middle] for one in pair], 3) for pair in ((bicubic, found), (sharp, wrong))
        )
        return torch.cat([above, below], 2)
