"""Random changes for the discriminator: what each one is, how often it is made, what it must not touch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from fundusforge.models.adaptive import (
    DRAWS,
    NUMBERS,
    TRANSFORMS,
    augment,
    colouring,
    decided,
    geometry,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ALWAYS, NEVER = torch.tensor(1.0), torch.tensor(0.0)
COLOURS = ("brightness", "contrast", "inverted", "hue", "saturation")


def pictures_of(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws_of(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, DRAWS, generator=torch.Generator().manual_seed(seed))


def made(*pictures: dict[str, float]) -> Tensor:
    """Draws (N, DRAWS) that make these numbers for each picture and leave out every other transform."""
    draws = torch.full((len(pictures), DRAWS), math.inf)
    draws[:, len(TRANSFORMS) :] = 0.7
    for draw, numbers in zip(draws, pictures, strict=True):
        for name, number in numbers.items():
            draw[TRANSFORMS.index(NUMBERS[name])] = -math.inf
            draw[len(TRANSFORMS) + list(NUMBERS).index(name)] = number
    return draws


def normal(uniform: float) -> float:
    """The standard normal number that becomes this one, uniform in [-1, 1]."""
    return torch.special.ndtri(torch.tensor((uniform + 1) / 2, dtype=torch.float64)).item()


# ---- nothing, everything -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("side", [4, 15])
def test_nothing_is_changed_at_strength_0(kind: torch.dtype, side: int) -> None:
    x = pictures_of(50, 5, side, side).to(kind)
    found = augment(x, 3, NEVER, draws_of(50))
    assert found.dtype == kind
    assert torch.equal(found, x)
    assert torch.equal(augment(x, 3, ALWAYS, made(*[{}] * 50)), x)


def test_everything_is_changed_at_strength_1() -> None:
    x, draws = pictures_of(50, 5, 16, 16), draws_of(50)
    moved = augment(x, 3, ALWAYS, draws)
    assert ((moved - x).abs().mean((2, 3)) > 0.05).all()
    assert moved.isfinite().all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_types_change_alike(kind: torch.dtype) -> None:
    x, draws = pictures_of(8, 4, 32, 32).to(kind), draws_of(8)
    wanted = augment(x.float(), 3, ALWAYS, draws)
    near = 2**-8 if kind == torch.bfloat16 else 1e-4
    assert torch.allclose(augment(x, 3, ALWAYS, draws).float(), wanted, rtol=near, atol=near)


def test_autocast_does_not_blur_places() -> None:
    x, draws = pictures_of(8, 4, 64, 64), draws_of(8)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(x, 3, ALWAYS, draws)
    assert torch.equal(found, augment(x, 3, ALWAYS, draws))


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    x, draws, strength = pictures_of(11, 4, 9, 9), draws_of(11), torch.tensor(0.6)
    whole = augment(x, 3, strength, draws)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(augment(x[order], 3, strength, draws[order]), whole[order], atol=1e-5)
    for n in range(11):
        alone = augment(x[n : n + 1], 3, strength, draws[n : n + 1])
        assert torch.allclose(alone, whole[n : n + 1], atol=1e-5)


def test_nothing_random_but_the_draws() -> None:
    x, draws = pictures_of(4, 4, 16, 16), draws_of(4)
    torch.manual_seed(0)
    first = augment(x, 3, ALWAYS, draws)
    state = torch.get_rng_state()
    assert torch.equal(augment(x, 3, ALWAYS, draws), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(augment(x, 3, ALWAYS, draws_of(4, seed=5)), first, atol=0.1)


# ---- colours and masks -------------------------------------------------------------------------------------


def test_masks_move_as_colours_do_and_take_no_colour() -> None:
    x, draws = pictures_of(20, 5, 16, 16), draws_of(20)
    found = augment(x, 3, ALWAYS, draws)
    moved = augment(x, 0, ALWAYS, draws)
    assert torch.equal(found[:, 3:], moved[:, 3:])
    assert ((found[:, :3] - moved[:, :3]).abs().mean((1, 2, 3)) > 0.01).all()
    repainted = torch.cat([pictures_of(20, 3, 16, 16, seed=9), x[:, 3:]], 1)
    assert torch.equal(augment(repainted, 3, ALWAYS, draws)[:, 3:], moved[:, 3:])
    # The same content in a colour and in a mask stays the same where no colour is changed.
    same = x[:, :1].expand(-1, 4, -1, -1)
    draws[:, [TRANSFORMS.index(name) for name in COLOURS]] = math.inf
    found = augment(same, 3, ALWAYS, draws)
    assert torch.equal(found[:, :3], found[:, 3:].expand(-1, 3, -1, -1))
    assert not torch.allclose(found, same, atol=0.1)


def test_colour_changes_do_not_move() -> None:
    draws = made(*[{"hue": 1.0, "saturation": 0.5, "contrast": 0.5, "brightness": 1.0}] * 2)
    x = torch.zeros(2, 4, 8, 8)
    x[:, :3, 2, 5] = torch.tensor([0.9, -0.3, 0.2])
    found = augment(x, 3, ALWAYS, draws)
    different = (found != found[:, :, :1, :1]).any(1)
    assert different[:, 2, 5].all() and different.sum() == 2
    assert torch.equal(found[:, 3], x[:, 3])


# ---- how often ---------------------------------------------------------------------------------------------

VISIBLE = {"mirror": 1 / 2, "quarter": 3 / 4, "shift": 3 / 4, "inverted": 1 / 2}
"""How often a transform that is made changes a picture of 8 px; the others always do."""


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_is_made_as_often_as_the_strength_says(name: str) -> None:
    n, p = 4000, 0.3
    draws = draws_of(n)
    others = [place for place, other in enumerate(TRANSFORMS) if other != name]
    draws[:, others] = math.inf
    x = pictures_of(n, 3, 8, 8)
    changed = (augment(x, 3, torch.tensor(p), draws) != x).flatten(1).any(1).float().mean().item()
    made_at = 1 - math.sqrt(1 - p) if name.startswith("turned") else p
    expected = made_at * VISIBLE.get(name, 1.0)
    assert changed == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_transforms_are_made_independently() -> None:
    n, p = 4000, 0.05
    x = pictures_of(n, 3, 8, 8)
    unchanged = (augment(x, 3, torch.tensor(p), draws_of(n)) == x).flatten(1).all(1).float().mean().item()
    single = [name for name in TRANSFORMS if name not in VISIBLE and not name.startswith("turned")]
    # The two rotations together are made with probability p.
    expected = (1 - p) ** (len(single) + 1) * math.prod(1 - p * share for share in VISIBLE.values())
    assert unchanged == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_numbers_have_the_papers_spread() -> None:
    n = 20_000
    numbers = decided(draws_of(n), ALWAYS)
    a = geometry(numbers | {name: torch.zeros(n) for name in NUMBERS if name != "scale"}, 8, 8)
    assert a[:, 0, 0].log2().std().item() == pytest.approx(0.2, rel=0.05)
    a = geometry(numbers | {name: torch.zeros(n) for name in NUMBERS if "drift" not in name}, 8, 16)
    assert a[:, 0, 2].std().item() == pytest.approx(2.0, rel=0.05)
    assert a[:, 1, 2].std().item() == pytest.approx(1.0, rel=0.05)
    a = geometry(numbers | {name: torch.zeros(n) for name in NUMBERS if "shift" not in name}, 16, 80)
    assert set(a[:, 0, 2].tolist()) == set(range(-10, 11))
    assert set(a[:, 1, 2].tolist()) == set(range(-2, 3))
    angle = torch.atan2(*(turned_only(numbers, n)[:, k, 0] for k in (1, 0)))
    assert torch.histc(angle, 4, -math.pi, math.pi).div(n).sub(0.25).abs().max() < 0.02


def turned_only(numbers: dict[str, Tensor], n: int) -> Tensor:
    return geometry(numbers | {name: torch.zeros(n) for name in NUMBERS if name != "turned_before"}, 8, 8)


# ---- geometry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 15, 24])
def test_blits_are_exact(side: int) -> None:
    x = pictures_of(7, 4, side, side)
    numbers: list[dict[str, float]] = [
        {"mirror": 1.0},
        {"mirror": -1.0},
        *({"quarter": normal(uniform)} for uniform in (-0.75, -0.25, 0.25, 0.75)),
        {"shift_x": normal(8 / side), "shift_y": -9.0},  # one pixel to the right, an eighth up
    ]
    found = augment(x, 3, ALWAYS, made(*numbers))
    up = round(side / 8)
    wanted = [
        (found[0], x[0].flip(2)),
        *((found[k], x[k].rot90(k - 4, (1, 2))) for k in (2, 3, 4, 5)),
        (found[6, :, :-up, 1:], x[6, :, up:, :-1]),
        (found[6, :, -up:, 1:], x[6, :, -up:, :-1].flip(1)),  # beyond the edge is its mirror image
    ]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in wanted)
    assert side != 16 or all(torch.equal(a, b) for a, b in wanted)
    assert torch.equal(found[1], x[1]) and torch.equal(found[4], x[4])


def test_geometry_is_the_product_of_the_papers_matrices() -> None:
    """Inverse of the literal one, made transform by transform on the left."""
    height, width, n = 16, 24, 30
    numbers = decided(draws_of(n), torch.tensor(0.7))
    found = geometry(numbers, height, width).double()
    for k in range(n):
        v = {name: value[k].double() for name, value in numbers.items()}
        u = {name: 2 * torch.special.ndtr(value) - 1 for name, value in v.items()}
        whole = torch.eye(3, dtype=torch.float64)

        def then(rows: list[list[Tensor | float]], whole: Tensor) -> Tensor:
            return torch.tensor([[float(entry) for entry in row] for row in rows]).double() @ whole

        def turn(angle: Tensor, whole: Tensor) -> Tensor:
            c, s = angle.cos(), angle.sin()
            return then([[c, s, 0], [-s, c, 0], [0, 0, 1]], whole)

        whole = then([[-1 if v["mirror"] > 0 else 1, 0, 0], [0, 1, 0], [0, 0, 1]], whole)
        whole = turn((2 * u["quarter"]).floor() * math.pi / 2, whole)
        shift = [(u[f"shift_{axis}"] * side / 8).round() for axis, side in (("x", width), ("y", height))]
        whole = then([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]], whole)
        s = 2 ** (0.2 * v["scale"])
        whole = then([[s, 0, 0], [0, s, 0], [0, 0, 1]], whole)
        whole = turn(math.pi * u["turned_before"], whole)
        s = 2 ** (0.2 * v["stretch"])
        whole = then([[s, 0, 0], [0, 1 / s, 0], [0, 0, 1]], whole)
        whole = turn(math.pi * u["turned_after"], whole)
        drift = v["drift_x"] * width / 8, v["drift_y"] * height / 8
        whole = then([[1, 0, drift[0]], [0, 1, drift[1]], [0, 0, 1]], whole)
        assert torch.allclose(found[k] @ whole, torch.eye(3, dtype=torch.float64), atol=1e-4)


def test_a_spot_goes_where_the_matrix_says() -> None:
    """The whole way, sampling included: a blob drawn at a place is found where that place is sent."""
    side, n = 64, 40
    draws, strength = draws_of(n), torch.tensor(0.8)
    numbers = decided(draws, strength)
    sent = torch.linalg.inv(geometry(numbers, side, side))
    place = torch.tensor([5.0, -8.0, 1.0])  # right and down from the centre
    at = torch.arange(side) - (side - 1) / 2
    blob = torch.exp(-((at - place[0]).square() + (at[:, None] - place[1]).square()) / 8)
    found = augment(blob.expand(n, 1, -1, -1), 0, strength, draws)[:, 0]
    goal = sent @ place
    inside = (goal[:, :2].abs() < side / 2 - 12).all(1)
    assert inside.sum() > n / 2
    near = ((at - goal[:, None, None, 0]).square() + (at[:, None] - goal[:, None, None, 1]).square()) < 100
    weight = found * near
    mean = torch.stack([(weight * at).sum((1, 2)), (weight * at[:, None]).sum((1, 2))], 1)
    mean = mean / weight.sum((1, 2))[:, None]
    assert (mean - goal[:, :2])[inside].abs().max() < 0.3


def test_what_alternates_does_not_alias_when_shrunk() -> None:
    """Stripes of a pixel at half the size would be plain black or white, sampled alone."""
    stripes = (torch.arange(33) % 2 * 2.0 - 1).expand(3, 1, 33, 33)
    stripes = torch.stack([stripes[0], stripes[1].mT, stripes[2]])
    half = -1 / 0.2
    found = augment(stripes, 0, ALWAYS, made({"scale": half}, {"scale": half}, {"stretch": 1 / 0.2}))
    assert found[:2, :, 10:23, 10:23].abs().max() < 1e-5
    assert found[2].abs().max() > 0.9  # wider, not smaller, along the stripes' own axis
    # No more smoothing than that: enlarging keeps every pixel's value.
    large = augment(stripes[:1], 0, ALWAYS, made({"scale": 1 / 0.2}))
    assert torch.allclose(large[..., ::2], stripes[:1, :, :, 8:25], atol=1e-5)


def test_mirror_images_are_made_only_where_wanted() -> None:
    x, draws = pictures_of(200, 4, 8, 8), draws_of(200)
    only = draws.clone()
    only[:, [k for k, name in enumerate(TRANSFORMS) if name != "mirror"]] = math.inf
    assert torch.equal(augment(x, 3, ALWAYS, only, mirror=False), x)
    assert not torch.equal(augment(x, 3, ALWAYS, only), x)
    never = draws.clone()
    never[:, TRANSFORMS.index("mirror")] = math.inf
    assert torch.equal(augment(x, 3, ALWAYS, draws, mirror=False), augment(x, 3, ALWAYS, never))
    # And no other transform mirrors.
    assert (torch.linalg.det(geometry(decided(never, ALWAYS), 8, 8)) > 0).all()


# ---- colours -----------------------------------------------------------------------------------------------


def test_hue_and_saturation_keep_the_luma() -> None:
    x = pictures_of(30, 3, 8, 8)
    numbers: list[dict[str, float]] = [{"hue": normal(k / 11)} for k in range(-10, 11) if k]
    numbers += [{"saturation": k - 4.5} for k in range(10)]
    found = augment(x, 3, ALWAYS, made(*numbers))
    assert torch.allclose(found.mean(1), x.mean(1), atol=1e-5)
    assert ((found - x).abs().amax((1, 2, 3)) > 0.1).all()
    length = (x - x.mean(1, keepdim=True)).norm(dim=1)
    turned = (found - found.mean(1, keepdim=True)).norm(dim=1)
    assert torch.allclose(turned[:20], length[:20], atol=1e-5)
    assert torch.allclose(
        turned[20:], length[20:] * 2.0 ** (torch.arange(10) - 4.5)[:, None, None], rtol=1e-4
    )
    third = augment(x[:1], 3, ALWAYS, made({"hue": normal(2 / 3)}))  # a third of a turn
    assert torch.allclose(third, x[:1].roll(1, 1), atol=1e-5)


def test_colouring_is_the_product_of_the_papers_matrices() -> None:
    n = 30
    numbers = decided(draws_of(n), torch.tensor(0.7))
    found = colouring(numbers).double()
    axis = torch.tensor([1.0, 1.0, 1.0, 0.0]).double() / math.sqrt(3)
    along = torch.outer(axis, axis)
    eye = torch.eye(4, dtype=torch.float64)
    cross = torch.zeros(4, 4).double()
    cross[:3, :3] = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    for k in range(n):
        v = {name: value[k].double() for name, value in numbers.items()}
        whole = eye.clone()
        whole[:3, 3] = 0.2 * v["brightness"]
        contrast = 2 ** (0.5 * v["contrast"])
        whole = torch.diag(torch.stack([contrast, contrast, contrast, eye[0, 0]])) @ whole
        if v["inverted"] > 0:
            whole = (eye - 2 * along) @ whole
        whole = torch.matrix_exp(math.pi * (2 * torch.special.ndtr(v["hue"]) - 1) * cross) @ whole
        last = torch.diag(eye[3])
        whole = (along + last + (eye - along - last) * 2 ** v["saturation"]) @ whole
        assert torch.allclose(found[k], whole, atol=1e-4)


# ---- gradients, devices, refusals --------------------------------------------------------------------------


def test_gradients_reach_pictures_and_not_the_strength() -> None:
    x = pictures_of(6, 4, 5, 5).double().requires_grad_()
    strength, draws = torch.tensor(0.7, requires_grad=True), draws_of(6).requires_grad_()
    found = augment(x, 3, strength, draws)
    weight = torch.randn_like(found)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0.1).all()
    # Linear but for the light added: the gradient along a step is exactly what the step changes.
    step = torch.randn_like(x)
    change = augment((x + step).detach(), 3, strength, draws) - found
    assert torch.allclose((change * weight).sum(), (gradient * step).sum())
    assert not augment(x.detach(), 3, strength, draws).requires_grad


def test_nothing_waits_for_a_gpu_or_mixes_devices() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 4, 8, 8, device="cuda", dtype=torch.bfloat16)
        draws = torch.empty(2, DRAWS, device="cuda")
        found = augment(x, 3, torch.empty((), device="cuda"), draws)
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        with pytest.raises(DataDependentOutputException):  # so this would have been seen
            found.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same() -> None:
    x, draws, strength = pictures_of(16, 4, 32, 32), draws_of(16), torch.tensor(0.7)
    found = augment(x.cuda(), 3, strength.cuda(), draws.cuda()).cpu()
    assert torch.allclose(found, augment(x, 3, strength, draws), atol=1e-3)


def test_wrong_numbers_are_refused() -> None:
    x, draws = pictures_of(2, 4, 8, 8), draws_of(2)
    with pytest.raises(ValueError, match="colours must be"):
        augment(x, 1, ALWAYS, draws)
    with pytest.raises(ValueError, match="colours must be"):
        augment(x[:, :2], 3, ALWAYS, draws)
    with pytest.raises(ValueError, match="draws must be"):
        augment(x, 3, ALWAYS, draws[:, 1:])
    with pytest.raises(ValueError, match="draws must be"):
        augment(x, 3, ALWAYS, draws[:1])
