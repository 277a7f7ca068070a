"""A progressive GAN from a dataset folder to drawn images; when it warns; two processes as one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fundusforge.cli import main
from fundusforge.cli.drawing import Watched, budgeted, drawing_judge, health, quality, spread, warnings
from fundusforge.cli.fitting import located
from fundusforge.images import read_image
from fundusforge.models.growing import Stage
from fundusforge.models.pggan import PGGAN, Generator, PGGANConfig, Reader
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.records import DatasetError, read_folder
from fundusforge.sample.latents import Drawer
from fundusforge.training import checkpoint
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = PGGANConfig(widths=(8, 8, 8), latent=6, budget=120)
WORDS = [
    "--model.widths", "8", "8", "8", "--model.latent", "6", "--loop.batch", "8", "--loop.threads", "1",
    "--loop.device", "cpu", "--loop.save-every", "40img", "--loop.sample-count", "4", "--loop.no-tensorboard",
    "--quiet",
]  # fmt: skip


def test_from_photographs_to_drawn_ones(
    drawn_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, run = drawn_folder(20, size=32), tmp_path / "run"
    words = ["train", "pggan", str(folder), "--stop-after", "120img", "--out", str(run), *WORDS]
    assert main([*words, "--json", "--loop.validate-every", "60img"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 120 and "distance" in result["figures"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seen = {name for line in lines for name in line}
    assert {"validation/diversity", "validation/overfit", "validation/slope", "validation/quality"} <= seen
    assert (
        main(["sample", str(run), "-n", "3", "--seed", "4", "--out", str(tmp_path / "drawn"), "--quiet"]) == 0
    )
    assert all(set(record.masks) == {"vessels"} for record in read_folder(tmp_path / "drawn"))
    assert main(["sample", str(run), "--camera", "x", "--out", str(tmp_path / "other")]) == 2
    assert "takes no --camera" in capsys.readouterr().err
    assert main([*words[:4], "20s", *words[5:]]) == 2
    assert "must be in images" in capsys.readouterr().err


def test_a_stopped_training_goes_on_bit_for_bit(drawn_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Through the start of a level, where new layers join the optimizer."""
    folder = drawn_folder(10, size=32)
    words = ["train", "pggan", str(folder), *WORDS, "--model.budget", "120", "--loop.workers", "0"]
    assert main([*words, "--stop-after", "120img", "--out", str(tmp_path / "whole")]) == 0
    for images in (32, 48, 120):
        assert (
            main([*words, "--stop-after", f"{images}img", "--out", str(tmp_path / "parts"), "--resume"]) == 0
        )
    whole, parts = (checkpoint.read(tmp_path / name / "state.safetensors")[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_two_processes_draw_what_one_does(drawn_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = drawn_folder(10, size=32)
    words = ["train", "pggan", str(folder), "--stop-after", "72img", *WORDS]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "fundusforge", *words, "--out", str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-5), name


def test_the_budget_is_the_length() -> None:
    plain = replace(SMALL, budget=0)
    assert budgeted(plain, LoopConfig(stop_after="3kimg")).budget == 3000
    assert budgeted(SMALL, LoopConfig(stop_after="5min")).budget == 120
    with pytest.raises(DatasetError, match="must be in images"):
        budgeted(plain, LoopConfig(stop_after="5min"))


def test_with_and_without_masks(
    drawn_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """The example trains both on the same photographs and lays their images out in two rows."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    example = importlib.import_module("with_and_without_masks")
    folder = drawn_folder(10, size=32)
    settings = {"stop_after": "64img", "widths": (8, 8, 8), "images": 3, "threads": 1}
    example.main(example.Compare(folders=(folder,), out=tmp_path, **settings))
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(shown["distance"]) == {"with", "without"}
    masks = [Drawer.load(tmp_path / name, device="cpu").config.masks for name in ("with", "without")]
    assert masks == [("vessels",), ()]
    height, width, _ = read_image(tmp_path / "figure3.png").shape
    assert height < width and height > 2 * 16


def test_the_best_state_is_one_of_the_largest_size() -> None:
    """A blurred small picture may be nearer to photographs than a sharp large one that is still noisy."""
    order = [(3, -0.2), (3, 0.0), (3, 4.0), (3, 1e7), (3, 3e7), (2, -0.2), (2, 5.0), (0, 0.0)]
    scores = [quality(distance, level) for level, distance in order]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


def test_few_photographs_are_watched_where_batches_halve(drawn_folder: Callable[..., Path]) -> None:
    """An odd number of them is no batch that could be halved; those without the masks are not watched."""
    config = PGGANConfig(widths=(2,) * 8, latent=4, budget=8000)
    assert config.build().view.halved_from is not None
    folder = drawn_folder(3, size=32)
    records = [located(record, folder) for record in read_folder(folder)]
    bare = [replace(record, masks={}) for record in records]
    recipe = config.build()
    found = drawing_judge(recipe, [*records, *bare], [])
    assert found is not None and found.score is None
    scores = found.judge(recipe.nets.eval())
    assert set(scores) == {"diversity", "slope"}
    assert drawing_judge(recipe, bare, []) is None


def test_a_style_based_training_goes_on_bit_for_bit_and_keeps_what_may_be_asked(
    drawn_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = drawn_folder(20, size=32)
    words = ["train", "stylegan", str(folder), *WORDS, "--model.style", "6", "--model.classes", "grade"]
    words += ["--loop.validate-every", "24img", "--model.adaptive-over", "40"]
    assert main([*words, "--stop-after", "48img", "--out", str(tmp_path / "whole")]) == 0
    assert main([*words, "--stop-after", "24img", "--out", str(tmp_path / "halves")]) == 0
    again = [*words, "--stop-after", "48img", "--resume", "--out", str(tmp_path / "halves")]
    assert main(again) == 0, capsys.readouterr().err
    whole, halves = (
        checkpoint.read(tmp_path / name / "state.safetensors")[0] for name in ("whole", "halves")
    )
    assert whole.keys() == halves.keys() and all(torch.equal(whole[n], halves[n]) for n in whole)
    assert float(whole["nets.balance.strength"]) != 0
    learnt = [record for record in read_folder(folder) if record.split == "train"]
    asked = json.loads(checkpoint.read_metadata(tmp_path / "whole")["asked"])
    assert len(asked) == len(learnt) and {sum(row) for row in asked} <= {0.0, 1.0}
    assert Drawer.load(tmp_path / "whole", device="cpu").asked


# ---- the watch ---------------------------------------------------------------------------------------------


class Opinion(nn.Module):
    """A discriminator that likes bright pictures, and hates those that look like `unseen`."""

    def __init__(self, factor: float, hated: Tensor | None = None) -> None:
        super().__init__()
        self.factor, self.hated = factor, hated

    def forward(self, pictures: Tensor, stage: Stage) -> Tensor:
        found = self.factor * pictures.flatten(1).sum(1, keepdim=True)
        if self.hated is None:
            return found
        known = nn.functional.avg_pool2d(self.hated, self.hated.shape[-1] // stage.side)
        alike = torch.isclose(pictures, known).flatten(1).all(1, keepdim=True)
        return found - 1e3 * alike


def thinking(opinion: Opinion) -> PGGAN:
    """A recipe with this discriminator."""
    recipe = SMALL.build()
    recipe.nets["discriminator"] = opinion
    return recipe


@pytest.fixture
def watched() -> tuple[Generator, Watched, Watched]:
    torch.manual_seed(0)
    generator = Generator(SMALL)
    generator.seen.fill_(120)
    seen = torch.rand(12, 4, 16, 16) + torch.randn(12, 4, 1, 1)
    return generator, Watched(seen), Watched(seen.flip(-1))


def test_a_healthy_training_is_not_warned_of(watched: tuple[Generator, Watched, Watched]) -> None:
    generator, seen, unseen = watched
    found = health(thinking(Opinion(1 / 32)), generator, seen, unseen)
    assert found["slope"] == pytest.approx(1.0, rel=1e-3)
    assert found["overfit"] == pytest.approx(0.0, abs=1e-3)
    with torch.no_grad():
        drawn = generator(torch.randn(12, 6, generator=torch.Generator().manual_seed(1)))
    assert found["diversity"] == pytest.approx(spread(drawn) / spread(seen.pictures), rel=1e-3)
    assert warnings(found | {"diversity": 0.9}, SMALL) == []


def test_what_goes_wrong_is_named(watched: tuple[Generator, Watched, Watched]) -> None:
    generator, seen, unseen = watched
    nn.init.zeros_(generator.first.weight)  # every vector gives the same image
    found = health(thinking(Opinion(1 / 4, hated=unseen.pictures)), generator, seen, unseen)
    assert found["diversity"] == pytest.approx(0.0, abs=1e-6)
    assert found["slope"] == pytest.approx(8.0, rel=1e-3)
    collapse, by_heart, diverging = warnings(found | {"overfit": max(found["overfit"], 0.9)}, SMALL)
    assert "mode collapse" in collapse and "--loop.batch" in collapse
    assert "by heart" in by_heart and "--model.mirror" in by_heart
    assert "diverges" in diverging and "--model.lr" in diverging
    (by_style,) = warnings({"diversity": 0.1}, StyleGANConfig())
    assert "mode collapse" in by_style and "--model.gamma" in by_style
    assert len(warnings({"diversity": 1.0, "slope": float("nan")}, SMALL)) == 1


def test_overfitting_is_seen(watched: tuple[Generator, Watched, Watched]) -> None:
    """Of photographs alike in every way but that the discriminator knows some of them."""
    generator, seen, unseen = watched
    bright = Watched(seen.pictures + 5 - seen.pictures.mean())  # real pictures are liked more than drawn ones
    dim = Watched(unseen.pictures + 5 - unseen.pictures.mean())
    with torch.no_grad():
        fair = health(thinking(Opinion(1 / 32)), generator, bright, dim)["overfit"]
        unfair = health(thinking(Opinion(1 / 32, hated=dim.pictures)), generator, bright, dim)["overfit"]
    assert abs(fair) < 0.01 < 0.5 < unfair
    assert isinstance(Reader(4, (8, 8, 8), 1, deviation=True)(bright.pictures, generator.stage), Tensor)
