"""The command line: its help, its exit codes, and what it says when it is used wrongly."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fundusforge.cli import COMMANDS, main
from fundusforge.cli.command import UsageError, parse

Folder = Callable[..., Path]


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr()
    assert all(f"  {name} " in printed.out for name in COMMANDS)
    assert printed.err == ""


def test_no_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "prepare" in printed.err


def test_the_overview_needs_neither_torch_nor_opencv() -> None:
    code = (
        "import sys; from fundusforge.cli import main; main(['--help']); "
        "print(sorted({'torch', 'cv2', 'timm', 'sklearn', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    printed = capsys.readouterr()
    assert "Examples:" in printed.out and f"fundusforge {name}" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_seed_and_machine_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, "--help")
    printed = capsys.readouterr().out
    assert "--seed" in printed and "--json" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    documented = [f for f in COMMANDS[name].__dataclass_fields__ if f not in {"model", "loop", "config"}]
    run(name, "--help")
    printed = capsys.readouterr().out.replace("_", "-")
    missing = [f for f in documented if f.replace("_", "-") not in printed.lower()]
    assert set(missing) <= {"settings", "source", "sources", "folders", "count"}


def test_a_family_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "pix2pix", "--help") == 0
    printed = capsys.readouterr().out
    assert "--model.l1" in printed and "--loop.batch" in printed and "--model.kind" not in printed


def test_a_preset_sets_the_defaults_and_options_win() -> None:
    words = ["unet", "a", "b", "--out", "r", "--preset", "disc", "--model.lr", "1e-4", "--loop.batch", "3"]
    command = parse(COMMANDS["train"], words, prog="train")
    assert command.model.masks == ("disc",) and command.model.diameter == 256
    assert command.model.lr == 1e-4 and command.loop.batch == 3
    assert command.folders == (Path("a"), Path("b"))


def test_a_format_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", "--format", "dicom", "--help") == 0
    printed = capsys.readouterr().out
    assert "--source.keywords" in printed and "--source.root" not in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tarin"], "did you mean 'train'?"),
        (["train", "unett", "a", "--out", "r"], "did you mean 'unet'?"),
        (["train", "unet", "a", "--out", "r", "--preset", "driv"], "did you mean 'drive'?"),
        (["train", "unet", "a", "--out", "r", "--model.lrr", "1"], "--model.lr"),
        (["train", "unet", "a", "--out", "r", "--stop-afer", "1h"], "--stop-after"),
        (["train", "unet", "--out", "r"], "at least one dataset folder"),
        (["train", "unet", "nowhere", "--out", "r"], "nowhere"),
        (["train", "unet", "a", "--out", "r", "--stop-after", "soon"], "no amount of training"),
        (["train", "pix2pix", "a", "--out", "r", "--model.size", "100"], "multiple of"),
        (["train", "unet", "a"], "--out"),
        (["prepare", "a", "--format", "drvie", "--out", "o"], "did you mean 'drive'?"),
        (["prepare", "nowhere", "--out", "o"], "--format"),
        (["prepare", "--format", "drive", "--out", "o"], "SOURCE"),
        (["prepare", "nowhere", "--format", "drive", "--out", "o"], "nowhere"),
        (["prepare", "nowhere", "--format", "drive", "--out", "o", "--size", "3"], "between 16 and 8192"),
        (["inspect", "nowhere"], "nowhere: is not a folder"),
        (["inspect"], "FOLDER"),
        (["annotate", "nowhere", "--out", "o"], "--vessels"),
        (["annotate", "nowhere", "--out", "o", "--vessels", "--threshold", "2"], "between 0 and 1"),
        (["annotate", "nowhere", "--out", "o", "--vessels"], "nowhere"),
        (["annotate", "nowhere", "--grade"], "nowhere"),
        (["sample", "nowhere", "--out", "o"], "nowhere"),
        (["sample", "a", "b", "--out", "o"], "at most one"),
        (["sample", "-n", "many", "--out", "o"], "many"),
        (["evaluate", "nowhere", "--against", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_ends_with_two_and_one_message(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err


def test_a_fault_of_the_program_is_no_wrong_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> int:
        return int([1][1])

    monkeypatch.setattr(COMMANDS["models"], "run", broken)
    assert run("models") == 3
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["models"], "run", interrupted)
    assert run("models") == 130
    assert capsys.readouterr().err == "fundusforge models: interrupted\n"


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> int:
        raise OSError(28, "No space left on device", "out/images/1.png")

    monkeypatch.setattr(COMMANDS["models"], "run", full)
    assert run("models") == 2
    assert capsys.readouterr().err == "fundusforge models: out/images/1.png: No space left on device\n"


def test_models_lists_what_can_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed["families"]) == {
        "unet", "pix2pix", "drgan", "flow", "vae", "edsr", "pggan", "stylegan", "encoder", "selfsupervised",
        "classifier",
    }  # fmt: skip
    assert "drive" in listed["families"]["unet"]["presets"]
    assert run("models") == 0
    assert "drive" in capsys.readouterr().out


def test_a_missing_preset_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="known are"):
        parse(COMMANDS["train"], ["unet", "a", "--out", "r", "--preset", "zzz"], prog="train")


def test_rejects_beyond_the_limit_end_with_one(
    drawn_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for path in sorted((drawn_folder(4, size=256) / "images").glob("*.png")):
        (photographs / path.name).write_bytes(path.read_bytes())
    (photographs / "broken.png").write_bytes(b"")
    words = ("prepare", photographs, "--size", "64", "--quality.no-enabled", "--json")
    assert run(*words, "--out", tmp_path / "one") == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == 1
    assert run(*words, "--out", tmp_path / "two", "--max-rejects", "0") == 1
    assert run(*words, "--out", tmp_path / "three", "--max-rejects", "1") == 0
