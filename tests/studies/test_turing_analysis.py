"""The whole analysis: Kim's tables in form from readers of a known kind, files, sentences, odd studies."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fundusforge import __version__
from fundusforge.config import from_json
from fundusforge.images import SYNTHETIC_XMP, read_image, write_image
from fundusforge.studies.turing import analysis, tables
from fundusforge.studies.turing.analysis import Analysis, AnalysisConfig, analyse
from fundusforge.studies.turing.answers import Answers, AnswersError, read_answers, write_answers
from fundusforge.studies.turing.simulation import Group, Spread, simulate

pytest.importorskip("statsmodels.genmod.generalized_estimating_equations")
SPREAD = Spread(reader=0.2, leaning=0.4, image=0.3)
PAPER = tuple(
    Group(specialty=name, readers=readers, years=years, sensitivity=sensitivity, specificity=specificity)
    for name, readers, years, sensitivity, specificity in (
        ("resident", 12, 2, 0.69, 0.33),
        ("non-retinal specialist", 7, 3, 0.68, 0.33),
        ("non-retinal specialist", 7, 9, 0.63, 0.38),
        ("retinal specialist", 8, 3, 0.72, 0.35),
        ("retinal specialist", 6, 12, 0.85, 0.75),
    )
)
"""The readers of Kim et al.: 12, 14 and 14; the most experienced are better than residents."""


def write_study(folder: Path, answers: Answers, *, pictures: bool = True) -> Path:
    write_answers(folder, answers)
    if pictures:
        (folder / "images").mkdir()
        for number, image in enumerate(sorted({one.image for one in answers.answers})):
            suffix = ".png" if number % 2 else ".jpg"
            write_image(folder / "images" / f"{image}{suffix}", np.full((40, 60, 3), number, np.uint8))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    answers = simulate(PAPER, real=50, synthetic=50, repeated=6, spread=SPREAD, seed=13)
    scored = tuple(replace(one, fidelity=8 if one.answer == "real" else 4) for one in answers.answers)
    return write_study(tmp_path_factory.mktemp("study"), replace(answers, answers=scored))


@pytest.fixture(scope="module")
def result(study: Path) -> Analysis:
    return analyse(AnalysisConfig(study=study, draws=200, seed=3), command="analyse")


@pytest.fixture
def no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the bars out where a test is not about them; they take long."""
    monkeypatch.setattr(analysis, "draw_groups", lambda path, condition: path.touch())


def rows_of(text: str, table: str) -> list[dict[str, str]]:
    return [row for row in csv.DictReader(io.StringIO(text)) if row["table"] == table]


def test_table_two_has_the_form_of_the_paper(result: Analysis) -> None:
    head, everybody, *rows = tables.table_two(result.conditions[0])
    assert head[:4] == ("Method", "Group ID", "Group", "Readers")
    assert everybody[:4] == ("all", "", "all readers", "40")
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("1", "1", "12"), ("1", "2", "7"), ("1", "3", "7"), ("1", "4", "8"), ("1", "5", "6"),
        ("2", "1", "12"), ("2", "2", "14"), ("2", "3", "14"),
    ]  # fmt: skip
    assert rows[0][4:] == rows[5][4:]  # residents are residents


def test_table_three_has_the_form_of_the_paper(result: Analysis) -> None:
    head, *rows = tables.table_three(result.conditions[0])
    assert head == ("Method", "Group ID", "Group", "Accuracy", "Sensitivity", "Specificity", "Elapsed time")
    assert [row[3:] == ("ref",) * 4 for row in rows] == [True, *[False] * 4, True, False, False]
    assert all("(" in cell for row in rows for cell in row[3:] if cell != "ref")


