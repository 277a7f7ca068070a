"""Budgets, settings, the run folder, the log."""

import json
import math
from pathlib import Path

import pytest

from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.training.run import (
    Budget,
    Every,
    Log,
    LoopConfig,
    ProgressLine,
    RunError,
    check_run,
    open_run,
    parse_budget,
)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20000img", Budget(images=20000)),
        ("1 images", Budget(images=1)),
        ("1.5kimg", Budget(images=1500)),
        ("30min", Budget(seconds=1800.0)),
        ("2h", Budget(seconds=7200.0)),
        ("90S", Budget(seconds=90.0)),
        ("0.5h", Budget(seconds=1800.0)),
    ],
)
def test_budgets_are_images_or_time(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("20000", "lacks a unit"),
        ("soon", "no amount"),
        ("", "no amount"),
        ("-3min", "no amount"),
        ("3days", "unknown unit 'days'"),
        ("0min", "is nothing"),
        ("0.4img", "is nothing"),
    ],
)
def test_a_wrong_budget_says_what_is_wrong_and_what_is_expected(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as error:
        parse_budget(text)
    assert '"30min"' in str(error.value)


def test_settings_survive_json_and_refuse_the_unknown() -> None:
    settings = LoopConfig(batch=2, stop_after="2h", schedule="cosine", clip=1.0)
    assert from_json(LoopConfig, to_json(settings)) == settings
    with pytest.raises(ConfigError, match="bach"):
        from_json(LoopConfig, '{"bach": 4}')


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stop_after": "30"}, "stop_after"),
        ({"batch": 0}, "batch"),
        ({"clip": 0.0}, "clip"),
        ({"ema_images": -1.0}, "ema_images"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoopConfig(**wrong)


def test_learning_rates_warm_up_and_fall_to_zero() -> None:
    linear, cosine = LoopConfig(schedule="linear", warmup=100), LoopConfig(schedule="cosine")
    assert linear.rate(0, 0.0) == pytest.approx(0.01)
    assert linear.rate(99, 0.0) == 1.0
    assert linear.rate(5000, 0.25) == pytest.approx(0.75)
    assert linear.rate(9999, 1.0) == 0.0
    assert cosine.rate(0, 0.5) == pytest.approx(0.5)
    assert cosine.rate(0, 1.0) == pytest.approx(0.0)
    assert LoopConfig().rate(10**6, 0.99) == 1.0


def test_the_average_halves_its_memory_over_its_half_life() -> None:
    settings = LoopConfig(batch=10, ema_images=500, ema_rampup=0.1)
    assert math.prod(settings.decay(10_000 + i * 10, 10) for i in range(50)) == pytest.approx(0.5)
    assert settings.decay(1000, 10) == pytest.approx(0.5 ** (10 / 100))  # a tenth of the images seen
    assert LoopConfig(ema_images=0).decay(1000, 8) == 0.0


def test_something_that_recurs_is_due_once_per_interval() -> None:
    by_images = Every(parse_budget("10img"), images=100, seconds=0.0)
    assert [k for k in range(100, 140, 4) if by_images.due(k, 0.0)] == [112, 124, 136]
    by_time = Every(parse_budget("1min"), images=0, seconds=30.0)
    assert [t for t in range(30, 250, 30) if by_time.due(0, float(t))] == [90, 150, 210]


def test_a_run_folder_is_refused_only_if_it_holds_a_run_that_is_not_resumed(tmp_path: Path) -> None:
    check_run(tmp_path / "new", resume=False)
    (tmp_path / "state.safetensors").write_bytes(b"")
    check_run(tmp_path, resume=True)
    with pytest.raises(RunError, match="holds a run already"):
        check_run(tmp_path, resume=False)
    with pytest.raises(RunError, match="is a file"):
        check_run(tmp_path / "state.safetensors", resume=True)


def test_a_run_folder_tells_its_settings(tmp_path: Path) -> None:
    open_run(
        tmp_path / "run", config_json='{"kind": "tiny"}', loop=LoopConfig(batch=3), data={"folder": "eyes"}
    )
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["model"] == {"kind": "tiny"}
    assert settings["loop"]["batch"] == 3
    assert settings["data"] == {"folder": "eyes"}


def test_the_log_of_a_killed_run_forgets_what_was_lost(tmp_path: Path) -> None:
    log = Log(tmp_path, images=0, tensorboard=False)
    for images in (10, 20, 30):
        log.write(images, {"loss": 1.0 / images})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"images": 40, "lo')  # killed while writing
    again = Log(tmp_path, images=20, tensorboard=False)
    again.write(30, {"loss": 0.5})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows] == [10, 20, 30]
    assert rows[-1]["loss"] == 0.5


def test_progress_is_one_line_a_minute_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(parse_budget("400img"), images=100, seconds=50.0)
    for step in range(1, 21):
        line.show(100 + 5 * step, 50.0 + step, {"main/bce": 0.25})
    line.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "5.0 img/s" in shown.err
    assert "0:59 left" in shown.err  # 295 more images at 5 a second
    ProgressLine(parse_budget("1min"), images=0, seconds=0.0, quiet=True).show(1, 1.0, {})
    assert capsys.readouterr().err == ""
