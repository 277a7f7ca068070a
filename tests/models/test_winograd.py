"""Convolution with fewer multiplications."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fundusforge.models import modulated, winograd

pytestmark = pytest.mark.usefixtures("one_thread")


def case(inputs: int, outputs: int, *sides: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, kernels of unit length, and bias."""
    torch.manual_seed(0)
    kernel = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    return torch.randn(1, inputs, *sides), kernel, torch.randn(outputs)


@pytest.mark.parametrize(
    ("inputs", "outputs", "sides"),
    [(3, 5, (4, 4)), (8, 4, (64, 12)), (256, 300, (64, 68)), (2, 2, (132, 72))],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_convolution(
    inputs: int, outputs: int, sides: tuple[int, int], layout: torch.memory_format
) -> None:
    x, kernel, bias = case(inputs, outputs, *sides)
    found = winograd.convolved(x.to(memory_format=layout), kernel.to(memory_format=layout), bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = F.conv2d(x.double(), kernel.double(), bias.double(), padding=1)
    assert torch.allclose(found.double(), wanted, atol=1e-4, rtol=0)


def test_it_is_taken_only_where_it_can_and_pays() -> None:
    x, kernel, _ = case(256, 256, 64, 64)
    assert not winograd.pays(x, kernel)  # something is learnt
    with torch.no_grad():
        assert winograd.pays(x, kernel)
        for other in (x.expand(2, -1, -1, -1), x.double(), x[..., :32], F.pad(x, (1, 1))):
            assert not winograd.pays(other, kernel)
        assert not winograd.pays(x, kernel[:255]) and not winograd.pays(x, kernel[..., :1, :1])
        with torch.autocast("cpu", torch.bfloat16):
            assert not winograd.pays(x, kernel)


def test_style_based_generators_draw_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = modulated.StyleConv(256, 256, 4, side=64, up=False)
    x, style = torch.randn(1, 256, 64, 64), torch.randn(1, 4)
    with torch.no_grad():
        fast = layer.alone(x, style)
        monkeypatch.setattr(modulated, "pays", lambda *_: False)
        assert torch.allclose(fast, layer.alone(x, style), atol=1e-3) and not torch.equal(
            fast, layer.alone(x, style)
        )
