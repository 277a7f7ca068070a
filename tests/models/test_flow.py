"""Flow matching: what the network is told, what it learns, and where its path leads."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fundusforge.models.flow import Flow, FlowConfig, Generator, waves
from fundusforge.models.losses import regional_mean

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = FlowConfig(
    masks=("vessels", "hard_exudates"), size=64, patch=8, widths=(16, 16), blocks=1, style=16, unknown=0.0
)


def build(config: FlowConfig = TINY) -> Flow:
    torch.manual_seed(0)
    return config.build()


def batch_of(grades: list[int], side: int = 64) -> dict[str, Tensor]:
    n, random = len(grades), torch.Generator().manual_seed(1)
    field = torch.ones(n, 1, side, side)
    field[..., :8] = 0
    masks = (torch.rand(n, 2, side, side, generator=random) > 0.8).float() * field
    image = (torch.rand(n, 3, side, side, generator=random) * 2 - 1) * field + (field - 1)
    return {
        "image": image, "masks": masks, "masks_known": torch.ones(n, 2), "field_of_view": field,
        "grade": torch.tensor(grades),
    }  # fmt: skip


def layers(batch: dict[str, Tensor]) -> Tensor:
    return torch.cat([batch["masks"], batch["field_of_view"]], 1)


def following(foretold: Callable[[Tensor, float], Tensor], steps: int, noise: Tensor) -> Tensor:
    """Where a network leads that foretells photographs so."""

    class Known(Generator):
        def forward(self, noisy: Tensor, time: Tensor, masks: Tensor, severity: Tensor) -> Tensor:
            return foretold(noisy, float(time[0]))

    masks = torch.ones(len(noise), 3, *noise.shape[2:])
    return Known(TINY).drawn(masks, torch.zeros(len(noise)), noise, steps=steps)


def test_a_path_to_one_photograph_ends_there() -> None:
    torch.manual_seed(0)
    noise, photograph = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 16, 16) * 2 - 1
    for steps in (1, 2, 7):
        torch.testing.assert_close(following(lambda *_: photograph, steps, noise), photograph)


def test_a_gaussian_is_drawn_with_its_mean_and_deviation() -> None:
    """Of normal pixels the mean photograph behind the noise is known, and so is where the path ends."""
    mean, deviation = 0.1, 0.2

    def foretold(noisy: Tensor, time: float) -> Tensor:
        variance = time**2 * deviation**2 + (1 - time) ** 2
        return mean + time * deviation**2 / variance * (noisy - time * mean)

    torch.manual_seed(0)
    noise = torch.randn(1, 3, 64, 64).clamp(-3, 3)
    wanted = mean + deviation * noise
    errors = [(following(foretold, steps, noise) - wanted).abs().max().item() for steps in (8, 32, 128)]
    assert errors[0] < 0.2 and errors[2] < 0.01
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_nothing_is_painted_outside_the_field_of_view() -> None:
    batch, net = batch_of([0, 4]), Generator(TINY)
    found = net.drawn(layers(batch), torch.tensor([0.0, 4.0]), torch.randn(2, 3, 64, 64), steps=2)
    assert found.shape == (2, 3, 64, 64) and found.abs().max() <= 1
    assert (found[..., :8] == -1).all() and found[..., 8:].std() > 0.01


def test_severity_between_grades_lies_between_them() -> None:
    net = Generator(TINY)
    told = net._graded(torch.tensor([1.0, 1.25, 4.0, float("nan")]))
    torch.testing.assert_close(told[0], net.severity[1])
    torch.testing.assert_close(told[1], 0.75 * net.severity[1] + 0.25 * net.severity[2])
    torch.testing.assert_close(told[2], net.severity[4])
    torch.testing.assert_close(told[3], net.severity[5])


def test_guidance_goes_beyond_what_a_grade_adds() -> None:
    batch, noise = batch_of([2, 2]), torch.randn(2, 3, 64, 64)
    net, masks = build().nets["generator"].eval(), layers(batch)
    assert isinstance(net, Generator)
    asked, none = torch.tensor([3.0, torch.nan]), torch.full((2,), torch.nan)
    with torch.no_grad():  # one step of Euler's method leads to what is foretold at its beginning
        with_grade, without = (net(noise, torch.zeros(2), masks, each) for each in (asked, none))
    found = [net.drawn(masks, asked, noise, guidance=guidance, steps=1) for guidance in (0.0, 1.0, 3.0)]
    wanted = [without, with_grade, without + 3 * (with_grade - without)]
    assert not torch.allclose(with_grade[0], without[0], atol=1e-3)
    for one, other in zip(found, wanted, strict=True):
        inside = batch["field_of_view"].expand_as(one) > 0
        assert torch.allclose(one[inside], other.clamp(-1, 1)[inside], atol=1e-5)
    assert torch.equal(found[0][1], found[2][1])  # nothing was asked for


def test_what_was_not_learnt_cannot_be_asked_for() -> None:
    recipe = build()
    net = recipe.nets["generator"]
    recipe.losses("generator", batch_of([0, 1, -1]), 0)
    assert net.known.tolist() == [True, True, False, False, False]
    net.check(0.5)
    for severity, said in ((1.5, "never saw grade 2"), (2, "grade 2"), (-0.1, "between"), (4.5, "between")):
        with pytest.raises(ValueError, match=said):
            net.check(severity)
    with pytest.raises(ValueError, match="without grades"):
        build(replace(TINY, grades=False)).nets["generator"].check(1.0)


def test_an_unknown_grade_teaches_the_row_of_none() -> None:
    for config, grades, rows in (
        (TINY, [2, 2], [2]), (TINY, [-1, -1], [5]), (replace(TINY, unknown=0.999), [2, 2], [5]),
    ):  # fmt: skip
        recipe = build(config)
        net = recipe.nets["generator"]
        torch.nn.init.normal_(net.last.split.weight)
        torch.stack(list(recipe.losses("generator", batch_of(grades), 0).values())).sum().backward()
        assert net.severity.grad.abs().sum(1).nonzero().flatten().tolist() == rows


def test_the_error_is_shared_between_masks_and_ground() -> None:
    batch = batch_of([0, 1])
    found = {share: build(replace(TINY, regions=share)) for share in (0.0, 0.25, 1.0)}
    losses = {}
    for share, recipe in found.items():
        torch.manual_seed(4)
        losses[share] = recipe.losses("generator", batch, 0)
    assert set(losses[0.0]) == {"velocity"}
    torch.testing.assert_close(losses[0.25]["velocity"], 0.75 * losses[0.0]["velocity"])
    torch.testing.assert_close(losses[0.25]["regions"], 0.25 * losses[1.0]["regions"])
    values, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    values[0, :, 0, 0] = 6.0
    masks[0, 0, 0, 0], masks[:, 1] = 1, 1
    assert regional_mean(values, masks).item() == pytest.approx((6 + 6 / 32) / 2), (
        "the empty mask is left out"
    )
    assert regional_mean(values, masks[:, 2:]).item() == 0


def test_masks_and_grade_decide_the_picture() -> None:
    """Photographs that are red or blue by grade, bright on their vessels, are soon painted so."""
    torch.manual_seed(0)
    recipe = replace(TINY, patch=16, widths=(32,), lr=1e-3).build()
    net, (phase,) = recipe.nets["generator"], recipe.phases

    def example(n: int) -> dict[str, Tensor]:
        batch = batch_of([0, 4] * (n // 2))
        upper = torch.rand(n, 1, 1) > 0.5
        rows = (torch.arange(64) < 32)[None, :, None] == upper
        vessels = rows * batch["field_of_view"][:, 0]
        batch["masks"] = torch.stack([vessels, torch.zeros_like(vessels)], 1)
        image = torch.full((n, 3, 64, 64), -0.8)
        image[0::2, 0], image[1::2, 2] = 0.6, 0.6
        image[:, 1:2] += 1.2 * batch["masks"][:, :1]
        return batch | {"image": image * batch["field_of_view"] + batch["field_of_view"] - 1}

    for _ in range(200):
        phase.optimizer.zero_grad()
        torch.stack(list(recipe.losses("generator", example(8), 0).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        phase.optimizer.step()
    batch = example(4)
    found, turned = (
        net.eval().drawn(layers(batch), severity, torch.randn(4, 3, 64, 64), steps=4)
        for severity in (batch["grade"].float(), 4 - batch["grade"].float())
    )
    assert (found - batch["image"]).abs().mean() < 0.3  # 0.58 with the mean of both grades
    inside = turned[..., 8:].mean((2, 3))
    assert (inside[0::2, 2] > inside[0::2, 0] + 0.5).all() and (inside[1::2, 0] > inside[1::2, 2] + 0.5).all()


def test_times_are_told_apart() -> None:
    told = waves(torch.tensor([0.0, 0.001, 0.5, 1.0]))
    assert told.shape == (4, 64) and torch.cdist(told, told).add(torch.eye(4) * 9).min() > 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"masks": ("vesels",)}, "unknown mask"), ({"widths": (12,)}, "multiples of 8"),
        ({"widths": ()}, "multiples of 8"), ({"steps": 0}, "at least 1"), ({"size": 72}, "multiple of 16"),
        ({"unknown": 1.0}, "shares"), ({"regions": 1.5}, "shares"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TINY, **changes)


def test_other_masks_or_sides_are_refused() -> None:
    net = Generator(TINY)
    for shape in ((1, 2, 64, 64), (1, 3, 72, 64), (1, 3, 16, 16)):
        with pytest.raises(ValueError, match="divisible by 16"):
            net(torch.zeros(1, 3, *shape[2:]), torch.zeros(1), torch.zeros(shape), torch.zeros(1))
