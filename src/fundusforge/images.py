"""The only load, save, resize and grid of pictures.

On disk: HWC uint8 RGB pictures, HW uint8 masks of 0 and 255, HW uint16 contrasts. OpenCV decodes and encodes
what it can, because it is several times faster than Pillow; Pillow reads what OpenCV gets wrong (palettes,
alpha, CMYK).
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.records import DatasetError, write_bytes

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Grey = NDArray[np.uint8]
"""(H, W) uint8."""

MAX_PIXELS = 150_000_000
"""Pictures with more are refused by their header, before memory is taken."""
CODE_SIZE = 10
"""Length of the camera-and-colour code."""
# Runs and Huffman codes alone: on photographs half the time of zlib's search for repeats, and smaller files.
_RUNS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
_PICTURE_PNG = [*_RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]
_PLANE_PNG = [*_RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
SYNTHETIC_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
"""XMP packet that declares a picture as made by a trained model (IPTC digital source type)."""
CHART_XMP = SYNTHETIC_XMP.replace("trainedAlgorithmicMedia", "dataDrivenMedia")
"""The same of a chart, drawn from numbers."""


def read_image(path: Path) -> Image:
    """Read any 8- or 16-bit picture as (H, W, 3) uint8 RGB, upright.

    Grey becomes three equal channels, 16 bit is scaled to 8 by its high byte, transparency is laid on black,
    CMYK and palettes are converted, and an EXIF orientation is applied.

    Raises:
        DatasetError: The file is missing, empty, truncated, no picture, or larger than `MAX_PIXELS`.
    """
    data = _bytes(path)
    if data[:2] != b"\xff\xd8":
        return _read_with_pillow(path, data)
    # Within a scan these two bytes mean the end; a thumbnail's own end stands before the last start of scan.
    if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise DatasetError(f"{path}: truncated JPEG (no end-of-image marker)")
    height, width, channels = _jpeg_shape(data) or (0, 0, 0)
    _check_pixels(path, height, width)
    if channels == 4:
        return _read_with_pillow(path, data)
    decoded = _decode(data, cv2.IMREAD_COLOR_RGB)
    if decoded is None:
        raise DatasetError(f"{path}: not a readable JPEG")
    return decoded


def _bytes(path: Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise DatasetError(f"{path}: empty file (zero bytes)")
    return data


def _decode(data: bytes, flags: int) -> NDArray | None:
    """Decode with OpenCV; None where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV allows, for one
        return None


def _jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Return height, width and number of components from a JPEG's frame header; None where there is none."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return height, width, data[place + 9]
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse a header that asks for more memory than any fundus camera's picture needs."""
    if height * width > MAX_PIXELS:
        raise DatasetError(f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS} that are read")


def _read_with_pillow(path: Path, data: bytes) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # `_check_pixels` sets the limit
            picture = Pillow.open(io.BytesIO(data))
        _check_pixels(path, picture.height, picture.width)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I") or upright.mode == "F":
            return _to_rgb8(path, np.asarray(upright))
        if upright.mode in {"RGBA", "LA", "PA"} or "transparency" in upright.info:
            black = Pillow.new("RGBA", upright.size, (0, 0, 0, 255))
            upright = Pillow.alpha_composite(black, upright.convert("RGBA"))
        return np.array(upright.convert("RGB"))
    except UnidentifiedImageError:
        # Some TIFFs (floating point, many channels) only OpenCV knows.
        decoded = _decode(data, cv2.IMREAD_UNCHANGED) if data[:2] in (b"II", b"MM") else None
        if decoded is None:
            raise DatasetError(f"{path}: not a readable picture (no known format)") from None
        return _to_rgb8(path, decoded[..., 2::-1] if decoded.ndim == 3 else decoded)
    except DatasetError:
        raise
    except Exception as error:  # Pillow's plug-ins raise anything on broken data
        raise DatasetError(f"{path}: not a readable picture ({error})") from None


