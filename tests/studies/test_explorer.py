"""The latent space: encoders find vectors, refinement comes nearer, probes, maps and walks tell of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.images import read_image
from fundusforge.models import ModelConfig
from fundusforge.models.encoder import EncoderConfig
from fundusforge.models.pggan import Generator, PGGANConfig
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.styles import Generator as Styled
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.sample.drawing import draw
from fundusforge.sample.inversion import Inverter, apart, refine
from fundusforge.sample.latents import Drawer
from fundusforge.studies.explorer.maps import known, tsne, write_map
from fundusforge.studies.explorer.probes import probe
from fundusforge.studies.explorer.projection import encode, nearest, project
from fundusforge.studies.explorer.walks import across, along, great_circle, through, write_film
from fundusforge.training.checkpoint import Clock, save_model

pytestmark = pytest.mark.usefixtures("one_thread")
EYES = PGGANConfig(widths=(12, 12, 12), latent=4, budget=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained generator whose pictures differ a good deal."""
    torch.manual_seed(1)
    generator = Generator(EYES)
    generator.seen.fill_(300)
    folder = tmp_path_factory.mktemp("explorer") / "eyes"
    folder.mkdir()
    save_model(
        folder / "model.safetensors", nn.ModuleDict({"generator": generator}),
        config_json=to_json(EYES, kind=ModelConfig), clock=Clock(images=300),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def encoder(run: Path) -> Path:
    """An encoder of it, trained for some seconds by the command."""
    out = run.parent / "encoder"
    words = ["train", "encoder", "--model.generator", str(run), "--model.lr", "3e-3", "--loop.batch", "16"]
    words += ["--loop.device", "cpu", "--loop.threads", "1", "--loop.no-tensorboard", "--quiet"]
    assert main([*words, "--stop-after", "4800img", "--loop.ema-images", "200", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def drawer(run: Path) -> Drawer:
    return Drawer.load(run, device="cpu")


@pytest.fixture
def eyes(drawn_folder: Callable[..., Path]) -> Path:
    return drawn_folder(12, size=32)


# ---- inversion ---------------------------------------------------------------------------------------------


def test_the_encoder_finds_vectors_it_never_saw(run: Path, encoder: Path, drawer: Drawer) -> None:
    inverter = Inverter.load(encoder, device="cpu")
    latents = np.random.default_rng(5).standard_normal((32, 4), np.float32)
    wanted = latents / np.sqrt((latents**2).mean(1, keepdims=True))
    found = inverter.encode(drawer.pictures(latents)[:, :3])
    found = found / np.sqrt((found**2).mean(1, keepdims=True))
    assert ((found - wanted) ** 2).mean() < 0.25, "knowing nothing gives 1 or more"
    inverter.check(drawer)
    with pytest.raises(DatasetError, match="inverts .* not other"):
        inverter.check(replace(drawer, name="other"))


def test_an_encoder_needs_a_generator(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "encoder", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert "--model.generator" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="generator"):
        EncoderConfig(drawn=EYES).build().codes(torch.zeros(1, 5))


def test_refinement_finds_a_vector_that_draws_the_same(drawer: Drawer) -> None:
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((3, 4), np.float32)
    pictures = drawer.pictures(latents)
    start = latents + 0.8 * rng.standard_normal(latents.shape, np.float32)
    _, before = refine(drawer, pictures, start, steps=0)
    moved, after = refine(drawer, pictures, start, steps=150)
    assert (after < 0.3 * before).all()
    assert torch.allclose(apart(drawer.pictures(moved), pictures), after, atol=1e-5)
    assert all(parameter.grad is None for parameter in drawer.generator.parameters())


@pytest.mark.parametrize("generation", [1, 2])
def test_style_based_generators_have_the_same_commands(
    eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, generation: int
) -> None:
    torch.manual_seed(1)
    classes = ("grade",) if generation == 2 else ()
    c = StyleGANConfig(generation=generation, widths=(8, 8, 8, 8), latent=4, style=4, classes=classes)
    model, encoder = str(tmp_path / "style.safetensors"), str(tmp_path / "encoder")
    save_model(
        Path(model), nn.ModuleDict({"generator": Styled(c)}), config_json=to_json(c, kind=ModelConfig),
        clock=Clock(), extra={"asked": [c.condition(grade, ()) for grade in range(5)]} if classes else {},
    )  # fmt: skip
    drawer = Drawer.load(Path(model), device="cpu")
    codes = np.concatenate([drawer.latent(0, index) for index in range(3)])
    _, before = refine(drawer, drawer.pictures(codes), codes * 0, steps=0)
    moved, after = refine(drawer, drawer.pictures(codes), codes * 0, steps=80)
    assert (after < 0.6 * before).all() and np.abs(moved - codes).mean() < np.abs(codes).mean()
    words = ["train", "encoder", "--model.generator", model, "--stop-after", "64img", "--loop.device", "cpu"]
    assert main([*words, "--loop.no-tensorboard", "--quiet", "--out", encoder]) == 0
    project = ["latent", "project", model, str(eyes), "--encoder", encoder, "--out", str(tmp_path / "again")]
    assert main([*project, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 12
    assert all(record.structure_from_patient for record in read_folder(tmp_path / "again"))
    walk = ["latent", "walk", model, "--stops", "2", "--frames", "3", "--out", str(tmp_path / "walk.gif")]
    assert main(walk) == 0
    with Pillow.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 4


def test_distance_by_hand() -> None:
    one, two = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    two[..., ::2] = 1  # halves: differs by 0.5 at full size, and by 0.5 everywhere once averaged
    assert apart(one, two).item() == pytest.approx(0.5)
    two[..., 1::2] = -1  # and cancels out once averaged
    assert apart(one, two).item() == pytest.approx((1 + 0) / 2)


def test_projection_of_drawn_images_finds_them_again(encoder: Path, drawer: Drawer, tmp_path: Path) -> None:
    """Images of the generator itself, whose vessels it must draw again."""
    list(draw(drawer, tmp_path / "drawn", count=6, seed=3))
    records = read_folder(tmp_path / "drawn")
    inverter = Inverter.load(encoder, device="cpu")
    found, masks = project(drawer, inverter, tmp_path / "drawn", records, tmp_path / "out", steps=60)
    assert (found.distances <= found.first + 1e-6).all()
    assert found.distances.mean() < 0.6 * found.first.mean(), "what an untrained generator draws is clipped"
    assert masks["vessels"].auc > 0.9 and masks["vessels"].n == 6
    assert masks["vessels"].interval.low <= masks["vessels"].auc <= masks["vessels"].interval.high
    again = read_folder(tmp_path / "out")
    assert [r.provenance.condition for r in again] == [r.image for r in records]
    assert not any(record.structure_from_patient for record in again), "they were drawn of nobody"
    lines = [json.loads(line) for line in (tmp_path / "out/projection.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and len(lines[0]["latent"]) == 4 and len(lines[0]["nearest"]) == 3
    with pytest.raises(DatasetError, match="holds a dataset already"):
        project(drawer, inverter, tmp_path / "drawn", records, tmp_path / "out")


def test_projections_of_patients_are_marked(
    encoder: Path, drawer: Drawer, eyes: Path, tmp_path: Path
) -> None:
    records = read_folder(eyes)
    project(drawer, Inverter.load(encoder, device="cpu"), eyes, records, tmp_path / "out")
    written = read_folder(tmp_path / "out")
    assert all(record.structure_from_patient and record.synthetic for record in written)
    assert [r.patient for r in written] == [r.patient for r in records]
    with Pillow.open(tmp_path / "out" / written[0].image) as picture:
        assert picture.text["fundusforge:structure_from_patient"] == "true"


def test_nearest_by_hand() -> None:
    latents = np.array([[1, 0], [0, 1], [2, 0.1], [-1, 0]], np.float32)
    assert nearest(latents, 2) == [[2, 1], [2, 0], [0, 1], [1, 2]]
    assert nearest(latents[:1]) == [[]]


# ---- probes ------------------------------------------------------------------------------------------------


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    n = 120
    names = rng.choice(["left", "right"], n)
    latents = rng.standard_normal((n, 8)).astype(np.float32)
    patients = [f"p{i // 2}" for i in range(n)]
    nothing = probe(latents, names.tolist(), patients)
    assert nothing is not None and nothing.interval.low < nothing.chance
    latents[:, 2] += np.where(names == "right", 2.5, -2.5)
    found = probe(latents, names.tolist(), patients)
    assert found is not None and found.accuracy > 0.95 and found.interval.low > found.chance
    assert found.classes == ("left", "right") and found.direction is not None
    assert np.argmax(np.abs(found.direction)) == 2 and found.direction[2] > 0.8
    assert np.linalg.norm(found.direction) == pytest.approx(1, rel=1e-5)


def test_a_probe_is_asked_about_people_it_has_not_seen() -> None:
    """Each patient has a vector of its own and a class by lot: nothing can be learnt but the patients."""
    rng = np.random.default_rng(1)
    people = 40
    own = rng.standard_normal((people, 64))
    lot = rng.permutation(["left", "right"] * (people // 2))
    latents = np.repeat(own, 4, 0) + 0.01 * rng.standard_normal((people * 4, 64))
    found = probe(
        latents.astype(np.float32),
        np.repeat(lot, 4).tolist(),
        np.repeat(np.arange(people), 4).astype(str).tolist(),
    )
    assert found is not None and found.accuracy < 0.7


def test_too_few_people_are_not_probed() -> None:
    latents = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    assert probe(latents, ["a"] * 8, list("abcdefgh")) is None
    assert probe(latents, ["a"] * 4 + ["b"] * 4, list("abcdefgh")) is None


# ---- maps and walks ----------------------------------------------------------------------------------------


def test_map_keeps_groups_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((60, 16)).astype(np.float32)
    latents[:30, 0] += 12
    places = tsne(latents)
    assert places.shape == (60, 2) and np.array_equal(places, tsne(latents))
    near = nearest((places - places.mean(0)), 1)
    middle = places[:30].mean(0), places[30:].mean(0)
    spread = np.linalg.norm(places[:30] - middle[0], axis=1).mean()
    assert near and np.linalg.norm(middle[0] - middle[1]) > spread
    write_map(tmp_path / "map.png", places, {"eye": ["left"] * 30 + [None] * 30})
    assert read_image(tmp_path / "map.png").shape[0] > 300
    with pytest.raises(DatasetError, match="10 are needed"):
        tsne(latents[:5])


def test_facts_are_those_that_people_said_and_that_vary(eyes: Path) -> None:
    records = read_folder(eyes)
    facts = known(records)
    assert set(facts) == {"eye", "grade"} and facts["eye"][:2] == ["right", "left"]
    guessed = [replace(record, predicted=("eye",)) for record in records]
    assert set(known(guessed)) == {"grade"}


def test_great_circle_by_hand() -> None:
    path = great_circle(np.array([2.0, 0], np.float32), np.array([0, 5.0], np.float32), 3)
    assert np.allclose(path / np.sqrt(2), [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)
    same = great_circle(path[0], path[0], 4)
    assert np.allclose(same, path[0], atol=1e-5)
    for wrong in (np.zeros(2, np.float32), np.array([-1.0, 0], np.float32)):
        with pytest.raises(ValueError, match=r"directions|opposite"):
            great_circle(np.array([1.0, 0], np.float32), wrong, 3)
    stops = np.eye(3, dtype=np.float32)
    whole = through(stops, 11)
    assert len(whole) == 11 and np.allclose(whole[5] / np.sqrt(3), stops[1], atol=1e-6)


def test_walks_along_and_across() -> None:
    path = along(np.array([3.0, 4], np.float32), np.array([0, 1.0], np.float32), 2.0, 3)
    assert np.allclose(path, [[3, -6], [3, 4], [3, 14]])
    places = np.array([[x, 0.1 * (-1) ** x] for x in range(20)], float)
    met = across(places, np.arange(20, dtype=np.float32)[:, None], stops=5)[:, 0]
    assert sorted(met.tolist()) in ([0, 5, 10, 14, 19], [0, 5, 9, 14, 19], [0, 5, 9, 14, 19][::-1])
    assert np.all(np.diff(met) > 0) or np.all(np.diff(met) < 0)


def test_films_are_whole_and_marked(tmp_path: Path) -> None:
    frames = [np.full((32, 64, 3), 20 * index, np.uint8) for index in range(6)]
    write_film(tmp_path / "a.gif", frames)
    with Pillow.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 10 and film.size == (512, 256)
        assert b"synthetic" in film.info["comment"]
    write_film(tmp_path / "a.mp4", frames)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.mp4"]
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        write_film(tmp_path / "a.avi", frames)


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command(
    run: Path, encoder: Path, eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    records = read_folder(eyes)
    write_metadata(eyes, [replace(record, patient=f"p{i}") for i, record in enumerate(records)])
    common = [str(run), str(eyes), "--encoder", str(encoder), "--device", "cpu"]
    assert main(["latent", "project", *common, "--refine", "5", "--json", "--out", str(tmp_path / "p")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["images"] == 12 and shown["distance"] <= shown["encoded"] and "vessels" in shown["masks"]
    assert main(["latent", "map", *common, "--out", str(tmp_path / "m")]) == 0
    assert "eye: " in capsys.readouterr().out and (tmp_path / "m/map.png").exists()
    assert json.loads((tmp_path / "m/probes.json").read_text())["probes"]["eye"]["n"] == 12
    for along_what in ("eye", "map"):
        film = tmp_path / f"{along_what}.gif"
        assert (
            main(["latent", "walk", *common, "--along", along_what, "--frames", "6", "--out", str(film)]) == 0
        )
        assert film.exists()
    assert main(["latent", "walk", str(run), "--frames", "9", "--out", str(tmp_path / "w.gif")]) == 0
    capsys.readouterr()
    assert main(["latent", "map", str(run), "--out", str(tmp_path / "x")]) == 2
    assert "--encoder" in capsys.readouterr().err
    assert main(["latent", "walk", *common, "--along", "colour", "--out", str(tmp_path / "x.gif")]) == 2
    assert "eye" in capsys.readouterr().err


def test_encode_tells_distances(encoder: Path, drawer: Drawer, eyes: Path) -> None:
    found = encode(drawer, Inverter.load(encoder, device="cpu"), eyes, read_folder(eyes))
    assert found.latents.shape == (12, 4) and torch.equal(found.first, found.distances)
