"""Pictures of every kind are read as promised or refused by name; what is written is what was given."""

import io
import math
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from fundusforge import images
from fundusforge.images import (
    CODE_SIZE,
    SYNTHETIC_XMP,
    colour_code,
    encode_contrast,
    encode_image,
    grey_clahe,
    grid,
    read_contrast,
    read_image,
    read_mask,
    resize,
    resize_mask,
    write_image,
)
from fundusforge.records import DatasetError


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth picture of 40 x 60 pixels without any symmetry."""
    noise = np.random.default_rng(4).random((40, 60, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).round().astype(np.uint8)


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def read(tmp_path: Path, data: bytes, name: str = "x.png") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    found = read_image(tmp_path / name)
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert found.flags.writeable
    assert found.flags.c_contiguous
    return found


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats(tmp_path: Path, picture: np.ndarray, form: str) -> None:
    np.testing.assert_array_equal(read(tmp_path, encoded(picture, form)), picture)


def test_jpeg_by_any_name(tmp_path: Path, picture: np.ndarray) -> None:
    data = encoded(picture, "JPEG", quality=95)
    assert distance(read(tmp_path, data, "x.dat"), picture) < 2
    assert distance(read(tmp_path, encoded(picture, "JPEG", quality=95, progressive=True)), picture) < 2


def test_grey_becomes_three_equal_channels(tmp_path: Path, picture: np.ndarray) -> None:
    for form in ("PNG", "JPEG"):
        found = read(tmp_path, encoded(picture, form, "L"))
        assert (found == found[..., :1]).all()
    found = read(tmp_path, encoded(picture, "PNG", "1"))
    assert set(np.unique(found)) == {0, 255}


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path, picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * 256 + 200
    for suffix in (".png", ".tif"):
        colour = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
        np.testing.assert_array_equal(read(tmp_path, colour), picture)
        grey = cv2.imencode(suffix, deep[..., 0])[1].tobytes()
        np.testing.assert_array_equal(read(tmp_path, grey), np.repeat(picture[..., :1], 3, 2))
    dark = np.full((4, 4), 200, np.uint16)  # nearly black, not light grey
    assert read(tmp_path, cv2.imencode(".png", dark)[1].tobytes()).max() == 0


def test_floating_point_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    for pixels in (picture[..., 0], picture):
        data = cv2.imencode(".tif", pixels.astype(np.float32))[1].tobytes()
        with pytest.raises(DatasetError, match="8 or 16 bits"):
            read(tmp_path, data)


def test_transparency_is_laid_on_black(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, :30] = 0
    found = read(tmp_path, encoded(np.dstack([picture, alpha]), "PNG", "RGBA"))
    np.testing.assert_array_equal(found[:, 30:], picture[:, 30:])
    assert not found[:, :30].any()
    grey = Pillow.merge("LA", [Pillow.fromarray(picture[..., 0]), Pillow.fromarray(alpha)])
    stream = io.BytesIO()
    grey.save(stream, "PNG")
    found = read(tmp_path, stream.getvalue())
    assert not found[:, :30].any()
    np.testing.assert_array_equal(found[:, 30:, 1], picture[:, 30:, 0])


def test_palettes(tmp_path: Path, picture: np.ndarray) -> None:
    quantised = Pillow.fromarray(picture).quantize(64)
    wanted = np.asarray(quantised.convert("RGB"))
    for form in ("PNG", "GIF"):
        stream = io.BytesIO()
        quantised.save(stream, form)
        np.testing.assert_array_equal(read(tmp_path, stream.getvalue()), wanted)
    stream = io.BytesIO()
    quantised.save(stream, "PNG", transparency=quantised.getpixel((0, 0)))
    clear = np.asarray(quantised) == quantised.getpixel((0, 0))
    assert not read(tmp_path, stream.getvalue())[clear].any()


def test_cmyk_jpeg(tmp_path: Path, picture: np.ndarray) -> None:
    assert distance(read(tmp_path, encoded(picture, "JPEG", "CMYK", quality=95)), picture) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(
    tmp_path: Path, picture: np.ndarray, orientation: int, form: str
) -> None:
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    found = read(tmp_path, encoded(np.ascontiguousarray(stored), form, exif=exif))
    assert distance(found, picture) < 4


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def _jpeg_header(data: bytes, width: int, height: int) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def test_broken_files_are_refused_by_name(tmp_path: Path, picture: np.ndarray) -> None:
    jpeg, png, tiff = (encoded(picture, form) for form in ("JPEG", "PNG", "TIFF"))
    large = encoded(cv2.resize(picture, (600, 400)), "JPEG", quality=95, progressive=True)
    thumbnail = encoded(picture[:20, :20], "JPEG")
    body = b"Exif\0\0" + thumbnail
    carrying = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    cases = {
        "empty": (b"", "zero bytes"),
        "text": (b"This is a letter, not a picture.\n", "no known format"),
        "html": (b"<html><body>404</body></html>", "no known format"),
        "half a JPEG": (jpeg[: len(jpeg) // 2], "truncated"),
        "JPEG without its last bytes": (jpeg[:-30], "truncated"),
        "half a progressive JPEG": (large[: len(large) // 2], "truncated"),
        "JPEG start": (b"\xff\xd8", "truncated"),
        "JPEG start and end": (b"\xff\xd8\xff\xd9", "not a readable JPEG"),
        "truncated JPEG with a whole thumbnail": (carrying[:-200], "truncated"),
        "JPEG of absurd size": (_jpeg_header(jpeg, 65000, 65000), "pixels"),
        "JPEG without extent": (_jpeg_header(jpeg, 0, 0), "not a readable JPEG"),
        "half a CMYK JPEG": (encoded(picture, "JPEG", "CMYK")[:-40], "truncated"),
        "half a PNG": (png[: len(png) // 2], "truncated"),
        "PNG header": (png[:30], "not a readable picture"),
        "flipped bits in a PNG": (bytes(flipped), "not a readable picture"),
        "PNG of absurd size": (_png_header(100_000, 100_000), "pixels"),
        "PNG of a third of that": (_png_header(13_000, 13_000), "more than the"),
        "PNG without extent": (_png_header(0, 0), "no known format"),
        "half a TIFF": (tiff[: len(tiff) // 2], "not a readable picture"),
    }
    for name, (data, reason) in cases.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(data)
        with pytest.raises(DatasetError) as error:
            read_image(path)
        assert str(error.value).startswith(f"{path}: "), name
        assert reason in str(error.value), (name, str(error.value))
        assert "object at 0x" not in str(error.value), name  # the same run gives the same message


def test_a_whole_jpeg_with_thumbnail_or_padding_is_read(tmp_path: Path, picture: np.ndarray) -> None:
    jpeg = encoded(picture, "JPEG", quality=95)
    body = b"Exif\0\0" + encoded(picture[:20, :20], "JPEG")
    carrying = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
    filled = jpeg[:2] + b"\xff\xff" + jpeg[2:]  # a fill byte before a marker is legal
    for data in (carrying, jpeg + b"\0" * 100, jpeg + b"trailer of a camera" * 500, filled):
        assert distance(read(tmp_path, data), picture) < 2


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_image(tmp_path)


def test_masks_come_back_and_must_be_0_and_255(tmp_path: Path) -> None:
    mask = (np.random.default_rng(1).random((30, 20)) > 0.8).astype(np.uint8) * 255
    path = tmp_path / "m.png"
    write_image(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask)
    write_image(path, np.repeat(mask[..., None], 3, 2))
    np.testing.assert_array_equal(read_mask(path), mask)
    refused = {
        "multiply by 255": mask // 255,
        "found [0, 128, 255]": np.where(np.indices(mask.shape)[0] == 3, 128, mask).astype(np.uint8),
        "one channel": np.dstack([mask, mask, 255 - mask]),
        "8 bits": mask.astype(np.uint16) * 257,
    }
    for reason, pixels in refused.items():
        write_image(path, pixels)
        with pytest.raises(DatasetError) as error:
            read_mask(path)
        assert reason in str(error.value)
    path.write_bytes(encode_image(mask)[:60])
    with pytest.raises(DatasetError, match="not a readable picture"):
        read_mask(path)
    path.write_bytes(_png_header(100_000, 100_000))
    with pytest.raises(DatasetError, match="not a readable picture"):
        read_mask(path)


def test_contrasts_come_back_within_half_a_step(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(300, 500, (33, 21)).astype(np.float32)
    stored, scale, offset = encode_contrast(values)
    assert stored.min() == 0
    assert stored.max() == 65535
    write_image(tmp_path / "c.png", stored)
    found = read_contrast(tmp_path / "c.png", scale=scale, offset=offset)
    np.testing.assert_allclose(found, values, atol=scale / 2 + 1e-3)
    stored, scale, offset = encode_contrast(np.full((3, 3), -7.5))
    np.testing.assert_array_equal(stored * scale + offset, -7.5)
    with pytest.raises(ValueError, match="infinite"):
        encode_contrast(np.array([[0.0, np.nan]]))
    write_image(tmp_path / "c.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DatasetError, match="16-bit"):
        read_contrast(tmp_path / "c.png", scale=1, offset=0)


def test_writing_comes_back(tmp_path: Path, picture: np.ndarray) -> None:
    write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)
    np.testing.assert_array_equal(np.asarray(Pillow.open(tmp_path / "a.png")), picture)
    write_image(tmp_path / "a.JPG", picture)
    assert distance(read_image(tmp_path / "a.JPG"), picture) < 2
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.JPG"}
    assert encode_image(picture) == encode_image(picture.copy())


@pytest.mark.parametrize(
    ("shape", "dtype", "suffix"),
    [
        ((4, 4, 4), np.uint8, ".png"),
        ((4, 4, 1), np.uint8, ".png"),
        ((4,), np.uint8, ".png"),
        ((0, 4), np.uint8, ".png"),
        ((4, 4, 3), np.float32, ".png"),
        ((4, 4), bool, ".png"),
        ((4, 4), np.uint16, ".jpg"),
        ((4, 4, 3), np.uint8, ".bmp"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, suffix: str
) -> None:
    with pytest.raises(ValueError, match=r"expected|cannot write"):
        write_image(tmp_path / f"a{suffix}", np.zeros(shape, dtype))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_others_read_that_a_picture_is_synthetic(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(
        path, picture, xmp=SYNTHETIC_XMP, text={"Software": "fundusforge ö"} if suffix == ".png" else None
    )
    with Pillow.open(path) as found:
        found.load()
        packet = found.info["XML:com.adobe.xmp"] if suffix == ".png" else found.info["xmp"].decode()
        if suffix == ".png":
            assert found.text["Software"] == "fundusforge ö"
        np.testing.assert_allclose(np.asarray(found).astype(int), picture.astype(int), atol=40)
    assert packet == SYNTHETIC_XMP
    from xml.etree import ElementTree

    (described,) = ElementTree.fromstring(packet.split("?>", 1)[1].rsplit("<?", 1)[0]).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    source = described.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]
    assert source.endswith("/trainedAlgorithmicMedia")
    if suffix == ".jpg":
        assert path.read_bytes()[2:4] == b"\xff\xe0"  # the JFIF header stays first
    assert cv2.imread(str(path)) is not None


def test_every_chunk_of_a_written_png_has_a_true_checksum(picture: np.ndarray) -> None:
    data = encode_image(picture, text={"a": "b", "c": "ö"}, xmp=SYNTHETIC_XMP)
    place, kinds = 8, []
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(data[place + 8 + length : place + 12 + length], "big")
        kinds.append(body[:4])
        place += 12 + length
    assert kinds[:4] == [b"IHDR", b"iTXt", b"iTXt", b"iTXt"]
    assert kinds[-1] == b"IEND"


def test_resize_is_antialiased_and_keeps_what_it_is_given(picture: np.ndarray) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 8)
    assert small.dtype == np.uint8
    assert np.ptp(small.astype(int)) <= 1  # one pixel in two, everywhere: no moiré
    assert abs(int(small[0, 0]) - 127) <= 1
    assert resize(picture, picture.shape[:2]) is picture
    assert resize(picture, (20, 90)).shape == (20, 90, 3)
    mixed = resize(np.repeat(stripes, 2, axis=0), (256, 8))  # up in one direction, down in the other
    assert np.ptp(mixed.astype(int)) <= 1
    assert resize(picture.astype(np.float32), 20).dtype == np.float32


def _pieces(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask, connectivity=8)[0] - 1


@pytest.mark.parametrize("factor", [2, 3.7, 8])
def test_a_line_of_one_pixel_stays_connected(factor: float) -> None:
    mask = np.zeros((800, 640), np.uint8)
    x = np.arange(20, 620)
    y = (400 + 300 * np.sin(x / 90)).astype(int)
    points = np.stack([x, y], 1).astype(np.int32)[:, None]
    cv2.polylines(mask, [points], isClosed=False, color=255, thickness=1)
    assert _pieces(mask) == 1
    small = resize_mask(mask, (int(800 / factor), int(640 / factor)))
    assert set(np.unique(small)) == {0, 255}
    assert _pieces(small) == 1
    ys, xs = np.nonzero(small)
    assert np.ptp(xs) >= 599 / factor - 2
    assert np.ptp(ys) >= np.ptp(y) / factor - 2


def test_masks_keep_area_and_small_lesions() -> None:
    mask = np.zeros((512, 512), np.uint8)
    cv2.circle(mask, (256, 256), 100, 255, -1)
    small = resize_mask(mask, 64)
    assert (small > 0).mean() == pytest.approx((mask > 0).mean(), rel=0.03)
    dot = np.zeros((512, 512), np.uint8)
    dot[77:79, 300:302] = 255
    assert (resize_mask(dot, 64) > 0).sum() == 1
    assert not resize_mask(np.zeros((512, 512), np.uint8), 64).any()
    up = resize_mask(small, 512)
    assert set(np.unique(up)) == {0, 255}
    assert (up > 0).mean() == pytest.approx((mask > 0).mean(), rel=0.05)
    assert resize_mask(mask, 512) is mask
    assert resize_mask(mask, (64, 1024)).shape == (64, 1024)


def test_grid_lays_out_in_rows(picture: np.ndarray) -> None:
    tiles = [np.full((10, 20, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = grid([*tiles[:2], tiles[2][..., 0]], columns=2, gap=4)
    assert sheet.shape == (24, 44, 3)
    assert (sheet[:10, :20] == 10).all()
    assert (sheet[:10, 24:] == 20).all()
    assert (sheet[14:, :20] == 30).all()
    assert (sheet[14:, 24:] == 255).all()
    assert (sheet[10:14] == 255).all()
    assert grid([picture]).shape == picture.shape
    assert grid([picture] * 5, gap=0).shape == (80, 180, 3)
    with pytest.raises(ValueError, match="no pictures"):
        grid([])
    with pytest.raises(ValueError, match="differ in size"):
        grid([picture, picture[:10]])


@pytest.fixture(scope="module")
def eye(fundus) -> dict[str, np.ndarray]:
    return fundus(512, seed=3)


def test_colour_code_does_not_depend_on_orientation(eye: dict[str, np.ndarray]) -> None:
    image, field = eye["image"], eye["field_of_view"]
    code = colour_code(image, field)
    assert code.shape == (CODE_SIZE,)
    assert code.dtype == np.float32
    for turn in (lambda x: x[::-1], lambda x: x[:, ::-1], np.rot90):
        turned = colour_code(np.ascontiguousarray(turn(image)), np.ascontiguousarray(turn(field)))
        np.testing.assert_allclose(turned, code, atol=2e-3)


def test_colour_code_does_not_depend_on_size(eye: dict[str, np.ndarray]) -> None:
    image, field = eye["image"], eye["field_of_view"]
    code = colour_code(image, field)
    for size in (256, 384, 1024):
        found = colour_code(resize(image, size), resize_mask(field, size))
        np.testing.assert_allclose(found[:9], code[:9], atol=0.01)
        assert found[9] == pytest.approx(code[9], abs=0.15)


def test_colour_code_says_what_it_says(eye: dict[str, np.ndarray]) -> None:
    image, field = eye["image"], eye["field_of_view"]
    code = colour_code(image, field)
    inside = image[field > 0] / 255
    np.testing.assert_allclose(code[:3], inside.mean(0), atol=0.01)
    np.testing.assert_allclose(code[3:6], inside.std(0), atol=0.02)
    assert (code[6:9] < 0).all()  # the drawn eye is darker outside
    swapped = colour_code(np.ascontiguousarray(image[..., ::-1]), field)
    np.testing.assert_allclose(swapped[:3], code[:3][::-1], atol=1e-6)
    assert colour_code(cv2.GaussianBlur(image, (0, 0), 12), field)[9] < code[9] - 0.5
    outside = image.copy()
    outside[field == 0] = (0, 255, 0)
    np.testing.assert_allclose(colour_code(outside, field), code, atol=0.02)


def test_colour_code_is_finite_for_odd_pictures() -> None:
    flat = np.full((64, 64, 3), 90, np.uint8)
    for field in (None, np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)):
        code = colour_code(flat, field)
        assert np.isfinite(code).all()
    assert not colour_code(flat, np.zeros((64, 64), np.uint8)).any()
    speck = np.zeros((128, 128), np.uint8)
    speck[60:65, 60:65] = 255  # one pixel after erosion
    assert np.isfinite(colour_code(np.full((128, 128, 3), 90, np.uint8), speck)).all()
    assert colour_code(flat)[9] == pytest.approx(math.log(1e-4), abs=1e-3)


def test_grey_clahe_gives_three_equal_channels_and_more_contrast(eye: dict[str, np.ndarray]) -> None:
    found = grey_clahe(eye["image"])
    assert found.shape == eye["image"].shape
    assert found.dtype == np.uint8
    assert (found == found[..., :1]).all()
    inside = eye["field_of_view"] > 0
    grey = cv2.cvtColor(eye["image"], cv2.COLOR_RGB2GRAY)
    assert found[..., 0][inside].std() > grey[inside].std()


def test_pixel_limit_leaves_room_for_real_cameras() -> None:
    assert images.MAX_PIXELS > 8000 * 8000
