"""Cards: seven criteria, each with its figures or plainly not measured; nothing that breaks a table."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fundusforge.audit.cards import data_card, model_card
from fundusforge.audit.findings import Audit, Finding, Likeness, RealSet
from fundusforge.audit.gate import Check
from fundusforge.audit.parents import Parent
from fundusforge.audit.scorecard import (
    CRITERIA,
    NOT_MEASURED,
    Evidence,
    criterion_of,
    escape,
    figure_table,
    subgroup_table,
)
from fundusforge.audit.terms import strictest
from fundusforge.evaluate.figures import Figure, FolderSummary
from fundusforge.evaluate.statistics import Floor
from fundusforge.evaluate.subgroups import Subgroup
from fundusforge.records import Mask, Provenance, Record

SEVEN = (
    "Congruence", "Coverage", "Constraint", "Completeness", "Compliance", "Comprehension", "Consistency",
)  # fmt: skip


def figure(name: str, value: float | None = 0.5, **rest: object) -> Figure:
    given = {"title": f"Title of {name}", "n": 4, "n_real": 9, "extractor": "x", "resize": "none", "seed": 0}
    return Figure(name=name, value=value, reason="" if value is not None else "too few", **given | rest)


def folder(images: int) -> FolderSummary:
    return FolderSummary(
        folder="secret/place",
        images=images,
        patients=images,
        synthetic=0,
        structure_from_patient=0,
        sources={},
        models={},
        conditions={},
        terms=(),
        metadata_sha256="0",
    )


def real(images: int, *sources: str) -> RealSet:
    each = images // len(sources)
    return RealSet(
        images=images, patients=images, terms=tuple(f"{source}: CC BY 4.0" for source in sources),
        folders=tuple(replace(folder(each), sources={source: each}) for source in sources),
    )  # fmt: skip


def records(count: int = 4) -> list[Record]:
    return [
        Record(
            image=f"images/{index}.png", patient=f"phantom-{index}", source="painter-abc", camera="one",
            masks={"vessels": Mask(path=f"vessels/{index}.png", origin="phantom")}, synthetic=True,
            eye="left" if index % 2 else None, terms="a: CC BY 4.0",
            provenance=Provenance(
                model="painter-abc", seed=7, index=index, condition=f"phantom:{index}", version="0.1"
            ),
        )
        for index in range(count)
    ]  # fmt: skip


def audit(*figures: Figure) -> Audit:
    nearest = Likeness(test="pixels", value=0.2, p=0.5, excess=0.1, neighbour="secret.png")
    finding = Finding(
        image="images/0.png", verdict="clear", p=0.5, neighbour="secret.png", likeness=(nearest,)
    )
    return Audit(
        synthetic=folder(4),
        train=real(30, "chase", "hrf"),
        holdout=real(20, "drive"),
        level=0.01,
        bar=2.0,
        chance=(),
        findings=(finding,),
        figures=figures,
        warnings=(),
        settings={},
        command="secret",
        version="0",
    )


def card(
    figures: list[Figure] | None = None, *, subgroups: tuple[Subgroup, ...] = (), audited: Audit | None = None
) -> str:
    evidence = Evidence(
        records=records(),
        figures=figures,
        audit=audited or audit(),
        subgroups=subgroups,
        checks=(Check(name="marks", passed=True, detail="all | marked"),),
    )
    return data_card("eyes", evidence, terms=strictest(["a: CC BY 4.0"]), sizes={"64x64": 4}, version="0.1")


def section(text: str, name: str) -> str:
    return text.partition(f"### {name}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def well_formed(text: str) -> bool:
    """Whether every row of every table has as many cells as the table's head."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        if len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) != 1:
            return False
    return True


def test_all_seven_criteria_in_their_order() -> None:
    assert tuple(CRITERIA) == SEVEN
    assert re.findall(r"^### (.*)$", card(), re.MULTILINE) == list(SEVEN)


def test_what_was_not_measured_says_so() -> None:
    text = card()
    for name in ("Congruence", "Coverage", "Constraint"):
        assert section(text, name).strip().endswith(NOT_MEASURED)
    assert NOT_MEASURED in section(text, "Compliance"), "membership inference"
    assert "not measured" in section(text, "Consistency")


@pytest.mark.parametrize(
    ("criterion", "names"),
    [
        ("Congruence", "frechet frechet_infinity kernel mind precision swd_mean probe_auc ssim_paired"),
        ("Congruence", "vessel_fraction_d vessel_length mask_fraction vessel_snr_kim lpips_paired"),
        ("Coverage", "recall coverage density diversity_msssim"),
        (
            "Constraint",
            "agreement_auc anatomy_violations vessels_broken disc_found fovea_drop vessel_calibre",
        ),
    ],
)
def test_every_figure_stands_under_its_criterion(criterion: str, names: str) -> None:
    for name in names.split():
        assert criterion_of(name) == criterion, name
        text = card([figure(name)])
        assert f"Title of {name}" in section(text, criterion)
        assert text.count(f"Title of {name}") == 1


def test_no_figure_is_lost() -> None:
    names = ["frechet", "recall", "agreement_f1", "something_new", "membership"]
    text = card([figure(name) for name in names])
    assert all(text.count(f"| Title of {name} |") == 1 for name in names)


