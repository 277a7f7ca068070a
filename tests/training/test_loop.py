"""The loop: it learns, goes on bit for bit, averages, stops on what is not finite, keeps the best."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import GAN, Drawn, Segmenter
from torch import Tensor, nn

from fundusforge.images import read_image
from fundusforge.models.recipe import Recipe
from fundusforge.training import checkpoint
from fundusforge.training.checkpoint import CheckpointError, Clock
from fundusforge.training.loop import TrainingError, Validation, train, update_averages
from fundusforge.training.run import LoopConfig, RunError

CONFIG = '{"kind": "tiny"}'
EIGHT_STEPS = LoopConfig(
    batch=4,
    stop_after="32img",
    device="cpu",
    log_every=8,
    ema_images=8,
    tensorboard=False,
    clip=1.0,
    workers=0,
)
RECIPES = pytest.mark.parametrize("make", [Segmenter, GAN])


def run(recipe: Recipe, folder: Path, c: LoopConfig = EIGHT_STEPS, **options: object) -> Recipe:
    options = {"batches": Drawn(batch=c.batch), "config_json": CONFIG, "quiet": True} | options
    train(recipe, c=c, run_dir=folder, **options)
    return recipe


def state(folder: Path) -> dict[str, Tensor]:
    return checkpoint.read(folder / "state.safetensors")[0]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@RECIPES
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    make: Callable[[], Recipe], channels_last: bool, tmp_path: Path
) -> None:
    c = replace(EIGHT_STEPS, channels_last=channels_last)
    run(make(), tmp_path / "whole", c)
    run(make(), tmp_path / "broken", replace(c, stop_after="12img"))
    fresh = make()
    for parameter in fresh.nets.parameters():
        parameter.data.normal_()  # what a process starts from does not matter
    run(fresh, tmp_path / "broken", c)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "broken"))
    assert any(name.startswith("opt.") for name in state(tmp_path / "whole"))


def test_a_run_killed_between_saves_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class Killed(Drawn):
        def starting_at(self, image: int) -> Iterator[dict[str, Tensor]]:
            for batch in super().starting_at(image):
                if image == 20 and clocks:
                    raise ConnectionError("the machine is gone")
                clocks.append(image)
                image += self.batch
                yield batch

    clocks: list[int] = []
    c = replace(EIGHT_STEPS, save_every="8img", sample_count=1)
    with pytest.raises(ConnectionError):
        run(GAN(), tmp_path / "killed", c, batches=Killed())
    assert checkpoint.read(tmp_path / "killed" / "state.safetensors")[1]["images"] == "16"
    run(GAN(), tmp_path / "killed", c)
    run(GAN(), tmp_path / "whole", c)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "killed"))
    assert [row["images"] for row in rows(tmp_path / "killed")] == [8, 16, 24, 32]


@RECIPES
def test_accumulated_gradients_equal_those_of_the_whole_batch(
    make: Callable[..., Recipe], tmp_path: Path
) -> None:
    options = {"norm": False} if make is Segmenter else {"noise": 0.0}
    c = replace(EIGHT_STEPS, clip=None)
    whole = run(make(**options), tmp_path / "whole", c)
    parts = run(make(**options), tmp_path / "parts", replace(c, accumulate=2))
    for name, tensor in whole.nets.state_dict().items():
        assert torch.allclose(tensor, parts.nets.state_dict()[name], atol=2e-6), name


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    c = replace(EIGHT_STEPS, stop_after="600img", log_every=40, schedule="linear", warmup=20)
    run(Segmenter(), tmp_path, c)
    losses = [row["main/bce"] for row in rows(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]
    assert rows(tmp_path)[-1]["rate"] == 0.0


def test_phases_step_their_own_networks_when_they_are_due(tmp_path: Path) -> None:
    recipe = run(GAN(), tmp_path)
    assert recipe.phases[0].optimizer.state_dict()["state"][0]["step"] == 8  # G
    assert recipe.phases[1].optimizer.state_dict()["state"][0]["step"] == 8 + 2  # D, and R1 every fourth
    assert [("R1/r1" in row) for row in rows(tmp_path)] == [True, False, True, False]
    assert recipe.phases[1].optimizer.state_dict()["state"][3]["step"] == 8  # R1 gives the last bias nothing


def test_averages_follow_weights_and_batch_statistics() -> None:
    nets, average = Segmenter().nets, Segmenter().nets
    for parameter in nets.parameters():
        parameter.data.fill_(2.0)
    for parameter in average.parameters():
        parameter.data.fill_(1.0)
    nets["net"][1].running_mean.fill_(8.0)
    nets["net"][1].num_batches_tracked.fill_(5)
    update_averages(average, nets, 0.75)
    assert all((parameter == 1.25).all() for parameter in average.parameters())
    assert (average["net"][1].running_mean == 2.0).all()
    assert average["net"][1].num_batches_tracked == 5


def test_the_released_model_is_the_average(tmp_path: Path) -> None:
    trained = train(
        GAN(),
        Drawn(),
        EIGHT_STEPS,
        tmp_path,
        config_json=CONFIG,
        quiet=True,
        metadata={"patients": ["a", "b"]},
    )
    tensors, metadata = checkpoint.load_model(tmp_path)
    assert_same(tensors, trained.nets.state_dict())
    assert {name.split(".")[0] for name in tensors} == {"G"}
    assert not torch.equal(tensors["G.0.weight"], state(tmp_path)["nets.G.0.weight"])
    assert json.loads(metadata["patients"]) == ["a", "b"]
    assert trained.finished
    assert trained.clock.images == 32


def test_a_value_that_is_not_finite_stops_the_run_and_spares_the_last_state(tmp_path: Path) -> None:
    c = replace(EIGHT_STEPS, save_every="8img", stop_after="400img")
    with pytest.raises(TrainingError, match=r"ends at 24 images: main/bce, main/gradient"):
        run(Segmenter(ema=("net",)), tmp_path, c, batches=Drawn(spoil_at=20))
    for name in ("state.safetensors", "model.safetensors"):
        tensors, metadata = checkpoint.read(tmp_path / name)
        assert metadata["images"] == "16"
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert "24 images" in rows(tmp_path)[-1]["failed"]


def test_an_infinite_gradient_alone_stops_the_run(tmp_path: Path) -> None:
    class Steep(Segmenter):
        def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
            return {"root": self.nets["net"](batch["image"]).mul(0.0).sum().abs().sqrt()}

    with pytest.raises(TrainingError, match="main/gradient"):
        run(Steep(), tmp_path)


def test_the_best_model_by_the_given_score_is_kept_over_sittings(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.5, 0.4, 0.7])
    modes = []

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        modes.append(nets["net"].training)
        return {"f1": next(scores), "loss": 1.0}

    c = replace(EIGHT_STEPS, validate_every="12img")
    validation = Validation(judge, "f1")
    first = train(Segmenter(), Drawn(), c, tmp_path, config_json=CONFIG, quiet=True, validate=validation)
    assert first.best == 0.9
    best = checkpoint.read_metadata(tmp_path / "best.safetensors")
    assert (best["score"], best["value"], best["images"]) == ("f1", "0.9", "24")
    longer = replace(c, stop_after="52img", validate_every="12img")
    again = train(Segmenter(), Drawn(), longer, tmp_path, config_json=CONFIG, quiet=True, validate=validation)
    assert again.best == 0.9
    assert checkpoint.read_metadata(tmp_path / "best.safetensors") == best
    assert modes == [False] * 5
    assert [row["validation/f1"] for row in rows(tmp_path) if "validation/f1" in row] == [
        0.2,
        0.9,
        0.5,
        0.4,
        0.7,
    ]


def test_snapshots_are_kept(tmp_path: Path) -> None:
    run(Segmenter(), tmp_path, replace(EIGHT_STEPS, keep_every="12img"))
    kept = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert kept == ["000000012.safetensors", "000000024.safetensors"]
    assert checkpoint.read_metadata(tmp_path / "snapshots" / kept[0])["images"] == "12"


def test_training_ends_early_without_progress_or_on_request(tmp_path: Path) -> None:
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        return {"f1": next(scores)}

    c = replace(EIGHT_STEPS, stop_after="400img", validate_every="4img", patience=2)
    run(Segmenter(), tmp_path / "patient", c, validate=Validation(judge, "f1"))
    assert checkpoint.read_metadata(tmp_path / "patient/best.safetensors")["value"] == "0.9"
    assert int(checkpoint.read_metadata(tmp_path / "patient/model.safetensors")["images"]) < 40
    reasons = [row["ended"] for row in rows(tmp_path / "patient") if "ended" in row]
    assert reasons[0].startswith("no better f1 in 2")
    asked = Validation(lambda nets: {"f1": 0.5}, "f1", stop=lambda: "copies")
    run(Segmenter(), tmp_path / "asked", replace(c, patience=0), validate=asked)
    assert int(checkpoint.read_metadata(tmp_path / "asked/model.safetensors")["images"]) < 20
    assert [row["ended"] for row in rows(tmp_path / "asked") if "ended" in row][0] == "copies"


def test_a_score_that_validation_does_not_give_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="auc"):
        run(Segmenter(), tmp_path, validate=Validation(lambda nets: {"f1": 0.5}, "auc"))
    assert checkpoint.read_metadata(tmp_path / "model.safetensors")["images"] == "32"  # saved before


def test_samples_are_drawn_on_the_first_images(tmp_path: Path) -> None:
    run(Segmenter(), tmp_path, replace(EIGHT_STEPS, sample_every="16img", sample_count=6))
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["000000016.png", "000000032.png"]
    assert read_image(tmp_path / "samples" / "000000032.png").shape == (2 * 8 + 4, 3 * 8 + 2 * 4, 3)


def test_tensorboard_events_carry_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(Segmenter(), tmp_path, replace(EIGHT_STEPS, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("main/bce")]
    assert found == [(row["images"], pytest.approx(row["main/bce"])) for row in rows(tmp_path)]
    assert events.Tags()["images"] == ["samples"]


def test_a_budget_of_time_ends_the_run_and_counts_over_sittings(tmp_path: Path) -> None:
    c = replace(EIGHT_STEPS, stop_after="1s", schedule="linear", log_every=4)
    trained = train(Segmenter(), Drawn(), c, tmp_path, config_json=CONFIG, quiet=True)
    assert 1.0 <= trained.clock.seconds < 1.5
    assert rows(tmp_path)[-1]["rate"] == 0.0
    stored = float(checkpoint.read(tmp_path / "state.safetensors")[1]["seconds"])
    assert stored == trained.clock.seconds
    again = train(Segmenter(), Drawn(), c, tmp_path, config_json=CONFIG, quiet=True)
    assert again.clock == trained.clock  # nothing is left to do


def test_an_interrupt_finishes_the_step_and_saves(tmp_path: Path) -> None:
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGTERM)).start()
    c = replace(EIGHT_STEPS, stop_after="1h")
    trained = train(Segmenter(), Drawn(), c, tmp_path, config_json=CONFIG, quiet=True)
    assert not trained.finished
    assert checkpoint.read(tmp_path / "state.safetensors")[1]["images"] == str(trained.clock.images)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_warm_start_begins_from_given_weights_and_only_once(tmp_path: Path) -> None:
    run(Segmenter(), tmp_path / "teacher")
    still = replace(EIGHT_STEPS, warmup=10**9, stop_after="4img")
    pupil = run(Segmenter(), tmp_path / "pupil", still, warm_start=tmp_path / "teacher")
    taught = state(tmp_path / "teacher")["nets.net.0.weight"]
    assert torch.allclose(pupil.nets["net"][0].weight, taught, atol=1e-6)
    assert "tensors loaded" in rows(tmp_path / "pupil")[0]["warm_start"]
    before = state(tmp_path / "pupil")
    run(Segmenter(), tmp_path / "pupil", still, warm_start=tmp_path / "teacher")
    assert_same(before, state(tmp_path / "pupil"))


def test_wrong_use_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch 4 is no multiple of 1 processes x 3 parts"):
        run(Segmenter(), tmp_path / "run", replace(EIGHT_STEPS, accumulate=3))
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        run(Segmenter(), tmp_path / "run", replace(EIGHT_STEPS, device="gpu"))
    with pytest.raises(CheckpointError, match="no such file"):
        run(Segmenter(), tmp_path / "run", warm_start=tmp_path / "none.safetensors")
    assert not (tmp_path / "run").exists()
    run(Segmenter(), tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        run(Segmenter(), tmp_path / "run", resume=False)
    settings = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(CheckpointError, match="kind was 'tiny' and is 'other'"):
        run(Segmenter(), tmp_path / "run", config_json='{"kind": "other"}')
    assert (tmp_path / "run" / "config.json").read_text() == settings


def test_a_feed_of_another_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 images on each of 1 processes are no batch of 4"):
        run(Segmenter(), tmp_path, batches=Drawn(batch=8))


def test_bf16_trains_on_a_cpu_when_asked(tmp_path: Path) -> None:
    c = replace(EIGHT_STEPS, precision="bf16", stop_after="200img", log_every=40)
    recipe = run(Segmenter(), tmp_path, c)
    assert recipe.nets["net"][0].weight.dtype == torch.float32
    assert rows(tmp_path)[-1]["main/bce"] < rows(tmp_path)[0]["main/bce"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@RECIPES
def test_a_gpu_run_resumes_bit_for_bit(make: Callable[[], Recipe], tmp_path: Path) -> None:
    c = replace(EIGHT_STEPS, device="cuda", deterministic=True)
    run(make(), tmp_path / "whole", c)
    run(make(), tmp_path / "broken", replace(c, stop_after="12img"))
    run(make(), tmp_path / "broken", c)
    assert_same(state(tmp_path / "whole"), state(tmp_path / "broken"))


def test_clocks_are_values() -> None:
    assert Clock(images=4) == Clock(images=4, seconds=0.0)
