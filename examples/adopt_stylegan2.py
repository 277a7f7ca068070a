"""A generator published for stylegan2-ada-pytorch as a model of ours.

    python examples/adopt_stylegan2.py G.safetensors runs/adopted.safetensors --terms "research only"
    fundusforge sample runs/adopted.safetensors -n 16 --truncation 0.7 --out drawn

`G.safetensors` holds the tensors of `G_ema.state_dict()`, saved with the safetensors library by the program
that can open the published file, for it is a pickle, which runs code when it is opened:

    from safetensors.torch import save_file                     # in a checkout of stylegan2-ada-pytorch
    save_file({n: t.contiguous() for n, t in G_ema.state_dict().items()}, "G.safetensors")

`fundusforge/models/published.py` has the mapping. Weights keep the terms of whoever published them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn
from tyro.conf import Positional

from fundusforge.config import to_json
from fundusforge.models import ModelConfig
from fundusforge.models.published import generator_of
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.styles import Generator
from fundusforge.training.checkpoint import Clock, read, save_model


@dataclass(frozen=True)
class Adopt:
    """Turn published weights into a model file."""

    source: Annotated[Path, Positional]
    """Safetensors file of the published generator."""
    out: Annotated[Path, Positional]
    """Model file to write."""
    terms: str
    """Terms of use of the weights and of what they were trained on."""
    masks: tuple[str, ...] = ()
    """Masks that its channels beyond the colours are."""
    classes: tuple[str, ...] = ()
    """What its conditions are: `grade` for five of them, findings by name."""


def main(c: Adopt) -> None:
    """Read, map, write."""
    tensors, _ = read(c.source)
    try:
        found = generator_of(tensors)
    except ValueError as error:
        raise SystemExit(f"{c.source}: {error}") from None
    config = StyleGANConfig(
        masks=c.masks, classes=c.classes, latent=found.latent, style=found.style, widths=found.widths
    )
    if (config.channels, config.conditions) != (found.channels, found.conditions):
        raise SystemExit(
            f"{c.source}: draws {found.channels} channels and reads {found.conditions} conditions; --masks "
            f"and --classes name {config.channels} and {config.conditions}"
        )
    generator = Generator(config)
    generator.mapping.load_state_dict(found.mapping.state_dict())
    generator.synthesis.load_state_dict(found.synthesis.state_dict())
    save_model(
        c.out,
        nn.ModuleDict({"generator": generator}),
        config_json=to_json(config, kind=ModelConfig, indent=None),
        clock=Clock(),
        extra={"terms": [f"{c.source.stem}: {c.terms}"]},
    )
    print(f"{c.out}: {config.size} px, {found.channels} channels, {found.conditions} conditions")


if __name__ == "__main__":
    main(tyro.cli(Adopt))
