"""What holds for every model family: it builds, learns, is stored and comes back.

A new family adds a line to `TINY`; the union of configurations says whether one is missing.
"""

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.images import CODE_SIZE
from fundusforge.models import (
    FAMILIES,
    PRESETS,
    AnyConfig,
    ModelConfig,
    Pix2PixConfig,
    UNetConfig,
    pggan,
    styles,
)
from fundusforge.models.classifier import ClassifierConfig
from fundusforge.models.drgan import DRGANConfig
from fundusforge.models.edsr import EDSRConfig
from fundusforge.models.encoder import Encoder, EncoderConfig
from fundusforge.models.flow import FlowConfig
from fundusforge.models.pggan import PGGANConfig
from fundusforge.models.recipe import Recipe, check_masks
from fundusforge.models.selfsupervised import SelfSupervisedConfig
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.vae import VAEConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODER = "mobilenetv3_small_050"
TINY = {
    "unet": UNetConfig(widths=(4, 8, 8), crop=32, diameter=64),
    "unet-local": UNetConfig(widths=(4, 8), crop=32, diameter=64, inputs="local", masks=("vessels", "disc")),
    "unet-grey": UNetConfig(widths=(4, 8), crop=32, diameter=64, inputs="grey", loss="focal_dice"),
    "unet-smp": UNetConfig(architecture="unet", encoder=ENCODER, crop=32, diameter=64, loss="bce"),
    "fpn": UNetConfig(architecture="fpn", encoder=ENCODER, crop=32, diameter=64, masks=("disc", "cup")),
    "pix2pix": Pix2PixConfig(
        size=64, widths=(4, 8, 8, 8), discriminator_widths=(4, 8, 8), cameras=("a", "b")
    ),
    "pix2pix-plain": Pix2PixConfig(
        masks=("vessels",), size=64, widths=(4, 8, 8), residual_blocks=0, code=False, noise=False,
        discriminator_widths=(4, 8, 8), scales=1, spectral_norm=False, feature_matching=0.0,
    ),
    "pix2pix-hinge": Pix2PixConfig(
        size=64, widths=(4, 8, 8), discriminator_widths=(4, 8, 8), adversarial="hinge"
    ),
    "pix2pix-logistic": Pix2PixConfig(
        size=64, widths=(4, 8, 8), discriminator_widths=(4, 8, 8), adversarial="logistic", scales=3
    ),
    "drgan": DRGANConfig(
        masks=("vessels", "hard_exudates"), size=64, width=4, blocks=1, vector=6, directions=3, steering=1.0
    ),
    "drgan-plain": DRGANConfig(
        masks=("vessels", "disc"), size=64, width=4, blocks=0, agm=False, attention=False, classification=0.0
    ),
    "flow": FlowConfig(
        masks=("vessels", "hard_exudates"), size=64, patch=8, widths=(8, 16), blocks=1, style=8, steps=2
    ),
    "flow-plain": FlowConfig(
        masks=("vessels",), size=64, patch=8, widths=(8,), style=8, grades=False, regions=0.0, steps=2
    ),
    "pggan": PGGANConfig(widths=(8, 8, 8, 8), latent=8),
    "pggan-mri": PGGANConfig(widths=(8, 8, 8), latent=8, masks=("oedema",), contrasts=("t1", "t2")),
    "stylegan": StyleGANConfig(widths=(8, 8, 8), latent=8, style=6, classes=("grade", "laser_marks")),
    "stylegan-first": StyleGANConfig(generation=1, widths=(8, 8, 8), latent=8, style=6, penalty_every=1),
    "stylegan-mri": StyleGANConfig(
        widths=(8, 8, 8), latent=8, style=6, masks=("oedema",), contrasts=("t1", "t2"), paths=0.0
    ),
    "encoder-style": EncoderConfig(drawn=StyleGANConfig(widths=(8, 8, 8), latent=8, style=6), side=16),
    "encoder": EncoderConfig(drawn=PGGANConfig(widths=(8, 8, 8), latent=8), side=16),
    "vae": VAEConfig(
        size=32, patch=2, widths=(8, 8), latent=6, warmup=8, discriminator_widths=(8, 8)
    ),
    "edsr": EDSRConfig(blocks=2, width=8, crop=32, start="random"),
    "edsr-bicubic": EDSRConfig(
        blocks=2, width=8, crop=32, residual_scale=0.1, kernel="bicubic", start="random"
    ),
    "selfsupervised": SelfSupervisedConfig(size=64, crop=32, widths=(4, 8, 8), levels=2, features=6),
    "classifier": ClassifierConfig(size=64, widths=(4, 8, 8), pool="all"),
    "classifier-focal": ClassifierConfig(size=64, backbone=ENCODER, loss="focal"),
    "classifier-ordinal": ClassifierConfig(size=64, widths=(4, 8, 8), loss="ordinal"),
    "classifier-findings": ClassifierConfig(
        size=64, widths=(4, 8, 8), targets=("laser_marks", "epiretinal_membrane")
    ),
}  # fmt: skip
every = pytest.mark.parametrize("config", TINY.values(), ids=TINY.keys())


