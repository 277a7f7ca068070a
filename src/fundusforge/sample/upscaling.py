"""Dataset folders enlarged to twice the side by a trained super-resolution network, with every mask.

What the network adds is what photographs of its training show at such places: invented, not seen. Enlarged
pictures say so in their files. Masks are not left to the network: their outlines are smoothed and keep
their area and their connections.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import SYNTHETIC_XMP, Grey, Image, read_image, read_mask, resize, write_image
from fundusforge.models.edsr import BORDER, EDSRConfig, EDSRNet, Kernel, degraded
from fundusforge.records import DatasetError, Record, read_folder, write_metadata
from fundusforge.sample.stage import stamps
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file

SOFT = 0.7
"""Standard deviation in small pixels of the blur that rounds the stairs of an outline. With it, masks of
phantoms that had been made small came back best; less leaves stairs, more closes gaps between vessels."""
PLAIN, MIRRORED = (0, False), (0, True)
ORIENTATIONS = tuple((turns, flip) for turns in range(4) for flip in (False, True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Upscaler:
    """A super-resolution network with what it needs to be used on its own."""

    net: EDSRNet
    """In evaluation mode, on its device."""
    name: str = "upscaler"
    """Name and first digits of the SHA-256 of its weights."""
    terms: tuple[str, ...] = ()
    """Terms of the data sets it was trained on, each `source: terms`."""
    patients: frozenset[str] = frozenset()
    """Digests of the patients it was trained on."""
    tile: int = 512
    """Side in pixels of the parts in which pictures are enlarged; memory grows with its square."""
    ensemble: bool = False
    """Average over the orientations that the network learnt from: a picture and its mirror image, or all
    eight where it has `turns`; twice or eight times the work."""

    def __post_init__(self) -> None:
        """Refuse tiles out of range.

        Raises:
            DatasetError: A tile under 16 pixels.
        """
        if self.tile < 16:
            raise DatasetError(f"tiles must have at least 16 pixels, not {self.tile}")

    @classmethod
    def load(cls, path: Path, *, device: str = "auto", tile: int = 512, ensemble: bool = False) -> Upscaler:
        """Load a network.

        Args:
            path: A run folder or a file of weights.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...
            tile: Side of the parts in pixels.
            ensemble: Average over orientations.

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: A tile that is too small.
            ValueError: No such device.
        """
        file = model_file(Path(path))
        tensors, metadata = load_model(file, kind="edsr")
        net = EDSRNet(from_json(EDSRConfig, metadata["config"], where=str(file)))
        fill(net, {name.removeprefix("net."): t for name, t in tensors.items()}, where=file)
        net = net.to(parallel.start(device).device).to(memory_format=torch.channels_last).eval()
        return cls(
            net=net,
            name=weights.name_of(file),
            terms=tuple(json.loads(metadata.get("terms", "[]"))),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
            tile=tile,
            ensemble=ensemble,
        )

    @property
    def config(self) -> EDSRConfig:
        """Configuration of the network."""
        return self.net.config

    @property
    def orientations(self) -> tuple[tuple[int, bool], ...]:
        """Quarter turns, and whether mirrored after them, over which pictures are averaged."""
        if not self.ensemble:
            return (PLAIN,)
        return ORIENTATIONS if self.config.turns else (PLAIN, MIRRORED)

    @torch.inference_mode()
    def upscale(self, image: Image) -> Image:
        """Enlarge a photograph.

        It is continued beyond its edges by their own pixels, so that they are no edges to the network. Tiles
        overlap by what the network sees beyond them, so that where they join is what the whole picture
        would give, up to rounding.

        Args:
            image: (H, W, 3) uint8 RGB, sides of any length.

        Returns:
            (2 H, 2 W, 3) uint8 RGB.

        Raises:
            ValueError: Another shape or type.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
        pixels = as_tensor(image).to(next(self.net.parameters()).device)
        pixels = F.pad(pixels, (BORDER,) * 4, mode="replicate")
        chosen = self.orientations
        total: Tensor | None = None
        for turns, flip in chosen:
            seen = pixels.rot90(turns, (2, 3))
            found = self._tiled(seen.flip(3) if flip else seen)
            found = (found.flip(3) if flip else found).rot90(-turns, (2, 3))
            total = found if total is None else total.add_(found)
        assert total is not None
        kept = slice(2 * BORDER, -2 * BORDER)
        return as_image(total[:, :, kept, kept] / len(chosen))

    def _tiled(self, pixels: Tensor) -> Tensor:
        """Enlarge (1, 3, H, W) tile by tile, each with the pixels around it on which it depends."""
        height, width = pixels.shape[2:]
        reach, tile = self.config.reach, self.tile
        if max(height, width) <= tile + 2 * BORDER:
            return self.net(pixels)
        out = pixels.new_empty(1, 3, 2 * height, 2 * width)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                y, x = max(0, top - reach), max(0, left - reach)
                found = self.net(pixels[:, :, y : top + tile + reach, x : left + tile + reach])
                kept = out[:, :, 2 * top : 2 * (top + tile), 2 * left : 2 * (left + tile)]
                found = found[:, :, 2 * (top - y) :, 2 * (left - x) :]
                kept.copy_(found[:, :, : kept.shape[2], : kept.shape[3]])
        return out


