"""Attention: the paper's equations, literally and without the map of places against places."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fundusforge.models import attention
from fundusforge.models.attention import SCA, SpatialAttention, attend, channel_attention

pytestmark = pytest.mark.usefixtures("one_thread")


def literal(ask: Tensor, answer: Tensor, value: Tensor) -> Tensor:
    """I3 softmax(I2' I1), each column of the map summing to 1."""
    energy = torch.einsum("nki,nkj->nij", answer, ask)
    weights = energy.exp() / energy.exp().sum(1, keepdim=True)
    return torch.einsum("nci,nij->ncj", value, weights)


def parts(n: int, k: int, c: int, places: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(n, size, places).requires_grad_() for size in (k, k, c)]


@pytest.mark.parametrize(("n", "k", "c", "places"), [(2, 4, 32, 700), (1, 1, 8, 64), (1, 16, 16, 300)])
def test_attention_and_its_gradients_are_those_of_the_literal_form(
    n: int, k: int, c: int, places: int
) -> None:
    given = parts(n, k, c, places)
    wanted, found = literal(*given), attend(*given)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    slope = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, given, slope), torch.autograd.grad(wanted, given, slope), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_softmax_runs_over_the_places_that_answer() -> None:
    """One place that all go with is all that anyone hears; along the other side it would be shared out."""
    ask, answer, value = torch.ones(1, 1, 5), torch.zeros(1, 1, 5), torch.arange(5.0).view(1, 1, 5)
    answer[..., 3] = 50.0
    torch.testing.assert_close(attend(ask, answer, value), torch.full((1, 1, 5), 3.0))


def test_the_module_is_the_equation() -> None:
    torch.manual_seed(0)
    net, x = SCA(16, 8).double(), torch.randn(2, 16, 6, 5, dtype=torch.float64)
    flat = x.flatten(2)

    def part(layer: torch.nn.Conv2d) -> Tensor:
        return torch.einsum("oc,ncl->nol", layer.weight[..., 0, 0], flat) + layer.bias[:, None]

    spatial = net.spatial
    inside = (flat + literal(part(spatial.ask), part(spatial.answer), part(spatial.value))).view_as(x)
    shares = torch.softmax(flat @ flat.transpose(1, 2), 2)
    between = (flat + shares @ flat).view_as(x)
    with torch.no_grad():
        net.weights.copy_(torch.tensor([0.7, 0.2]))
    wanted = 0.7 * net.places(inside) + 0.2 * net.channels(between)
    torch.testing.assert_close(net(x), wanted, atol=1e-4, rtol=1e-4)
    assert net.spatial.ask.out_channels == 2
    assert SpatialAttention(8, 32).ask.out_channels == 1


def test_channels_that_are_alike_are_averaged() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1:] = 5.0
    torch.testing.assert_close(channel_attention(x)[0, :, 0, 0], torch.tensor([5 * 2 / 3, 10.0, 10.0]))


def test_half_precision_is_computed_in_single() -> None:
    x = (torch.randn(1, 8, 24, 24) * 4).to(torch.bfloat16)
    net = SCA(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).isfinite().all()
    assert attend(x[..., 0], x[..., 1], x[..., 2]).dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused() -> None:
    for ask, answer, value in (
        ((1, 4, 9), (1, 3, 9), (1, 8, 9)),
        ((1, 4, 9), (1, 4, 7), (1, 8, 9)),
        ((1, 9, 9), (1, 9, 9), (1, 8, 9)),
    ):
        with pytest.raises(ValueError, match=r"expected \(N, K, L\)"):
            attend(torch.zeros(ask), torch.zeros(answer), torch.zeros(value))


def test_a_large_map_is_never_made_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no fused kernel is at hand the map is made if it is small, and refused if it is not."""
    monkeypatch.setattr(attention, "FUSED", [attention.SDPBackend.EFFICIENT_ATTENTION])  # not for a CPU
    given = [part.detach() for part in parts(1, 2, 8, 64)]
    torch.testing.assert_close(attend(*given), literal(*given), atol=2e-5, rtol=1e-4)
    monkeypatch.setattr(attention, "SMALL", 64)
    with pytest.raises(RuntimeError, match="kernel"):
        attend(*given)


def largest_allocation(call: Callable[..., Tensor], given: list[Tensor]) -> float:
    """MiB that any one operation takes, on the way there and back."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        call(*given).sum().backward()
    return max(event.cpu_memory_usage for event in seen.events()) / 2**20


def test_memory_is_that_of_tiles() -> None:
    """The map of 3072 places has 36 MiB."""
    given = parts(1, 2, 8, 3072)
    assert largest_allocation(literal, given) > 30
    assert largest_allocation(attend, given) < 3
