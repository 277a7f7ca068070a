"""Folds by patient, arms of every source, resumption, and figures whose signs say what they claim."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusforge.annotate.segmenter import known_patients
from fundusforge.evaluate.anatomy.measure import measure
from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.vessels import vessel_scores
from fundusforge.images import read_mask, write_image
from fundusforge.records import DatasetError, Mask, Record, read_folder, write_metadata
from fundusforge.sources.phantom import draw_eye
from fundusforge.studies.chain.folds import FOLDS, STUDY, Folds, FoldsConfig, Source, folds
from fundusforge.studies.chain.parting import folds_of, write_part, write_warped

NOISE = {"real": 0.2, "synthetic": 0.4, "both": 0.1, "synthetic-phantom": 0.7, "both-phantom": 0.3}
"""How far the segmenter of each arm is off, so that both < real < synthetic is known beforehand, and that
phantoms are worse."""


class Trainer:
    """Stands in for the chain and for training a segmenter; notes what it was asked."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Path, Path]] = []
        self.trained: list[tuple[list[Path], Path]] = []
        self.stop_at: int | None = None

    def sources(self, *names: str) -> dict[str, Source]:
        return {name: Source(make=partial(self.make, name)) for name in names}

    def make(self, name: str, known: Path, place: Path) -> Path:
        self.made.append((name, known, place))
        out = place / name
        shutil.copytree(known, out, dirs_exist_ok=True)
        drawn = [replace(r, synthetic=True, patient=f"drawn-{i}") for i, r in enumerate(read_folder(known))]
        write_metadata(out, drawn)
        return out

    def train(self, learnt: Sequence[Path], run: Path) -> None:
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt
        self.trained.append((list(learnt), run))
        run.mkdir(parents=True, exist_ok=True)

    def load(self, run: Path) -> Judge:
        off = NOISE[run.name]

        def segment(image: np.ndarray, field: np.ndarray | None) -> np.ndarray:
            # Vessels of the drawn eyes are darker than their surroundings.
            noise = np.random.default_rng(image.shape[0]).uniform(-off, off, image.shape[:2])
            return np.clip(1 - image[..., 0] / 255.0 + noise, 0, 1).astype(np.float32)

        return Judge(name=run.name, segment=segment, threshold=0.45)


@pytest.fixture
def config(drawn_folder: Callable[..., Path], tmp_path: Path) -> FoldsConfig:
    external = tmp_path / "chase"
    shutil.copytree(drawn_folder(4, seed=50), external)
    real = drawn_folder(12, seed=3)
    return FoldsConfig(
        real=real, out=tmp_path / "study", external=(external,), splits=(), folds=3, draws=100
    )  # fmt: skip


def run(
    config: FoldsConfig, trainer: Trainer, *names: str, sources: dict[str, Source] | None = None
) -> Folds:
    return folds(
        config, sources=sources or trainer.sources(*(names or ("vae",))), train=trainer.train,
        load=trainer.load, settings={"images": 8},
    )  # fmt: skip


def cells(config: FoldsConfig) -> dict[str, bytes]:
    """The content of every cell by its path."""
    return {str(file.relative_to(config.out)): file.read_bytes() for file in config.out.glob("fold-*/*.json")}


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_stands_on_both_sides(seed: int) -> None:
    patients = [f"p{i // 2}" for i in range(14)]
    parts = folds_of(patients, folds=3, seed=seed)
    assert sorted(name for part in parts for name in part) == sorted(set(patients))
    assert {len(part) for part in parts} == {2, 3}
    assert parts == folds_of(patients[::-1], folds=3, seed=seed)
    assert any(folds_of(patients, folds=3, seed=other) != parts for other in range(5))


def test_too_many_folds_are_refused() -> None:
    with pytest.raises(DatasetError, match="a patient for each"):
        folds_of(["a", "a", "b"], folds=3, seed=0)


def test_every_arm_learns_from_its_folders_and_from_nobody_held_out(config: FoldsConfig) -> None:
    trainer = Trainer()
    run(config, trainer)
    assert len(trainer.trained) == 9
    for fold in range(3):
        place = config.out / f"fold-{fold}"
        held = {record.patient for record in read_folder(place / "held")}
        arms = {where.name: learnt for learnt, where in trainer.trained if where.parent == place}
        assert arms == {
            "real": [place / "real"], "synthetic": [place / "chain" / "vae"],
            "both": [place / "real", place / "chain" / "vae"],
        }  # fmt: skip
        for folder in arms["both"]:
            records = read_folder(folder)
            assert {record.split for record in records} == {"train"}
            assert not held & {record.patient for record in records}
        assert {r.split for r in read_folder(place / "held")} == {"test"}
    places = [config.out / f"fold-{fold}" for fold in range(3)]
    assert trainer.made == [("vae", place / "real", place / "chain") for place in places]


