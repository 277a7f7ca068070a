"""Perceptual distance by the embedded features of the retina, where there are no weights of a timm model."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from fundusforge import weights
from fundusforge.models.selfsupervised import Levels


class RetinaPerceptual:
    """L1 distance of the answers of all levels of the embedded encoder `retina-features`, averaged over them.

    The encoder was trained to say where a photograph of the retina is blurred, recoloured or lacks vessels
    (`fundusforge.models.selfsupervised`); VGG-19 was trained on objects. Its weights stay as they are.
    """

    def __init__(self) -> None:
        """Load the encoder.

        Raises:
            DatasetError: No embedded weights in this installation.
        """
        file = weights.default("selfsupervised", masks=())
        config = json.loads(weights.read_metadata(file)["config"])
        tensors = {n.removeprefix("encoder."): t.float() for n, t in load_file(file).items()}
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self.net = Levels(tuple(config["widths"])).eval().requires_grad_(False)
        own = self.net.state_dict()
        self.net.load_state_dict(
            {n: t if t.is_floating_point() else t.long() for n, t in tensors.items() if n in own}
        )
        self.name = weights.name_of(file)

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        """Distance of images (N, 3, H, W) in [-1, 1]."""
        self.net.to(fake.device)
        pairs = zip(self.net.maps(fake), self.net.maps(real.to(fake.dtype)), strict=True)
        return torch.stack([F.l1_loss(a, b.detach()) for a, b in pairs]).mean()
