"""DR-GAN: parts join by images seen, severity acts, masks are obeyed, and each part can be left out."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fundusforge.models import drgan
from fundusforge.models.drgan import DRGAN, UNKNOWN, DRGANConfig, Generator, conditions
from fundusforge.models.grading import GradingSpaces
from fundusforge.models.losses import feature_distance, regional_error
from fundusforge.models.perceptual import RetinaPerceptual

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = DRGANConfig(
    masks=("vessels", "disc", "hard_exudates"), size=64, width=4, blocks=1, vector=6, directions=3,
    perceptual=0.0,
)  # fmt: skip


def layout(n: int = 1, side: int = 64) -> Tensor:
    """Masks (n, 4, side, side): vessels, disc, hard exudates, field of view."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    field = (rows**2 + columns**2 < 0.9).float()
    vessels = ((rows - 0.4 * torch.sin(4 * columns)).abs() < 0.06).float() * field
    disc = ((rows**2 + (columns - 0.5) ** 2) < 0.03).float() * field
    spots = (((rows + 0.4) ** 2 + (columns + 0.3) ** 2) < 0.02).float() * field
    return torch.stack([vessels, disc, spots, field])[None].repeat(n, 1, 1, 1)


def batch_of(masks: Tensor, grades: list[int]) -> dict[str, Tensor]:
    field = masks[:, -1:]
    bright = torch.tensor(grades).float().view(-1, 1, 1, 1) / 4
    return {
        "image": (bright - 0.5 + 0.3 * masks[:, 2:3]).expand(-1, 3, -1, -1) * field + (field - 1),
        "masks": masks[:, :-1],
        "masks_known": torch.ones(len(masks), masks.shape[1] - 1),
        "field_of_view": field,
        "grade": torch.tensor(grades),
    }


def build(config: DRGANConfig = TINY, seed: int = 0) -> DRGAN:
    torch.manual_seed(seed)
    return config.build()


def step(recipe: DRGAN, batch: dict[str, Tensor], images: int = 0) -> dict[str, dict[str, Tensor]]:
    found = {}
    for phase in recipe.phases:
        for name, net in recipe.nets.items():
            net.train().requires_grad_(name in phase.nets)
        phase.optimizer.zero_grad(set_to_none=True)
        found[phase.name] = recipe.losses(phase.name, batch, images)
        torch.stack(list(found[phase.name].values())).sum().backward()
        phase.optimizer.step()
    return found


# ---- shapes and the paper's sizes --------------------------------------------------------------------------


def test_the_published_network_has_the_published_sizes() -> None:
    """Attention of d 8, 16, 32 at 80x80x512, 160x160x256, 320x320x128, and seven residual blocks."""
    with torch.device("meta"):
        net = Generator(DRGANConfig()).coarse
        skips = net.encoded(torch.zeros(1, 9, 640, 640))
    assert [tuple(x.shape[1:]) for x in skips] == [
        (64, 640, 640), (128, 320, 320), (256, 160, 160), (512, 80, 80)
    ]  # fmt: skip
    compared = [block.attention.spatial.ask.out_channels for block in net.synthesis]
    assert compared == [512 // 8, 256 // 16, 128 // 32]
    assert [block.manipulate.volume for block in net.synthesis] == [128, 64, 32]
    assert len(net.blocks) == 7


@torch.no_grad()
def test_black_outside_and_of_any_size() -> None:
    net = build().nets["generator"].eval()
    masks = layout(2)
    found = net(masks, torch.randn(2, 6))
    assert found.shape == (2, 3, 64, 64)
    assert (found[masks[:, -1:].expand_as(found) == 0] == -1).all()
    assert (found[masks[:, -1:].expand_as(found) == 1] > -1).all()
    assert net(layout(1, 128)[:, :, :96]).shape == (1, 3, 96, 128)


def test_noise_volumes_fit_the_blocks() -> None:
    net = build().nets["generator"].eval()
    shapes = net.volumes(64, 96)
    assert shapes == [(8, 4, 6), (4, 8, 12), (2, 16, 24)]
    noise = [torch.randn(1, *shape) for shape in shapes]
    masks = layout(1, 96)[:, :, 16:80]
    with torch.no_grad():
        one, two = net(masks, torch.zeros(1, 6), noise), net(masks, torch.zeros(1, 6))
    assert one.shape == (1, 3, 64, 96)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 4, 72, 64), (1, 4, 48, 64)])
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected masks \(N, 4, H, W\).*vessels, disc, hard_exudates"):
        build().nets["generator"](torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 250}, "multiple of 16"),
        ({"size": 48}, "between 64"),
        ({"width": 3}, "even"),
        ({"masks": ("hard_exudates",), "lesions": False}, "nothing is left"),
        ({"masks": ("vesels",)}, "unknown mask"),
        ({"perceptual": -1.0}, "negative"),
        ({"steering": 1.0, "classification": 0.0}, "steering"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TINY, **changes)