def as_tensor(image: Image) -> Tensor:
    """Return a picture (H, W, 3) uint8 as (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def as_image(pixels: Tensor) -> Image:
    """Return a picture (1, 3, H, W) in [-1, 1] as (H, W, 3) uint8."""
    found = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(found.cpu().numpy())


def shrink(image: Image, kernel: Kernel) -> Image:
    """Make a photograph (H, W, 3) half as large as in training; an odd last row or column is cut off."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    return as_image(degraded(as_tensor(image[:height, :width]), kernel))


def bicubic(image: Image) -> Image:
    """Enlarge a photograph (H, W, 3) to twice its side by cubic interpolation alone."""
    return np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)


def psnr(first: Image, second: Image, inside: Grey | None = None) -> float:
    """Return the peak signal-to-noise ratio of two photographs in dB, all colours together.

    Args:
        first: (H, W, 3) uint8.
        second: Of the same shape.
        inside: (H, W), pixels that count where not 0; all if None.

    Returns:
        Infinity for equal pictures.

    Raises:
        ValueError: Shapes that differ, or no pixel that counts.
    """
    if first.shape != second.shape or (inside is not None and inside.shape != first.shape[:2]):
        raise ValueError(f"expected pictures of one shape, got {first.shape} and {second.shape}")
    wrong = np.square(first.astype(np.float32) - second)
    wrong = wrong if inside is None else wrong[inside > 0]
    if not wrong.size:
        raise ValueError("no pixel counts: the field of view is empty")
    error = float(wrong.mean(dtype=np.float64))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def upscale_mask(mask: Grey, *, inside: Grey | None = None) -> Grey:
    """Enlarge an outline to twice its side: smooth, of the same area, and connected where it was.

    The mask is blurred a little and enlarged by cubic interpolation; the pixels with the highest values are
    taken, four for each of the small mask. Its centre lines always belong to it, so that thin vessels do
    not break; what touches no centre line is left out, so that nothing new appears.

    Args:
        mask: (H, W) uint8, 0 or 255.
        inside: (2 H, 2 W) uint8, 0 or 255: the enlarged field of view, which the mask does not leave.

    Returns:
        (2 H, 2 W) uint8, 0 or 255.

    Raises:
        ValueError: A field of view of another size.
    """
    from skimage.morphology import skeletonize

    height, width = mask.shape
    allowed = np.ones((2 * height, 2 * width), bool) if inside is None else inside > 0
    if allowed.shape != (2 * height, 2 * width):
        raise ValueError(f"a field of view of {allowed.shape} for a mask of {mask.shape} to be enlarged")
    core = _double(skeletonize(mask > 0)) & allowed
    area = min(4 * int(np.count_nonzero(mask)), int(np.count_nonzero(allowed)))
    if not area or not core.any():
        return np.zeros(allowed.shape, np.uint8)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), SOFT)
    values = np.asarray(cv2.resize(soft, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC), np.float32)
    values[core], values[~allowed] = np.inf, -np.inf
    chosen = values >= np.partition(values, values.size - area, axis=None)[values.size - area]
    parts = np.asarray(cv2.connectedComponents((chosen & allowed).astype(np.uint8), connectivity=8)[1])
    known = np.zeros(int(parts.max()) + 1, bool)
    known[parts[core]] = True
    return np.where(known[parts], 255, 0).astype(np.uint8)