def build(config: AnyConfig, seed: int = 0) -> Recipe:
    torch.manual_seed(seed)
    recipe = config.build()
    if isinstance(recipe, Encoder):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            family = pggan if isinstance(config.drawn, PGGANConfig) else styles
            recipe.generator = family.Generator(config.drawn)
    return recipe


def batch_for(recipe: Recipe, n: int = 2) -> dict[str, Tensor]:
    """A batch of noise as `View` describes it."""
    generator = torch.Generator().manual_seed(1)
    view = recipe.view
    side = view.crop or view.size or 16
    field = torch.ones(n, 1, side, side)
    field[..., :3] = 0
    masks = (torch.rand(n, len(view.masks), side, side, generator=generator) > 0.8).float() * field
    channels = len(view.contrasts) or 3
    return {
        "image": (torch.rand(n, channels, side, side, generator=generator) * 2 - 1) * field + (field - 1),
        "masks": masks,
        "masks_known": torch.ones(n, len(view.masks)),
        "field_of_view": field,
        "grade": torch.arange(n) % 5,
        "index": torch.arange(n),
        "labels": torch.randint(-1, 2, (n, len(view.labels)), generator=generator).float(),
        "draws": torch.randn(n, view.draws, generator=generator),
    } | ({"code": torch.rand(n, CODE_SIZE, generator=generator)} if view.code else {})


