"""Published weights of the second style-based networks: against the paper's equations written out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conftest import ROOT
from fundusforge.models.published import (
    discriminator_names,
    discriminator_of,
    generator_names,
    generator_of,
    published,
)
from fundusforge.sample.latents import Drawer

pytestmark = pytest.mark.usefixtures("one_thread")

LATENT, STYLE, CHANNELS, WIDTHS, CONDITIONS = 6, 5, 3, (8, 7, 4), 2


@pytest.fixture
def literal(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The equations, as the benchmark times them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("stylegan_literal")


def resampling() -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in found:
        if name.startswith("mapping.fc") and name.endswith("weight"):
            found[name] /= 0.01  # learn at a hundredth of the pace
    return found


def mapping_shapes(inputs: int, style: int, conditions: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if conditions:
        shapes |= {"mapping.embed.weight": (style, conditions), "mapping.embed.bias": (style,)}
    for layer in range(8):
        shapes[f"mapping.fc{layer}.weight"] = (style, style if layer else inputs)
        shapes[f"mapping.fc{layer}.bias"] = (style,)
    return shapes


def published_generator(conditions: int = 0) -> dict[str, Tensor]:
    """Names and shapes as the published program has them."""
    shapes = mapping_shapes(LATENT + (STYLE if conditions else 0), STYLE, conditions)
    shapes |= {"mapping.w_avg": (STYLE,), "synthesis.b4.const": (WIDTHS[0], 4, 4)}
    filters: list[str] = []
    for level, width in enumerate(WIDTHS):
        block = f"synthesis.b{4 << level}"
        before = WIDTHS[max(level - 1, 0)]
        layers = {f"{block}.conv1": (width, width, 3, 3), f"{block}.torgb": (CHANNELS, width, 1, 1)}
        if level:
            layers[f"{block}.conv0"] = (width, before, 3, 3)
        for layer, shape in layers.items():
            shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
            shapes |= {f"{layer}.affine.weight": (shape[1], STYLE), f"{layer}.affine.bias": (shape[1],)}
            if not layer.endswith("torgb"):
                shapes |= {f"{layer}.noise_strength": (), f"{layer}.noise_const": (4 << level, 4 << level)}
                filters.append(f"{layer}.resample_filter")
        filters.append(f"{block}.resample_filter")
    return filled(shapes) | {name: resampling() for name in filters}


def published_discriminator(conditions: int = 0) -> dict[str, Tensor]:
    """Names and shapes as the published program has them."""
    shapes = mapping_shapes(WIDTHS[0], WIDTHS[0], conditions) if conditions else {}
    filters: list[str] = []
    for level in range(len(WIDTHS) - 1, 0, -1):
        block, width, after = f"b{4 << level}", WIDTHS[level], WIDTHS[level - 1]
        if level == len(WIDTHS) - 1:
            shapes |= {f"{block}.fromrgb.weight": (width, CHANNELS, 1, 1), f"{block}.fromrgb.bias": (width,)}
        shapes |= {f"{block}.conv0.weight": (width, width, 3, 3), f"{block}.conv0.bias": (width,)}
        shapes |= {f"{block}.conv1.weight": (after, width, 3, 3), f"{block}.conv1.bias": (after,)}
        shapes[f"{block}.skip.weight"] = (after, width, 1, 1)
        filters += [f"{block}.resample_filter", f"{block}.conv0.resample_filter"]
    first = WIDTHS[0]
    shapes |= {"b4.conv.weight": (first, first + 1, 3, 3), "b4.conv.bias": (first,)}
    shapes |= {"b4.fc.weight": (first, first * 16), "b4.fc.bias": (first,)}
    outputs = first if conditions else 1
    shapes |= {"b4.out.weight": (outputs, first), "b4.out.bias": (outputs,)}
    return filled(shapes) | {name: resampling() for name in filters}


@pytest.mark.parametrize("conditions", [0, CONDITIONS])
def test_generator_draws_what_the_equations_say(literal: ModuleType, conditions: int) -> None:
    tensors = published_generator(conditions)
    latent = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(1))
    asked = torch.eye(CONDITIONS)[[0, 1, 0]] if conditions else None
    found = generator_of(tensors)
    assert (found.latent, found.style, found.channels, found.conditions) == (
        LATENT,
        STYLE,
        CHANNELS,
        conditions,
    )
    assert found.widths == WIDTHS
    torch.testing.assert_close(found.centre, tensors["mapping.w_avg"])

    style = literal.mapped(tensors, latent, asked)
    expected = literal.drawn(tensors, style)
    for learning in (True, False):  # there are two ways to draw
        with torch.set_grad_enabled(learning):
            styles = found.mapping(latent, asked)
            torch.testing.assert_close(styles, style, rtol=1e-4, atol=1e-5)
            pictures = found.synthesis(styles[:, None].expand(-1, found.synthesis.styles, -1))
        assert pictures.shape == (3, CHANNELS, 16, 16)
        torch.testing.assert_close(pictures, expected, rtol=1e-4, atol=1e-4)
    if asked is not None:
        assert not torch.allclose(found.mapping(latent, asked), found.mapping(latent, asked.flip(1)))


@pytest.mark.parametrize("conditions", [0, CONDITIONS])
def test_discriminator_judges_as_the_equations_say(literal: ModuleType, conditions: int) -> None:
    tensors = published_discriminator(conditions)
    pictures = torch.randn(3, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(1))
    asked = torch.eye(CONDITIONS)[[0, 1, 0]] if conditions else None
    found = discriminator_of(tensors)(pictures, asked)
    assert found.shape == (3, 1)
    assert found.std() > 1e-3
    torch.testing.assert_close(found, literal.judged(tensors, pictures, asked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditions", [0, CONDITIONS])
def test_round_trip(conditions: int) -> None:
    tensors, levels = published_generator(conditions), len(WIDTHS)
    own = generator_of(tensors)
    nets = torch.nn.ModuleDict({"mapping": own.mapping, "synthesis": own.synthesis})
    back = published(nets.state_dict(), generator_names(levels, conditioned=conditions > 0))
    kept = {n: t for n, t in tensors.items() if not n.endswith(("resample_filter", "w_avg"))}
    torch.testing.assert_close(back, kept)

    tensors = published_discriminator(conditions)
    state = discriminator_of(tensors).state_dict()
    back = published(state, discriminator_names(levels, conditioned=conditions > 0))
    torch.testing.assert_close(back, {n: t for n, t in tensors.items() if not n.endswith("resample_filter")})


def test_weights_are_our_own_and_learn() -> None:
    tensors = {name: tensor.half() for name, tensor in published_generator().items()}
    net = generator_of(tensors).synthesis
    before = tensors["synthesis.b4.const"].clone()
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
    with torch.no_grad():
        net.start.add_(1)
    assert torch.equal(tensors["synthesis.b4.const"], before)
    net(torch.randn(2, net.styles, STYLE)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "mapping.fc0.weight", "mapping.fc7.bias", "mapping.w_avg", "mapping.embed.bias", "synthesis.b4.const",
        "synthesis.b4.torgb.weight", "synthesis.b8.conv1.weight", "synthesis.b16.conv0.affine.bias",
        "synthesis.b8.conv0.noise_const",
    ],
)  # fmt: skip
def test_missing_or_odd_tensor_of_a_generator(name: str) -> None:
    tensors = published_generator(CONDITIONS)
    tensor = tensors.pop(name)
    with pytest.raises(ValueError, match=rf"^{name}: missing"):
        generator_of(tensors)
    with pytest.raises(ValueError, match=rf"^{name}: expected .*found"):
        generator_of(tensors | {name: tensor[..., None]})


@pytest.mark.parametrize("name", ["b16.fromrgb.weight", "b8.conv0.weight", "b16.skip.weight", "b4.out.bias"])
def test_missing_or_odd_tensor_of_a_discriminator(name: str) -> None:
    tensors = published_discriminator()
    tensor = tensors.pop(name)
    with pytest.raises(ValueError, match=rf"^{name}: missing"):
        discriminator_of(tensors)
    with pytest.raises(ValueError, match=rf"^{name}: expected .*found"):
        discriminator_of(tensors | {name: tensor[..., None]})


def test_odd_shape_and_other_architectures() -> None:
    tensors = published_generator()
    odd = {"synthesis.b8.conv0.weight": torch.zeros(7, 7, 3, 3)}
    with pytest.raises(
        ValueError, match=r"b8\.conv0\.weight: expected shape \(7, 8, 3, 3\), found \(7, 7, 3, 3\)"
    ):
        generator_of(tensors | odd)
    with pytest.raises(ValueError, match=r"^synthesis\.b8\.skip\.weight: not a tensor"):
        generator_of(tensors | {"synthesis.b8.skip.weight": torch.zeros(7, 8, 1, 1)})
    with pytest.raises(ValueError, match=r"^synthesis\.b8\.resample_filter: expected the filter"):
        generator_of(tensors | {"synthesis.b8.resample_filter": torch.full((4, 4), 1 / 16)})
    with pytest.raises(ValueError, match="latent"):
        generator_of(published_generator(CONDITIONS) | {"mapping.fc0.weight": torch.zeros(STYLE, STYLE)})
    with pytest.raises(ValueError, match=r"^mapping\.w_avg: expected shape"):
        generator_of(tensors | {"mapping.w_avg": torch.zeros(9)})
    with pytest.raises(ValueError, match="expected levels of 4, 8"):
        generator_of(published_discriminator())
    with pytest.raises(ValueError, match="expected levels of 4, 8"):
        discriminator_of(tensors)


def test_gradients_are_those_of_the_equations(literal: ModuleType) -> None:
    """In double precision: in single, a value near the rectifier's kink falls to either side."""
    made, judge = published_generator(), published_discriminator()
    found, reader = generator_of(made), discriminator_of(judge)
    nets = torch.nn.ModuleDict({"mapping": found.mapping, "synthesis": found.synthesis}).double()
    reader.double()
    for weights in (made, judge):
        for name in weights:
            weights[name] = weights[name].double()
    torch.set_default_dtype(torch.float64)
    try:
        latent = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        styles = found.mapping(latent)[:, None].expand(-1, found.synthesis.styles, -1)
        reader(found.synthesis(styles)).square().mean().backward()
        for weights in (made, judge):
            for name in weights:
                weights[name].requires_grad_(not name.endswith(("noise_const", "filter", "w_avg")))
        literal.judged(judge, literal.drawn(made, literal.mapped(made, latent))).square().mean().backward()
        pairs = (
            (made, nets, generator_names(len(WIDTHS), conditioned=False)),
            (judge, reader, discriminator_names(len(WIDTHS), conditioned=False)),
        )
        compared = 0
        for weights, net, names in pairs:
            for theirs, (ours, factor) in names.items():
                if theirs in weights and weights[theirs].grad is not None:
                    wanted, gradient = weights[theirs].grad, net.get_parameter(ours).grad
                    assert gradient is not None, ours
                    # How much images of a batch differ is measured in single precision.
                    assert (gradient * factor - wanted).norm() < 1e-5 * wanted.norm(), ours
                    compared += 1
        assert compared > 40
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_published_generator_becomes_a_model_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    adopting = importlib.import_module("adopt_stylegan2")
    tensors = published_generator()
    save_file(tensors, tmp_path / "G.safetensors")
    adopting.main(adopting.Adopt(tmp_path / "G.safetensors", tmp_path / "ours.safetensors", terms="CC0"))
    assert "16 px, 3 channels" in capsys.readouterr().out
    drawer = Drawer.load(tmp_path / "ours.safetensors", device="cpu")
    found, latents = generator_of(tensors), torch.randn(2, LATENT)
    with torch.no_grad():
        styles = found.mapping(latents)[:, None].expand(-1, found.synthesis.styles, -1)
        wanted = found.synthesis(styles)
        assert torch.allclose(drawer.generator(latents), wanted, atol=1e-5)
    assert drawer.terms == ("G: CC0",)
    wrong = adopting.Adopt(tmp_path / "G.safetensors", tmp_path / "x.safetensors", terms="", masks=("disc",))
    with pytest.raises(SystemExit, match="draws 3 channels"):
        adopting.main(wrong)
    del tensors["synthesis.b4.const"]
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(SystemExit, match=r"broken.safetensors: .*synthesis\.b4\.const"):
        adopting.main(adopting.Adopt(tmp_path / "broken.safetensors", tmp_path / "x.safetensors", terms=""))
    assert not (tmp_path / "x.safetensors").exists()