def test_figures_have_the_signs_and_values_of_their_segmenters(config: FoldsConfig) -> None:
    result = run(config, Trainer())
    gap, gain = result.figure("chain_synthetic_only_f1_gap"), result.figure("chain_added_f1_gain")
    assert gap.value > 0 and gain.value > 0
    assert (gap.n, gain.n) == (12, 4)
    assert gap.low <= gap.value <= gap.high
    assert result.figure("chain_added_f1_gain_chase").value == gain.value
    assert result.figure("chain_added_auc_gain").value is not None
    cell = json.loads((config.out / "fold-1" / "real.json").read_text("utf-8"))
    eye = next(each for each in cell["eyes"] if each["where"] == "held-out")
    record = next(r for r in read_folder(config.real) if r.image == eye["image"])
    from fundusforge.images import read_image

    image, field = read_image(config.real / record.image), read_mask(config.real / record.field_of_view)
    map_ = Trainer().load(Path("real")).segment(image, field)
    mask = read_mask(config.real / record.masks["vessels"].path)
    expected = vessel_scores([map_], [mask], [field], threshold=0.45)
    assert (eye["f1"], eye["auc"]) == pytest.approx((expected.f1, expected.auc))
    mean = next(each for each in result.means if (each.arm, each.where) == ("real", "held-out"))
    assert mean.eyes == 12 and mean.pooled_f1 is not None
    assert (": not within 0.05" in result.verdicts[0]) == (gap.value > 0.05)
    assert ": above training on real eyes alone" in result.verdicts[1] and len(result.verdicts) == 2
    assert {row["name"] for row in result.lines()} >= {gap.name, gain.name}
    assert "chain_added_f1_gain" in result.text() and "| real |  | held-out | 12 |" in result.markdown()
    assert json.loads((config.out / FOLDS).read_text("utf-8")) == result.to_dict()


