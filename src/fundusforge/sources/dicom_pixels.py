"""Pixels of a DICOM file as (H, W, 3) uint8 RGB, one frame at a time.

Baseline JPEG with three 8-bit components, what fundus cameras mostly write, goes from the encapsulated frame
straight to OpenCV's decoder; everything else through pydicom and whichever of its plug-ins (Pillow, GDCM,
pylibjpeg) reads the transfer syntax. The fast way gives the pixels of Pillow's own RGB, bit for bit. pydicom
converts YCbCr in 32-bit floats where libjpeg-turbo uses 16-bit fixed point: of all 16.8 million YCbCr triples
17,301 come out one level apart. Nine of ten photographs hold none of them, the others a few pixels.

Nothing raised here repeats a value of the header: such messages end up in files that are shared.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Image
from fundusforge.sources.item import Unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_VIDEO = "1.2.840.10008.1.2.4.10"
_MOST_FRAMES = 10_000
_WINDOW = ("WindowCenter", "VOILUTSequence")


def parse(data: bytes, *, header_only: bool = False) -> Dataset:
    """Parse a DICOM file, also one without preamble.

    Raises:
        Unreadable: Empty, no DICOM, or cut off.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    if not data:
        raise Unreadable("empty file (zero bytes)")
    bare = data[:2] in (
        b"\x02\x00",
        b"\x08\x00",
    )  # begins with its first element instead of 128 bytes and DICM
    if data[128:132] != b"DICM" and not bare:
        raise Unreadable("not a DICOM file (no DICM prefix)")
    try:
        with quiet():
            found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=header_only, force=bare)
    except EOFError:
        raise Unreadable("truncated DICOM file") from None
    except (InvalidDicomError, ValueError, KeyError, OSError, NotImplementedError, AttributeError) as error:
        raise Unreadable(f"broken DICOM file ({type(error).__name__})") from None
    if not len(found):
        raise Unreadable("a DICOM file without any element")
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings and log quote header values."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def load_frame(path: Path, index: int) -> Image:
    """Read frame `index` of a DICOM file.

    Raises:
        Unreadable: No DICOM, no pixels, cut off, or no installed decoder reads its transfer syntax.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    return decode(parse(data), index)


def decode(dataset: Dataset, index: int) -> Image:
    """Return frame `index` as (H, W, 3) uint8 RGB; see `load_frame`."""
    if "PixelData" not in dataset:
        raise Unreadable("a DICOM file without pixel data")
    with quiet():
        pixels = _decode_jpeg(dataset, index)
        return pixels if pixels is not None else _decode_any(dataset, index)


def count_frames(dataset: Dataset) -> int:
    """Return the number of frames, 1 where the header does not say.

    Raises:
        Unreadable: The header says something else than a number above zero.
    """
    try:
        count = int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise Unreadable("the number of frames is no number") from None
    if not 1 <= count <= _MOST_FRAMES:
        raise Unreadable(f"the number of frames is not between 1 and {_MOST_FRAMES}")
    return count


class _Jpeg(NamedTuple):
    """What the markers before a JPEG's scan say."""

    precision: int
    height: int
    width: int
    components: tuple[int, ...]
    jfif: bool
    adobe: int | None


def _read_markers(frame: bytes) -> _Jpeg | None:
    """Read a JPEG's markers up to the frame header; None if it is no baseline JPEG."""
    if frame[:2] != b"\xff\xd8":
        return None
    place, jfif, adobe = 2, False, None
    while place + 10 < len(frame) and frame[place] == 0xFF:
        marker, length = frame[place + 1], int.from_bytes(frame[place + 2 : place + 4], "big")
        body = frame[place + 4 : place + 2 + length]
        if marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif marker in (0xC0, 0xC1):
            ids = tuple(body[6 + 3 * i] for i in range(body[5]) if 6 + 3 * i < len(body))
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return _Jpeg(body[0], height, width, ids, jfif, adobe)
        elif 0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        place += 2 + length
    return None


def _decode_jpeg(dataset: Dataset, index: int) -> Image | None:
    """Decode a baseline JPEG frame with OpenCV; None where pydicom might see other colours in it.

    Three components are YCbCr to both if there is a JFIF marker, or no marker and a header that says so.

    Raises:
        Unreadable: The frame does not end as a JPEG must: OpenCV would fill in grey where data are missing.
    """
    from pydicom.encaps import get_frame

    if dataset.file_meta.get("TransferSyntaxUID") != JPEG_BASELINE or "ExtendedOffsetTable" in dataset:
        return None
    told = dataset.get("PhotometricInterpretation")
    if dataset.get("BitsAllocated") != 8 or dataset.get("SamplesPerPixel") != 3:
        return None
    try:
        frame = get_frame(dataset.PixelData, index, number_of_frames=count_frames(dataset))
    except (ValueError, IndexError, TypeError):
        raise Unreadable(f"frame {index + 1} is missing or cut off") from None
    jpeg = _read_markers(frame)
    if jpeg is None or jpeg.precision != 8 or len(jpeg.components) != 3 or jpeg.adobe is not None:
        return None
    if bytes(jpeg.components) in (b"RGB", b"rgb") or not (jpeg.jfif or told in ("YBR_FULL", "YBR_FULL_422")):
        return None
    if (jpeg.height, jpeg.width) != (dataset.get("Rows"), dataset.get("Columns")):
        return None
    if b"\xff\xd9" not in frame[-64:]:
        raise Unreadable("truncated JPEG frame (no end-of-image marker)")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(frame, np.uint8), flags)
    return None if pixels is None else pixels.astype(np.uint8, copy=False)