def test_known_effects_are_found(result: Analysis) -> None:
    (condition,) = result.conditions
    for table, groups in ((condition.tables[0], PAPER), (condition.tables[1], PAPER[:1])):
        for row, group in zip(table.rows, groups, strict=False):
            for name, truth in (("sensitivity", group.sensitivity), ("specificity", group.specificity)):
                one = row.measures[name]  # pyright: ignore[reportArgumentType]
                assert one.value is not None and one.error is not None
                assert abs(one.value - truth) < 3.3 * one.error
    best = [one for one in condition.tables[0].comparisons if one.group.startswith("retinal specialist, 5")]
    accuracy, specificity = best[0], best[2]
    assert accuracy.p_holm is not None and accuracy.p_holm < 0.05
    assert accuracy.low is not None and accuracy.high is not None
    assert accuracy.low < (0.8 / 0.2) / (0.51 / 0.49) < accuracy.high  # of marginal shares
    assert specificity.value is not None and specificity.value > 1.5
    others = [one for one in condition.tables[0].comparisons if "non-retinal" in one.group]
    assert all(one.p_holm is not None and one.p_holm > 0.05 for one in others)
    criterion = condition.overall.measures["criterion"]
    assert criterion.high is not None and criterion.high < 0


def test_holm_is_over_all_comparisons_of_a_table(result: Analysis) -> None:
    every = [one for table in result.conditions[0].tables for one in table.comparisons]
    assert len(every) == 4 * 4 + 2 * 4
    smallest = min(every, key=lambda one: one.p or 1)
    assert smallest.p is not None and smallest.p_holm == pytest.approx(min(1, 24 * smallest.p))


def test_files_are_written_and_agree(study: Path, result: Analysis) -> None:
    place = study / "analysis"
    assert sorted(path.name for path in place.iterdir()) == sorted(("turing.json", *result.files))
    text = (place / "turing.json").read_text("utf-8")
    assert "NaN" not in text and json.loads(text) == result.to_dict()
    assert from_json(Analysis, text).to_dict() == result.to_dict()
    cells = rows_of((place / "tables.csv").read_text("utf-8"), "groups")
    first = next(row for row in cells if row["group"] == "resident" and row["measure"] == "accuracy")
    resident = result.conditions[0].tables[0].rows[0].measures["accuracy"]
    assert float(first["value"]) == resident.value and float(first["low"]) == resident.low
    compared = rows_of((place / "tables.csv").read_text("utf-8"), "comparisons")
    assert len(compared) == 24 and all(row["p"] and not row["reason"] for row in compared)
    markdown = (place / "tables.md").read_text("utf-8")
    for title in ("## Table 2:", "## Table 3:", "## Readers", "with the images held fixed", "## Repeats"):
        assert title in markdown
    for row in tables.table_two(result.conditions[0]):
        assert "| " + " | ".join(row) + " |" in markdown


def test_methods_name_counts_and_versions(study: Path, result: Analysis) -> None:
    words = " ".join((study / "analysis" / "methods.md").read_text("utf-8").split())
    for part in (
        "40 readers, 50 real and 50 synthetic images, 4000 answers, 0 missing", "240 second showings",
        "resident (12), non-retinal specialist (14), retinal specialist (14)", "p values of 24 comparisons",
        f"fundusforge {__version__}", f"numpy {np.__version__}", "within 10 percentage points", "seed 3",
    ):  # fmt: skip
        assert part in words
    for line in result.conclusions:
        assert line in words


def test_conclusions_and_text_say_it_plainly(result: Analysis) -> None:
    said = "\n".join(result.conclusions)
    assert said.startswith("40 readers judged 50 real and 50 synthetic images: accuracy ")
    assert "Readers lean towards calling images real" in said
    assert "retinal specialist, 5 years or more against resident, accuracy: odds ratio" in said
    assert "after Holm's correction over 24 comparisons" in said
    assert "Shown again, an image was called the same in" in said
    assert all(line in result.text() for line in result.conclusions)
    assert "Group ID" in result.text()