# ---- the two parts -----------------------------------------------------------------------------------------


def test_the_second_part_joins_after_half_of_the_images() -> None:
    config = replace(TINY, budget=1000)
    assert [config.whole(images) for images in (0, 499, 500, 1000)] == [False, False, True, True]
    assert TINY.whole(0)
    batch = batch_of(layout(2), [0, 4])
    recipe = build(config)
    before = {name: value.clone() for name, value in recipe.nets.state_dict().items()}

    def moved(part: str) -> bool:
        after = recipe.nets.state_dict()
        names = [name for name, _ in recipe.nets.named_parameters() if name.startswith(part)]
        return any(not torch.equal(after[name], before[name]) for name in names)

    step(recipe, dict(batch), 0)
    assert moved("generator.coarse") and moved("discriminator.scales.1")
    assert not moved("generator.fine") and not moved("discriminator.scales.0")
    net = recipe.nets["generator"]
    assert not net.whole
    with torch.no_grad():  # what half the side gives, enlarged
        found = net.eval()(layout(1), torch.zeros(1, 6))
    assert torch.equal(found[0, :, 31, 32], found[0, :, 30, 33])
    step(recipe, dict(batch), 500)
    assert net.whole and moved("generator.fine") and moved("discriminator.scales.0")


def test_half_the_side_is_what_the_discriminators_see_first() -> None:
    recipe, batch = build(replace(TINY, budget=1000)), batch_of(layout(2), [0, 4])
    recipe.losses("generator", batch, 0)
    assert batch["fake"].shape == (2, 3, 32, 32)
    recipe.losses("generator", batch, 600)
    assert batch["fake"].shape == (2, 3, 64, 64)


# ---- severity ----------------------------------------------------------------------------------------------


def fitted(spread: float = 0.1) -> GradingSpaces:
    spaces = GradingSpaces(6, 3)
    factor = torch.eye(6)[:2] * spread
    spaces.fit({grade: (torch.full((6,), float(grade)), (grade + 1) * factor, 0.01) for grade in range(5)})
    return spaces


def test_vectors_are_drawn_from_the_gaussian_of_their_grade() -> None:
    spaces = fitted(0.5)
    torch.manual_seed(0)
    n = 20000
    for severity in (0.0, 3.0, 2.25):
        drawn = spaces(torch.full((n,), severity), torch.randn(n, spaces.draws))
        drawn = drawn * spaces.spread + spaces.centre
        below = int(severity)
        share = severity - below

        def covariance(grade: int) -> Tensor:
            factor = torch.eye(6)[:2] * 0.5 * (grade + 1)
            return factor.T @ factor + 0.01 * torch.eye(6)

        wanted = (1 - share) * covariance(below) + share * covariance(min(below + 1, 4))
        torch.testing.assert_close(drawn.mean(0), torch.full((6,), severity), atol=0.06, rtol=0)
        torch.testing.assert_close(torch.cov(drawn.T), wanted, atol=0.05, rtol=0.05)


