"""`fundusforge upscale`: a folder of twice the side that keeps what it says, or nothing at all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from fundusforge.cli import main
from fundusforge.cli.fitting import fit
from fundusforge.config import to_json
from fundusforge.images import read_image, read_mask, write_image
from fundusforge.models.edsr import EDSRConfig, EDSRNet
from fundusforge.models.unet import UNetConfig
from fundusforge.records import Contrast, Mask, Provenance, Record, read_folder, with_mask, write_metadata
from fundusforge.sample.upscaling import Upscaler
from fundusforge.training.checkpoint import annotate_metadata, save_model
from fundusforge.training.loop import Clock
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")
Folder = Callable[..., Path]
MADE = Provenance(model="painter-0123456789ab", seed=7, index=3, condition="phantom:1", version="0")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = EDSRConfig(blocks=1, width=6, start="random")
    path = tmp_path / "sharp.safetensors"
    nets = nn.ModuleDict({"net": config.build().nets["net"]})
    save_model(path, nets, config_json=to_json(config), clock=Clock(images=8))
    annotate_metadata(path, terms=["drawn: CC0", "idrid: CC BY 4.0"], patients=["abc"])
    return path


@pytest.fixture
def folder(drawn_folder: Folder) -> Path:
    """Two drawn eyes: one synthetic, with a soft mask; one real, of which the picture is a JPEG."""
    place = drawn_folder(2, size=48)
    first, second = read_folder(place)
    soft = np.linspace(0, 255, 48 * 48).reshape(48, 48).astype(np.uint8)
    (place / "maps").mkdir()
    write_image(place / "maps" / "000.png", soft)
    first = with_mask(first, "laser_marks", "maps/000.png", "predicted", soft=True)
    first = replace(
        first, synthetic=True, structure_from_patient=True, provenance=MADE, terms="drawn: CC0",
        confidences={"laser_marks": 0.5}, predicted=("grade",), labels=("laser",),
    )  # fmt: skip
    write_image(place / "images" / "000.jpg", read_image(place / second.image))
    second = replace(second, image="images/000.jpg", field_of_view=None)
    write_metadata(place, [first, second])
    return place


def run(*words: object) -> int:
    return main(["upscale", *map(str, words), "--device", "cpu", "--quiet"])


def test_everything_is_twice_as_large_and_says_what_it_said(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "large"
    assert run(folder, "--model", model, "--out", out, "--json", "--tile", 20) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["images"], result["real"]) == (2, 1)
    assert "invented" in captured.err
    before, after = read_folder(folder), read_folder(out)
    for old, new in zip(before, after, strict=True):
        moved = replace(
            old, image=new.image, masks=new.masks, field_of_view=new.field_of_view, terms=new.terms
        )
        assert moved == new
        assert {n: (m.origin, m.soft) for n, m in new.masks.items()} == {
            n: (m.origin, m.soft) for n, m in old.masks.items()
        }
        assert read_image(out / new.image).shape == (96, 96, 3)
    assert [record.image for record in after] == ["images/000.png", "images/000-2.png"]
    assert after[0].terms == "drawn: CC0; idrid: CC BY 4.0"
    assert after[1].terms == "drawn: unknown; drawn: CC0; idrid: CC BY 4.0"
    inside = read_mask(out / "field_of_view" / "000.png")
    assert not read_image(out / after[0].image)[inside == 0].any()
    for name, mask in after[0].masks.items():
        assert not read_mask(out / mask.path, soft=mask.soft)[inside == 0].any(), name
    assert len(np.unique(read_mask(out / "maps" / "000.png", soft=True))) > 100


def test_files_say_that_they_were_enlarged(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "large"
    assert run(folder, "--model", model, "--out", out) == 0
    name = Upscaler.load(model).name
    drawn, real = (Image.open(out / record.image).info for record in read_folder(out))
    assert drawn["fundusforge:upscaled"] == real["fundusforge:upscaled"] == name
    assert drawn["fundusforge:synthetic"] == "true" and drawn["fundusforge:seed"] == "7/3"
    assert drawn["fundusforge:model"] == MADE.model
    assert drawn["fundusforge:structure_from_patient"] == "true"
    assert "trainedAlgorithmicMedia" in drawn["XML:com.adobe.xmp"]
    assert "fundusforge:synthetic" not in real and "XML:com.adobe.xmp" not in real


def test_the_ensemble_is_another_picture(folder: Path, model: Path, tmp_path: Path) -> None:
    for name, words in (("one", ()), ("all", ("--ensemble",))):
        assert run(folder, "--model", model, "--out", tmp_path / name, *words) == 0
    one, both = (read_image(tmp_path / name / "images" / "000.png").astype(int) for name in ("one", "all"))
    assert 0 < np.abs(one - both).max() < 60


def test_a_failure_leaves_nothing_behind(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = read_folder(folder)[1]
    path = folder / second.image
    path.write_bytes(path.read_bytes()[:-2])  # its header is whole
    assert run(folder, "--model", model, "--out", tmp_path / "large") == 2
    assert "truncated JPEG" in capsys.readouterr().err
    assert sorted(found.name for found in tmp_path.iterdir()) == ["sharp.safetensors"]


def test_folders_that_do_not_fit_are_refused(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(place: Path, out: Path, *words: object) -> str:
        assert run(place, "--model", model, "--out", out, *words) == 2
        return capsys.readouterr().err

    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    assert "not an empty folder" in refused(folder, used)
    assert (used / "notes.txt").read_text() == "mine"
    assert "must lie apart" in refused(folder, folder / "large")
    assert "at least 16 pixels" in refused(folder, tmp_path / "large", "--tile", 8)
    assert "is not a folder" in refused(tmp_path / "none", tmp_path / "large")

    brains = tmp_path / "brains"
    (brains / "contrasts").mkdir(parents=True)
    write_image(brains / "contrasts" / "0.png", np.zeros((16, 16), np.uint16))
    slices = Contrast(path="contrasts/0.png", scale=1.0, offset=0.0)
    write_metadata(
        brains,
        [Record(image="contrasts/0.png", patient="p", source="brats", contrasts={"t1": slices})],
    )
    assert "magnetic resonance" in refused(brains, tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_another_family_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = UNetConfig(widths=(4, 8), crop=32)
    path = tmp_path / "tree.safetensors"
    save_model(
        path, nn.ModuleDict({"net": config.build().nets["net"]}), config_json=to_json(config), clock=Clock()
    )
    assert run(folder, "--model", path, "--out", tmp_path / "large") == 2
    assert "edsr" in capsys.readouterr().err


def test_an_empty_folder_may_be_written_and_odd_sides_are_taken(model: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "odd", tmp_path / "large"
    out.mkdir()
    (place / "images").mkdir(parents=True)
    write_image(place / "images" / "a.png", np.full((17, 23, 3), 90, np.uint8))
    write_image(place / "images" / "a_disc.png", np.full((17, 23), 255, np.uint8))
    masks = {"disc": Mask(path="images/a_disc.png", origin="human")}
    write_metadata(place, [Record(image="images/a.png", patient="p", source="s", masks=masks)])
    assert run(place, "--model", model, "--out", out) == 0
    assert read_image(out / "images" / "a.png").shape == (34, 46, 3)
    assert read_mask(out / "images" / "a_disc.png").all()


def test_training_begins_as_the_filter_of_its_photographs(dataset_folder: Path, tmp_path: Path) -> None:
    """But not where it goes on, or starts from other weights."""
    config = EDSRConfig(blocks=1, width=27, crop=32, lr=1e-9)
    loop = LoopConfig(stop_after="4img", batch=4, workers=0, device="cpu", tensorboard=False)
    run, other = tmp_path / "run", tmp_path / "other"
    fit(config, [dataset_folder], run, loop=loop, quiet=True)
    up = load_file(run / "model.safetensors")["net.up.weight"][:12]
    cubic = EDSRNet(config).up.weight[:12]
    assert (up - cubic).abs().max() > 0.01 and torch.isfinite(up).all()
    fit(replace(config, start="interpolation"), [dataset_folder], other, loop=loop, quiet=True)
    torch.testing.assert_close(load_file(other / "model.safetensors")["net.up.weight"][:12], cubic)
    again = tmp_path / "again"
    fit(config, [dataset_folder], again, loop=loop, warm_start=other, quiet=True)
    torch.testing.assert_close(load_file(again / "model.safetensors")["net.up.weight"][:12], cubic)