def test_lines_can_be_recorded(result: Analysis) -> None:
    lines = {line["name"]: line for line in result.lines()}
    assert len(lines) == len(result.lines())  # no name twice
    assert {
        "turing_accuracy",
        "turing_fleiss_kappa",
        "turing_repeated_kappa",
        "turing_seconds_median",
    } <= set(lines)
    one = lines["turing_specialty_retinal_specialist_accuracy_odds_ratio"]
    assert one["low"] < one["value"] < one["high"] and (one["n"], one["command"]) == (26, "analyse")
    assert all(
        set(line) == {"name", "value", "low", "high", "n", "unit", "command"} for line in lines.values()
    )


def test_fidelity_follows_the_answers(result: Analysis) -> None:
    found = result.conditions[0].fidelity
    real, synthetic = result.conditions[0].overall.measures["sensitivity"], found["synthetic"]
    assert real.value is not None and found["real"].value == pytest.approx(4 + 4 * real.value)
    assert synthetic.low is not None and found["real_less_synthetic"].value is not None


def test_pictures_show_groups_and_the_right_images(study: Path, result: Analysis) -> None:
    groups = read_image(study / "analysis" / "groups.png")
    assert groups.shape[1] > 1000 and len(np.unique(groups)) > 10
    sheet = study / "analysis" / "convincing.png"
    assert SYNTHETIC_XMP.encode() in sheet.read_bytes()  # a sheet of synthetic images says that it is one
    condition = result.conditions[0]
    shown = [one.image for one in (*condition.most_convincing, *condition.least_convincing)]
    assert len(set(shown)) == 6
    names = sorted({one.image for one in read_answers(study).answers})
    levels = set(np.unique(read_image(sheet)[..., 0]).tolist())
    missed = [image for image in shown if not {names.index(image) + d for d in (-1, 0, 1)} & levels]
    assert missed == []


@pytest.mark.usefixtures("no_bars")
def test_the_same_seed_gives_the_same_figures(study: Path, result: Analysis, tmp_path: Path) -> None:
    again = analyse(AnalysisConfig(study=study, out=tmp_path, draws=200, seed=3), command="analyse")
    assert again.to_dict() == result.to_dict()


@pytest.fixture(scope="module")
def small() -> Answers:
    groups = [
        Group(specialty="resident", readers=3, sensitivity=0.6, specificity=0.6),
        Group(specialty="retinal specialist", readers=2, sensitivity=0.6, specificity=0.6, years=9),
    ]
    return simulate(groups, real=5, synthetic=4, seed=2)


def run(folder: Path, answers: Answers, *, pictures: bool = False, **settings: Any) -> Analysis:
    study = write_study(folder, answers, pictures=pictures)
    return analyse(AnalysisConfig(study=study, draws=100, **settings))


def test_conditions_are_analysed_apart_and_compared(tmp_path: Path, small: Answers) -> None:
    crops = tuple(
        replace(one, condition="crop", position=one.position + 100, answer=one.truth) for one in small.answers
    )
    both = Answers(readers=small.readers, answers=(*small.answers, *crops))
    found = run(tmp_path, both, pictures=True)
    assert [one.condition for one in found.conditions] == ["all", "crop"]
    (difference,) = found.differences
    whole = found.conditions[0].overall.measures["balanced"].value
    assert whole is not None and difference.difference.value == pytest.approx(1 - whole)
    assert {"groups_all.png", "groups_crop.png", "convincing_all.png", "convincing_crop.png"} <= set(
        found.files
    )
    assert "Condition crop" in found.text() and "[crop] " in found.text()
    crop = found.conditions[1]
    assert {one.reason for one in crop.tables[1].comparisons if one.outcome != "seconds"} == {
        "the reference, resident: every answer is right"
    }
    assert "not shown: resident, accuracy: every answer is right" in found.text()
    assert any(line["name"] == "turing_crop_accuracy" for line in found.lines())


