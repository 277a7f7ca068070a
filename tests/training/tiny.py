"""Tiny recipes and feeds for the tests of training; also imported by the processes that tests start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fundusforge.models.recipe import Phase, View


class Segmenter:
    """Two convolutions with batch statistics, AdamW, no average."""

    view = View(masks=("vessels",), crop=8)

    def __init__(self, *, width: int = 4, ema: tuple[str, ...] = (), norm: bool = True) -> None:
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()]
        self.nets = nn.ModuleDict({"net": nn.Sequential(*layers, nn.Conv2d(width, 1, 1))})
        self.phases = (Phase("main", ("net",), torch.optim.AdamW(self.nets.parameters(), 1e-2)),)
        self.ema = ema

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        logits = self.nets["net"](batch["image"])
        return {"bce": functional.binary_cross_entropy_with_logits(logits, batch["masks"])}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        return nets["net"](batch["image"]).tanh().expand(-1, 3, -1, -1)


class GAN:
    """Two players with lazy R1 that shares D's optimizer, an average of G, and losses that draw noise."""

    view = View()

    def __init__(self, *, noise: float = 0.1) -> None:
        torch.manual_seed(5)
        generator = nn.Sequential(
            nn.ConvTranspose2d(4, 8, 2), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 3, 4, 4)
        )
        critic = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Softplus(), nn.Conv2d(8, 1, 2))
        self.nets = nn.ModuleDict({"G": generator, "D": critic})
        g, d = (torch.optim.Adam(net.parameters(), 2e-3, betas=(0.0, 0.99)) for net in (generator, critic))
        self.phases = (Phase("G", ("G",), g), Phase("D", ("D",), d), Phase("R1", ("D",), d, every=4))
        self.ema = ("G",)
        self.noise = noise

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        real, latent = batch["image"], batch["masks"][:, :, :2, :2].expand(-1, 4, -1, -1)[..., :1, :1]
        if phase == "R1":
            real = real.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.nets["D"](real).sum(), real, create_graph=True)
            return {"r1": 5.0 * slope.square().sum([1, 2, 3]).mean()}
        fake = self.nets["G"](latent + self.noise * torch.randn_like(latent))
        if phase == "G":
            return {"adversarial": functional.softplus(-self.nets["D"](fake)).mean()}
        fake_loss = functional.softplus(self.nets["D"](fake)).mean()
        return {"fake": fake_loss, "real": functional.softplus(-self.nets["D"](real)).mean()}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        return nets["G"](batch["masks"][:, :, :1, :1].expand(-1, 4, -1, -1)).tanh()


class Drawn:
    """A feed of noise images and masks: image k is a function of k."""

    def __init__(self, *, batch: int = 4, rank: int = 0, world: int = 1, spoil_at: int | None = None) -> None:
        self.batch, self.rank, self.world, self.spoil_at = batch, rank, world, spoil_at

    def starting_at(self, image: int) -> Iterator[dict[str, Tensor]]:
        share = self.batch // self.world
        while True:
            first = image + self.rank * share
            rows = [self._image(k) for k in range(first, first + share)]
            yield {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            image += self.batch

    def _image(self, k: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([11, k])
        image = torch.from_numpy(rng.uniform(-1, 1, (3, 8, 8)).astype(np.float32))
        if self.spoil_at is not None and k >= self.spoil_at:
            image = image * torch.nan
        return {"image": image, "masks": (image[:1] > 0.2).float()}
