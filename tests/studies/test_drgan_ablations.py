"""Ablations: every variant once, the same eyes, resumption; and the command as a user gives it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from drgan_bench import TINY, Reader, write_eyes, write_model

from fundusforge.cli import main
from fundusforge.evaluate.extractors import load_extractor
from fundusforge.models.drgan import DRGANConfig
from fundusforge.records import DatasetError, read_folder
from fundusforge.sample.severity_painter import load_painter
from fundusforge.severity import LESIONS
from fundusforge.studies.drgan.ablations import PAPER, VARIANTS, ablations, variant_of
from fundusforge.studies.drgan.eyes import Bench, BenchConfig
from fundusforge.studies.drgan.fidelity import FidelityConfig
from fundusforge.studies.drgan.masks import Annotators, annotators
from fundusforge.studies.drgan.paper import ROWS
from fundusforge.studies.drgan.result import Result
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")
WHOLE = replace(TINY, attention=True, perceptual=10.0, steering=1.0, pixels=20.0)


class Trainer:
    """Writes fresh weights in place of a training; notes what it was asked."""

    def __init__(self) -> None:
        self.trained: list[tuple[DRGANConfig, Path]] = []
        self.stop_at: int | None = None

    def train(self, model: DRGANConfig, run: Path) -> None:
        if len(self.trained) == self.stop_at:
            raise KeyboardInterrupt
        self.trained.append((model, run))
        write_model(run / "model.safetensors", model)


@pytest.fixture
def config(tmp_path: Path) -> BenchConfig:
    return BenchConfig(real=write_eyes(tmp_path / "real", 8, grades=2), out=tmp_path / "study", draws=100)


def run(config: BenchConfig, trainer: Trainer, **options: object) -> Result:
    return ablations(
        config, WHOLE, train=trainer.train, load=lambda place: load_painter(place, device="cpu"),
        extractor=load_extractor("random", device="cpu"), compare=FidelityConfig(repeats=1, least=4),
        **({"variants": ("full", "no_lesions", "no_agm"), "settings": {"images": 4}} | options),
    )  # fmt: skip


def test_each_variant_lacks_one_part() -> None:
    assert set(ROWS) == set(PAPER) and len(PAPER) == 6
    for name in VARIANTS:
        model = variant_of(WHOLE, name)
        odd = {key for key, value in vars(model).items() if value != getattr(WHOLE, key)}
        assert odd == set(VARIANTS[name][1])
    with pytest.raises(ValueError, match="without attention .* already"):
        variant_of(TINY, "no_attention")


def test_variants_are_trained_once_and_paint_the_same_eyes(config: BenchConfig) -> None:
    trainer = Trainer()
    trainer.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        run(config, trainer)
    trainer.stop_at = None
    result = run(config, trainer)
    assert [(model.lesions, model.agm) for model, _ in trainer.trained] == [
        (True, True), (False, True), (True, False),
    ]  # fmt: skip
    conditions = [
        [record.provenance.condition for record in read_folder(config.out / name / "study" / "painted")]
        for name in ("full", "no_lesions", "no_agm")
    ]
    assert conditions[0] == conditions[1] == conditions[2]
    values = {name: result.figure(f"drgan_{name}_swd").value for name in ("full", "no_lesions", "no_agm")}
    assert len(set(values.values())) == 3
    rows = result.tables[0].rows
    assert rows[0] == ("Variant", "Frechet", "ratio", "SWD x 10^3", "ratio")
    assert [row[0] for row in rows[1:]] == [VARIANTS[name][0] for name in ("full", "no_lesions", "no_agm")]
    assert "16.12" in result.text() and "72.40" in result.markdown()
    again = Trainer()
    assert run(config, again).figures == result.figures and not again.trained
    assert json.loads((config.out / "ablations.json").read_text("utf-8")) == run(config, again).to_dict()
    with pytest.raises(DatasetError, match="another settings"):
        run(config, again, settings={"images": 8})
    with pytest.raises(ValueError, match="no_such"):
        run(config, again, variants=("no_such",))


def test_annotators_are_asked_once_for_all_variants(config: BenchConfig) -> None:
    asked: list[str] = []

    def read(eyes: Bench) -> Annotators:
        asked.append(eyes.config.name)
        return annotators(eyes, vessels=Reader(("vessels",)), lesions=Reader(LESIONS))

    result = run(config, Trainer(), variants=("no_lesions", "full"), read=read, most=4)
    assert asked == ["drgan_no_lesions"]
    assert result.tables[0].rows[0][-2:] == ("Vessel AUC", "AUPR ex")
    assert result.tables[0].rows[1][-1] == "-" and result.tables[0].rows[2][-1] != "-"
    assert result.figure("drgan_full_lesion_aupr_ex").n == 4


# ---- the command -------------------------------------------------------------------------------------------


def test_parts_are_asked_for_by_name(config: BenchConfig, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(config.out.parent / "tiny.safetensors")
    words = [str(model), "--real", str(config.real), "--out", str(config.out), "--device", "cpu"]
    few = ["--least", "4", "--repeats", "2", "--extractor", "random", "--name", "rival"]
    assert main(["drgan", "fidelity", *words, *few, "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    (part,) = json.loads(said.out)["parts"]
    assert part["part"] == "fidelity" and part["model"].startswith("tiny-") and not said.err
    names = [json.loads(row)["name"] for row in (config.out / "fidelity.jsonl").read_text().splitlines()]
    assert "rival_frechet_over_floor" in names and "rival_swd" in names
    assert main(["drgan", "diversity", *words]) == 0
    assert "two paintings of one mask" in capsys.readouterr().out
    assert main(["drgan", "grades", *words]) == 2
    assert "--grader RUN" in capsys.readouterr().err
    assert main(["drgan", "masks", *words, "--read", "0"]) == 2
    assert main(["drgan", "ablations", str(config.real), *words[1:]]) == 2
    assert "--stop-after" in capsys.readouterr().err
    assert main(["drgan", "fidelity", *words, "--seed", "1"]) == 2
    assert "holds a study with another seed" in capsys.readouterr().err


def test_tables_ask_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fundusforge.annotate.segmenter import Segmenter

    readers: list[Reader] = []

    def load(path: Path | None = None, *, masks: tuple[str, ...] = ("vessels",), device: str) -> Reader:
        readers.append(Reader(tuple(masks)))
        return readers[-1]

    monkeypatch.setattr(Segmenter, "load", load)
    real, model = (
        write_eyes(tmp_path / "real", 4, grades=2, size=256),
        write_model(tmp_path / "t.safetensors"),
    )
    words = ["drgan", "tables", str(model), "--real", str(real), "--human", str(real), "--device", "cpu"]
    words += ["--least", "4", "--repeats", "1", "--extractor", "random", "--read", "2", "--eyes", "2"]
    assert main([*words, "--out", str(tmp_path / "study")]) == 0
    said = capsys.readouterr()
    assert "nobody looks at the grades" in said.err
    assert [word for word in said.out.split() if word in {"FIDELITY", "MASKS", "DIVERSITY", "SERIES"}] == [
        "FIDELITY", "MASKS", "DIVERSITY", "SERIES",
    ]  # fmt: skip
    lines = "".join(path.read_text("utf-8") for path in (tmp_path / "study").glob("*.jsonl"))
    for name in ("frechet_over_floor", "swd", "lesion_aupr_ex", "lesion_aupr_ex_real", "ssim_same_mask"):
        assert f'"drgan_{name}"' in lines
    assert [reader.config.masks[0] for reader in readers] == ["vessels", "microaneurysms", "microaneurysms"]
    assert [reader.read for reader in readers] == [4, 6, 10]


def test_a_grader_of_the_same_patients_is_refused_by_the_command(
    config: BenchConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    from fundusforge import weights
    from fundusforge.training.checkpoint import annotate_metadata, read_metadata

    grader = weights.default("classifier", masks=("grade",))
    known = json.loads(read_metadata(grader)["patients"])
    model = write_model(config.out.parent / "tiny.safetensors")
    annotate_metadata(model, patients=known[:3])
    words = ["drgan", "grades", str(model), "--real", str(config.real), "--out", str(config.out)]
    assert main([*words, "--grader", str(grader), "--device", "cpu", "--quiet"]) == 2
    assert "learnt from 3 of the 3 patients" in capsys.readouterr().err


def test_ablations_are_trained_as_the_command_says(
    config: BenchConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fundusforge import models
    from fundusforge.cli import fitting

    calls: list[tuple[DRGANConfig, list[Path], Path, LoopConfig, bool]] = []
    ends = [False, True, True]

    def fit(
        model: DRGANConfig, folders: list[Path], run: Path, *, loop: LoopConfig, resume: bool, quiet: bool
    ) -> dict[str, bool]:
        calls.append((model, list(folders), run, loop, resume))
        write_model(run / "model.safetensors", model)
        return {"finished": ends.pop(0)}

    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setitem(models.PRESETS["drgan"], "small", ("tiny", WHOLE))
    words = ["drgan", "ablations", str(config.real), "--real", str(config.real), "--out", str(config.out)]
    words += ["--variants", "full", "no_steering", "--stop-after", "8img", "--batch", "2", "--read", "0"]
    words += ["--least", "4", "--repeats", "1", "--extractor", "random", "--device", "cpu", "--quiet"]
    assert main(words) == 2 and "interrupted" in capsys.readouterr().err
    assert not (config.out / "full" / "cell.json").exists() and len(calls) == 1
    calls.clear()
    assert main(words) == 0
    assert "without steering" in capsys.readouterr().out
    assert [(model.steering, run.parent.name) for model, _, run, _, _ in calls] == [
        (1.0, "full"), (0.0, "no_steering"),
    ]  # fmt: skip
    for _, folders, _, loop, resume in calls:
        assert folders == [config.real] and resume
        assert (loop.stop_after, loop.batch, loop.accumulate, loop.seed) == ("8img", 2, 1, 0)
    assert main(words) == 0 and len(calls) == 2
    assert main([*words, "--preset", "no-such"]) == 2
