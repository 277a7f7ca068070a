"""Networks that turn photographs into vectors, by name.

| name | what | weights |
|---|---|---|
| `retina` | small encoder of retinas, learnt without labels (`models/selfsupervised`) | embedded, or a run |
| `inception` | Inception-v3 of 2015, the one of published Frechet distances | a file |
| `dinov2` | vision transformer of DINOv2 (small, base, large or giant, by the file) | a file |
| `retfound` | vision transformer of masked autoencoders, RETFound and its like | a file |
| `timm:<model>` | any model of timm | a file; without one, timm downloads its own |
| `random` | small network with random weights: a control that a good extractor must beat | none |

Files are safetensors. Nothing is downloaded but by `timm:<model>` without a file.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusforge import weights as embedded
from fundusforge.config import ConfigError, from_json
from fundusforge.evaluate import inception
from fundusforge.evaluate.features import Extractor, Features
from fundusforge.images import Image, resize
from fundusforge.models.selfsupervised import Encoder, SelfSupervisedConfig
from fundusforge.training import parallel
from fundusforge.training.checkpoint import CheckpointError, fill, load_model, model_file, read

NAMES = ("retina", "inception", "dinov2", "retfound", "timm:<model>", "random")
RETINA = "retina-features"
"""Name of the embedded weights of `retina`."""
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the channels, in [0, 1], with which most vision networks were trained."""
_VIT_SIZE = 224
_WIDTHS = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
"""Names of vision transformers by the length of their vectors."""
_UNUSED = ("head.", "fc.", "decoder_", "classifier.")
"""Beginnings of names of tensors that a file may hold and features do without."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An extractor made of a network and the way pictures are brought to it."""

    name: str
    resize: str
    key: str
    dimensions: int
    prepare: Callable[[Image], NDArray[np.float32]]
    """(H, W, 3) uint8 to what the network reads, one picture."""
    run: Callable[[NDArray[np.float32]], Tensor]
    """Stacked pictures to (N, D)."""

    def __call__(self, images: Sequence[Image]) -> Features:
        """Return (N, D) float32."""
        if not images:
            return np.empty((0, self.dimensions), np.float32)
        with torch.inference_mode():
            vectors = self.run(np.stack([self.prepare(image) for image in images]))
        return vectors.float().cpu().numpy()


def load_extractor(
    name: str, *, weights: Path | None = None, device: str = "auto", seed: int = 0
) -> Extractor:
    """Return an extractor by name.

    Args:
        name: One of `NAMES`.
        weights: A safetensors file; for `retina` also a run folder.
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...
        seed: Of the weights of `random`.

    Raises:
        ConfigError: An unknown name, or no weights where some are needed; the message says what to give.
        CheckpointError: Missing, broken or unfit weights.
    """
    place = parallel.start(device).device
    if name == "random":
        if weights is not None:
            raise ConfigError("the extractor `random` takes no weights")
        return _random(seed, place)
    if name == "retina":
        return _retina(weights, place)
    if name.startswith("timm:") and len(name) > 5:
        return _timm(name[5:], weights, place)
    if name not in NAMES or name.startswith("timm"):
        raise ConfigError(f"unknown extractor {name!r}; known are {', '.join(NAMES)}")
    if weights is None:
        raise ConfigError(
            f"the extractor `{name}` needs a file of weights (--extractor-weights FILE.safetensors); "
            "docs/evaluate.md says where they come from"
        )
    tensors = _tensors(weights)
    if name == "inception":
        return _inception(weights, tensors, place)
    return _transformer(name, weights, tensors, place)


def _key(parts: Mapping[str, Tensor], *words: object) -> str:
    """Return a hash of weights and of how pictures are prepared."""
    digest = hashlib.sha256(json.dumps([str(word) for word in words]).encode())
    for name in sorted(parts):
        value = parts[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of any origin; names lose what wraps all of them."""
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: expected a .safetensors file; a pickle would run its code when read. "
            "docs/evaluate.md says how to convert one"
        )
    tensors, _ = read(path)
    for prefix in ("module.", "model.", "encoder."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def squared(image: Image, size: int) -> Image:
    """Pad (H, W, 3) with black to a square and resize it, antialiased, to (size, size, 3)."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = ((top, side - height - top), (left, side - width - left), (0, 0))
    padded = image if height == width else np.pad(image, edges)
    return np.asarray(resize(padded, size), np.uint8)


def _network(
    net: nn.Module, *, name: str, size: int, mean: Sequence[float], deviation: Sequence[float],
    dimensions: int, device: torch.device,
) -> Network:  # fmt: skip
    """Wrap a module that reads normalised squares (N, 3, S, S)."""
    net = net.to(device).eval().requires_grad_(False)
    mean32, deviation32 = np.asarray(mean, np.float32), np.asarray(deviation, np.float32)

    def prepare(image: Image) -> NDArray[np.float32]:
        pixels = squared(image, size).astype(np.float32)
        pixels /= 255
        pixels -= mean32
        pixels /= deviation32
        return pixels

    def run(pixels: NDArray[np.float32]) -> Tensor:
        return net(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))

    words = f"padded to a square with black, {size} px, area (down) or cubic (up)"
    key = _key(net.state_dict(), type(net).__name__, words, mean, deviation)
    return Network(
        name=f"{name}-{key[:12]}", resize=words, key=key, dimensions=dimensions, prepare=prepare, run=run
    )


# ---- one by one --------------------------------------------------------------------------------------------


