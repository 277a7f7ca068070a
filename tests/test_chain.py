"""The chain from a few eyes to many: trained, gone on with, sampled, doubled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import write_drawn_folder
from fundusforge.annotate.segmenter import known_patients
from fundusforge.cli import main
from fundusforge.cli.chaining import (
    CHAIN,
    PAINTER,
    TREES,
    UPSCALER,
    ChainConfig,
    sample_chain,
    sources_of,
    train_chain,
)
from fundusforge.cli.command import UsageError
from fundusforge.images import read_image, read_mask
from fundusforge.models.edsr import EDSRConfig
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.models.vae import VAEConfig
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.studies.chain.folds import FoldsConfig, folds
from fundusforge.training import checkpoint

TINY = ChainConfig(
    trees=VAEConfig(
        masks=("vessels",), size=64, patch=4, widths=(8, 8), latent=6, warmup=8, discriminator_widths=(8, 8)
    ),
    painter=Pix2PixConfig(
        masks=("vessels",), size=64, widths=(8, 8, 8), scales=1, discriminator_widths=(8, 8)
    ),
    upscaler=EDSRConfig(blocks=1, width=27, crop=32),
    trees_for="32img",
    painter_for="4img",
    upscaler_for="32img",
)
LOOP = {"batch": 4, "threads": 1, "tensorboard": False}


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("eyes") / "eyes"
    out.mkdir()
    return write_drawn_folder(out, 6, size=128, seed=0)


@pytest.fixture(scope="module")
def chain(eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("chain") / "run"
    made = train_chain([eyes], run, TINY, sharp=[eyes], loop=LOOP, quiet=True)
    assert list(made) == [TREES, PAINTER, UPSCALER] and all(one["finished"] for one in made.values())
    return run


def test_a_trained_chain_is_not_trained_again_and_refuses_other_settings(chain: Path, eyes: Path) -> None:
    changed = {name: (chain / name / "model.safetensors").stat().st_mtime_ns for name in (TREES, PAINTER)}
    again = train_chain([eyes], chain, TINY, sharp=[eyes], loop=LOOP, quiet=True)
    assert list(again) == [TREES, PAINTER, UPSCALER]
    assert changed == {name: (chain / name / "model.safetensors").stat().st_mtime_ns for name in changed}
    with pytest.raises(DatasetError, match="begun with other settings"):
        train_chain([eyes], chain, replace(TINY, painter_for="8img"), sharp=[eyes], loop=LOOP, quiet=True)


def test_sampled_eyes_are_whole_records_to_learn_from(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    assert main(["chain", "sample", str(chain), "-n", "3", "--seed", "5", "--out", str(out), "--quiet"]) == 0
    records = read_folder(out)
    assert [record.split for record in records] == ["train"] * 3
    for record in records:
        assert record.synthetic and not record.structure_from_patient
        assert record.masks["vessels"].origin == "generated"
        assert read_image(out / record.image).shape == (64, 64, 3)
    again = list(sample_chain(chain, tmp_path / "again", count=2, seed=5))
    for first, second in zip(records, again, strict=False):
        a, b = (out / first.image).read_bytes(), (tmp_path / "again" / second.image).read_bytes()
        assert a == b, "an eye depends on seed and number alone"


def test_upscaled_eyes_have_twice_the_side_and_nothing_is_left_over(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "large"
    records = list(sample_chain(chain, out, count=2, seed=1, upscale=True))
    assert read_image(out / records[0].image).shape == (128, 128, 3)
    assert read_mask(out / records[0].masks["vessels"].path).shape == (128, 128)
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_trees_alone_and_as_structure_for_another_painter(chain: Path, tmp_path: Path) -> None:
    trees = tmp_path / "trees"
    assert main(["sample", str(chain / TREES), "-n", "2", "--out", str(trees), "--quiet"]) == 0
    (first, _) = read_folder(trees)
    assert first.synthetic and read_mask(trees / first.masks["vessels"].path).shape == (64, 64)
    walk = tmp_path / "walk.gif"
    words = ["latent", "walk", str(chain / TREES), "--stops", "2", "--frames", "3", "--out", str(walk)]
    assert main(words) == 0 and walk.stat().st_size > 0


def test_says_what_is_missing(
    tmp_path: Path, chain: Path, drawn_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chain", "sample", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert CHAIN in capsys.readouterr().err
    assert main(["chain", "tables", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "--real" in capsys.readouterr().err
    words = ["sample", str(chain / PAINTER), "--masks", str(chain / PAINTER), "--out", str(tmp_path / "out")]
    assert main(words) == 2, "a painter draws no masks"
    assert "pix2pix" in capsys.readouterr().err


def test_facts_of_a_chain_are_plain_json(chain: Path) -> None:
    facts = json.loads((chain / CHAIN).read_text("utf-8"))
    assert facts["config"]["trees"]["kind"] == "vae" and facts["folders"] == ["eyes"]


def test_sources_of_trees_share_the_painter_and_train_trees_for_their_own_alone(
    chain: Path, eyes: Path, tmp_path: Path
) -> None:
    known, place = tmp_path / "known", tmp_path / "chain"
    shutil.copytree(eyes, known)
    human = [
        replace(r, masks={name: replace(mask, origin="human") for name, mask in r.masks.items()})
        for r in read_folder(known, splits=("train",))
    ]
    write_metadata(known, human)
    words = ["warped", "phantom", str(chain / TREES), "vae"]
    sources, painters = sources_of(words, TINY, count=3, loop=LOOP, quiet=True), set[int]()
    folders = {"warped": "drawn-warped", "phantom": "drawn-phantom", "trees": "drawn-trees", "vae": "drawn"}
    assert list(sources) == list(folders)
    for name, folder in folders.items():
        assert not (place / TREES).exists()
        out = sources[name].make(known, place)
        painters.add((place / PAINTER / "model.safetensors").stat().st_mtime_ns)
        assert out == place / folder
        records = read_folder(out)
        assert [record.split for record in records] == ["train"] * 3
        assert {record.structure_from_patient for record in records} == {name == "warped"}
        assert {record.masks["vessels"].origin for record in records} == {
            "phantom" if name == "phantom" else "generated"
        }
        if name == "warped":
            assert {record.patient for record in records} == {record.patient for record in human}
        before = (out / "metadata.jsonl").read_bytes()
        assert sources[name].make(known, place) == out and (out / "metadata.jsonl").read_bytes() == before
    assert len(painters) == 1 and (place / TREES / "model.safetensors").is_file()


def test_a_model_of_trees_is_a_source_unless_it_knows_who_is_tested(
    chain: Path, eyes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "other-trees"
    shutil.copytree(chain / TREES, run)
    sources = sources_of([str(run)], TINY, count=2, loop=LOOP, quiet=True)
    (source,) = sources.values()
    assert list(sources) == ["other_trees"] and source.model.startswith("other-trees-")
    learnt = read_folder(eyes, splits=("train",))
    assert source.patients == known_patients(record.patient for record in learnt)

    def never(*_: object) -> None:
        raise AssertionError("nothing is trained for a study that is refused")

    study = FoldsConfig(real=eyes, out=tmp_path / "study", splits=(), folds=2)
    with pytest.raises(DatasetError, match=r"other-trees-\w+ was trained on 1 patients of .*eyes"):
        folds(study, sources=sources, train=never)
    file = checkpoint.model_file(run)
    tensors, metadata = checkpoint.read(file)
    checkpoint.write(file, tensors, {name: text for name, text in metadata.items() if name != "patients"})
    with pytest.raises(DatasetError, match="does not say which patients"):
        sources_of([str(run)], TINY, count=2)


def test_sources_that_are_none_or_meet_are_refused(
    chain: Path, eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chain", "folds", str(eyes), "--out", str(tmp_path / "out"), "--sources", "vae", "phantoms"]
    assert main(words) == 2 and "did you mean 'phantom'?" in capsys.readouterr().err
    shutil.copytree(chain / TREES, tmp_path / "vae")
    with pytest.raises(UsageError, match="may not be called 'vae'"):
        sources_of([str(tmp_path / "vae")], TINY, count=2)
    with pytest.raises(UsageError, match="two are called 'phantom'"):
        sources_of(["phantom", "phantom"], TINY, count=2)
