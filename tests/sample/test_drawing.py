"""Images drawn from vectors: the same for the same seed, marked, with their masks; and contrasts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.images import read_contrast, read_image, read_mask
from fundusforge.models import ModelConfig
from fundusforge.models.pggan import Generator, PGGANConfig
from fundusforge.models.recipe import CONTRAST_UNIT
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.styles import Generator as Styled
from fundusforge.records import DatasetError, read_folder
from fundusforge.sample.cleaning import COVERED
from fundusforge.sample.drawing import draw
from fundusforge.sample.latents import Drawer
from fundusforge.training.checkpoint import CheckpointError, Clock, save_model

pytestmark = pytest.mark.usefixtures("one_thread")
EYES = PGGANConfig(widths=(8, 8, 8, 8), latent=6, masks=("vessels", "disc"), budget=400)
BRAINS = PGGANConfig(
    widths=(8, 8, 8), latent=6, masks=("oedema",), contrasts=("t1", "flair"), budget=300
)  # fmt: skip


def run_of(config: PGGANConfig, folder: Path, *, seen: int = 10**6) -> Path:
    """A run folder with an untrained generator."""
    torch.manual_seed(1)
    generator = Generator(config)
    generator.seen.fill_(seen)
    folder.mkdir()
    save_model(
        folder / "model.safetensors",
        torch.nn.ModuleDict({"generator": generator}),
        config_json=to_json(config, kind=ModelConfig),
        clock=Clock(images=seen),
        extra={"terms": ["drawn: CC0"], "patients": ["a"]},
    )
    return folder


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    return Drawer.load(run_of(EYES, tmp_path_factory.mktemp("drawer") / "run"), device="cpu")


def test_what_is_asked_for_is_drawn_and_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    c = StyleGANConfig(widths=(8, 8, 8), latent=6, style=6, classes=("grade", "laser_marks"))
    torch.manual_seed(1)
    save_model(
        tmp_path / "a.safetensors",
        torch.nn.ModuleDict({"generator": Styled(c)}),
        config_json=to_json(c, kind=ModelConfig),
        clock=Clock(),
        extra={"asked": [c.condition(0, ()), c.condition(2, ("laser_marks",))]},
    )
    model = str(tmp_path / "a.safetensors")
    assert main(["sample", model, "-n", "6", "--out", str(tmp_path / "all"), "--quiet"]) == 0
    drawn = {(record.grade, record.labels) for record in read_folder(tmp_path / "all")}
    assert drawn == {(0, ()), (2, ("laser",))}
    words = ["sample", model, "-n", "3", "--quiet", "--out"]
    asked = ["--grade", "4", "--finding", "laser_marks", "--truncation", "0.5"]
    assert main([*words, str(tmp_path / "four"), *asked]) == 0
    four = read_folder(tmp_path / "four")
    assert {(record.grade, record.labels) for record in four} == {(4, ("laser",))}
    assert contents(tmp_path / "all")["images/000000.png"] != contents(tmp_path / "four")["images/000000.png"]
    for wrong in (["--grade", "5"], ["--finding", "cataract"], ["--truncation", "0"]):
        assert main([*words, str(tmp_path / "none"), *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_of_images_and_masks(drawer: Drawer, tmp_path: Path) -> None:
    made = list(draw(drawer, tmp_path / "out", count=3, seed=5))
    records = read_folder(tmp_path / "out")
    assert records == made and len({record.patient for record in records}) == 3
    for index, record in enumerate(records):
        assert record.synthetic and not record.structure_from_patient and record.terms == "drawn: CC0"
        assert record.provenance is not None and record.provenance.condition == "latent"
        assert (record.provenance.seed, record.provenance.index) == (5, index)
        assert {name: mask.origin for name, mask in record.masks.items()} == {
            "vessels": "generated", "disc": "generated"
        }  # fmt: skip
        picture = drawer.pictures(drawer.latent(5, index))[0]
        image = read_image(tmp_path / "out" / record.image)
        assert np.abs(image / 127.5 - 1 - picture[:3].permute(1, 2, 0).clamp(-1, 1).numpy()).max() < 0.005
        vessels = read_mask(tmp_path / "out" / record.masks["vessels"].path) > 0
        inside = np.ones_like(vessels)
        if record.field_of_view:
            inside = read_mask(tmp_path / "out" / record.field_of_view) > 0
        assert np.array_equal(vessels, (picture[3].numpy() > 2 * COVERED - 1) & inside)
    with Pillow.open(tmp_path / "out/images/000001.png") as picture:
        assert picture.text["fundusforge:synthetic"] == "true"


def test_the_same_seed_gives_the_same_bytes(drawer: Drawer, tmp_path: Path) -> None:
    for name, count, seed in (("one", 3, 7), ("two", 3, 7), ("more", 5, 7), ("other", 3, 8)):
        list(draw(drawer, tmp_path / name, count=count, seed=seed))
    one, two, more, other = (contents(tmp_path / name) for name in ("one", "two", "more", "other"))
    assert one == two != other
    assert all(more[name] == data for name, data in one.items() if name.endswith(".png"))


def test_one_image_does_not_depend_on_its_neighbours(drawer: Drawer) -> None:
    latents = np.concatenate([drawer.latent(0, index) for index in range(5)])
    assert torch.equal(drawer.pictures(latents)[3:4], drawer.pictures(latents[3:4]))


def test_weights_in_the_middle_of_growing_draw_small_images(tmp_path: Path) -> None:
    drawer = Drawer.load(run_of(EYES, tmp_path / "run", seen=210), device="cpu")
    assert (drawer.size, drawer.config.size) == (16, 32)
    assert drawer.draw(drawer.latent(0, 0)).image.shape == (16, 16, 3)


def test_contrasts_are_stored_in_deviations(tmp_path: Path) -> None:
    drawer = Drawer.load(run_of(BRAINS, tmp_path / "run"), device="cpu")
    (record,) = draw(drawer, tmp_path / "out", count=1)
    assert read_folder(tmp_path / "out") == [record]
    picture = drawer.pictures(drawer.latent(0, 0))[0].numpy()
    for name, layer in zip(("t1", "flair"), picture, strict=False):
        kept = record.contrasts[name]
        values = read_contrast(tmp_path / "out" / kept.path, scale=kept.scale, offset=kept.offset)
        assert np.allclose(values, layer * CONTRAST_UNIT, atol=1e-3)
    assert list(record.masks) == ["oedema"] and record.field_of_view is None


def test_bad_requests_are_refused(drawer: Drawer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least 1"):
        next(draw(drawer, tmp_path / "out", count=0))
    list(draw(drawer, tmp_path / "out", count=1))
    with pytest.raises(DatasetError, match="holds a dataset already"):
        next(draw(drawer, tmp_path / "out", count=1))
    with pytest.raises(CheckpointError, match=r"neither|expected|folder"):
        Drawer.load(tmp_path)
    assert json.loads((tmp_path / "out/metadata.jsonl").read_text())["synthetic"] is True
