"""Broken input of every kind has the outcome that `docs/broken-input.md` promises, through the command line.

Exit codes: 0 done (what could not be used stands in `rejected.jsonl`), 1 done with more rejects than allowed,
2 refused with one line that says what was expected. Nothing ever ends in a traceback.
"""

import errno
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from fundusforge.cli import main
from fundusforge.images import encode_image, read_image, write_image
from fundusforge.prepare.patients import VARIABLE
from fundusforge.records import METADATA, read_folder

ROOT = Path(__file__).resolve().parents[1]
KEY = "a key for tests only"
Draw = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def _patient_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@dataclass
class Outcome:
    """What a command gave back."""

    code: int
    out: str
    err: str

    def refused(self, *told: str) -> None:
        """It was wrong use or bad input, said in one sentence without a traceback."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("fundusforge ")]
        assert len(lines) == 1, self.err
        for text in told:
            assert text in lines[0], lines[0]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process."""

    def call(*words: object) -> Outcome:
        capfd.readouterr()
        code = main([str(word) for word in words])
        told = capfd.readouterr()
        return Outcome(code, told.out, told.err)

    return call


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejected(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert all(set(row) == {"file", "reason"} for row in rows)
    return {row["file"]: row["reason"] for row in rows}


def prepare(
    run: Callable[..., Outcome], source: Path, out: Path, *more: object, form: str = "folder"
) -> Outcome:
    return run("prepare", source, "--format", form, "--size", 96, "--out", out, *more)


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


# ---- pictures ----------------------------------------------------------------------------------------------


def absurd_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


UNREADABLE: dict[str, tuple[Callable[[np.ndarray], bytes], str]] = {
    "truncated.jpg": (lambda eye: encoded(eye, "JPEG")[:-500], "truncated"),
    "truncated.png": (lambda eye: encoded(eye, "PNG")[:-5000], "truncated"),
    "flipped.png": (
        lambda eye: encoded(eye, "PNG")[:9000] + b"\0" * 4000 + encoded(eye, "PNG")[13000:],
        "readable",
    ),
    "zero bytes.png": (lambda eye: b"", "zero bytes"),
    "letter.jpg": (lambda eye: b"Dear colleague,\n", "no known format"),
    "page.png": (lambda eye: b"<!DOCTYPE html><title>404</title>", "no known format"),
    "absurd.png": (lambda eye: absurd_png(), "pixels"),
    "float.tif": (lambda eye: cv2.imencode(".tif", eye.astype(np.float32))[1].tobytes(), "8 or 16 bits"),
    "black.png": (lambda eye: encoded(eye * 0, "PNG"), "field of view not found"),
    "tiny.png": (lambda eye: encoded(eye[::8, ::8], "PNG"), "too small"),
}


def deep(eye: np.ndarray) -> bytes:
    return cv2.imencode(".png", eye[..., ::-1].astype(np.uint16) * 256 + 99)[1].tobytes()


def clear(eye: np.ndarray) -> bytes:
    return encoded(np.dstack([eye, np.where(eye.max(2) > 12, 255, 0).astype(np.uint8)]), "PNG", "RGBA")


def turned(eye: np.ndarray) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return encoded(np.ascontiguousarray(np.rot90(eye)), "JPEG", exif=exif, quality=97)


READABLE: dict[str, tuple[Callable[[np.ndarray], bytes], float]] = {
    "sixteen bits.png": (deep, 0.0),
    "rgba.png": (clear, 1.0),
    "cmyk.jpg": (lambda eye: encoded(eye, "JPEG", "CMYK", quality=97), 5.0),
    "grey.png": (lambda eye: encoded(eye, "PNG", "L"), 60.0),
    "palette.png": (lambda eye: encoded(eye, "PNG", "P", palette=Pillow.Palette.ADAPTIVE), 8.0),
    "turned.jpg": (turned, 4.0),
    "left eye, Ø 眼 é.png": (lambda eye: encoded(eye, "PNG"), 0.0),
    "UPPER.JPG": (lambda eye: encoded(eye, "JPEG", quality=97), 3.0),
    "with.many.dots.png": (lambda eye: encoded(eye, "PNG"), 0.0),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, fundus: Draw) -> tuple[Path, Path, Path]:
    """Prepare a folder of odd pictures, and the same eyes as plain ones: source, result, plain result."""
    base = tmp_path_factory.mktemp("odd")
    for seed, (name, (make, _)) in enumerate((UNREADABLE | READABLE).items()):
        eye = fundus(300, seed=seed)["image"]
        for kind, data in (("odd", make(eye)), ("plain", encoded(eye, "PNG"))):
            path = base / kind / (name if kind == "odd" else Path(name).with_suffix(".png").name)
            path.parent.mkdir(exist_ok=True)
            if kind == "odd" or name in READABLE:
                path.write_bytes(data)
    os.environ[VARIABLE] = KEY
    try:
        for kind in ("odd", "plain"):
            words = ["prepare", base / kind, "--format", "folder", "--size", 96, "--quiet"]
            assert main([str(word) for word in [*words, "--out", base / f"{kind}-out"]]) == 0
    finally:
        del os.environ[VARIABLE]
    return base / "odd", base / "odd-out", base / "plain-out"


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_picture_that_cannot_be_used_is_rejected_with_its_reason(name: str, odd: tuple[Path, ...]) -> None:
    found = rejected(odd[1])
    assert UNREADABLE[name][1] in found[name]
    assert str(odd[0]) not in found[name]
    assert "object at 0x" not in found[name]


def test_every_reject_was_expected_and_the_rest_kept(odd: tuple[Path, ...]) -> None:
    assert set(rejected(odd[1])) == set(UNREADABLE)
    assert len(read_folder(odd[1])) == len(READABLE)


@pytest.mark.parametrize("name", READABLE)
def test_an_odd_picture_becomes_what_a_plain_one_does(name: str, odd: tuple[Path, ...]) -> None:
    stem = "_".join(part for part in Path(name).stem.replace(",", " ").split())
    found, plain = (read_image(folder / "images" / f"{stem}.png") for folder in odd[1:])
    assert found.shape == plain.shape == (96, 96, 3)
    assert np.abs(found.astype(int) - plain).mean() <= READABLE[name][1]


def test_too_many_rejects_are_told_by_the_exit_code(
    run: Callable[..., Outcome], odd: tuple[Path, ...], tmp_path: Path
) -> None:
    count = len(UNREADABLE)
    assert prepare(run, odd[0], tmp_path / "a", "--max-rejects", count).code == 0
    assert prepare(run, odd[0], tmp_path / "b", "--max-rejects", count - 1).code == 1
    told = json.loads(prepare(run, odd[0], tmp_path / "c", "--json").out)
    assert (told["rejected"], told["kept"]) == (count, len(READABLE))


def test_the_same_name_in_two_folders_gives_two_records(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    for seed, name in enumerate(["a/eye.png", "b/eye.png", "b/EYE.png", "a_eye.png"]):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "in" / name, fundus(300, seed=seed)["image"])
    assert prepare(run, tmp_path / "in", tmp_path / "out").code == 0
    records = read_folder(tmp_path / "out")
    assert len(records) == 4
    assert len({record.image.casefold() for record in records}) == 4  # also where case does not count


def test_names_that_are_no_unicode(run: Callable[..., Outcome], fundus: Draw, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = encode_image(fundus(300)["image"])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xe9\xff.png")).write_bytes(data)
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xe8bad.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes unicode names only")
    assert prepare(run, tmp_path / "in", tmp_path / "out").code == 0
    assert len(read_folder(tmp_path / "out")) == 1
    assert len(rejected(tmp_path / "out")) == 1


# ---- masks -------------------------------------------------------------------------------------------------


def test_masks_of_another_size_and_of_0_and_1(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    (tmp_path / "in" / "vessels").mkdir(parents=True)
    for seed, name in enumerate(["whole", "ones", "small", "broken", "colour"]):
        drawn = fundus(300, seed=seed)
        vessels = drawn["vessels"]
        vessels = {"ones": vessels // 255, "small": vessels[:200], "colour": np.dstack([vessels] * 3)}.get(
            name, vessels
        )
        write_image(tmp_path / "in" / f"{name}.png", drawn["image"])
        write_image(tmp_path / "in" / "vessels" / f"{name}.png", vessels)
    (tmp_path / "in" / "vessels" / "broken.png").write_bytes(b"\x89PNG")
    assert prepare(run, tmp_path / "in", tmp_path / "out").code == 0
    found = rejected(tmp_path / "out")
    assert set(found) == {"small.png", "broken.png"}
    assert "300x200" in found["small.png"]
    assert "vessels" in found["small.png"]
    assert "vessels" in found["broken.png"]
    kept = {Path(record.image).stem: record for record in read_folder(tmp_path / "out")}
    assert set(kept) == {"whole", "ones", "colour"}
    for record in kept.values():
        mask = cv2.imread(str(tmp_path / "out" / record.masks["vessels"].path), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.01 < (mask > 0).mean() < 0.3


# ---- folders and tables ------------------------------------------------------------------------------------


def test_a_folder_without_pictures(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("nothing here")
    for form in ("folder", "dicom", "drive", "idrid"):
        prepare(run, tmp_path / "in", tmp_path / "out", form=form).refused(str(tmp_path / "in"), "expected")
        assert not (tmp_path / "out").exists()


def test_a_missing_folder(run: Callable[..., Outcome], weights: Path, tmp_path: Path) -> None:
    judge = ("--segmenter", weights / "unet.safetensors")
    prepare(run, tmp_path / "none", tmp_path / "out").refused("none", "is not a folder")
    run("inspect", tmp_path / "none").refused("none", "is not a folder")
    run("train", "unet", tmp_path / "none", "--out", tmp_path / "run").refused("none", "is not a folder")
    run("annotate", tmp_path / "none", "--vessels", "--model", judge[1], "--out", tmp_path / "o").refused(
        "none"
    )
    run("evaluate", tmp_path / "none", "--against", tmp_path / "none", *judge).refused(
        "none", "is not a folder"
    )
    run("report", tmp_path / "none").refused("none")


def test_nothing_that_passes(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    prepare(run, tmp_path / "in", tmp_path / "out").refused(
        "no picture passed", "empty file", "rejected.jsonl"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("picture,grade\na.png,1\n", "'image'"),
        ("image,colour\na.png,1\n", "unknown column 'colour'"),
        ("image,grade\na.png,1\na.png,2\n", "stands twice"),
        ("image,vessels_file\na.png,../../v.png\n", "leaves the folder"),
        ("image,vessels_file\na.png,/etc/v.png\n", "absolute"),
        ("", "empty table"),
    ],
)
def test_a_table_that_does_not_fit(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", fundus(300)["image"])
    (tmp_path / "in" / "table.csv").write_text(text)
    prepare(run, tmp_path / "in", tmp_path / "out").refused("table.csv", told)


def test_a_row_that_does_not_fit_is_rejected_alone(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(["a", "b", "c"]):
        write_image(tmp_path / "in" / f"{name}.png", fundus(300, seed=seed)["image"])
    (tmp_path / "in" / "table.csv").write_text(
        "image,grade,eye\na.png,2,left\nb.png,7,left\ngone.png,1,\nc.png,,up\n"
    )
    assert prepare(run, tmp_path / "in", tmp_path / "out").code == 0
    found = rejected(tmp_path / "out")
    assert set(found) == {"b.png", "c.png", "gone.png"}
    assert "0 to 4" in found["b.png"]
    assert "left, right" in found["c.png"]
    assert [record.grade for record in read_folder(tmp_path / "out")] == [2]


def test_an_output_folder_that_is_the_input(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    (source / "images").mkdir(parents=True)
    for seed in range(2):
        write_image(source / "images" / f"{seed}.png", fundus(300, seed=seed)["image"])
    before = tree(source)
    for more in ([], ["--overwrite"]):
        for out in (source, source / ".", source / "images", source / "new", tmp_path):
            if out == tmp_path and not more:
                continue
            prepare(run, source, out, *more).refused()
            assert tree(source) == before
            assert not (source / "new").exists()


def test_a_dataset_folder_is_never_prepared_into_itself(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(2):
        write_image(tmp_path / "in" / f"{seed}.png", fundus(300, seed=seed)["image"])
    assert prepare(run, tmp_path / "in", tmp_path / "data").code == 0
    before = tree(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for out in (tmp_path / "data", tmp_path / "link"):
        prepare(run, tmp_path / "data", out, "--overwrite").refused("data")
        run(
            "annotate", tmp_path / "data", "--vessels", "--model", tmp_path / "m.safetensors", "--out", out
        ).refused()
        assert tree(tmp_path / "data") == before


def test_an_output_folder_that_holds_something_else(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", fundus(300)["image"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("do not lose me")
    for more in ([], ["--overwrite"]):
        prepare(run, tmp_path / "in", tmp_path / "out", *more).refused(str(tmp_path / "out"))
        assert tree(tmp_path / "out") == {"thesis.tex": b"do not lose me"}


# ---- dataset folders ---------------------------------------------------------------------------------------

LINES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "absolute path": ({"file_name": "/etc/passwd"}, "absolute"),
    "escaping path": ({"vessels_file_name": "../../v.png"}, "leaves the folder"),
    "windows path": ({"file_name": "C:\\a.png"}, "absolute"),
    "unknown field": ({"colour": "red"}, "unknown field 'colour'"),
    "unknown mask": ({"hair_file_name": "v.png"}, "unknown field 'hair_file_name'"),
    "another type": ({"grade": "two"}, "grade"),
    "grade out of range": ({"grade": 7}, "between 0 and 4"),
    "missing picture": ({"file_name": "images/gone.png"}, "missing file 'images/gone.png'"),
    "missing mask": ({"disc_file_name": "disc/gone.png"}, "missing file 'disc/gone.png'"),
    "the same image twice": ({"file_name": "images/000.png"}, "stands twice"),
    "cut line": ('{"file_name": "images/002.png", "pat', "not JSON"),
    "no object": ('["images/002.png"]', "expected a JSON object"),
    "blank line": ("", "not JSON"),
    "no patient": ({"patient": None}, "patient"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_of_metadata_is_refused_by_file_and_line(
    name: str, run: Callable[..., Outcome], dataset_folder: Path, tmp_path: Path
) -> None:
    change, told = LINES[name]
    path = dataset_folder / METADATA
    lines = path.read_text("utf-8").splitlines()
    if isinstance(change, str):
        lines[2] = change
    else:
        row = json.loads(lines[2]) | change
        lines[2] = json.dumps({key: value for key, value in row.items() if value is not None})
    path.write_text("\n".join(lines) + "\n", "utf-8")
    run("train", "unet", dataset_folder, "--out", tmp_path / "run").refused(f"{path}:3: ", told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "zero bytes"), (b"text", "not a readable picture"), (None, "64x32"), ("ones", "multiply by 255")],
    ids=["empty", "text", "size", "ones"],
)
def test_inspect_lists_what_is_wrong_with_a_mask(
    run: Callable[..., Outcome], dataset_folder: Path, data: bytes | str | None, told: str
) -> None:
    path = dataset_folder / "vessels" / "001.png"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        write_image(path, np.ones((64, 64), np.uint8) if data else np.zeros((32, 64), np.uint8))
    found = run("inspect", dataset_folder, "--no-sheet")
    assert found.code in (1, 2), found.out + found.err
    assert "Traceback" not in found.err
    assert "001.png" in found.out + found.err
    assert told in found.out + found.err


def test_a_patient_in_two_splits_is_refused(
    run: Callable[..., Outcome], drawn_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = drawn_folder()
    path = folder / METADATA
    path.write_text(path.read_text().replace('"split": "train"', '"split": "test"', 1))
    run("train", "unet", folder, "--out", tmp_path / "run").refused("drawn-0-0", "more than one split")


# ---- disks and processes -----------------------------------------------------------------------------------


@pytest.fixture
def eyes(fundus: Draw, tmp_path: Path) -> Path:
    """Six good photographs."""
    (tmp_path / "eyes").mkdir()
    for seed in range(6):
        write_image(tmp_path / "eyes" / f"{seed}.png", fundus(300, seed=seed)["image"])
    return tmp_path / "eyes"


def test_a_disk_that_fills_up_stops_the_run_which_then_goes_on(
    run: Callable[..., Outcome], eyes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(run, eyes, tmp_path / "whole").code == 0
    flush, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        prepare(run, eyes, tmp_path / "out").refused(str(tmp_path / "out"), "No space left on device")
    assert not (tmp_path / "out" / METADATA).exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert prepare(run, eyes, tmp_path / "out").code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(run: Callable[..., Outcome], eyes: Path, small_disk: Path) -> None:
    prepare(run, eyes, small_disk / "out").refused("No space left on device")
    assert not (small_disk / "out" / METADATA).exists()
    assert not list(small_disk.rglob("*.partial"))


@pytest.mark.parametrize("place", ["file/out", "/proc/fundusforge-out"])
def test_an_output_that_cannot_be_written(
    run: Callable[..., Outcome], eyes: Path, dataset_folder: Path, tmp_path: Path, place: str
) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / place
    prepare(run, eyes, out).refused(str(out))
    run("train", "unet", dataset_folder, "--out", out, "--stop-after", "8images").refused()
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_read_only_output(run: Callable[..., Outcome], eyes: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    prepare(run, eyes, tmp_path / "locked" / "out").refused("Permission denied")


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(
    run: Callable[..., Outcome], fundus: Draw, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(12):
        write_image(tmp_path / "in" / f"{seed}.png", fundus(300, seed=seed)["image"])
    (tmp_path / "in" / "broken.png").write_bytes(b"")
    words = ["prepare", str(tmp_path / "in"), "--format", "folder", "--size", "256", "--out"]
    assert run(*words, tmp_path / "whole").code == 0
    program = "import sys; from fundusforge.cli import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", program, *words, str(out)], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    journal = out / ".journal.jsonl"
    while time.monotonic() < limit and process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (out / METADATA).exists()
    with open(journal, "ab") as file:
        file.write(b'{"name": "torn by the ki')
    (out / "images" / "11.png.partial").write_bytes(b"half a picture")
    assert run(*words, out).code == 0
    found = tree(out)
    found.pop("images/11.png.partial", None)
    assert found == tree(tmp_path / "whole")


def test_settings_changed_on_an_unfinished_or_finished_run_are_refused(
    run: Callable[..., Outcome], eyes: Path, tmp_path: Path
) -> None:
    assert prepare(run, eyes, tmp_path / "out").code == 0
    before = tree(tmp_path / "out")
    assert prepare(run, eyes, tmp_path / "out").code == 0
    prepare(run, eyes, tmp_path / "out", "--clahe").refused("other settings")
    assert tree(tmp_path / "out") == before


# ---- weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models of both families, and the ways in which such a file can be wrong."""
    import torch
    from safetensors.torch import load_file, save_file

    from fundusforge.config import to_json
    from fundusforge.models import ModelConfig, Pix2PixConfig, UNetConfig
    from fundusforge.training.checkpoint import Clock, read, save_model

    folder = tmp_path_factory.mktemp("weights")
    unet = UNetConfig(widths=(4, 8), crop=32, diameter=64)
    painter = Pix2PixConfig(size=64, widths=(4, 4), discriminator_widths=(4, 4), scales=1)
    torch.manual_seed(0)
    for config in (unet, painter):
        nets = config.build().nets
        kept = torch.nn.ModuleDict({name: net for name, net in nets.items() if name != "discriminator"})
        text = to_json(config, kind=ModelConfig, indent=None)
        save_model(folder / f"{config.kind}.safetensors", kept, config_json=text, clock=Clock())
    good = (folder / "unet.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_bytes(b"not weights at all, just text")
    (folder / "huge header.safetensors").write_bytes(b"\xff" * 8 + good[8:])
    (folder / "pickle.pt").write_bytes(b"\x80\x04.")
    save_file(load_file(folder / "unet.safetensors"), folder / "foreign.safetensors")
    tensors, metadata = read(folder / "unet.safetensors")
    config = json.loads(metadata["config"])
    save_file(tensors, folder / "newer.safetensors", metadata | {"config": json.dumps(config | {"heads": 3})})
    save_file(
        tensors, folder / "wider.safetensors", metadata | {"config": json.dumps(config | {"widths": [4, 16]})}
    )
    save_file({}, folder / "nothing.safetensors", metadata)
    save_file(tensors, folder / "no config.safetensors", {k: v for k, v in metadata.items() if k != "config"})
    save_file(tensors, folder / "format.safetensors", metadata | {"format": "fundusforge-99"})
    return folder


WEIGHTS = {
    "cut.safetensors": "not a whole safetensors file",
    "empty.safetensors": "not a whole safetensors file",
    "text.safetensors": "not a whole safetensors file",
    "huge header.safetensors": "not a whole safetensors file",
    "pickle.pt": "expected a run folder or a .safetensors file",
    "gone.safetensors": "no such file",
    "foreign.safetensors": "not written by fundusforge",
    "format.safetensors": "fundusforge-99",
    "newer.safetensors": "heads",
    "wider.safetensors": "",
    "nothing.safetensors": "",
    "no config.safetensors": "config",
    "pix2pix.safetensors": "pix2pix",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit_are_refused_by_name(
    name: str, run: Callable[..., Outcome], weights: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    words = ("annotate", dataset_folder, "--vessels", "--model", weights / name, "--out", tmp_path / "out")
    run(*words).refused(str(weights / name), WEIGHTS[name])
    assert not (tmp_path / "out").exists()


def test_good_weights_do_fit(
    run: Callable[..., Outcome], weights: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """The counterpart: the refusals above are not for want of trying."""
    found = run(
        "annotate",
        dataset_folder,
        "--vessels",
        "--model",
        weights / "unet.safetensors",
        "--out",
        tmp_path / "a",
    )
    assert found.code == 0, found.err
    found = run(
        "sample", weights / "pix2pix.safetensors", "-n", 1, "--masks", dataset_folder, "--out", tmp_path / "s"
    )
    assert found.code == 0, found.err


def test_a_generator_is_refused_other_weights_and_cameras(
    run: Callable[..., Outcome], weights: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    run("sample", weights / "unet.safetensors", "-n", 1, "--out", tmp_path / "s").refused("unet", "pix2pix")
    words = (
        "sample",
        weights / "pix2pix.safetensors",
        "-n",
        1,
        "--masks",
        dataset_folder,
        "--out",
        tmp_path / "s",
    )
    run(*words, "--camera", "none").refused("unknown camera 'none'")
    run(*words, "--size", 65).refused("size 65")
    assert not (tmp_path / "s").exists()
