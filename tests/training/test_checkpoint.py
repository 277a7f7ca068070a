"""Files of weights: whole or absent, strict to read, annotated at once, warm starts that report."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import GAN, Segmenter
from torch import nn

from fundusforge.models.pggan import PGGANConfig
from fundusforge.training import checkpoint
from fundusforge.training.checkpoint import CheckpointError, Clock
from fundusforge.training.warm import load_warm

CONFIG = '{"kind": "tiny", "width": 4}'


def saved_model(path: Path, *, half: bool = False) -> Segmenter:
    recipe = Segmenter()
    checkpoint.save_model(path, recipe.nets, config_json=CONFIG, clock=Clock(images=96), half=half)
    return recipe


def test_a_model_comes_back_with_its_metadata(tmp_path: Path) -> None:
    recipe = saved_model(tmp_path / "model.safetensors")
    tensors, metadata = checkpoint.load_model(tmp_path, kind="tiny")
    for name, value in recipe.nets.state_dict().items():
        assert torch.equal(tensors[name], value)
    assert metadata["kind"] == "tiny"
    assert json.loads(metadata["config"]) == json.loads(CONFIG)
    assert metadata["images"] == "96"
    assert metadata["calibration"] == "{}"


def test_a_half_precision_model_is_smaller_and_loads_as_float32(tmp_path: Path) -> None:
    recipe = saved_model(tmp_path / "half.safetensors", half=True)
    saved_model(tmp_path / "full.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < (tmp_path / "full.safetensors").stat().st_size
    tensors, _ = checkpoint.load_model(tmp_path / "half.safetensors")
    weight = recipe.nets.state_dict()["net.0.weight"]
    assert tensors["net.0.weight"].dtype == torch.float32
    assert torch.allclose(tensors["net.0.weight"], weight, atol=1e-3)
    assert tensors["net.1.num_batches_tracked"].dtype == torch.int64


def test_a_run_folder_means_its_best_model_before_its_latest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without best\.safetensors"):
        checkpoint.load_model(tmp_path)
    saved_model(tmp_path / "model.safetensors")
    assert checkpoint.model_file(tmp_path).name == "model.safetensors"
    saved_model(tmp_path / "best.safetensors")
    assert checkpoint.model_file(tmp_path).name == "best.safetensors"


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    saved_model(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        checkpoint.load_model(path)


def test_foreign_and_unfit_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load_model(tmp_path / "nothing.safetensors")
    (tmp_path / "weights.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="run folder or a .safetensors file"):
        checkpoint.load_model(tmp_path / "weights.pt")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by fundusforge"):
        checkpoint.load_model(tmp_path / "foreign.safetensors")
    saved_model(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="kind 'tiny', expected 'unet'"):
        checkpoint.load_model(tmp_path, kind="unet")
    recipe = GAN()
    checkpoint.save_state(tmp_path, recipe, nn.ModuleDict(), config_json=CONFIG, clock=Clock())
    with pytest.raises(CheckpointError, match="holds a 'state', expected a 'model'"):
        checkpoint.load_model(tmp_path / "state.safetensors")


def test_metadata_is_annotated_and_weights_stay(tmp_path: Path) -> None:
    recipe = saved_model(tmp_path / "model.safetensors", half=True)
    before, _ = checkpoint.read(tmp_path / "model.safetensors")
    checkpoint.annotate_metadata(tmp_path, calibration={"threshold": {"vessels": 0.43}}, data="drive")
    after, metadata = checkpoint.read(tmp_path / "model.safetensors")
    assert json.loads(metadata["calibration"]) == {"threshold": {"vessels": 0.43}}
    assert metadata["data"] == "drive"
    assert metadata["kind"] == "tiny"
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    assert before.keys() == recipe.nets.state_dict().keys()
    with pytest.raises(CheckpointError, match="'config' belongs to the weights"):
        checkpoint.annotate_metadata(tmp_path, config="{}")


def test_a_warm_start_reports_what_it_took_and_what_not(tmp_path: Path) -> None:
    saved_model(tmp_path / "model.safetensors")
    wider = Segmenter(width=6)
    wider.nets["net"].append(nn.Conv2d(1, 1, 1))
    report = load_warm(wider.nets, tmp_path)
    assert report.loaded == ("net.1.num_batches_tracked", "net.3.bias")
    assert "net.0.weight" in report.mismatched
    assert report.missing == ("net.4.bias", "net.4.weight")
    assert report.unused == ()
    assert "2 tensors loaded" in str(report)
    assert "2 fresh (net.4.bias, net.4.weight)" in str(report)


def test_a_warm_start_takes_strangers_and_states(tmp_path: Path) -> None:
    weights = {"0.weight": torch.full((4, 3, 3, 3), 0.5), "head.bias": torch.zeros(7)}
    save_file(weights, tmp_path / "stranger.safetensors")
    recipe = Segmenter()
    report = load_warm(recipe.nets, tmp_path / "stranger.safetensors")
    assert report.loaded == ("net.0.weight",)
    assert report.unused == ("head.bias",)
    assert (recipe.nets["net"][0].weight == 0.5).all()
    checkpoint.save_state(tmp_path, recipe, nn.ModuleDict(), config_json=CONFIG, clock=Clock())
    again = Segmenter()
    assert not load_warm(again.nets, tmp_path / "state.safetensors").missing
    assert (again.nets["net"][0].weight == 0.5).all()
    save_file({"other": torch.zeros(1)}, tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of it"):
        load_warm(recipe.nets, tmp_path / "nothing.safetensors")


def test_a_run_gives_the_discriminator_too_and_channels_that_both_have(tmp_path: Path) -> None:
    plain = PGGANConfig(widths=(4, 4), latent=4, masks=())
    old, new = plain.build(), replace(plain, masks=("vessels",)).build()
    checkpoint.save_state(tmp_path, old, nn.ModuleDict(), config_json=CONFIG, clock=Clock())
    average = copy.deepcopy(old.nets["generator"])
    nn.init.constant_(average.conv.weight, 0.5)
    released = nn.ModuleDict({"generator": average})
    checkpoint.save_model(tmp_path / "model.safetensors", released, config_json=CONFIG, clock=Clock())
    fresh = new.nets["generator"].paint[1].weight[3:].clone()
    report = load_warm(new.nets, tmp_path, pictures=new.pictures)
    assert (new.nets["generator"].conv.weight == 0.5).all()
    assert torch.equal(new.nets["discriminator"].conv.weight, old.nets["discriminator"].conv.weight)
    assert torch.equal(new.nets["generator"].paint[1].weight[:3], old.nets["generator"].paint[1].weight)
    assert torch.equal(new.nets["generator"].paint[1].weight[3:], fresh)
    wide, narrow = (nets["discriminator"].read[1].weight for nets in (new.nets, old.nets))
    assert torch.equal(wide[:, :3], narrow)
    assert not report.missing and not report.mismatched and len(report.partly) == 6
    assert "6 in the channels that both have" in str(report)
    assert len(load_warm(new.nets, tmp_path).mismatched) == 6


def test_a_shared_optimizer_is_stored_once(tmp_path: Path) -> None:
    recipe = GAN()
    assert list(checkpoint.optimizers(recipe)) == ["G", "D"]
    for parameter in recipe.nets.parameters():
        parameter.grad = torch.ones_like(parameter)
    for phase in recipe.phases:
        phase.optimizer.step()
    checkpoint.save_state(tmp_path, recipe, nn.ModuleDict(), config_json=CONFIG, clock=Clock())
    tensors, _ = checkpoint.read(tmp_path / "state.safetensors")
    assert {name.split(".")[1] for name in tensors if name.startswith("opt.")} == {"G", "D"}
    assert tensors["opt.D.0.step"] == 2  # one step as D, one as R1


def test_a_broken_state_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, averages = Segmenter(), nn.ModuleDict()
    for images in (4, 8):
        checkpoint.save_state(tmp_path, recipe, averages, config_json=CONFIG, clock=Clock(images=images))
    assert checkpoint.load_state(tmp_path, recipe, averages, config_json=CONFIG) == Clock(images=8)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    assert checkpoint.load_state(tmp_path, recipe, averages, config_json=CONFIG) == Clock(images=4)
    assert "going on from state.previous.safetensors" in capsys.readouterr().err
    state.unlink()  # killed between the two renames
    assert checkpoint.load_state(tmp_path, recipe, averages, config_json=CONFIG) == Clock(images=4)
    (tmp_path / "state.previous.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint.load_state(tmp_path, recipe, averages, config_json=CONFIG)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    recipe = Segmenter()
    assert checkpoint.load_state(tmp_path, recipe, nn.ModuleDict(), config_json=CONFIG) is None
    checkpoint.save_state(tmp_path, recipe, nn.ModuleDict(), config_json=CONFIG, clock=Clock(images=4))
    with pytest.raises(CheckpointError, match="width was 4 and is 6"):
        checkpoint.load_state(tmp_path, recipe, nn.ModuleDict(), config_json='{"kind": "tiny", "width": 6}')
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoint.load_state(tmp_path, Segmenter(width=6), nn.ModuleDict(), config_json=CONFIG)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to honour")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_a_file_if_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    rest = tmp_path / "model.safetensors.partial"
    rest.touch(mode=0o400)  # of a process that died
    before = os.umask(umask)
    try:
        saved_model(tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    saved_model(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        (tmp_path / "model.safetensors.partial").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors: cannot be written .*No space left"):
        saved_model(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


SAVER = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from test_checkpoint import CONFIG, with_large_layer
from fundusforge.training import checkpoint
from fundusforge.training.checkpoint import Clock

torch.set_num_threads(1)
recipe = with_large_layer()

def save_for_ever(folder, pipe):
    images = 0
    while True:
        images += 4
        recipe.nets["net"][-1].weight.data.fill_(images)
        checkpoint.save_state(folder, recipe, nn.ModuleDict(), config_json=CONFIG, clock=Clock(images=images))
        os.write(pipe, b"%d\\n" % images)

for number in range(int(sys.argv[2])):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    done, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(done)
        save_for_ever(folder, tell)
    os.close(tell)
    with os.fdopen(done) as lines:
        told = [lines.readline(), lines.readline()]
        time.sleep(0.0021 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told += lines.readlines()
    (folder / "told").write_text(told[-1])
"""


def with_large_layer() -> Segmenter:
    recipe = Segmenter()
    recipe.nets["net"].append(nn.Conv2d(1, 1, 1, bias=False))
    recipe.nets["net"][-1].weight = nn.Parameter(torch.zeros(1, 1, 1000, 1000))
    return recipe


def test_a_save_killed_at_any_moment_leaves_a_whole_state(tmp_path: Path) -> None:
    """Kill -9 processes that do nothing but save states of 4 MB, at twelve moments."""
    subprocess.run(
        [sys.executable, "-c", SAVER, str(tmp_path), "12"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        check=True,
        timeout=400,
    )
    torn = 0
    for folder in tmp_path.iterdir():
        recipe = with_large_layer()
        clock = checkpoint.load_state(folder, recipe, nn.ModuleDict(), config_json=CONFIG)
        told = int((folder / "told").read_text())
        assert clock is not None
        assert told <= clock.images <= told + 4  # what was reported as saved is there
        assert (recipe.nets["net"][-1].weight == clock.images).all()
        torn += (folder / "state.safetensors.partial").exists()
    assert torn  # some were killed in the middle
