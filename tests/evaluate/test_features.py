"""Features: each file once, by content; broken cache entries are computed anew; memory does not grow."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.features import default_cache, features
from fundusforge.images import write_image
from fundusforge.records import DatasetError, Record, read_folder

Make = Callable[..., Path]


class Colours:
    """Mean and deviation of each channel, and how many images it was asked for."""

    name, resize, dimensions = "colours", "none", 6

    def __init__(self, key: str = "colours-1") -> None:
        self.key, self.calls, self.largest = key, 0, 0

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.calls += len(images)
        self.largest = max(self.largest, len(images))
        rows = [[*image.mean((0, 1)), *image.std((0, 1))] for image in images]
        return np.array(rows, np.float32)


@pytest.fixture
def images(drawn_folder: Make) -> ImageSet:
    folder = drawn_folder(6)
    return ImageSet(folder=folder, records=read_folder(folder))


def expected(images: ImageSet) -> np.ndarray:
    return Colours()([images.image(i) for i in range(len(images))])


def test_order_and_values(images: ImageSet) -> None:
    np.testing.assert_array_equal(features(images, Colours(), cache=None), expected(images))
    empty = features(ImageSet(folder=images.folder, records=[]), Colours(), cache=None)
    assert empty.shape == (0, 6)


def test_each_content_is_computed_once(images: ImageSet, tmp_path: Path) -> None:
    """A second run asks for nothing, a copy under another name neither, another key for everything."""
    first = Colours()
    found = features(images, first, cache=tmp_path)
    assert first.calls == 6
    second = Colours()
    np.testing.assert_array_equal(features(images, second, cache=tmp_path), found)
    assert second.calls == 0
    copy = images.folder / "copy.png"
    copy.write_bytes((images.folder / images.records[2].image).read_bytes())
    twice = [*images.records, Record(image="copy.png", patient="p", source="s")]
    third = Colours()
    grown = features(ImageSet(folder=images.folder, records=twice), third, cache=None)
    assert third.calls == 6
    np.testing.assert_array_equal(grown[6], found[2])
    other = Colours("colours-2")
    features(images, other, cache=tmp_path)
    assert other.calls == 6


def test_a_changed_file_is_computed_anew(images: ImageSet, tmp_path: Path) -> None:
    features(images, Colours(), cache=tmp_path)
    write_image(images.folder / images.records[0].image, np.full((64, 64, 3), 7, np.uint8))
    again = Colours()
    found = features(images, again, cache=tmp_path)
    assert again.calls == 1
    np.testing.assert_allclose(found[0], [7, 7, 7, 0, 0, 0])


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "pickle", "other"])
def test_a_broken_entry_is_computed_anew(images: ImageSet, tmp_path: Path, damage: str) -> None:
    """Whatever happened to an entry, the vector is right and the entry whole again."""
    whole = features(images, Colours(), cache=tmp_path)
    entries = sorted(tmp_path.rglob("*.safetensors"))
    assert len(entries) == 6
    data = entries[0].read_bytes()
    entries[0].write_bytes(
        {
            "empty": b"",
            "short": data[:-5],
            "flipped": data[:-45] + bytes([data[-45] ^ 1]) + data[-44:],
            "pickle": b"\x80\x04N.",
            "other": data.replace(b'"vector"', b'"matrix"'),
        }[damage]
    )
    again = Colours()
    np.testing.assert_array_equal(features(images, again, cache=tmp_path), whole)
    assert again.calls == 1
    assert entries[0].read_bytes() == data
    assert not list(tmp_path.rglob("*.partial"))


def test_an_unwritable_cache_is_no_error(images: ImageSet, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    np.testing.assert_array_equal(features(images, Colours(), cache=blocked), expected(images))


def test_only_the_owner_reads_the_cache(images: ImageSet, tmp_path: Path) -> None:
    features(images, Colours(), cache=tmp_path / "a" / "b")
    folders = [path for path in (tmp_path / "a").rglob("*") if path.is_dir()]
    assert folders
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_streams(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more pictures at once than a batch holds, in count and in bytes."""
    many = ImageSet(folder=images.folder, records=list(images.records) * 3)
    for index, record in enumerate(images.records):
        write_image(images.folder / record.image, np.full((64, 64, 3), index, np.uint8))
    monkeypatch.setattr("fundusforge.evaluate.features._BATCH_BYTES", 2 * 64 * 64 * 3)
    extractor = Colours()
    features(many, extractor, cache=None)
    assert (extractor.largest, extractor.calls) == (3, 6)


def test_refuses(images: ImageSet) -> None:
    class Broken(Colours):
        def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
            return np.full((len(images), 6), np.nan, np.float32)

    class Short(Colours):
        def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
            return np.zeros((len(images), 5), np.float32)

    with pytest.raises(ValueError, match="not finite for .*images/000.png"):
        features(images, Broken(), cache=None)
    with pytest.raises(ValueError, match=r"gave \(6, 5\), expected \(6, 6\)"):
        features(images, Short(), cache=None)
    (images.folder / images.records[3].image).unlink()
    with pytest.raises(DatasetError, match=r"images/003.png"):
        features(images, Colours(), cache=None)


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "fundusforge" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "fundusforge" / "features"


def test_evidence_remembers(images: ImageSet) -> None:
    """Subsets cost nothing more; without an extractor it says so."""
    extractor = Colours()
    common = {
        "judge": None, "size": 64, "margin": 0.2, "reference": None, "seed": 0, "draws": 100, "repeats": 5
    }  # fmt: skip
    evidence = Evidence(synthetic=images, real=images, extractor=extractor, **common)
    whole = evidence.features(images)
    part = ImageSet(folder=images.folder, records=images.records[2:4])
    np.testing.assert_array_equal(evidence.features(part), whole[2:4])
    assert extractor.calls == 6
    assert evidence.features(ImageSet(folder=images.folder, records=[])).shape == (0, 6)
    with pytest.raises(ValueError, match="no extractor"):
        Evidence(synthetic=images, real=images, **common).features(images)
