"""Distances as figures: intervals, floors at their own size, refusals; and through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusforge.cli import main
from fundusforge.evaluate import coverage, frechet, kernel, mind
from fundusforge.evaluate.distance import drawn, halves, matched
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.stage import EvaluateConfig, evaluate
from fundusforge.evaluate.statistics import real_floor
from fundusforge.images import read_image, write_image
from fundusforge.records import Record, read_folder, write_metadata

Make = Callable[..., Path]
FEATURES = ("frechet", "kernel", "mind", "coverage")


class Colours:
    """Mean and deviation of the channels in three rings: sees colour and blur, knows nothing of eyes."""

    name, resize, key, dimensions = "colours", "none", "colours", 24

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        parts = [
            [part for row in np.array_split(image, 2) for part in np.array_split(row, 2, axis=1)]
            for image in images
        ]
        rows = [np.concatenate([[*p.mean((0, 1)), *p.std((0, 1))] for p in each]) for each in parts]
        return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def folders(drawn_folder: Make) -> tuple[Path, Path, Path]:
    """Synthetic eyes, the same blurred and browned, and real ones; 52 each, two to a patient."""
    made, spoilt, real = (drawn_folder(52, seed=seed) for seed in (1000, 1000, 3000))
    for folder in (made, spoilt):
        records = read_folder(folder)
        write_metadata(folder, [replace(record, synthetic=True, split=None) for record in records])
        for record in records if folder == spoilt else ():
            image = cv2.GaussianBlur(read_image(folder / record.image), (0, 0), 2)
            write_image(folder / record.image, (image * np.array([0.9, 1.0, 1.0])).astype(np.uint8))
    return made, spoilt, real


def judged(synthetic: Path, real: Path, out: Path, metrics: tuple[str, ...] = FEATURES) -> dict:
    config = EvaluateConfig(
        synthetic=synthetic,
        against=real,
        out=out,
        metrics=metrics,
        draws=100,
        floor_repeats=20,
        atlas=False,
    )
    return {figure.name: figure for figure in evaluate(config, extractor=Colours()).figures}


def test_every_figure_has_its_circumstances(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Of sets alike: value, interval, floor and counts, and the distance at the floor's size."""
    found = judged(folders[0], folders[2], tmp_path)
    names = {"frechet", "frechet_excess", "kernel", "mind", "precision", "recall", "density", "coverage"}
    for name in names:
        figure = found[name]
        assert figure.value is not None, figure.reason
        assert figure.low <= figure.value <= figure.high, name
        assert figure.floor is not None and "52 patients" in figure.interval, name
        assert (figure.n, figure.n_real, figure.extractor, figure.resize) == (52, 52, "colours", "none")
        if name != "frechet_excess":
            assert figure.matched is not None
            assert "centred" in figure.interval
    assert found["precision"].high <= 1.0 and found["frechet"].low >= 0.0
    assert found["frechet_infinity"].value is not None  # 24 numbers: 52 images are enough for a line