def test_severity_moves_the_vector_steadily() -> None:
    spaces = fitted()
    severities = torch.linspace(0, 4, 33)
    means = spaces(severities, torch.zeros(33, spaces.draws))
    assert (means.diff(dim=0) > 0).all()
    torch.testing.assert_close(means.diff(dim=0), means.diff(dim=0)[:1].expand(32, -1), atol=1e-5, rtol=0)
    same = torch.randn(1, spaces.draws).expand(4001, -1)
    path = spaces(torch.linspace(0, 4, 4001), same)
    assert path.diff(dim=0).abs().max() < 0.2  # no leap at a whole grade


def test_directions_beyond_those_kept_keep_their_variance() -> None:
    spaces = GradingSpaces(6, 2)
    factor = torch.diag(torch.tensor([3.0, 1.0, 2.0, 0.5, 0.1, 0.2]))
    spaces.fit({0: (torch.zeros(6), factor, 0.1)})
    kept = spaces.factors[0].square().sum() + 6 * spaces.around[0]
    torch.testing.assert_close(kept, factor.square().sum() + 0.6)
    torch.testing.assert_close(spaces.factors[0].abs().amax(1), torch.tensor([3.0, 2.0]))


def test_severities_that_have_no_space_are_refused() -> None:
    spaces = fitted()
    for severity in (-0.1, 4.1):
        with pytest.raises(ValueError, match="between 0 and 4"):
            spaces.check(severity)
    spaces.fit({0: (torch.zeros(6), torch.eye(6), 0.1), 2: (torch.ones(6), torch.eye(6), 0.1)})
    spaces.check(2.0)
    for severity in (1.0, 0.5, 2.5):
        with pytest.raises(ValueError, match=r"never saw grade [13]"):
            spaces.check(severity)
    with pytest.raises(ValueError, match=r"means \(6,\)"):
        spaces.fit({0: (torch.zeros(5), torch.eye(5), 0.1)})
    with pytest.raises(ValueError, match="grades 0 to 4"):
        spaces.fit({})


def test_a_grade_learns_to_be_seen() -> None:
    """Toy data: the worse the grade, the brighter the picture, on the same masks."""
    recipe = build(replace(TINY, lr=2e-3, attention=False, feature_matching=10.0))
    recipe.perceptual = lambda fake, real: (fake - real).abs().mean()
    recipe.config = replace(recipe.config, perceptual=10.0)
    recipe.nets["generator"].spaces.load_state_dict(fitted(0.02).state_dict())
    masks = layout(3)
    for _ in range(60):
        step(recipe, batch_of(masks, [0, 2, 4]))
    net = recipe.nets["generator"].train()  # the statistics of these few steps have not settled
    with torch.no_grad():
        vectors = net.spaces(torch.tensor([0.0, 2.0, 4.0]), torch.zeros(3, net.spaces.draws))
        painted = net(masks, vectors)
    inside = masks[:, -1:]
    dark, middle, bright = ((painted * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)) / 3).tolist()
    assert dark + 0.05 < middle < bright - 0.05


def test_the_grade_of_the_masks_steers_where_none_is_given() -> None:
    net = build().nets["generator"].eval()
    masks = layout(2)
    with torch.no_grad():
        net.grade.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 99.0, 0.0]))
        assert net.predicted(masks).tolist() == [3, 3]
        mean = net.spaces(torch.full((2,), 3.0), torch.zeros(2, net.spaces.draws))
        assert torch.equal(net(masks), net(masks, mean))
        net.spaces.known[3] = False
        assert 3 not in net.predicted(masks).tolist()


# ---- masks -------------------------------------------------------------------------------------------------


def test_unknown_masks_are_shown_as_unknown() -> None:
    batch = batch_of(layout(2), [1, 1])
    batch["masks_known"][1, 2] = 0
    found = conditions(batch)
    field = batch["field_of_view"]
    assert torch.equal(found[0], layout()[0])
    assert torch.equal(found[1, 2], UNKNOWN * field[1, 0])
    assert torch.equal(found[1, :2], layout()[0, :2])
    recipe = build()
    assert recipe.view.masks == TINY.masks
    assert recipe.view.needs == ("vessels", "disc")
    losses = step(recipe, batch)
    assert all(loss.isfinite() for found in losses.values() for loss in found.values())