def test_a_study_goes_on_where_it_stopped(config: FoldsConfig, tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        run(config, trainer)
    trainer.stop_at = None
    resumed = run(config, trainer)
    assert len(trainer.trained) == 9 and len(trainer.made) == 3, "no cell and no drawing twice"
    again = Trainer()
    assert run(config, again) == resumed and not again.trained and not again.made
    whole = run(replace(config, out=tmp_path / "whole"), Trainer())
    assert whole.figures == resumed.figures


def test_further_sources_compute_their_own_cells_alone(config: FoldsConfig) -> None:
    config = replace(config, folds=2)
    first = run(config, Trainer())
    before, trainer = cells(config), Trainer()
    result = run(config, trainer, "vae", "phantom")
    places = [config.out / f"fold-{fold}" for fold in range(2)]
    assert trainer.made == [("phantom", place / "real", place / "chain") for place in places]
    drawn = [place / "chain" / "phantom" for place in places]
    assert trainer.trained == [
        call for place, eyes in zip(places, drawn, strict=True) for call in (
            ([eyes], place / "synthetic-phantom"), ([place / "real", eyes], place / "both-phantom"),
        )
    ]  # fmt: skip
    assert before.items() <= cells(config).items(), "what was there is left as it is"
    assert {figure.name: figure for figure in first.figures}.items() <= {
        figure.name: figure for figure in result.figures
    }.items()
    assert set(first.means) < set(result.means) and result.verdicts[:2] == first.verdicts
    trainer = Trainer()
    alone = run(config, trainer, "phantom")
    assert not trainer.made and not trainer.trained
    assert {mean.arm for mean in alone.means} == {"real", "synthetic-phantom", "both-phantom"}


def test_figures_table_and_sentences_name_the_sources(config: FoldsConfig) -> None:
    config = replace(config, folds=2)
    result = run(config, Trainer(), "vae", "phantom")
    own = {figure.name for figure in run(config, Trainer()).figures}
    over = {
        f"chain_synthetic_only_{metric}_phantom_over_vae{end}"
        for metric in ("f1", "auc") for end in ("", "_external")
    }  # fmt: skip
    names = [figure.name for figure in result.figures]
    assert set(names) == own | {f"{name}_phantom" for name in own} | over and len(set(names)) == len(names)
    gap, worse = (result.figure(f"chain_synthetic_only_f1_gap{end}") for end in ("", "_phantom"))
    assert worse.value > gap.value > 0 > result.figure("chain_added_f1_gain_phantom").value
    less = result.figure("chain_synthetic_only_f1_phantom_over_vae")
    assert less.value == pytest.approx(gap.value - worse.value) and less.n == 12
    rows = [line.split(" | ")[:3] for line in result.markdown().splitlines() if line.startswith("| ")]
    assert rows[2:7] == [
        ["| real", "", "held-out"], ["| synthetic", "vae", "held-out"], ["| both", "vae", "held-out"],
        ["| synthetic", "phantom", "held-out"], ["| both", "phantom", "held-out"],
    ]  # fmt: skip
    told = [[name for name in ("vae", "phantom") if name in sentence] for sentence in result.verdicts]
    assert told == [["vae"], ["vae"], ["phantom"], ["phantom"], ["vae", "phantom"]]
    assert "not above training on real eyes alone" in result.verdicts[3]
    assert "not above trees of vae" in result.verdicts[4]


def test_a_study_that_was_begun_without_sources_takes_them(config: FoldsConfig) -> None:
    config = replace(config, folds=2)
    run(config, Trainer())
    file = config.out / STUDY
    told = json.loads(file.read_text("utf-8"))
    assert told.pop("sources") == {"vae": ""}
    file.write_text(json.dumps(told), "utf-8")
    trainer = Trainer()
    run(config, trainer, "phantom")
    assert {name for name, _, _ in trainer.made} == {"phantom"} and len(trainer.trained) == 4
    assert json.loads(file.read_text("utf-8")) == told | {"sources": {"phantom": ""}}


def test_a_study_of_several_sources_goes_on_where_it_stopped(config: FoldsConfig) -> None:
    config, trainer = replace(config, folds=2), Trainer()
    trainer.stop_at = 8  # all but the synthetic phantoms of the second fold, which are drawn
    with pytest.raises(KeyboardInterrupt):
        run(config, trainer, "vae", "phantom")
    assert len(trainer.made) == 4
    trainer.stop_at = None
    resumed = run(config, trainer, "vae", "phantom")
    assert len(trainer.trained) == 10 and len(trainer.made) == 4, "no cell and no drawing twice"
    assert len({run for _, run in trainer.trained}) == 10
    assert json.loads((config.out / FOLDS).read_text("utf-8")) == resumed.to_dict()


@pytest.mark.parametrize("tested", ["held out", "external"])
def test_a_generator_that_knows_a_tested_patient_is_refused(config: FoldsConfig, tested: str) -> None:
    (folder, *_) = config.external if tested == "external" else (config.real,)
    one = read_folder(folder)[-1].patient
    config, trainer = replace(config, folds=2), Trainer()
    knowing = {
        "gan": Source(make=partial(trainer.make, "gan"), model="gan-1", patients=known_patients([one]))
    }
    with pytest.raises(DatasetError, match=f"gan-1 was trained on 1 patients of .*{folder.name}"):
        run(config, trainer, sources=trainer.sources("vae") | knowing)
    assert not trainer.made and not trainer.trained and not config.out.exists()
    other = replace(knowing["gan"], patients=known_patients(["somebody-else"]))
    trainer.load = lambda run: Trainer().load(Path("real"))  # type: ignore[method-assign]
    assert run(config, trainer, sources={"gan": other}).figure("chain_added_f1_gain_gan").value == 0
    with pytest.raises(DatasetError, match="'gan' there are of gan-1, not gan-2"):
        run(config, trainer, sources={"gan": replace(other, model="gan-2")})


@pytest.mark.parametrize("names", [(), ("",), ("two words",), ("chase",), ("external",), ("held_out",)])
def test_sources_whose_names_would_meet_others_are_refused(config: FoldsConfig, names: tuple[str]) -> None:
    trainer = Trainer()
    with pytest.raises(DatasetError, match="expected sources of trees"):
        sources = trainer.sources("vae", *names) if names else {}
        folds(config, sources=sources, train=trainer.train, load=trainer.load)


def test_another_study_in_the_same_folder_is_refused(config: FoldsConfig) -> None:
    run(config, Trainer())
    with pytest.raises(DatasetError, match="other folders or settings"):
        run(replace(config, seed=1), Trainer())
    trainer = Trainer()
    with pytest.raises(DatasetError, match="other folders or settings"):
        folds(
            config, sources=trainer.sources("vae"), train=trainer.train, load=trainer.load,
            settings={"images": 9},
        )  # fmt: skip


def test_unfit_drawn_eyes_are_refused(config: FoldsConfig) -> None:
    trainer = Trainer()
    with pytest.raises(DatasetError, match="expected synthetic eyes"):
        run(config, trainer, sources={"vae": Source(make=lambda known, out: known)})

    def leaky(known: Path, out: Path) -> Path:
        shutil.copytree(known.parent / "held", out)
        write_metadata(out, [replace(r, synthetic=True, split="train") for r in read_folder(out)])
        return out

    other = replace(config, out=config.out.with_name("other"))
    with pytest.raises(DatasetError, match="held-out patients stand among"):
        run(other, trainer, sources={"vae": Source(make=leaky)})


def test_shared_patients_are_refused(config: FoldsConfig, tmp_path: Path) -> None:
    shutil.copytree(config.real, tmp_path / "hrf")
    with pytest.raises(DatasetError, match="stand in"):
        run(replace(config, external=(tmp_path / "hrf",)), Trainer())


def test_a_part_is_written_once(config: FoldsConfig, tmp_path: Path) -> None:
    records = read_folder(config.real)
    out = write_part(config.real, records[:4], tmp_path / "part", split="train")
    file = out / records[0].image
    assert file.read_bytes() == (config.real / records[0].image).read_bytes()
    before = file.stat().st_mtime_ns
    assert write_part(config.real, records[:4], out, split="train") == out
    assert file.stat().st_mtime_ns == before
    with pytest.raises(DatasetError, match="holds other images"):
        write_part(config.real, records[:5], out, split="train")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms as if people had drawn their vessels, two of them to learn from."""
    folder = tmp_path_factory.mktemp("grown")
    records = []
    for index in range(3):
        eye = draw_eye(index, size=160, render=False)
        pictures = {"images": np.zeros((160, 160, 3), np.uint8), "vessels": eye.masks["vessels"]}
        for name, pixels in (pictures | {"field": eye.field_of_view}).items():
            (folder / name).mkdir(exist_ok=True)
            write_image(folder / name / f"{index}.png", pixels)
        records.append(
            Record(
                image=f"images/{index}.png", patient=f"p{index}", source="grown", terms="CC0",
                masks={"vessels": Mask(path=f"vessels/{index}.png", origin="human")},
                field_of_view=f"field/{index}.png", split="test" if index == 2 else "train",
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


def test_warped_trees_stay_trees_and_their_patients(grown: Path, tmp_path: Path) -> None:
    out = write_warped(grown, tmp_path / "warped", masks=("vessels",), count=4, seed=3)
    records = read_folder(out)
    assert sorted(record.patient for record in records) == ["p0"] * 2 + ["p1"] * 2
    before, after = {}, {}
    for record in records:
        assert record.structure_from_patient and record.synthetic and record.split == "train"
        assert record.masks["vessels"].origin == "generated" and record.terms == "CC0"
        with Image.open(out / record.image) as picture:
            assert picture.info["fundusforge:structure_from_patient"] == "true"
        source = next(r for r in read_folder(grown) if r.image == record.provenance.condition)
        for found, where, one in ((before, grown, source), (after, out, record)):
            vessels, field = (
                read_mask(where / path) for path in (one.masks["vessels"].path, one.field_of_view)
            )
            assert not vessels[field == 0].any()
            found[record.image] = (
                vessels,
                measure(np.zeros((160, 160, 3), np.uint8), vessels, field_of_view=field),
            )
    for image, (tree, facts) in before.items():
        warped, new = after[image]
        assert (tree != warped).mean() > 0.02, "another tree comes of it"
        assert new.broken_vessels <= facts.broken_vessels + 3 and new.orphan_share < 0.03
        assert new.calibre == pytest.approx(facts.calibre, rel=0.2)
        assert new.bifurcations == pytest.approx(facts.bifurcations, rel=0.25)
    assert len({tree.tobytes() for tree, _ in after.values()}) == 4


def test_warped_trees_are_of_their_seed_alone(grown: Path, tmp_path: Path) -> None:
    def made(name: str, count: int, seed: int) -> list[bytes]:
        out = write_warped(grown, tmp_path / name, masks=("vessels",), count=count, seed=seed)
        return [(out / record.masks["vessels"].path).read_bytes() for record in read_folder(out)]

    three = made("three", 3, 1)
    assert made("one", 1, 1) == three[:1] and made("other", 1, 2) != three[:1]
    assert made("three", 9, 9) == three, "what is whole is left as it is"