def _double(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask.repeat(2, 0).repeat(2, 1)


def upscale_folder(upscaler: Upscaler, folder: Path, out: Path) -> Iterator[Record]:
    """Write a dataset folder of twice the side; yields each record when its files are on the disk.

    Files are written into `<out>.partial`, which is renamed at the end: `out` is whole or not there.
    Records keep all they say; the terms of the network are added to theirs. Photographs become PNG files
    whose text names the network (`fundusforge:upscaled`); synthetic ones keep their marks. Outside the
    field of view all is black.

    Args:
        upscaler: The network.
        folder: Dataset folder to read.
        out: Folder to write; it may exist but must be empty.

    Raises:
        DatasetError: The folder is broken or holds magnetic resonance, or `out` is in use or lies in the
            folder.
        OSError: `out` cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: is not an empty folder; name another one")
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise DatasetError(f"{out}: the output folder must lie apart from {folder}")
    records = read_folder(folder)
    if slices := [record.image for record in records if record.contrasts]:
        raise DatasetError(f"{folder}: {slices[0]} is magnetic resonance; only photographs are enlarged")
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        done: list[Record] = []
        for record, moved in zip(records, _renamed(records), strict=True):
            _write(upscaler, folder, aside, record, moved)
            done.append(replace(moved, terms=_terms(record, upscaler)))
            yield done[-1]
        write_metadata(aside, done)
        with suppress(FileNotFoundError):
            out.rmdir()  # an empty one; Windows renames over no folder
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _renamed(records: list[Record]) -> Iterator[Record]:
    """Records with names that end in .png, numbered where two would fall together."""
    taken: set[str] = set()

    def png(path: str) -> str:
        stem, count = str(PurePosixPath(path).with_suffix("")), 1
        name = stem
        while name in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name)
        return f"{name}.png"

    for record in records:
        yield replace(
            record,
            image=png(record.image),
            masks={name: replace(mask, path=png(mask.path)) for name, mask in record.masks.items()},
            field_of_view=png(record.field_of_view) if record.field_of_view else None,
        )


def _write(upscaler: Upscaler, folder: Path, out: Path, record: Record, moved: Record) -> None:
    """Enlarge the pictures of a record and write them where `moved` says."""
    image = upscaler.upscale(read_image(folder / record.image))
    layers: dict[str, Grey] = {}
    inside: Grey | None = None
    if record.field_of_view and moved.field_of_view:
        inside = upscale_mask(read_mask(folder / record.field_of_view))
        image *= (inside > 0)[..., None]
        layers[moved.field_of_view] = inside
    for name, mask in record.masks.items():
        pixels = read_mask(folder / mask.path, soft=mask.soft)
        layers[moved.masks[name].path] = (
            _soft(pixels, inside) if mask.soft else upscale_mask(pixels, inside=inside)
        )
    for path in (moved.image, *layers):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
    for path, pixels in layers.items():
        write_image(out / path, pixels)
    xmp = SYNTHETIC_XMP if record.synthetic else None
    write_image(out / moved.image, image, text=_marks(record, upscaler), xmp=xmp)


def _soft(mask: Grey, inside: Grey | None) -> Grey:
    """Enlarge a mask that has no outline."""
    found: Grey = resize(mask, (2 * mask.shape[0], 2 * mask.shape[1]))
    return found if inside is None else found & inside


def _marks(record: Record, upscaler: Upscaler) -> Mapping[str, str]:
    """Text of the picture file: what made it, and what enlarged it."""
    made: dict[str, str] = {}
    if record.synthetic:
        made["fundusforge:synthetic"] = "true"
    if record.provenance is not None:
        made |= stamps(record.provenance, from_patient=record.structure_from_patient)
    return made | {"fundusforge:upscaled": upscaler.name}


def _terms(record: Record, upscaler: Upscaler) -> str:
    """Terms of the picture, then those of the network that the picture does not name already."""
    own = record.terms or f"{record.source}: unknown"
    known = {piece.strip() for piece in own.split(";")}
    return "; ".join([own, *(one for one in dict.fromkeys(upscaler.terms) if one not in known)])