def load_encoder(path: Path | None = None) -> Encoder:
    """Read a self-supervised encoder, in evaluation mode.

    Args:
        path: A run or a file of weights; the embedded ones if None.

    Raises:
        ConfigError: None is named and this installation has none.
        CheckpointError: Missing, broken or foreign weights.
    """
    file = embedded.FOLDER / f"{RETINA}.safetensors" if path is None else model_file(path)
    if not file.is_file():
        raise ConfigError(
            "this installation has no embedded extractor `retina`; name a run of kind selfsupervised "
            "(--extractor-weights RUN) or another extractor (--extractor)"
        )
    tensors, metadata = load_model(file, kind="selfsupervised")
    net = Encoder(from_json(SelfSupervisedConfig, metadata["config"], where=str(file)))
    own = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
    fill(net, own, where=file)
    return net.eval()


def _retina(path: Path | None, device: torch.device) -> Network:
    net = load_encoder(path).to(memory_format=torch.channels_last)
    half = (0.5, 0.5, 0.5)
    return _network(
        net, name="retina", size=net.size, mean=half, deviation=half, dimensions=net.features, device=device
    )


def has_retina() -> bool:
    """Return whether this installation has the embedded extractor."""
    return (embedded.FOLDER / f"{RETINA}.safetensors").is_file()


def _inception(path: Path, tensors: Mapping[str, Tensor], device: torch.device) -> Network:
    try:
        net = inception.Inception(tensors, device=device)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    words = "299 px, bilinear as in TensorFlow 1 (not antialiased, aspect not kept)"
    key = _key(tensors, "inception", words)
    return Network(
        name=f"inception-{key[:12]}", resize=words, key=key, dimensions=inception.DIMENSIONS,
        prepare=inception.tf1_resize, run=net,
    )  # fmt: skip


def _transformer(name: str, path: Path, tensors: dict[str, Tensor], device: torch.device) -> Network:
    """Return a vision transformer whose size follows from the file."""
    patches = tensors.get("patch_embed.proj.weight")
    if patches is None or patches.shape[0] not in _WIDTHS:
        raise CheckpointError(
            f"{path}: not a vision transformer of {name} (patch_embed.proj.weight is "
            f"{'missing' if patches is None else tuple(patches.shape)})"
        )
    size, patch = _WIDTHS[patches.shape[0]], patches.shape[-1]
    if name == "dinov2":
        registers = "_reg4" if {"register_tokens", "reg_token"} & tensors.keys() else ""
        model = f"vit_{size}_patch{patch}{registers}_dinov2"
    else:
        model = f"vit_{size}_patch{patch}_224"
        tensors.pop("mask_token", None)  # the decoder's; timm takes it for a sign of DINOv2
    pooled = {"global_pool": "avg"} if "fc_norm.weight" in tensors else {}
    net = _create(model, path, img_size=_VIT_SIZE, **pooled)
    _fill_strictly(net, tensors, path)
    mean, deviation = _IMAGENET
    return _network(
        net, name=f"{name}-{size}", size=_VIT_SIZE, mean=mean, deviation=deviation,
        dimensions=int(net.num_features), device=device,
    )  # fmt: skip


def _timm(model: str, path: Path | None, device: torch.device) -> Network:
    net = _create(model, path)
    if path is not None:
        _fill_strictly(net, _tensors(path), path)
    config: dict[str, Any] = import_module("timm.data").resolve_model_data_config(net)
    return _network(
        net, name=model, size=int(config["input_size"][-1]), mean=config["mean"], deviation=config["std"],
        dimensions=int(net.num_features), device=device,
    )  # fmt: skip


def _create(model: str, path: Path | None, **options: Any) -> Any:
    """Return a model of timm without its classifier; without a file, with the weights that timm downloads."""
    timm = import_module("timm")
    try:
        return timm.create_model(model, pretrained=path is None, num_classes=0, **options)
    except Exception as error:  # timm and the hub raise anything when a name or the network is wrong
        known: list[str] = timm.list_models(model.split(".")[0])
        hint = "give its weights as a file with --extractor-weights" if known else "timm knows no such model"
        raise ConfigError(
            f"timm:{model} could not be had ({type(error).__name__}: {error}); {hint}"
        ) from None


def _fill_strictly(net: Any, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a model of timm its weights: position embeddings are resized, but nothing may be missing or left.

    Raises:
        CheckpointError: Names the first tensors that are missing, left over or of another shape.
    """
    adapt = getattr(import_module(type(net).__module__), "checkpoint_filter_fn", None)
    tensors = {name: t for name, t in tensors.items() if not name.startswith(_UNUSED)}
    if adapt is not None:
        tensors = adapt(dict(tensors), net)
    own: dict[str, Tensor] = net.state_dict()
    faults = {
        "lacks": sorted(own.keys() - tensors.keys()),
        "has unknown": sorted(tensors.keys() - own.keys()),
        "has another shape of": sorted(
            n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape
        ),
    }
    found = [
        f"{what} {len(names)} tensors ({', '.join(names[:3])})" for what, names in faults.items() if names
    ]
    if found:
        raise CheckpointError(f"{path}: does not fit {type(net).__name__}: {'; '.join(found)}")
    net.load_state_dict({name: tensors[name] for name in own})


class _Random(nn.Module):
    """Four convolutions that halve the picture; means and deviations of the last maps."""

    def __init__(self, seed: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layer = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
            spread = (2 / (9 * inputs)) ** 0.5
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * spread
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 256)."""
        for layer in self.layers:
            x = layer(x).relu()
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


def _random(seed: int, device: torch.device) -> Network:
    half = (0.5, 0.5, 0.5)
    return _network(
        _Random(seed), name="random", size=128, mean=half, deviation=half, dimensions=256, device=device
    )