@pytest.mark.usefixtures("no_bars")
def test_a_study_folder_with_a_design_finds_pictures_by_it(tmp_path: Path, small: Answers) -> None:
    """Files are named after pictures, not images, where a study was designed; `study.json` knows them."""
    from fundusforge.studies.turing.study import STUDY, Picture, Settings, Study

    write_study(tmp_path, replace(small, answers=tuple(replace(a, condition="full") for a in small.answers)),
                pictures=False)  # fmt: skip
    (tmp_path / "images").mkdir()
    pictures = []
    for number, image in enumerate(sorted({one.image for one in small.answers})):
        file = f"images/{number:016x}.png"
        write_image(tmp_path / file, np.full((30, 30, 3), 10 * number, np.uint8))
        pictures.append(
            Picture(image=image, condition="full", file=file, sha256="0" * 64, width=30, height=30)
        )
    study = Study(version="0", settings=Settings(), resize="none", folders=(), pictures=tuple(pictures),
                  orders=(tuple(range(len(pictures))),), key_sha256="0" * 64)  # fmt: skip
    from fundusforge.config import to_json

    (tmp_path / STUDY).write_text(to_json(study), "utf-8")
    found = analyse(AnalysisConfig(study=tmp_path, draws=100))
    assert "convincing.png" in found.files


@pytest.mark.usefixtures("no_bars")
def test_missing_pictures_are_said_and_stop_nothing(tmp_path: Path, small: Answers) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "other.png"), np.zeros((9, 9, 3), np.uint8))
    found = run(tmp_path, small)
    assert "convincing.png" not in found.files
    assert any("no sheet of images was made" in one for one in found.warnings)


@pytest.mark.usefixtures("no_bars")
def test_an_absent_reference_leaves_comparisons_with_a_reason(tmp_path: Path, small: Answers) -> None:
    found = run(tmp_path, small, reference="professor")
    (condition,) = found.conditions
    every = [one for table in condition.tables for one in table.comparisons]
    assert every and {one.reason for one in every} == {"the reference, professor: no reader"}
    assert condition.tables[0].rows[0].measures["accuracy"].reason == "no reader"
    assert "No groups were compared: the reference, professor: no reader." in found.conclusions


@pytest.mark.usefixtures("no_bars")
def test_what_a_reader_of_the_results_should_know_first_is_said(tmp_path: Path, small: Answers) -> None:
    people = (*small.readers[:4], replace(small.readers[4], finished=""))
    quick = (replace(small.answers[0], seconds=0.2), *small.answers[1:])
    found = run(tmp_path, Answers(readers=people, answers=quick))
    said = " ".join(found.warnings)
    assert found.left_out == ("r05",) and "1 readers have not finished and do not count: r05" in said
    assert "4 of 9 images are synthetic" in said and "Few images: 5 real and 4 synthetic" in said
    assert "1 answers came in less than a second" in said
    assert "retinal specialist: 1" in said
    (condition,) = found.conditions
    assert "one reader" in next(
        one.reason for one in condition.tables[1].comparisons if one.group == "retinal specialist"
    )
    asked = analyse(AnalysisConfig(study=tmp_path, unfinished=True, draws=100))
    assert asked.left_out == () and any("count, as was asked: r05" in one for one in asked.warnings)


@pytest.mark.usefixtures("no_bars")
def test_command_is_one_that_repeats_the_analysis(tmp_path: Path, small: Answers) -> None:
    found = run(tmp_path, small, reference="retinal specialist", years=8.0, seed=4)
    assert found.command.split("turing analyse ")[1].split(" ", 1)[1] == (
        "--reference 'retinal specialist' --years 8.0 --draws 100 --seed 4"
    )
    assert found.settings["margin"] == 0.1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"margin": 0.6}, "margin and level"), ({"draws": 10}, "100 draws or more"), ({"years": 0}, "years in")],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnalysisConfig(study=Path("study"), **wrong)


def test_a_folder_without_answers_is_refused(tmp_path: Path, small: Answers) -> None:
    with pytest.raises(OSError, match=r"readers\.csv"):
        analyse(AnalysisConfig(study=tmp_path))
    nobody = replace(small, readers=tuple(replace(one, finished="") for one in small.readers))
    with pytest.raises(AnswersError, match="nobody has"):
        run(tmp_path, nobody)
    assert not (tmp_path / "analysis").exists()
