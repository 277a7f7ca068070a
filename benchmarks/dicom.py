"""JPEG inside DICOM: how much faster fundusforge decodes a frame than pydicom with Pillow, in the same run.

    python benchmarks/dicom.py [--data FOLDER] [--repeats 15]

Makes Ophthalmic Photography 8 Bit files of 1536 x 2048 pixels, baseline JPEG with 4:2:0 and 4:2:2 chroma
(photometric interpretation YBR_FULL_422) and 4:4:4 (YBR_FULL), encoded by OpenCV and by Pillow, from a
photograph of IDRiD if the data are there and else from a drawn texture. Each repeat times both sides on every
file, one after the other, on one thread, from the file on disk to (H, W, 3) RGB; the pixels of both sides
must be equal. Prints lines of JSON: `dicom_jpeg_vs_pydicom` over all six files, one line for each chroma, and
`dicom_jpeg_vs_pydicom_default`, against the plug-in that pydicom takes by itself (GDCM, if installed).
`value` is the median over repeats of the ratio of summed wall times, `low` and `high` the extreme repeats;
`cpu` is the same median of processor times, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before NumPy reads them: both sides get one thread

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pydicom  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image as Pillow  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels.utils import pixel_array  # noqa: E402
from pydicom.uid import JPEGBaseline8Bit, OphthalmicPhotography8BitImageStorage, generate_uid  # noqa: E402

from fundusforge.images import read_image, resize  # noqa: E402
from fundusforge.sources.dicom_pixels import load_frame  # noqa: E402

OPHTHALMIC_8_BIT = OphthalmicPhotography8BitImageStorage
CHROMA = ("420", "422", "444")
HEIGHT, WIDTH = 1536, 2048


def draw_texture(seed: int = 7) -> NDArray[np.uint8]:
    """Draw an orange disc with grain and fine dark lines, as hard to encode as a photograph."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH, 3)), (0, 0), 1.5) * 20
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    lines = 25 * (np.abs(np.sin(x / 40 + 3 * np.sin(y / 150))) < 0.1)
    picture = np.array([185.0, 95.0, 45.0]) + grain - lines[..., None]
    picture[np.hypot(x - WIDTH / 2, y - HEIGHT / 2) > 0.49 * HEIGHT] = 0
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def find_picture(data: Path) -> tuple[NDArray[np.uint8], str]:
    """Return a photograph of IDRiD at 1536 x 2048, or the drawn texture, and which it is."""
    places = sorted(data.glob("IDRiD/A. Segmentation/1. Original Images/a. Training Set/IDRiD_*.jpg"))
    if not places:
        return draw_texture(), "drawn texture"
    pixels = read_image(places[0])
    return resize(pixels, (HEIGHT, WIDTH)).astype(np.uint8), "photograph"


def encode(pixels: NDArray[np.uint8], *, chroma: str, encoder: str) -> bytes:
    """Encode baseline JPEG at quality 92 with `chroma` 420, 422 or 444."""
    if encoder == "opencv":
        sampling = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{chroma}")
        options = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        return cv2.imencode(".jpg", pixels[..., ::-1], options)[1].tobytes()
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(
        stream, "JPEG", quality=92, subsampling={"420": 2, "422": 1, "444": 0}[chroma]
    )
    return stream.getvalue()


def write_dicom(path: Path, frame: bytes, shape: tuple[int, int], *, chroma: str) -> None:
    """Write one encapsulated JPEG frame as Ophthalmic Photography 8 Bit."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = OPHTHALMIC_8_BIT
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(
        entropy_srcs=[path.name]
    )
    dataset.Modality, dataset.ImageLaterality = "OP", "L"
    dataset.PatientID, dataset.StudyDate = "benchmark", "20240101"
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "YBR_FULL" if chroma == "444" else "YBR_FULL_422"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.NumberOfFrames = 7, 0, 1
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)


def decode_with_pydicom(path: Path) -> NDArray[np.uint8]:
    """Decode as a user of pydicom with Pillow does: `pixel_array`, in RGB."""
    return pixel_array(pydicom.dcmread(path), decoding_plugin="pillow")


def decode_by_default(path: Path) -> NDArray[np.uint8]:
    """Decode by `Dataset.pixel_array`, with the plug-in pydicom takes first (GDCM, if installed)."""
    return pydicom.dcmread(path).pixel_array


def clock(decode: Callable[[Path], NDArray[np.uint8]], path: Path) -> tuple[float, float]:
    """Return the wall and processor seconds one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    decode(path)
    return time.perf_counter() - wall, time.process_time() - cpu


def write_files(folder: Path, picture: NDArray[np.uint8]) -> list[Path]:
    """Write one file for each encoder and chroma; its name ends in the chroma."""
    files = []
    for encoder in ("opencv", "pillow"):
        for chroma in CHROMA:
            files.append(folder / f"{encoder}_{chroma}.dcm")
            frame = encode(picture, chroma=chroma, encoder=encoder)
            write_dicom(files[-1], frame, picture.shape[:2], chroma=chroma)
    return files


def figure(name: str, slow: NDArray[np.float64], quick: NDArray[np.float64]) -> dict[str, object]:
    """Return a figure of how many times as long the slow side took.

    Args:
        name: Name of the figure.
        slow: (repeats, files, 2) wall and processor seconds of the peer.
        quick: The same of fundusforge.
    """
    wall, cpu = (slow.sum(axis=1) / quick.sum(axis=1)).T
    return {
        "name": name,
        "value": round(statistics.median(wall), 2),
        "low": round(min(wall), 2),
        "high": round(max(wall), 2),
        "n": len(wall),
        "unit": "ratio",
        "cpu": round(statistics.median(cpu), 2),
        "frames_per_core_second": round(1 / float(np.median(quick[..., 1])), 1),
        "command": " ".join(["python", "benchmarks/dicom.py", *sys.argv[1:]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FUNDUSFORGE_DATA", beside)))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    picture, what = find_picture(options.data)
    print(f"pixels from a {what}", file=sys.stderr)
    sides = (decode_with_pydicom, lambda path: load_frame(path, 0), decode_by_default)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), picture)
        for path in files:
            if not np.array_equal(load_frame(path, 0), decode_with_pydicom(path)):
                sys.exit(f"{path.stem}: pixels differ from pydicom's; the times would mean nothing")
        times = np.array(
            [[[clock(decode, path) for path in files] for decode in sides] for _ in range(options.repeats)]
        )
    pillow, ours, default = times[:, 0], times[:, 1], times[:, 2]
    print(json.dumps(figure("dicom_jpeg_vs_pydicom", pillow, ours)))
    for chroma in CHROMA:
        chosen = [path.stem.endswith(chroma) for path in files]
        name = f"dicom_jpeg_{chroma}_vs_pydicom"
        print(json.dumps(figure(name, pillow[:, chosen], ours[:, chosen])))
    print(json.dumps(figure("dicom_jpeg_vs_pydicom_default", default, ours)))


if __name__ == "__main__":
    main()
