"""What a study may be asked, who is learnt from, and what a cache is keyed by."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fundusforge.config import ConfigError
from fundusforge.images import read_image, read_mask, write_image
from fundusforge.models.classifier import ClassifierConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.records import DatasetError, Record, read_folder, write_metadata
from fundusforge.studies.augmentation.arms import CLASSIFIER, Arm, arms_of, settled
from fundusforge.studies.augmentation.config import (
    Grades,
    Learner,
    Ratios,
    Ready,
    Segmentation,
    Study,
    read_study,
)
from fundusforge.studies.augmentation.parts import Parts
from fundusforge.studies.augmentation.settings import (
    COMMON,
    RARE,
    Classed,
    evened,
    nested,
    pool_of,
    settings_of,
)  # fmt: skip

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "studies").glob("*.json"))


def eyes(folder: Path, *, rare: int = 12, common: int = 30, two_eyes: bool = True) -> Path:
    """Make a drawn folder tell ERM (`erm`) from `normal`, and something else in one eye."""
    records = read_folder(folder)
    assert len(records) >= rare + common + 1
    found: list[Record] = []
    for index, record in enumerate(records[: rare + common + 1]):
        label = "erm" if index < rare else "normal" if index < rare + common else "glaucoma"
        place = index if index < rare else index - rare
        split = ("train", "train", "train", "val", "test")[place // 2 % 5]
        patient = f"{label}-{place // 2 if two_eyes else place}"
        found.append(replace(record, labels=(label,), patient=patient, split=split, grade=None))
    write_metadata(folder, found)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import write_drawn_folder

    return eyes(write_drawn_folder(tmp_path_factory.mktemp("eyes"), 43, size=48))


def study(real: Path, **changes: Any) -> Study:
    learner = Learner(family="classifier", model={"size": 32, "widths": [4, 4]}, loop={"stop_after": "80img"})
    given: dict[str, Any] = {
        "name": "erm", "real": real, "design": Ratios(rare="epiretinal_membrane", common="normal"),
        "supply": Ready(folder=real), "learners": {"small": learner},
    }  # fmt: skip
    return Study(**given | changes)


# ---- the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_can_be_asked(path: Path) -> None:
    asked = read_study(path)
    free, made, _ = arms_of(asked)
    assert free[0].name == "plain" and made
    for name in asked.learners:
        config, loop = asked.trained(name)
        for arm in (*free, *made):
            settled(config, arm, {RARE: 2, COMMON: 4, **{str(k): k + 1 for k in range(5)}})
        assert loop.patience == 0


def test_examples_are_there() -> None:
    assert {"erm-cpu", "erm-full", "grades-cpu", "grades-full"} <= {path.stem for path in EXAMPLES}


def wrong(tmp_path: Path, real: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    settings = {
        "name": "erm", "real": str(real), "design": {"kind": "ratios", "rare": "erm"},
        "supply": {"kind": "folder", "folder": "made"},
        "learners": {"small": {"family": "classifier", "loop": {"stop_after": "80img"}}},
    }  # fmt: skip
    change(settings)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ConfigError) as error:
        arms_of(read_study(path))
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(nmae="x"), "nmae: Unexpected keyword argument"),
        (lambda s: s.update(name="ERM 1"), "lower-case letters"),
        (lambda s: s["design"].update(kind="ratio"), "design"),
        (lambda s: s["design"].update(ratios=[0.5, 2.0]), "ratios must be in (0, 1]"),
        (lambda s: s["supply"].update(kind="trained"), "supply.trained.learner: Field required"),
        (lambda s: s["learners"]["small"].update(preset="kimm"), "classifier has no preset 'kimm'"),
        (lambda s: s["learners"]["small"].update(family="unnet"), "unknown family 'unnet'"),
        (lambda s: s["learners"]["small"].update(family="unet"), "this design trains a classifier"),
        (lambda s: s["learners"]["small"].update(model={"lrr": 1}), "learners.small.model"),
        (
            lambda s: s["learners"]["small"].update(model={"targets": ["laser"]}),
            "tells laser, but the study erm",
        ),
        (lambda s: s["learners"]["small"].update(loop={"stop_after": "20min"}), "is a time; arms"),
        (lambda s: s["learners"]["small"].update(loop={"patience": 3}), "same number of steps"),
        (lambda s: s.update(free=["oversampel"]), "'oversampel' stands twice or is unknown"),
        (lambda s: s.update(free=["focal+focal"]), "stands twice"),
        (lambda s: s.update(free=["oversample+undersample"]), "undo each other"),
        (lambda s: s.update(free=["synthetic"]), "'synthetic' is not free"),
        (lambda s: s.update(arms=["augment"]), "without the full amount"),
        (lambda s: s.update(arms=["synthetic@0"]), "a part above 0"),
        (lambda s: s.update(amounts=[1.0]), "amounts are parts"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, folder: Path, change: Any, said: str) -> None:
    assert said in wrong(tmp_path, folder, change)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_study(tmp_path / "none.json")


# ---- arms --------------------------------------------------------------------------------------------------


def test_arms_change_what_they_say_and_nothing_else() -> None:
    base = ClassifierConfig(targets=("erm",), size=64, lr=1e-2)
    counts = {RARE: 5, COMMON: 20}
    plain = settled(base, Arm.read("plain", CLASSIFIER), counts)
    assert plain == replace(base, balance=False)
    changes = {
        "oversample": {"balance": True}, "focal": {"loss": "focal"}, "augment": {"strong": True},
        "mixup": {"mixup": 0.2}, "class_weights": {"class_weights": (4.0,)}, "undersample": {},
        "synthetic": {}, "synthetic@0.5+mixup": {"mixup": 0.2},
    }  # fmt: skip
    for name, change in changes.items():
        assert settled(base, Arm.read(name, CLASSIFIER), counts) == replace(plain, **change), name
    assert settled(base, Arm.read("synthetic", CLASSIFIER), counts, even=True).balance
    grades = ClassifierConfig(size=64)
    weights = settled(grades, Arm.read("class_weights", CLASSIFIER), {"0": 6, "1": 2, "4": 1}).class_weights
    assert weights == (0.5, 1.5, 1.0, 1.0, 3.0), "each grade that occurs weighs a third of the whole"


# ---- settings ----------------------------------------------------------------------------------------------


def test_ratios_are_nested_and_share_no_patient_with_the_tests(folder: Path) -> None:
    asked = study(folder, design=Ratios(rare="epiretinal_membrane", common="normal", ratios=(1.0, 0.5, 0.25)))
    pool = pool_of(asked)
    assert not any("glaucoma" in r.labels for part in (pool.train, pool.val, pool.test) for r in part.records)
    found = {setting.name: setting for setting in settings_of(asked, pool)}
    rare, common = pool.train.counts[RARE], pool.train.counts[COMMON]
    assert (rare, common) == (8, 18)
    assert {name: one.real.counts for name, one in found.items()} == {
        "1_to_1": {COMMON: 8, RARE: 8}, "1_to_05": {COMMON: 16, RARE: 8}, "1_to_025": {COMMON: 18, RARE: 4},
    }  # fmt: skip
    assert {name: dict(one.wanted) for name, one in found.items()} == {
        "1_to_1": {}, "1_to_05": {RARE: 8}, "1_to_025": {RARE: 14}
    }  # fmt: skip
    few, more = (found[name].real.of(RARE).records for name in ("1_to_025", "1_to_05"))
    assert {r.image for r in few} < {r.image for r in more}
    held = {record.patient for part in (pool.val, pool.test) for record in part.records}
    for one in found.values():
        assert not held & {record.patient for record in one.real.records}
        assert one.teaching == one.real, "the generator learns from what the baseline has"
    other = settings_of(replace(asked, seed=1), pool)
    assert other[-1].real.of(RARE) != found["1_to_025"].real.of(RARE)


def test_apart_gives_the_generator_photographs_of_its_own(folder: Path) -> None:
    design = Ratios(rare="erm", common="normal", ratios=(0.2, 0.1), teaching="apart", apart=0.5)
    pool = pool_of(study(folder, design=design))
    found = settings_of(study(folder, design=design), pool)
    for one in found:
        taught = {record.patient for record in one.teaching.of(RARE).records}
        known = {record.patient for record in one.real.of(RARE).records}
        assert taught and known and not taught & known
    assert found[0].teaching.of(RARE) == found[1].teaching.of(RARE), "one generator for all"


def test_beyond_asks_for_images_where_nothing_is_to_be_filled(folder: Path) -> None:
    design = Ratios(rare="erm", common="normal", ratios=(1.0,), beyond=0.5)
    (one,) = settings_of(study(folder, design=design), pool_of(study(folder, design=design)))
    assert one.even and dict(one.wanted) == {RARE: 4}


def test_grades_are_filled_to_the_most_frequent(drawn_folder: Callable[..., Path]) -> None:
    folder = drawn_folder(25, size=32)
    records = read_folder(folder)
    splits = ("train", "train", "train", "val", "test")
    write_metadata(folder, [
        replace(r, grade=min(4, i // 6), patient=str(i), split=splits[i % 5]) for i, r in enumerate(records)
    ])  # fmt: skip
    learner = Learner(family="classifier", model={"size": 32}, loop={"stop_after": "80img"})
    asked = study(folder, design=Grades(), learners={"small": learner})
    pool = pool_of(asked)
    (one,) = settings_of(asked, pool)
    most = max(pool.train.counts.values())
    assert {
        name: count + one.wanted.get(name, 0) for name, count in pool.train.counts.items()
    } == dict.fromkeys(pool.train.counts, most)
    (each,) = settings_of(replace(asked, design=Grades(per_grade=7)), pool)
    assert dict(each.wanted) == dict.fromkeys(pool.train.counts, 7)


def test_pairs_are_counted(drawn_folder: Callable[..., Path]) -> None:
    folder = drawn_folder(20, size=32)
    learner = Learner(family="unet", model={"widths": [4, 8], "crop": 32}, loop={"stop_after": "80img"})
    design = Segmentation(mask="vessels", pairs=9, counts=(4, 8))
    asked = study(folder, design=design, learners={"small": learner})
    assert isinstance(asked.trained("small")[0], UNetConfig)
    four, eight = settings_of(asked, pool_of(asked))
    assert (four.name, len(four.real.records), dict(four.wanted)) == ("of_4", 4, {"pairs": 9})
    assert {r.image for r in four.real.records} < {r.image for r in eight.real.records}
    with pytest.raises(DatasetError, match="training pairs, but 99"):
        settings_of(replace(asked, design=replace(design, counts=(99,))), pool_of(asked))


def test_who_may_not_take_part_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    with pytest.raises(DatasetError, match="patients stand in"):
        pool_of(study(folder, external=(other,)))
    torn = read_folder(other)
    write_metadata(other, [*torn[:-1], replace(torn[-1], patient=torn[0].patient, split="test")])
    with pytest.raises(DatasetError, match="more than one split"):
        pool_of(study(other))
    write_metadata(other, [replace(record, synthetic=True) for record in torn])
    with pytest.raises(DatasetError, match="are synthetic; expected real"):
        pool_of(study(other))
    write_metadata(other, [r for r in torn if r.split != "test" or "erm" not in r.labels])
    with pytest.raises(DatasetError, match="split test has"):
        pool_of(study(other))
    with pytest.raises(DatasetError, match="too few for 1:0.01"):
        asked = study(folder, design=Ratios(rare="erm", common="normal", ratios=(0.01,)))
        settings_of(asked, pool_of(asked))


def test_predictions_of_models_are_nobodys_word(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    write_metadata(other, [
        replace(r, predicted=("erm",)) if "erm" in r.labels and r.split == "train" else r
        for r in read_folder(other)
    ])  # fmt: skip
    with pytest.raises(DatasetError, match="split train has {'common'"):
        pool_of(study(other))


def test_evening_out_and_nesting(folder: Path) -> None:
    part = pool_of(study(folder)).train
    even = evened(part, seed=3)
    assert set(even.counts.values()) == {min(part.counts.values())}
    assert even == evened(part, seed=3) != evened(part, seed=4)
    assert nested(part, 99, seed=0) == part
    two = nested(part.of(COMMON), 2, seed=0)
    assert len({record.patient for record in two.records}) == 1, "patient by patient"


# ---- parts -------------------------------------------------------------------------------------------------


def test_a_part_is_named_by_its_content(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    records = read_folder(source)[:3]
    parts = Parts(out=tmp_path / "parts")
    part = parts.write(source, records, split="train")
    assert {record.split for record in read_folder(part.folder)} == {"train"} and len(part) == 3
    first = part.folder / records[0].image
    before = first.stat()
    assert parts.write(source, records, split="train") == part
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    for other in (
        parts.write(source, records, split="val"), parts.write(source, records[:2], split="train"),
        parts.write(source, [replace(records[0], labels=("x",)), *records[1:]], split="train"),
        Parts(out=tmp_path / "parts", side=16).write(source, records, split="train"),
    ):  # fmt: skip
        assert other.digest != part.digest and other.folder != part.folder
    changed = read_image(source / records[0].image).copy()
    changed[0, 0, 0] ^= 1
    (source / records[0].image).unlink()
    write_image(source / records[0].image, changed)
    assert parts.write(source, records, split="train").digest != part.digest, "a pixel counts"


def test_pictures_are_brought_to_one_side(folder: Path, tmp_path: Path) -> None:
    records = read_folder(folder)[:2]
    part = Parts(out=tmp_path / "parts", side=24).write(folder, records, split="test")
    for record in read_folder(part.folder):
        assert read_image(part.folder / record.image).shape == (24, 24, 3)
        for mask in record.masks.values():
            assert set(read_mask(part.folder / mask.path).ravel().tolist()) <= {0, 255}
    assert Classed(records=part.records, classes=("a", "b")).counts == {"a": 1, "b": 1}
    with pytest.raises(DatasetError, match="no image is left"):
        Parts(out=tmp_path / "parts").write(folder, [], split="train")