def step(
    recipe: Recipe, batch: dict[str, Tensor], reached: dict[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Take one step of every phase as the training loop does; return the losses, note the gradients."""
    found = {}
    for phase in recipe.phases:
        for name, net in recipe.nets.items():
            net.train().requires_grad_(name in phase.nets)
        phase.optimizer.zero_grad(set_to_none=True)
        found[phase.name] = recipe.losses(phase.name, batch, 0)
        torch.stack(list(found[phase.name].values())).sum().backward()
        phase.optimizer.step()
        if reached is not None:
            reached |= {n: p.grad for n, p in recipe.nets.named_parameters() if p.grad is not None}
    return found


def in_play(config: AnyConfig, name: str) -> bool:
    """Whether a parameter works at the last stage: a grown network reads and paints at its last level."""
    if config.kind == "drgan" and name.startswith("generator.coarse.paint."):
        return False  # paints while it is alone
    grown = re.search(r"\.(?:read|paint)\.(\d+)\.", name)
    if grown:
        return int(grown[1]) == len(getattr(config, "drawn", config).widths) - 1
    return name != "balance.length" or bool(config.paths and config.generation == 2)


def test_every_family_is_tried() -> None:
    assert {config.kind for config in TINY.values()} == set(FAMILIES) == set(PRESETS)
    assert {type(config) for config in TINY.values()} == set(get_args(get_args(ModelConfig)[0]))


@every
def test_configuration_comes_back(config: AnyConfig) -> None:
    assert from_json(ModelConfig, to_json(config, kind=ModelConfig)) == config
    with pytest.raises(ConfigError, match="lernrate"):
        from_json(ModelConfig, to_json(config)[:-2] + ', "lernrate": 1}')


@every
def test_every_phase_learns_with_finite_gradients(config: AnyConfig) -> None:
    recipe = build(config)
    batch = batch_for(recipe)
    before = {name: value.clone() for name, value in recipe.nets.state_dict().items()}
    reached: dict[str, Tensor] = {}
    losses = step(recipe, batch, reached)
    assert set(losses) == {phase.name for phase in recipe.phases}
    for found in losses.values():
        for name, loss in found.items():
            assert loss.shape == (), name
            assert loss.isfinite(), name
    parameters = [name for name, _ in recipe.nets.named_parameters() if in_play(config, name)]
    for name in parameters:
        assert name in reached, f"no gradient reaches {name}"
        assert reached[name].isfinite().all(), name
    after = recipe.nets.state_dict()
    moved = sum(bool((after[name] != before[name]).any()) for name in parameters)
    assert moved > 0.9 * len(parameters)


@every
def test_the_loss_of_a_fixed_batch_falls(config: AnyConfig) -> None:
    recipe = build(replace(config, lr=2e-3))
    key = {
        "unet": "cross_entropy", "pix2pix": "l1", "selfsupervised": "damage", "classifier": "classification",
        "pggan": "wasserstein", "encoder": "squared", "stylegan": "drawn", "edsr": "l1",
        "vae": "focal", "drgan": "perceptual", "flow": "velocity",
    }[config.kind]  # fmt: skip
    history = []
    for _ in range(12):
        torch.manual_seed(5)
        found = step(recipe, batch_for(recipe))
        history.append(next(iter(found.values()))[key].item())
    assert history[-1] < history[0]


@every
def test_build_is_a_function_of_the_seed(config: AnyConfig) -> None:
    one, two, other = (build(config, seed).nets.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@every
def test_networks_are_stored_and_come_back(config: AnyConfig, tmp_path) -> None:
    """Through safetensors, which refuses tied weights."""
    from safetensors.torch import load_file, save_file

    recipe, copy = build(config, 1), build(config, 2)
    batch = batch_for(recipe)
    step(recipe, batch)
    save_file({k: v.contiguous() for k, v in recipe.nets.state_dict().items()}, tmp_path / "a.safetensors")
    copy.nets.load_state_dict(load_file(tmp_path / "a.safetensors"))
    pictures = []
    for each in (recipe, copy):
        torch.manual_seed(0)
        with torch.no_grad():
            pictures.append(each.preview(each.nets.eval(), batch))
    assert torch.equal(*pictures)


@every
def test_preview_is_pictures(config: AnyConfig) -> None:
    recipe = build(config)
    batch = batch_for(recipe, 3)
    with torch.no_grad():
        found = recipe.preview(recipe.nets.eval(), batch)
    n, channels, height, width = found.shape
    assert (n, channels, width) == (3, 3, batch["image"].shape[3])
    assert height == 2 * batch["image"].shape[2]
    assert found.min() >= -1
    assert found.max() <= 1


@every
def test_recipe_keeps_the_contract(config: AnyConfig) -> None:
    recipe = build(config)
    assert isinstance(recipe.nets, nn.ModuleDict)
    assert set(recipe.ema) <= set(recipe.nets)
    assert recipe.ema
    assert {name for phase in recipe.phases for name in phase.nets} == set(recipe.nets)
    for phase in recipe.phases:
        held = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for name in phase.nets for p in recipe.nets[name].parameters()}
    assert recipe.view.masks == getattr(config, "masks", ())


@every
def test_half_precision_stays_finite(config: AnyConfig) -> None:
    """As under the training loop's bf16 autocast."""
    recipe = build(config)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            recipe.losses(phase.name, batch, 0) for batch in [batch_for(recipe)] for phase in recipe.phases
        ]
    assert all(loss.isfinite() for found in losses for loss in found.values())


PRESET = [(family, name) for family, presets in PRESETS.items() for name in presets]


@pytest.mark.parametrize(("family", "name"), PRESET, ids=lambda value: value)
def test_every_preset_builds(family: str, name: str) -> None:
    words, config = PRESETS[family][name]
    assert words
    assert config.kind == family
    assert from_json(ModelConfig, to_json(config, kind=ModelConfig)) == config
    with torch.device("meta"):  # shapes without memory
        recipe = config.build()
    assert sum(p.numel() for p in recipe.nets.parameters()) > 10_000


def test_what_weights_ship_stays_small() -> None:
    def megabytes(net: nn.Module) -> float:
        return sum(t.numel() * 2 for t in net.state_dict().values()) / 1e6  # half precision

    with torch.device("meta"):
        generator = PRESETS["pix2pix"]["default"][1].build().nets["generator"]
        segmenter = PRESETS["unet"]["embedded"][1].build().nets["net"]
        encoder = PRESETS["selfsupervised"]["retina"][1].build().nets["encoder"]
    assert megabytes(generator) <= 16
    assert megabytes(encoder) <= 6
    assert megabytes(segmenter) <= 3


@pytest.mark.parametrize("family", [UNetConfig, Pix2PixConfig])
@pytest.mark.parametrize("masks", [(), ("vesels",), ("vessels", "vessels")])
def test_masks_that_no_record_has_are_refused(family: type, masks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="mask"):
        family(masks=masks)
    with pytest.raises(ValueError, match="mask"):
        check_masks(masks)
