"""Extractors: Inception against torch-fidelity, transformers from files, clear words where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as peer
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from fundusforge.cli import judging
from fundusforge.config import ConfigError, to_json
from fundusforge.evaluate.extractors import has_retina, load_extractor, squared
from fundusforge.evaluate.inception import tf1_resize
from fundusforge.models.selfsupervised import SelfSupervisedConfig
from fundusforge.training.checkpoint import CheckpointError, Clock, save_model


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def seeded(net: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep signals alive through all layers, with real batch statistics."""
    generator = torch.Generator().manual_seed(0)
    state = net.state_dict()
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if name.endswith("conv.weight"):
            drawn = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            drawn = torch.rand(value.shape, generator=generator) + 0.5
        else:
            drawn = torch.randn(value.shape, generator=generator) * 0.1
        value.copy_(drawn)
    return state


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """torch-fidelity's Inception with seeded weights; its own constructor would download some."""

    class Seeded(peer.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            super().load_state_dict(seeded(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: {})
        return Seeded("inception", ["2048"])


@pytest.fixture(scope="module")
def weights_file(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file({name: t.contiguous() for name, t in theirs.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("size", [(512, 512), (300, 298), (64, 90), (299, 299), (7, 1000), (1, 1)])
def test_resize_is_tensorflows(size: tuple[int, int]) -> None:
    """Bit for bit what torch-fidelity makes, which is what TensorFlow 1 made."""
    image = noise(*size)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(batch, size=(299, 299), align_corners=False)
    np.testing.assert_array_equal(tf1_resize(image), expected[0].permute(1, 2, 0).numpy())


def test_inception_equals_torch_fidelity(theirs: nn.Module, weights_file: Path) -> None:
    """The vectors, of pictures of two sizes, to 1e-4."""
    extractor = load_extractor("inception", weights=weights_file, device="cpu")
    for size in (64, 400):
        images = [noise(size, size, seed=seed) for seed in range(2)]
        with torch.inference_mode():
            expected = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))[0].numpy()
        found = extractor(images)
        assert found.shape == (2, extractor.dimensions) == expected.shape
        assert expected.std() > 0.1  # the case would notice a dead network
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert "TensorFlow" in extractor.resize
    assert extractor([noise(30, 50), noise(70, 20)]).shape == (2, 2048)


def test_inception_refuses_other_weights(weights_file: Path, theirs: nn.Module, tmp_path: Path) -> None:
    state = {name: t.contiguous() for name, t in theirs.state_dict().items()}
    lacking = {n: t for n, t in state.items() if not n.startswith("Mixed_7c.branch3x3_1")}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(CheckpointError, match=r"lacking.safetensors: not the weights.*branch3x3_1"):
        load_extractor("inception", weights=tmp_path / "lacking.safetensors")
    state["Mixed_6c.branch7x7_2.conv.weight"] = torch.zeros(3, 3, 1, 7)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"odd.safetensors: not the weights"):
        load_extractor("inception", weights=tmp_path / "odd.safetensors")


def test_random_is_seeded_and_sees() -> None:
    images = [noise(40, 60), np.zeros((50, 50, 3), np.uint8)]
    first, same, other = (load_extractor("random", seed=seed, device="cpu") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first(images), same(images))
    assert first.key == same.key != other.key
    assert np.abs(first(images) - other(images)).max() > 0.01
    assert np.abs(first(images)[0] - first(images)[1]).max() > 0.01
    assert first([]).shape == (0, first.dimensions)
    np.testing.assert_allclose(first(images)[1], first(images[1:])[0], atol=1e-5)


def test_pictures_are_padded_not_squashed() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    found = squared(image, 40)
    assert found.shape == (40, 40, 3)
    assert (found[:10] == 0).all() and (found[10:30] == 200).all() and (found[30:] == 0).all()


# ---- transformers ------------------------------------------------------------------------------------------


def store(net: nn.Module, path: Path, **changes) -> Path:
    state = {name: t.clone().contiguous() for name, t in net.state_dict().items()} | changes
    save_file({name: t for name, t in state.items() if t is not None}, path)
    return path


def direct(net: nn.Module, image: np.ndarray) -> np.ndarray:
    """The network's vector of a picture of its own size, by the usual mean and deviation of the channels."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        return net((pixels - mean) / deviation).numpy()


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", num_classes=0, img_size=64).eval()


def test_retfound_resizes_positions(small: nn.Module, tmp_path: Path) -> None:
    """A checkpoint of another picture size, with its decoder and head, fits and sees pictures."""
    path = store(
        small, tmp_path / "mae.safetensors", **{"mask_token": torch.zeros(1, 1, 512)},
        **{"decoder_embed.weight": torch.zeros(4, 4), "head.weight": torch.zeros(5, 384)},
    )  # fmt: skip
    extractor = load_extractor("retfound", weights=path, device="cpu")
    assert (extractor.dimensions, extractor.name[:14]) == (384, "retfound-small")
    found = extractor([noise(90, 90), np.zeros((64, 64, 3), np.uint8)])
    assert np.abs(found[0] - found[1]).max() > 0.01
    whole = store(small, tmp_path / "wrapped.safetensors")
    assert load_extractor("retfound", weights=whole, device="cpu").key == extractor.key


def test_equals_the_network_itself(tmp_path: Path) -> None:
    """`timm:` with a file: the network's own vectors of pictures prepared as its card says."""
    resnet = timm.create_model("resnet18", num_classes=0).eval()
    path = store(resnet, tmp_path / "resnet.safetensors")
    extractor = load_extractor("timm:resnet18", weights=path, device="cpu")
    image = noise(224, 224)
    np.testing.assert_allclose(extractor([image]), direct(resnet, image), atol=1e-4)


def test_dinov2_with_registers(tmp_path: Path) -> None:
    """Under its publishers' names (register_tokens, mask_token, a class position) it is the same."""
    torch.manual_seed(1)
    net = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=224).eval()
    state = net.state_dict()
    for name in (name for name in state if name.endswith("gamma")):
        state[name].fill_(1.0)  # as new, they would silence every layer
    stored = {name: t.clone().contiguous() for name, t in state.items()}
    registers, positions = stored.pop("reg_token"), stored.pop("pos_embed")
    stored |= {
        "register_tokens": registers,
        "mask_token": torch.zeros(1, 384),
        "pos_embed": torch.cat([torch.zeros(1, 1, 384), positions], 1),
    }
    save_file(stored, tmp_path / "dino.safetensors")
    extractor = load_extractor("dinov2", weights=tmp_path / "dino.safetensors", device="cpu")
    image = noise(224, 224)
    found = extractor([image])
    assert found.std() > 0.1
    np.testing.assert_allclose(found, direct(net, image), atol=1e-4)


def test_transformers_are_strict(small: nn.Module, tmp_path: Path) -> None:
    lacking = store(small, tmp_path / "lacking.safetensors", **{"blocks.3.attn.qkv.weight": None})
    with pytest.raises(CheckpointError, match=r"lacking.safetensors.*lacks 1 tensors \(blocks.3.attn.qkv"):
        load_extractor("retfound", weights=lacking)
    strange = store(small, tmp_path / "strange.safetensors", extra=torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"has unknown 1 tensors \(extra\)"):
        load_extractor("retfound", weights=strange)
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a vision transformer of dinov2"):
        load_extractor("dinov2", weights=tmp_path / "foreign.safetensors")


# ---- in the domain, and refusals ---------------------------------------------------------------------------


def test_retina_from_a_run(tmp_path: Path) -> None:
    """Weights of the family are read with their configuration; brighter pictures have other vectors."""
    config = SelfSupervisedConfig(size=64, crop=32, widths=(8, 16), levels=2, features=16)
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(path, config.build().nets, config_json=to_json(config, indent=None), clock=Clock())
    extractor = load_extractor("retina", weights=path, device="cpu")
    found = extractor([noise(100, 80), noise(100, 80) // 2])
    assert found.shape == (2, 16) and extractor.dimensions == 16
    assert "64 px" in extractor.resize and extractor.name.startswith("retina-")
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_embedded_one_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fundus) -> None:
    """The command line takes it where nothing is named, and nothing where there is none."""
    if not has_retina():
        pytest.skip("this installation has no embedded extractor")
    extractor = judging.extractor(None, None, device="cpu")
    assert extractor.name.startswith("retina-")
    eye = fundus(128, seed=1)["image"]
    assert np.abs(extractor([eye]) - extractor([eye[::-1] // 2])).max() > 1e-3
    monkeypatch.setattr("fundusforge.weights.FOLDER", tmp_path)
    assert judging.extractor(None, None) is None


def test_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("inception", "dinov2", "retfound"):
        with pytest.raises(ConfigError, match=f"`{name}` needs a file of weights .--extractor-weights"):
            load_extractor(name)
    with pytest.raises(ConfigError, match="unknown extractor 'resnet50'; known are retina, inception"):
        load_extractor("resnet50")
    with pytest.raises(ConfigError, match="takes no weights"):
        load_extractor("random", weights=tmp_path)
    with pytest.raises(ConfigError, match="timm knows no such model"):
        load_extractor("timm:no_such_model")
    with pytest.raises(CheckpointError, match="expected a .safetensors file; a pickle would run its code"):
        load_extractor("inception", weights=tmp_path / "weights.pth")
    monkeypatch.setattr("fundusforge.weights.FOLDER", tmp_path)
    with pytest.raises(ConfigError, match="no embedded extractor `retina`; name a run"):
        load_extractor("retina")


def test_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that timm would have to download, without a network."""

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        ConfigError, match="could not be had .ConnectionError: no network.*--extractor-weights"
    ):
        load_extractor("timm:resnet18")


def test_commands_need_no_networks() -> None:
    """The command line's help stays quick: the metrics that compare vectors import no torch."""
    names = ("features", "frechet", "kernel", "mind", "coverage", "distance")
    sources = [Path(sys.modules[load_extractor.__module__].__file__).with_name(f"{n}.py") for n in names]
    assert not [source for source in sources if "import torch" in source.read_text()]
