"""Fixtures shared by all tests: tiny drawn eyes, a dataset folder of them, the public data if present."""

import os

# Before any numerical library starts its threads: parallel test processes must not each take every core.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    cv2.setNumThreads(1)
ROOT = Path(__file__).resolve().parents[1]
Drawing = dict[str, np.ndarray]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as each worker of the tests should."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of public data sets (FUNDUSFORGE_DATA, or beside the checkout), or a skip."""
    root = Path(os.environ.get("FUNDUSFORGE_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no public data sets here: set FUNDUSFORGE_DATA to their folder")
    return root


def draw_fundus(size: int = 64, *, seed: int = 0) -> Drawing:
    """Draw a crude eye: `image` (S, S, 3); `vessels`, `disc`, `field_of_view` (S, S) of 0 and 255; all uint8.

    A retina only in outline (an orange disc on black, a bright spot, dark branches), for tests that need
    plausible arrays quickly; the phantom in `fundusforge.sources.phantom` is the one to look at.
    """
    rng = np.random.default_rng([seed, size])
    centre, radius = size / 2, 0.46 * size
    rows, columns = np.mgrid[:size, :size] + 0.5
    inside = np.hypot(rows - centre, columns - centre) <= radius
    side = rng.choice((-1, 1))
    disc_centre = np.array([centre + side * 0.22 * size, centre + rng.uniform(-0.04, 0.04) * size])
    disc = np.hypot(columns - disc_centre[0], rows - disc_centre[1]) <= 0.08 * size
    vessels = np.zeros((size, size), np.uint8)
    thickness = max(1, size // 64)
    for vertical in (-1, 1):
        for reach in rng.uniform(0.2, 0.42, size=3):
            steps = np.linspace(0, 1, 24)
            x = disc_centre[0] - side * steps * 0.62 * size
            y = disc_centre[1] + vertical * reach * size * np.sin(steps * np.pi * rng.uniform(0.45, 0.9))
            path = np.stack([x, y], axis=1).round().astype(np.int32)[:, None]
            cv2.polylines(vessels, [path], isClosed=False, color=255, thickness=thickness)
    vessels[~inside] = 0
    image = np.zeros((size, size, 3), np.float32) + np.array([190, 95, 45], np.float32)
    image[disc] = (245, 215, 150)
    image[vessels > 0] *= 0.6
    image *= 1 - 0.3 * ((np.hypot(rows - centre, columns - centre) / radius) ** 2)[..., None]
    image += rng.normal(0, 3, image.shape)
    image[~inside] = 0
    return {
        "image": image.clip(0, 255).round().astype(np.uint8),
        "vessels": vessels,
        "disc": (disc & inside).astype(np.uint8) * 255,
        "field_of_view": inside.astype(np.uint8) * 255,
    }


def write_drawn_folder(folder: Path, count: int = 6, *, size: int = 64, seed: int = 0) -> Path:
    """Write a dataset folder of `count` drawn eyes, two to a patient; of five patients, three train."""
    from fundusforge.images import write_image
    from fundusforge.records import Mask, Record, write_metadata

    for name in ("images", "vessels", "disc", "field_of_view"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        drawing = draw_fundus(size, seed=seed + index)
        for name, pixels in drawing.items():
            write_image(folder / ("images" if name == "image" else name) / f"{index:03d}.png", pixels)
        patient = index // 2
        records.append(
            Record(
                image=f"images/{index:03d}.png",
                patient=f"drawn-{seed}-{patient}",
                source="drawn",
                masks={
                    name: Mask(path=f"{name}/{index:03d}.png", origin="phantom")
                    for name in ("vessels", "disc")
                },
                field_of_view=f"field_of_view/{index:03d}.png",
                eye="right" if index % 2 == 0 else "left",
                split=("train", "val", "test", "train", "train")[patient % 5],
                grade=index % 5,
                camera="drawn",
            )
        )
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="session")
def fundus() -> Callable[..., Drawing]:
    """Give tests the drawing function: `fundus(size, seed=...)`."""
    return draw_fundus


@pytest.fixture(scope="session")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give tests a new dataset folder: `drawn_folder(count, size=..., seed=...)`."""

    def make(count: int = 6, *, size: int = 64, seed: int = 0) -> Path:
        return write_drawn_folder(tmp_path_factory.mktemp("drawn"), count, size=size, seed=seed)

    return make


@pytest.fixture
def dataset_folder(drawn_folder: Callable[..., Path]) -> Path:
    """Make a dataset folder for this test alone: six drawn eyes of 64 px, vessels, disc and field of view."""
    return drawn_folder()