def test_spoilt_images_stand_outside_the_floor(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    found = judged(folders[1], folders[2], tmp_path)
    for name in ("frechet", "frechet_excess", "kernel", "mind"):
        assert found[name].low > found[name].floor.high and found[name].within_floor is False, name
    for name in ("precision", "density", "coverage"):
        assert found[name].high < found[name].floor.low and found[name].within_floor is False, name


def test_few_images_and_no_extractor_are_reasons(
    folders: tuple[Path, Path, Path], drawn_folder: Make, tmp_path: Path
) -> None:
    few = judged(folders[0], drawn_folder(8, seed=5000), tmp_path)
    assert {figure.value for figure in few.values()} == {None}
    assert few.pop("frechet_grades").reason == "no grade has 50 images in both sets"
    assert all("8 real images" in figure.reason for figure in few.values())
    config = EvaluateConfig(
        synthetic=folders[0], against=folders[2], out=tmp_path, metrics=FEATURES, atlas=False
    )
    none = evaluate(config).figures
    assert all(figure.value is None and "--extractor" in figure.reason for figure in none)


def test_through_the_command_line(
    folders: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An extractor by name, its vectors kept in the folder asked for, and a clear word where weights lack."""
    words = [
        "evaluate", str(folders[0]), "--against", str(folders[2]), "--out", str(tmp_path / "results"),
        "--metrics", "kernel", "--draws", "100", "--floor-repeats", "10", "--cache", str(tmp_path / "kept"),
        "--no-atlas", "--quiet", "--json",
    ]  # fmt: skip
    assert main([*words, "--extractor", "random"]) == 0
    (figure,) = json.loads(capsys.readouterr().out)["figures"]
    assert figure["extractor"].startswith("random-") and figure["value"] is not None
    assert "128 px" in figure["resize"]
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 104
    assert main([*words, "--extractor", "inception"]) == 2
    assert "--extractor-weights" in capsys.readouterr().err


def images(sizes: Sequence[int]) -> ImageSet:
    """Patients with so many images each."""
    records = [
        Record(image=f"{patient}-{i}", patient=f"p{patient}", source="s")
        for patient, size in enumerate(sizes)
        for i in range(size)
    ]
    return ImageSet(folder=Path(), records=records)


def test_patients_stay_whole() -> None:
    """In halves and in draws; a draw ends once it has enough, and takes only from those allowed."""
    some = images([1, 2, 3, 4, 5])
    names = np.array(some.patients)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        half, rest = halves(some, rng)
        assert set(names[half > 0]).isdisjoint(names[rest > 0])
        assert len(set(names[half > 0])) == 2 and (half + rest == 1).all()
        chosen = drawn(some, 4, rng)
        assert 4 <= chosen.sum() <= 8
        assert set(names[chosen > 0]).isdisjoint(names[chosen == 0])
        assert drawn(some, 99, rng, among=rest).tolist() == rest.tolist()


def test_matched_takes_the_place_of_the_floors_halves() -> None:
    """As many images as the half that plays them, against the very other half of each repeat; the median."""
    real, halved, seen = images([1, 2, 3] * 7), [], []

    def count(weights: Sequence[np.ndarray]) -> float:
        seen.append(weights)
        return float(len(seen) ** 2)

    floor = real_floor(lambda w: halved.append(w) or 1.0, real.patients, seed=4, repeats=5)
    assert floor is not None
    assert matched(count, images([1] * 90), real, seed=4, repeats=5) == 9.0
    for ours, theirs in zip(seen, halved, strict=True):
        assert ours[0].sum() == theirs[0].sum()
        assert ours[1].tolist() == theirs[1].tolist()
    assert matched(count, images([1] * 9), images([5, 5, 5]), seed=0, repeats=2) is None, "no floor either"


def of_vectors(synthetic: np.ndarray, real: np.ndarray) -> dict[str, Figure]:
    """The figures of two sets of vectors, each row an image of one patient."""
    sets = [
        replace(images([1] * len(rows)), folder=Path(name)) for name, rows in (("s", synthetic), ("r", real))
    ]
    known = {
        each.folder / record.image: row
        for each, rows in zip(sets, (synthetic, real), strict=True)
        for record, row in zip(each.records, rows.astype(np.float32), strict=True)
    }
    evidence = Evidence(
        synthetic=sets[0], real=sets[1], judge=None, size=64, margin=0.2, reference=None, seed=3, draws=100,
        repeats=20, extractor=Colours(), _features=known,
    )  # fmt: skip
    found = [*frechet.figures(evidence), *kernel.figures(evidence), *mind.figures(evidence)]
    return {figure.name: figure for figure in [*found, *coverage.figures(evidence)]}


def test_a_floor_is_compared_at_its_own_size() -> None:
    """Of one distribution, the value lies outside the floor for the number of images alone.

    The distances of N standard normal vectors are too large by about c / N. So at 400 images a side they lie
    below all halves of 200, though nothing tells the sets apart; at the size of the halves they lie within.
    """
    rng = np.random.default_rng(1)
    real, alike = rng.normal(size=(2, 400, 24))
    found = of_vectors(alike, real)
    for name in ("frechet", "mind"):
        figure = found[name]
        assert figure.value < figure.floor.low, name
        assert figure.value == pytest.approx(figure.matched / 2, rel=0.15), name
        assert figure.within_floor, name
    for name in ("kernel", "precision", "recall", "density", "coverage", "frechet_excess"):
        assert found[name].within_floor, name
    worse = of_vectors(1.3 * alike, real)
    for name in ("frechet", "mind", "kernel", "precision", "density", "coverage"):
        assert worse[name].within_floor is False, name


def test_a_worse_set_does_not_hide_behind_its_number() -> None:
    """A difference as large as what fewer images cost: inside the floor by its value, outside at its size."""
    rng = np.random.default_rng(2)
    real, other = rng.normal(size=(2, 400, 24))
    figure = of_vectors(other + 0.21, real)["frechet"]
    assert figure.floor.low <= figure.value <= figure.floor.high
    assert figure.matched > figure.floor.high and figure.within_floor is False


def test_halves_are_no_larger_than_the_synthetic_set() -> None:
    """Few synthetic images beside many real ones: halves of 300 would be no measure of 60."""
    rng = np.random.default_rng(3)
    found = of_vectors(rng.normal(size=(60, 24)), rng.normal(size=(600, 24)))
    for name in ("frechet", "mind", "kernel", "precision", "recall", "density", "coverage"):
        assert "120 of the real images" in found[name].notes[-1], name
        assert found[name].floor.patients == 120 and found[name].n_real == 600
        assert found[name].within_floor, name


def test_a_poor_camera_stands_out_among_the_subgroups(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Of images that one camera spoils, kernel distance and probe say of which; few images have none."""
    mixed = tmp_path / "mixed"
    spoilt = [replace(record, camera="poor") for record in read_folder(folders[1])[:26]]
    sound = [replace(record, camera="good") for record in read_folder(folders[0])[26:]]
    shutil.copytree(folders[0], mixed)
    for record in spoilt:
        shutil.copy(folders[1] / record.image, mixed / record.image)
    write_metadata(mixed, [*spoilt, *sound])
    config = EvaluateConfig(
        synthetic=mixed, against=folders[2], out=tmp_path, metrics=("kernel", "probe"), draws=100,
        floor_repeats=5, atlas=False,
    )  # fmt: skip
    rows = {(r.figure, r.group): r for r in evaluate(config, extractor=Colours()).subgroups}
    kernel_poor, kernel_good = (rows["kernel", camera] for camera in ("poor", "good"))
    assert kernel_poor.low is not None and kernel_good.high is not None
    assert kernel_poor.low > kernel_good.high
    assert rows["probe_auc", "poor"].value > rows["probe_auc", "good"].value
    assert kernel_poor.images == 26
