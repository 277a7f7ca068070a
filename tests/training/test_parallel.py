"""Two processes under torchrun train what one would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import GAN, Drawn, Segmenter
from torch import nn

from fundusforge.training import checkpoint, parallel
from fundusforge.training.loop import train
from fundusforge.training.run import LoopConfig

CONFIG = '{"kind": "tiny"}'
WORKER = """
import sys
from pathlib import Path
import torch
from test_parallel import CONFIG, loop
from tiny import GAN, Drawn, Segmenter
from fundusforge.training import parallel
from fundusforge.training.loop import train

process = parallel.start("cpu")
out = Path(sys.argv[1])
for name, recipe in (("gan", GAN(noise=0.0)), ("segmenter", Segmenter(norm=False))):
    if process.rank:
        for parameter in recipe.nets.parameters():
            parameter.data.normal_()  # the first process's weights must win
    for images in (16, 32):  # the second sitting resumes
        feed = Drawn(batch=4, rank=process.rank, world=process.world)
        train(recipe, feed, loop(images), out / name, config_json=CONFIG, quiet=True)
drawn = torch.rand(1)
parallel.seed_step(0, 32, process.rank)
(out / f"draw{process.rank}").write_text(str(torch.rand(1).item()))
parallel.stop()
threads = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").glob("*")]
(out / f"threads{process.rank}").write_text("".join(threads))
"""


def loop(images: int) -> LoopConfig:
    return LoopConfig(
        batch=4,
        stop_after=f"{images}img",
        device="cpu",
        ema_images=8,
        tensorboard=False,
        threads=1,
        sample_count=2,
    )


def test_two_processes_of_two_equal_one_of_four(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    for name, recipe in (("gan", GAN(noise=0.0)), ("segmenter", Segmenter(norm=False))):
        train(recipe, Drawn(batch=4), loop(32), tmp_path / f"one-{name}", config_json=CONFIG, quiet=True)
        one = checkpoint.read(tmp_path / f"one-{name}" / "state.safetensors")[0]
        two = checkpoint.read(tmp_path / name / "state.safetensors")[0]
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            assert torch.allclose(tensor, two[key], rtol=1e-5, atol=1e-6), key
    assert (tmp_path / "draw0").read_text() != (tmp_path / "draw1").read_text()
    for rank in range(2):  # a thread of gloo that outlives `stop` aborts the process at its end, now and then
        assert "gloo" not in (tmp_path / f"threads{rank}").read_text()


def test_one_process_needs_no_agreement() -> None:
    process = parallel.start("cpu")
    assert process == parallel.Process(rank=0, world=1, device=torch.device("cpu"))
    assert process.main
    assert parallel.agree([0.0, 1.0, 0.25], process.device) == [0.0, 1.0, 0.25]
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.ones(1, 2)
    parallel.average_gradients(layer.parameters())
    assert (layer.weight.grad == 1.0).all()
    assert layer.bias.grad is None


def test_a_missing_gpu_is_named() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no GPU"):
            parallel.start("cuda")


def test_draws_depend_on_seed_clock_and_rank() -> None:
    found = set()
    for key in ((0, 0, 0), (0, 0, 1), (0, 4, 0), (1, 0, 0)):
        parallel.seed_step(*key)
        found.add(torch.rand(1).item())
    parallel.seed_step(0, 4, 0)
    assert torch.rand(1).item() in found
    assert len(found) == 4


def test_batches_move_in_the_wished_layout() -> None:
    batch = {"image": torch.zeros(2, 3, 4, 4), "grade": torch.zeros(2, dtype=torch.int64)}
    moved = parallel.to_device(batch, torch.device("cpu"), channels_last=True)
    assert moved["image"].is_contiguous(memory_format=torch.channels_last)
    assert moved["grade"].dtype == torch.int64
    assert parallel.to_device(batch, torch.device("cpu"), channels_last=False)["image"].is_contiguous()
