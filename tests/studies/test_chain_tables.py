"""Tables of the chain: likeness as computed directly, facts, vessels, and leaked training trees."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.ssim import ssim
from fundusforge.images import read_image, read_mask, resize, resize_mask, write_image
from fundusforge.records import DatasetError, Mask, Record, read_folder, write_metadata
from fundusforge.sources.phantom import draw_eye
from fundusforge.studies.chain.similarity import References, matrix
from fundusforge.studies.chain.tables import TABLES, TablesConfig, tables

SIZE, SIDE = 128, 96


def write_eyes(folder: Path, seeds: range, *, called: str, synthetic: bool = False) -> Path:
    """Write phantoms as eyes of patients, the last two of split `test`, or as synthetic ones."""
    for name in ("images", "vessels", "fields"):
        (folder / name).mkdir(parents=True)
    records = []
    for seed in seeds:
        eye = draw_eye(seed, size=SIZE)
        for name, pixels in (("images", eye.image), ("vessels", eye.masks["vessels"]),
                             ("fields", eye.field_of_view)):  # fmt: skip
            write_image(folder / name / f"{seed}.png", pixels)
        records.append(
            Record(
                image=f"images/{seed}.png", patient=f"{called}-{seed}", source=called, synthetic=synthetic,
                masks={"vessels": Mask(path=f"vessels/{seed}.png",
                                       origin="generated" if synthetic else "human")},
                field_of_view=f"fields/{seed}.png", split="train" if seed < seeds.stop - 2 else "test",
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chain")
    found = {
        "real": write_eyes(root / "real", range(0, 8), called="real"),
        "drawn": write_eyes(root / "drawn", range(40, 45), called="drawn", synthetic=True),
    }
    # A generator that learnt three training trees by heart: one as it is, one mirrored, one repainted.
    copied = root / "copied"
    shutil.copytree(found["drawn"], copied)
    for seed, place in ((40, 1), (41, 2), (42, 3)):
        for name in ("images", "vessels", "fields"):
            read = read_image if name == "images" else read_mask
            pixels = read(found["real"] / name / f"{place}.png")
            if seed == 41:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
            if seed == 42 and name == "images":
                pixels = np.where(pixels > 0, 255 - pixels // 2, 0).astype(np.uint8)
            write_image(copied / name / f"{seed}.png", pixels)
    return found | {"copied": copied}


@pytest.fixture(scope="module")
def result(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("tables")
    config = TablesConfig(
        sources={"VAE": folders["drawn"], "GAN 2": folders["copied"]}, real=folders["real"],
        held_out=folders["real"], held_out_splits=("test",), out=out, images=4, side=SIDE, draws=100,
        floor_repeats=5, seed=1,
    )  # fmt: skip
    return tables(config, command="study"), out


def maps(folder: Path, count: int | None = None) -> list[np.ndarray]:
    records = read_folder(folder)[:count]
    return [resize(read_mask(folder / record.masks["vessels"].path), SIDE) for record in records]


def test_similarity_to_one_reference_is_that_computed_directly(folders: dict[str, Path], result) -> None:
    real, drawn = maps(folders["real"], 6), maps(folders["drawn"], 4)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = np.mean([structural_similarity(each, real[0], **options) for each in drawn])
    beside = np.mean([structural_similarity(each, real[0], **options) for each in real[1:]])
    figure = result[0].figure("chain_vessel_ssim")
    assert figure.value == pytest.approx(expected, abs=1e-4)
    assert result[0].figure("chain_vessel_ssim_real").value == pytest.approx(beside, abs=1e-4)
    assert result[0].figure("chain_vessel_ssim_gap").value == pytest.approx(beside - expected, abs=2e-4)
    assert (figure.n, figure.n_real, result[0].figure("chain_vessel_ssim_real").n) == (4, 5, 5)
    assert f"{SIDE} px" in figure.resize and "grey" in figure.resize and f"{SIDE} px" in figure.unit


def test_similarity_to_every_reference_leaves_the_reference_out(folders: dict[str, Path], result) -> None:
    real, drawn = maps(folders["real"], 6), maps(folders["drawn"], 4)
    own = np.mean([ssim(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
    across = np.mean([ssim(a, b) for a in drawn for b in real])
    assert result[0].figure("chain_vessel_ssim_all_real").value == pytest.approx(own, abs=1e-6)
    assert result[0].figure("chain_vessel_ssim_all").value == pytest.approx(across, abs=1e-6)
    gap = result[0].figure("chain_vessel_ssim_all_gap")
    assert gap.value == pytest.approx(own - across, abs=1e-6)
    assert gap.low <= gap.value <= gap.high


def test_photographs_and_held_out_eyes_go_the_same_way(folders: dict[str, Path], result) -> None:
    records = read_folder(folders["real"])
    first = resize(read_image(folders["real"] / records[0].image), SIDE)
    held = [resize(read_image(folders["real"] / record.image), SIDE) for record in records[6:]]
    figure = result[0].figure("chain_held_out_real_photograph_ssim")
    assert figure.value == pytest.approx(np.mean([ssim(each, first) for each in held]), abs=1e-6)
    assert figure.n == 2


def test_fellow_eyes_are_never_compared(folders: dict[str, Path]) -> None:
    records = read_folder(folders["real"])[:4]
    pairs = [replace(record, patient=f"p{index // 2}") for index, record in enumerate(records)]
    found = References.of(ImageSet(folder=folders["real"], records=pairs), "vessel", side=32, binary=True)
    assert found.counted.tolist() == [[i // 2 != j // 2 for j in range(4)] for i in range(4)]
    assert found.between[2, 0] == found.between[0, 2] == ssim(*(found.pictures[i] for i in (0, 2)))
    mask = read_mask(folders["real"] / records[0].masks["vessels"].path)
    assert (found.pictures[0] == resize_mask(mask, 32)).all()
    assert matrix(found.pictures, found.pictures[:1], np.ones((4, 1), bool))[0, 0] == pytest.approx(1)


def test_trees_of_the_training_set_are_found_and_others_are_not(result) -> None:
    told = result[0]
    assert told.figure("chain_leaked_share").value == 0
    assert told.figure("chain_gan_2_leaked_share").value == 0.6
    assert told.figure("chain_leaked_share").high < 0.6 and told.figure("chain_leaked_share").n == 5
    leak = told.sets[1].leak
    leaking = {finding.image: finding.neighbour for finding in leak.findings if finding.offends}
    assert leaking == {f"images/{40 + i}.png": f"images/{1 + i}.png" for i in range(3)}
    assert leak.nearest.value > leak.nearest.real
    assert told.sets[2].leak is None
    assert {row.test for row in told.chance} == {"trees", "trees_half", "all"}


def test_chance_is_told_by_the_training_eyes_where_no_others_are(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = TablesConfig(
        sources={"copies": folders["copied"]}, real=folders["real"], out=tmp_path, images=2, side=32,
        photographs=False, draws=100, floor_repeats=1, name="chain_vae", reference="images/3.png",
    )  # fmt: skip
    told = tables(config)
    assert told.reference == "images/3.png"
    assert told.figure("chain_vae_leaked_share").value == 0.6
    assert "against the others" in told.figure("chain_vae_leaked_share").notes[0]
    assert told.command.startswith("fundusforge chain tables copies=")


def test_vessels_are_compared_and_tested(result) -> None:
    told = result[0]
    for name in ("vessel_density", "vessel_length", "vessel_arc_over_chord", "vessel_curvature",
                 "vessel_fractal_dimension", "vessel_calibre", "vessel_bifurcations", "vessels_broken",
                 "vessels_orphan"):  # fmt: skip
        assert told.figure(f"chain_{name}").n_real == 6
    assert any("Two one-sided tests" in note for note in told.figure("chain_vessel_density_d").notes)


def test_the_result_is_written_laid_out_and_recorded(result) -> None:
    told, out = result
    assert json.loads((out / TABLES).read_text("utf-8")) == told.to_dict()
    text, page = told.text(), told.markdown()
    for part in ("images/0.png", "0.78", "1024x1024", "128x128", "held-out real", "warning: "):
        assert part in text
    assert "| VAE | Yes | 128x128 | No | 6 |" in page
    lines = {row["name"]: row for row in told.lines()}
    assert {"chain_vessel_ssim", "chain_vessel_ssim_real", "chain_vessel_ssim_gap", "chain_leaked_share",
            "chain_gan_2_vessel_ssim"} <= lines.keys()  # fmt: skip
    assert set(lines["chain_vessel_ssim"]) == {"name", "value", "low", "high", "n", "unit", "command"}


def test_unfit_folders_and_settings_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = TablesConfig(sources={"a": folders["drawn"]}, real=folders["real"], out=tmp_path)
    with pytest.raises(DatasetError, match="are synthetic"):
        tables(replace(config, real=folders["drawn"]))
    with pytest.raises(DatasetError, match="no vessel map of 'x.png'"):
        tables(replace(config, reference="x.png"))
    with pytest.raises(DatasetError, match="not learnt from"):
        tables(replace(config, held_out=folders["real"], held_out_splits=("train",)))
    with pytest.raises(ValueError, match="differ in letters"):
        replace(config, sources={"a b": tmp_path, "A-b": tmp_path})
