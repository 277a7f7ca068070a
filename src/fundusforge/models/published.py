"""Weights published for the second style-based generator: names and values of stylegan2-ada-pytorch and ours.

Read are plain tensors by name, as `G_ema.state_dict()` and `D.state_dict()` give them for the networks of
configuration f: a `skip` generator and a `resnet` discriminator, eight layers in each mapping, noise in every
layer, the filter 1, 3, 3, 1. How they come into a safetensors file is for the program that wrote them; a
pickle is not opened here.

Weights have the same values. There a layer is rectified and its output then multiplied by sqrt(2); here the
discriminator's layers hold their biases with that factor in. Limits that were set on activations for half
precision are not kept, and statistics over a batch are of groups of four consecutive images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Table
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fundusforge.models.equalized import GAIN
from fundusforge.models.modulated import FIRST, LAYERS, TAPS, Discriminator, Mapping, Synthesis

Names = dict[str, tuple[str, float]]
"""By published name: our name, and our value over the published one."""
CENTRE = "mapping.w_avg"
"""The mean style, which truncation pulls towards."""
_STYLED = {
    "affine.weight": "affine.weight", "affine.bias": "affine.bias", "weight": "weight", "bias": "bias",
    "noise_strength": "strength", "noise_const": "noise",
}  # fmt: skip
_PAINTED = ("affine.weight", "affine.bias", "weight", "bias")
_FILTER = "resample_filter"


@dataclass(frozen=True)
class PublishedGenerator:
    """A published generator as our networks, and its sizes."""

    mapping: Mapping
    synthesis: Synthesis
    centre: Tensor
    """Mean style (style,)."""
    latent: int
    style: int
    widths: tuple[int, ...]
    """Filters of each level from 4 px on."""
    channels: int
    conditions: int


def generator_of(tensors: Table[str, Tensor]) -> PublishedGenerator:
    """Build mapping and synthesis from a published generator.

    Args:
        tensors: By published name (`mapping.fc0.weight`, `synthesis.b4.const`, ...).

    Raises:
        ValueError: A tensor is missing, unknown or of an odd shape; the message names it.
    """
    sides = _sides(tensors, "synthesis.")
    style, inputs = _sizes(tensors, "mapping.fc0.weight", 2)
    conditions = _sizes(tensors, "mapping.embed.weight", 2)[1] if "mapping.embed.weight" in tensors else 0
    latent = inputs - (style if conditions else 0)
    if latent < 1:
        raise ValueError(
            f"mapping.fc0.weight: {inputs} inputs leave none to a latent beside {style} of embed"
        )
    widths = tuple(_sizes(tensors, f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides)
    channels = _sizes(tensors, "synthesis.b4.torgb.weight", 4)[0]
    with torch.device("meta"):
        nets = nn.ModuleDict(
            {"mapping": Mapping(latent, style, conditions), "synthesis": Synthesis(channels, widths, style)}
        )
    if _sizes(tensors, CENTRE, 1) != (style,):
        raise ValueError(f"{CENTRE}: expected shape ({style},), found {tuple(tensors[CENTRE].shape)}")
    rest = {name: tensor for name, tensor in tensors.items() if name != CENTRE}
    _fill(nets, rest, generator_names(len(widths), conditioned=conditions > 0))
    mapping, synthesis = nets["mapping"], nets["synthesis"]
    assert isinstance(mapping, Mapping) and isinstance(synthesis, Synthesis)
    centre = tensors[CENTRE].detach().float().clone()
    return PublishedGenerator(mapping, synthesis, centre, latent, style, widths, channels, conditions)


def discriminator_of(tensors: Table[str, Tensor]) -> Discriminator:
    """Build a discriminator from a published one (`b256.fromrgb.weight`, ..., `b4.out.bias`).

    Raises:
        ValueError: A tensor is missing, unknown or of an odd shape; the message names it.
    """
    sides = _sides(tensors, "")
    widths = [_sizes(tensors, "b4.conv.weight", 4)[0]]
    widths += [_sizes(tensors, f"b{side}.conv0.weight", 4)[0] for side in sides[1:]]
    channels = _sizes(tensors, f"b{sides[-1]}.fromrgb.weight", 4)[1]
    conditions = _sizes(tensors, "mapping.embed.weight", 2)[1] if "mapping.embed.weight" in tensors else 0
    with torch.device("meta"):
        net = Discriminator(channels, widths, conditions)
    _fill(net, tensors, discriminator_names(len(widths), conditioned=conditions > 0))
    return net


def published(net: Table[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return our tensors under their published names, with the published values."""
    return {theirs: net[ours].detach() / factor for theirs, (ours, factor) in names.items()}