def test_grades_that_are_unknown_teach_none() -> None:
    recipe = build()
    losses = step(recipe, batch_of(layout(2), [-1, -1]))
    assert losses["generator"]["grading"] == 0
    assert losses["discriminator"]["classification"] == 0


@torch.no_grad()
def test_every_mask_changes_the_picture_where_it_is() -> None:
    net = build(replace(TINY, attention=False, agm=False)).nets["generator"].eval()
    masks = layout()
    plain = net(masks)
    for channel in range(3):
        without = masks.clone()
        without[:, channel] = 0
        changed = (net(without) - plain).abs().sum(1) > 1e-6
        assert changed[masks[:, channel] > 0].float().mean() > 0.9


# ---- parts that can be left out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"lesions": False}, ""),
        ({"agm": False}, "grading"),
        ({"attention": False}, ""),
        ({"perceptual": 1.0}, ""),
        ({"classification": 0.0}, "classification"),
        ({"feature_matching": 0.0}, "feature_matching"),
        ({"steering": 1.0}, ""),
    ],
)
def test_every_ablation_trains(changes: dict, gone: str) -> None:
    config = replace(TINY, **changes)
    recipe = build(config)
    masks = layout(2)
    masks = masks if config.lesions else masks[:, [0, 1, 3]]
    losses = step(recipe, batch_of(masks, [0, 3]) if config.lesions else batch_of_structures(masks))
    found = {name for each in losses.values() for name in each}
    assert gone not in found
    assert ("perceptual" in found) is bool(config.perceptual)
    assert ("steering" in found) is bool(config.steering)
    assert all(loss.isfinite() for each in losses.values() for loss in each.values())
    names = [name for name, _ in recipe.nets.named_parameters()]
    assert any("attention" in name for name in names) is config.attention
    assert any("mapping" in name for name in names) is config.agm
    assert any("grades" in name for name in names) is bool(config.classification)
    assert recipe.view.masks == config.conditions


def batch_of_structures(masks: Tensor) -> dict[str, Tensor]:
    whole = batch_of(torch.cat([masks[:, :2], masks[:, :1], masks[:, 2:]], 1), [0, 3])
    return whole | {"masks": masks[:, :2], "masks_known": torch.ones(len(masks), 2)}


def test_a_lesion_of_a_few_pixels_weighs_as_much_as_the_ground() -> None:
    masks = torch.zeros(2, 3, 8, 8)
    masks[:, 0] = 1
    masks[0, 1, 2, 2:4] = torch.tensor([1.0, 0.5])
    real, fake = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    fake[0, :, 2, 2] = 0.6
    found = regional_error(fake.requires_grad_(), real, masks)
    assert found.item() == pytest.approx((0.6 / 128 + 0.6 / 1.5) / 2)
    found.backward()
    assert fake.grad is not None and fake.grad[0, 0, 2, 2] > 20 * fake.grad[0, 0, 5, 5].abs()
    batch = batch_of(layout(2), [0, 2])
    assert "pixels" in step(build(replace(TINY, pixels=2.0)), batch)["generator"]
    assert "pixels" not in step(build(), batch)["generator"]


def test_feature_distance_is_a_root_mean_square() -> None:
    real, fake = (
        [torch.zeros(2, 3, 4, 4), torch.zeros(2, 1)],
        [torch.full((2, 3, 4, 4), 2.0), torch.ones(2, 1)],
    )
    assert feature_distance(real, fake).item() == pytest.approx(1.5, abs=1e-3)


def test_the_embedded_perceptual_network_tells_a_blurred_picture() -> None:
    torch.manual_seed(0)
    near = RetinaPerceptual()
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert near(picture, picture) == 0
    assert near(blurred, picture) > near(picture + 0.01, picture) > 0
    assert not any(p.requires_grad for p in near.net.parameters())
    assert isinstance(drgan.perceptual_of(TINY), RetinaPerceptual)