def _decode_any(dataset: Dataset, index: int) -> Image:
    """Decode a frame with pydicom and turn whatever it holds into RGB."""
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Unreadable("the file names no transfer syntax")
    if str(syntax).startswith(_VIDEO):
        raise Unreadable("video (MPEG, H.264) inside DICOM is not read; export single frames")
    try:
        pixels = pixel_array(dataset, index=index)
    except Exception as error:  # decoders raise anything, among it bare Exceptions of compiled code
        raise Unreadable(_reason(dataset, error)) from None
    told = str(dataset.get("PhotometricInterpretation", ""))
    try:
        if told == "PALETTE COLOR":
            return _from_palette(pixels, dataset)
        if pixels.ndim == 2:
            return _from_grey(pixels, dataset, inverted=told == "MONOCHROME1")
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        raise Unreadable(f"the tables of a {told or 'grey'} image are broken") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise Unreadable(f"expected 1 or 3 samples a pixel, found shape {pixels.shape}")
    if pixels.dtype != np.uint8:
        pixels = _scale(pixels, 0.0, float(2 ** int(dataset.BitsStored) - 1))
    return _from_partial(pixels) if told.startswith("YBR_PARTIAL") else np.ascontiguousarray(pixels)


def _reason(dataset: Dataset, error: Exception) -> str:
    """Say why a frame cannot be decoded: no decoder, or broken data; never quote the header."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.is_transfer_syntax else "an unknown or private transfer syntax"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"no decoder is known for {name}"
    if not decoder.is_available:
        wanted = "; or ".join(decoder.missing_dependencies)
        return f"no decoder for {name} is installed; one of these would do: {wanted}"
    return f"pixel data ({name}) cannot be decoded: truncated or broken ({type(error).__name__})"


def _scale(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Map [low, high] to [0, 255], clipping what lies outside."""
    scaled = (values.astype(np.float64) - low) * (255.0 / max(high - low, 1e-12))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _from_grey(pixels: NDArray, dataset: Dataset, *, inverted: bool) -> Image:
    """Apply the modality's table and first window, if any; else 8 bits stay and more are stretched."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(pixels, dataset)
    if any(dataset.get(name) not in (None, "") for name in _WINDOW):
        values = apply_voi_lut(values, dataset, index=0)
        low, high = _window(values, dataset)
    elif pixels.dtype == np.uint8 and int(dataset.get("BitsStored", 8)) == 8 and values is pixels:
        low, high = 0.0, 255.0
    else:
        low, high = float(values.min()), float(values.max())
    grey = _scale(values, low, high)
    return np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=2)


def _window(values: NDArray, dataset: Dataset) -> tuple[float, float]:
    """Return the range that pydicom's window mapped onto: that of the stored bits after rescaling."""
    if "VOILUTSequence" in dataset:
        return 0.0, float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    bits, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation") or 0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, shift = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    return min(low * slope, high * slope) + shift, max(low * slope, high * slope) + shift


def _from_palette(pixels: NDArray, dataset: Dataset) -> Image:
    """Look pixels up in the palette; 16-bit entries that hold only 8 bits are taken as such."""
    from pydicom.pixels.processing import apply_color_lut

    colours = apply_color_lut(pixels, dataset)[..., :3]
    if colours.dtype == np.uint8:
        return np.ascontiguousarray(colours)
    return _scale(colours, 0.0, 65535.0 if colours.max(initial=0) > 255 else 255.0)


def _from_partial(pixels: NDArray[np.uint8]) -> Image:
    """Convert YCbCr of studio range (ITU-R BT.601: Y 16 to 235) to RGB; pydicom leaves it as it is."""
    luma = 1.164383 * (pixels[..., 0].astype(np.float32) - 16)
    blue, red = pixels[..., 1].astype(np.float32) - 128, pixels[..., 2].astype(np.float32) - 128
    rgb = (luma + 1.596027 * red, luma - 0.391762 * blue - 0.812968 * red, luma + 2.017232 * blue)
    return np.clip(np.rint(np.stack(rgb, axis=-1)), 0, 255).astype(np.uint8)