def generator_names(levels: int, *, conditioned: bool) -> Names:
    """Names of a generator of `levels` levels; ours begin with `mapping.` and `synthesis.`."""
    found = _mapping_names("mapping.", conditioned=conditioned)
    found["synthesis.b4.const"] = "synthesis.start", 1.0
    for level in range(levels):
        there = f"synthesis.b{FIRST << level}"
        here = f"synthesis.levels.{level - 1}" if level else "synthesis"
        for layer, own in (("conv0", "up"), ("conv1", "conv")) if level else (("conv1", "conv"),):
            found |= {f"{there}.{layer}.{a}": (f"{here}.{own}.{b}", 1.0) for a, b in _STYLED.items()}
        found |= {f"{there}.torgb.{name}": (f"{here}.paint.{name}", 1.0) for name in _PAINTED}
    return found


def discriminator_names(levels: int, *, conditioned: bool) -> Names:
    """Names of a discriminator of `levels` levels."""
    layers = {f"b{FIRST << (levels - 1)}.fromrgb": ("read", GAIN)}
    beside: Names = {}
    for level in range(levels - 1):
        there, here = f"b{FIRST << (levels - 1 - level)}", f"levels.{level}"
        # the sum's sqrt(1/2) takes the second one's sqrt(2) away
        layers |= {f"{there}.conv0": (f"{here}.first", GAIN), f"{there}.conv1": (f"{here}.second", 1.0)}
        beside[f"{there}.skip.weight"] = f"{here}.beside", 1.0
    layers |= {"b4.conv": ("conv", GAIN), "b4.fc": ("dense", GAIN), "b4.out": ("head", 1.0)}
    found = {f"{there}.weight": (f"{here}.weight", 1.0) for there, (here, _) in layers.items()} | beside
    found |= {f"{there}.bias": (f"{here}.bias", factor) for there, (here, factor) in layers.items()}
    return found | (_mapping_names("asked.", conditioned=True) if conditioned else {})


def _mapping_names(here: str, *, conditioned: bool) -> Names:
    pairs = {f"fc{layer}": f"layers.{layer}" for layer in range(LAYERS)}
    pairs |= {"embed": "embed"} if conditioned else {}
    parts = ("weight", "bias")
    return {f"mapping.{a}.{part}": (f"{here}{b}.{part}", 1.0) for a, b in pairs.items() for part in parts}


def _sides(tensors: Table[str, Tensor], prefix: str) -> list[int]:
    """Sides in pixels of the levels that are named, from 4 px on."""
    found = [int(m[1]) for name in tensors if (m := re.match(rf"{re.escape(prefix)}b(\d+)\.", name))]
    largest = max(found, default=0)
    if largest < 2 * FIRST or largest & (largest - 1):
        raise ValueError(
            f"{prefix}b{largest}: expected levels of {FIRST}, {2 * FIRST}, ... px under {prefix}b<side>"
        )
    return [FIRST << level for level in range((largest // FIRST).bit_length())]


def _sizes(tensors: Table[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that must be there."""
    if name not in tensors:
        raise ValueError(f"{name}: missing among the published weights")
    if tensors[name].ndim != dimensions:
        raise ValueError(
            f"{name}: expected {dimensions} dimensions, found shape {tuple(tensors[name].shape)}"
        )
    return tuple(tensors[name].shape)


def _fill(net: nn.Module, tensors: Table[str, Tensor], names: Names) -> None:
    """Give a network on no device its values, all of them and no others."""
    own = net.state_dict()
    taps = torch.tensor(TAPS) / sum(TAPS)
    for name in sorted(tensors.keys() - names.keys()):
        if name.rpartition(".")[2] != _FILTER:
            raise ValueError(f"{name}: not a tensor of such a network; other architectures are not read")
        if tensors[name].shape != (4, 4) or not torch.allclose(
            tensors[name].float(), torch.outer(taps, taps)
        ):
            raise ValueError(f"{name}: expected the filter {TAPS}")
    found: dict[str, Tensor] = {}
    for name, (ours, factor) in names.items():
        shape = tuple(own[ours].shape)
        if _sizes(tensors, name, len(shape)) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {tuple(tensors[name].shape)}")
        found[ours] = tensors[name].detach().float() * factor
    net.load_state_dict(found, assign=True)