def test_figures_stand_beside_their_yardsticks() -> None:
    full = figure(
        "recall",
        0.81234,
        low=0.7,
        high=0.9,
        real=0.95,
        real_low=0.9,
        real_high=0.99,
        unit="of images",
        floor=Floor(value=0.9, low=0.85, high=0.97, repeats=9, patients=9),
    )
    lines = figure_table([full, figure("swd", None)])
    assert lines[2] == (
        "| Title of recall (of images) | 0.8123 | 0.7 to 0.9 | 0.95 (0.9 to 0.99) | 0.85 to 0.97 | 4, 9 |"
    )
    assert "not computed: too few" in lines[3]
    assert "| 0.85 to 0.97; at their size 0.9 |" in figure_table([replace(full, matched=0.9)])[2]


def test_completeness_counts_what_is_known() -> None:
    text = section(card(), "Completeness")
    assert "| eye | 2 | 50% |" in text and "| camera | 4 | 100% |" in text and "| age | 0 | 0% |" in text
    assert "| mask: vessels | 4 | 100% |" in text


def test_compliance_holds_the_gate_the_audit_and_membership() -> None:
    found = audit(figure("audit_offenders", 0.0), figure("membership_pixels_auc", 0.52, real=0.5))
    text = section(card(audited=found), "Compliance")
    assert "| marks | passed | all \\| marked |" in text
    assert "at most 1.0%" in text and "1 clear" in text
    assert "Title of audit_offenders" in text and "Title of membership_pixels_auc" in text
    assert NOT_MEASURED not in text


def test_comprehension_says_how_to_make_them_again() -> None:
    text = section(card(), "Comprehension")
    assert "| images that say how they were made | 4 of 4 |" in text
    assert (
        "painter-abc" in text
        and "| seeds | 7 |" in text
        and "| painted on drawn structure | 4 of 4 |" in text
    )


def test_consistency_shows_subgroups_and_hides_the_small() -> None:
    shown = Subgroup(
        figure="likeness_to_training",
        attribute="camera",
        group="one",
        images=8,
        patients=6,
        value=0.25,
        low=0.1,
        high=0.4,
    )
    hidden = Subgroup(
        figure="likeness_to_training",
        attribute="camera",
        group="two",
        images=None,
        patients=None,
        value=None,
        reason="not shown: fewer than 5 patients, or the smallest beside such",
    )
    text = section(card(subgroups=(shown, hidden)), "Consistency")
    assert "| likeness to training | camera | one | 8, 6 | 0.25 | 0.1 to 0.4 |" in text
    assert "| likeness to training | camera | two | - | not shown: fewer than 5 patients" in text
    assert "| eye | left 2, unknown 2 |" in text and "not measured" not in text
    assert subgroup_table(()) == []


def test_cards_tell_no_secrets_and_tables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    nasty = figure("recall", title="a | b\nc")
    for text in (card([nasty]), model_card(parent(), audit=audit(), figures=[nasty])):
        assert "secret" not in text and well_formed(text)
        assert "a \\| b c" in text
    assert escape("x\n|y") == "x \\|y"


def parent(**changes: object) -> Parent:
    given = {
        "name": "painter-0123456789ab",
        "family": "pix2pix",
        "version": "0.1",
        "images": 1055,
        "terms": ("a: CC BY 4.0", "b: research only"),
        "sources": ("a", "b"),
        "patients": frozenset({"x", "y"}),
        "config": {
            "kind": "pix2pix",
            "size": 512,
            "masks": ["vessels", "disc"],
            "perceptual_weights": "secret",
        },
        "figures": {"l1": 0.0340439},
    }
    return Parent(**given | changes)


def test_a_model_card_says_what_the_model_learnt_from() -> None:
    text = model_card(parent())
    for row in (
        "| family | pix2pix |", "| weights | SHA-256 begins 0123456789ab |", "| training data | a, b |",
        "| training patients | 2 |", "| terms | research: research only; name the sources |",
        "| model: masks | vessels, disc |", "| l1 | 0.03404 |",
    ):  # fmt: skip
        assert row in text
    assert text.count(NOT_MEASURED) == 2, "figures of its images, and privacy"
    assert "settings are not known" in text


def test_a_model_card_shows_the_run_and_its_own_card() -> None:
    settings = {"loop": {"batch": 4, "clip": None}, "data": {"train": 12, "folders": ["secret"]}}
    text = model_card(parent(settings=settings, card="# painter\n\n## Use\n\nSome words."), audit=audit())
    assert (
        "| batch | 4 |" in text and "| train | 12 |" in text and "secret" not in text and "clip" not in text
    )
    assert "## Its own card\n\n### painter\n\n#### Use\n\nSome words." in text
    assert "each against 30 training images of 30 patients (chase, hrf): 1 clear." in text


def test_a_model_that_is_silent() -> None:
    text = model_card(parent(terms=(), sources=(), patients=frozenset(), figures={}))
    assert "| training data | not said |" in text and "| training patients | not said |" in text
    assert "| terms | unknown: " in text