def _to_rgb8(path: Path, pixels: NDArray) -> Image:
    """Turn grey or colour pixels of 8 or 16 bits into (H, W, 3) uint8; 16 bit keeps its high byte."""
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() <= 65535:
        pixels = pixels.astype(np.uint16)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DatasetError(f"{path}: expected 8 or 16 bits a channel, found {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_mask(path: Path, *, soft: bool = False) -> Grey:
    """Read a mask of this package's folders as (H, W) uint8 of exactly 0 and 255.

    Args:
        path: The file.
        soft: Take values between them too.

    Raises:
        DatasetError: Unreadable, in colour, not of 8 bits, or a value other than 0 and 255.
    """
    decoded = _decode(_bytes(path), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise DatasetError(f"{path}: not a readable picture")
    if decoded.dtype != np.uint8:
        raise DatasetError(f"{path}: a mask must have 8 bits, found {decoded.dtype}")
    mask = decoded if decoded.ndim == 2 else np.ascontiguousarray(decoded[..., 0])
    if decoded.ndim == 3 and (decoded[..., :3] != mask[..., None]).any():
        raise DatasetError(f"{path}: a mask must have one channel, found a picture in colour")
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if not soft and not set(values) <= {0, 255}:
        hint = " (multiply by 255)" if set(values) <= {0, 1} else ""
        raise DatasetError(f"{path}: a mask must hold only 0 and 255, found {values[:5]}{hint}")
    return mask


def read_contrast(path: Path, *, scale: float, offset: float) -> NDArray[np.float32]:
    """Read a 16-bit contrast as (H, W) float32 intensities: stored value * scale + offset.

    Raises:
        DatasetError: Unreadable or not 16 bit.
    """
    stored = _decode(_bytes(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise DatasetError(f"{path}: expected a 16-bit single-channel PNG")
    return stored.astype(np.float32) * np.float32(scale) + np.float32(offset)


def encode_contrast(values: NDArray[np.floating]) -> tuple[NDArray[np.uint16], float, float]:
    """Return (stored uint16, scale, offset) so that stored * scale + offset is `values` within half a step.

    Raises:
        ValueError: A value that is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("a contrast holds values that are infinite or not a number")
    low, high = float(np.min(values)), float(np.max(values))
    scale = (high - low) / 65535.0 or 1.0
    return np.rint((values.astype(np.float64) - low) / scale).astype(np.uint16), scale, low


def write_image(
    path: Path,
    pixels: NDArray,
    *,
    text: Mapping[str, str] | None = None,
    xmp: str | None = None,
    quality: int = 95,
) -> None:
    """Write a picture, mask or 16-bit contrast by its suffix (.png or .jpg), aside and then renamed.

    Args:
        path: `.png` (lossless) or `.jpg`.
        pixels: (H, W, 3) uint8 RGB, (H, W) uint8, or (H, W) uint16 (PNG only).
        text: PNG text (iTXt) chunks, keyword to value.
        xmp: An XMP packet to embed, e.g. `SYNTHETIC_XMP`.
        quality: JPEG quality, 1 to 100.

    Raises:
        ValueError: Another suffix, or an array of another shape or depth.
        OSError: The file cannot be written (full disk, read-only folder); nothing is left behind.
    """
    write_bytes(path, encode_image(pixels, suffix=path.suffix, text=text, xmp=xmp, quality=quality))


def encode_image(
    pixels: NDArray, *, suffix: str = ".png", text: Mapping[str, str] | None = None, xmp: str | None = None,
    quality: int = 95,
) -> bytes:  # fmt: skip
    """Encode pixels as PNG or JPEG bytes; see `write_image`."""
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype not in (np.uint8, np.uint16) or not fits or not pixels.size:
        raise ValueError(
            f"expected (H, W) or (H, W, 3) of uint8 or uint16, got {pixels.shape} {pixels.dtype}"
        )
    suffix = suffix.lower()
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    if suffix == ".png":
        data = cv2.imencode(".png", bgr, _PICTURE_PNG if pixels.ndim == 3 else _PLANE_PNG)[1].tobytes()
        return _with_chunks(data, text or {}, xmp)
    if suffix in {".jpg", ".jpeg"} and pixels.dtype == np.uint8:
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        return _with_app1(data, xmp) if xmp else data
    raise ValueError(f"cannot write {pixels.dtype} pixels as {suffix!r}; .png and .jpg are known")


def _with_chunks(png: bytes, text: Mapping[str, str], xmp: str | None) -> bytes:
    """Insert iTXt chunks after the 33 bytes of signature and header."""
    entries = [*text.items(), *([("XML:com.adobe.xmp", xmp)] if xmp else [])]
    chunks = b""
    for keyword, value in entries:
        body = b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode("utf-8")
        chunks += (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:33] + chunks + png[33:]


def _with_app1(jpeg: bytes, xmp: str) -> bytes:
    """Insert an XMP segment after the JFIF header, which must come first."""
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp.encode("utf-8")
    place = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:place] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[place:]


def resize(image: NDArray[Any], size: tuple[int, int] | int) -> NDArray[Any]:
    """Resize a picture to (height, width), antialiased: area averages down, cubic up. Keeps the dtype."""
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    lower, narrower = min(height, image.shape[0]), min(width, image.shape[1])
    if (lower, narrower) != image.shape[:2]:
        image = cv2.resize(image, (narrower, lower), interpolation=cv2.INTER_AREA)
    if (lower, narrower) == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def resize_mask(mask: Grey, size: tuple[int, int] | int) -> Grey:
    """Resize a 0/255 mask to (height, width) so that thin vessels and small lesions survive.

    A pixel is set where at least half of its area was, or where the mask's skeleton passed: a line one pixel
    wide stays a connected line however far it is scaled down, while thick structures keep their area.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = mask.shape
    if (rows, columns) == (height, width):
        return mask
    down = height < rows or width < columns
    area = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if down else cv2.INTER_LINEAR)
    resized = np.where(area >= 128, 255, 0).astype(np.uint8)
    if down and mask.any():
        from skimage.morphology import skeletonize

        # Pooling by maxima keeps lines connected and leaves little for the slow thinning of large masks.
        step = max(1, min(rows // (2 * height), columns // (2 * width)))
        pooled = cv2.dilate(mask, np.ones((step, step), np.uint8), anchor=(0, 0))[::step, ::step]
        y, x = np.nonzero(skeletonize(pooled > 0))
        resized[(y * step * height) // rows, (x * step * width) // columns] = 255
    return resized


def grid(
    images: Sequence[NDArray], *, columns: int | None = None, gap: int = 4, background: int = 255
) -> Image:
    """Lay pictures (H, W, 3) or masks (H, W), all of one size, out in rows.

    Raises:
        ValueError: No pictures, or pictures of different sizes.
    """
    if not images:
        raise ValueError("no pictures to lay out")
    tiles = [np.repeat(i[..., None], 3, axis=2) if i.ndim == 2 else i for i in images]
    if len({tile.shape for tile in tiles}) > 1:
        raise ValueError(f"pictures differ in size: {sorted({tile.shape[:2] for tile in tiles})}")
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles[0].shape[:2]
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = divmod(place, columns)
        sheet[
            y * (height + gap) : y * (height + gap) + height, x * (width + gap) : x * (width + gap) + width
        ] = tile
    return sheet


def colour_code(image: Image, field_of_view: Grey | None = None) -> NDArray[np.float32]:
    """Describe an image's camera and colour, not its structure, in ten numbers.

    Mean and standard deviation of red, green and blue inside the field of view (in [0, 1]), the difference
    between outer ring and centre per channel (illumination), and the logarithm of the green channel's fine
    contrast (sharpness), measured at 128 x 128 pixels so that it does not depend on the size of the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        field_of_view: (H, W) uint8, 0 outside; the whole image if None.

    Returns:
        (10,) float32.
    """
    small = resize(image, 128).astype(np.float32) / 255.0
    inside = np.ones((128, 128), bool) if field_of_view is None else resize(field_of_view, 128) > 250
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    if not inside.any():
        return np.zeros(CODE_SIZE, np.float32)
    y, x = np.mgrid[0:128, 0:128]
    middle_y, middle_x = y[inside].mean(), x[inside].mean()
    distance = np.hypot(y - middle_y, x - middle_x)
    limit = np.quantile(distance[inside], 0.5)
    inner = small[inside & (distance <= limit)]
    outer = small[inside & (distance > limit)] if (distance[inside] > limit).any() else inner
    detail = small[..., 1] - cv2.GaussianBlur(small[..., 1], (0, 0), 2.0)
    pixels = small[inside]
    ring = outer.mean(0) - inner.mean(0)
    sharpness = math.log(float(detail[inside].std()) + 1e-4)
    return np.concatenate([pixels.mean(0), pixels.std(0), ring, [sharpness]]).astype(np.float32)


def grey_clahe(image: Image, *, gamma: float = 1.2) -> Image:
    """Return grey pixels after gamma and contrast-limited adaptive equalisation, as three equal channels.

    The input of the vessel network of Beers et al. 2018, who give no parameters; tiles of 8 x 8 and a clip
    limit of 2 are the usual ones.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    brighter = np.rint(255 * (grey / 255.0) ** (1 / gamma)).astype(np.uint8)
    equalised = np.asarray(cv2.createCLAHE(2.0, (8, 8)).apply(brighter), np.uint8)
    return np.repeat(equalised[..., None], 3, axis=2)
