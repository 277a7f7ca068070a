"""The page: self-contained, readable by machines that read aloud, and silent about real patients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fundusforge.audit.findings import Audit, Finding, Likeness, RealSet
from fundusforge.config import to_json
from fundusforge.evaluate.evidence import Judge
from fundusforge.evaluate.figures import Atlas, Figure, read_results
from fundusforge.evaluate.stage import EvaluateConfig, evaluate
from fundusforge.evaluate.statistics import Floor
from fundusforge.records import DatasetError, Provenance, read_folder, write_metadata, write_text
from fundusforge.report import ReportConfig, write_report


class Page(HTMLParser):
    """Collects tags with their attributes, and the text."""

    VOID = {"img", "meta", "br", "hr", "link", "rect", "line", "path", "circle"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def judged(drawn_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with results of eight images marked synthetic against ten, judged by a reader of noise."""
    synthetic, real = drawn_folder(8, seed=100), drawn_folder(10, seed=200)
    records = [
        replace(
            record, synthetic=True, split=None,
            provenance=Provenance(model="paint<er>-0123", seed=7, index=index, condition=f"phantom:{index}"),
        )
        for index, record in enumerate(read_folder(synthetic))
    ]  # fmt: skip
    write_metadata(synthetic, records)

    def noise(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
        return np.random.default_rng(int(image.sum())).random(image.shape[:2], np.float32)

    evaluate(
        EvaluateConfig(
            synthetic=synthetic,
            against=real,
            out=tmp_path,
            metrics=("agreement", "amount", "ssim"),
            size=64,
            draws=100,
            floor_repeats=10,
        ),
        judge=Judge(name="reader & noise", segment=noise, threshold=0.5),
    )
    return tmp_path


def read(path: Path) -> tuple[str, Page]:
    html = path.read_text("utf-8")
    return html, Page(html)


def test_asks_nothing_of_the_network(judged: Path) -> None:
    """No address of any kind: pictures are data, styles inline, no script."""
    html, page = read(write_report(ReportConfig(results=judged)))
    assert not re.search(r"https?://|//[a-z]", re.sub(r"base64,[^\"]*", "", html))
    assert not re.search(r"url\(|@import", html)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert page.open == []


def test_says_what_was_compared_and_found(judged: Path) -> None:
    html, page = read(write_report(ReportConfig(results=judged / "results.json")))
    for words in (
        "synthetic images", "8 images", "10 real images of 5 patients", "paint<er>-0123",
        "reader & noise",
        "Agreement of re-segmented vessels with the mask: area under the ROC curve", "Real halves",
        "The synthetic set is small", "It is unknown whether the segmenter", "seed 7, number 3",
        "Metadata SHA-256", "fundusforge evaluate",
    ):  # fmt: skip
        assert words in page.text, words
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
    assert "paint<er>" not in html  # escaped


def test_a_figure_is_held_against_the_halves_at_their_size(judged: Path) -> None:
    """Below the halves for its number of images alone: the page shows both values and says inside."""
    results = read_results(judged / "results.json")
    floor = Floor(value=5.0, low=4.0, high=6.0, repeats=9, patients=9)
    figure = Figure(
        name="x", title="Distance", value=3.0, floor=floor, n=1, extractor="none", resize="none", seed=0
    )
    for matched, words in ((None, "below"), (4.5, "inside"), (7.0, "above")):
        replace(results, figures=(replace(figure, matched=matched),)).write(judged / "results.json")
        html, page = read(write_report(ReportConfig(results=judged)))
        row = page.text.rpartition("4.000 to 6.000")[2].partition("By subgroup")[0]
        assert [word for word in ("below", "inside", "above") if word in row.split()[:9]] == [words]
        assert (f"at their size {matched}00" in row) == (matched is not None)
        assert html.count('stroke-width="1.5"') == 1 + (matched is not None), "the key, and the ring"


def test_shows_the_atlas_and_subgroups(judged: Path) -> None:
    """Both ends of the atlas with what is wrong, and every figure by subgroup with few patients hidden."""
    path = judged / "results.json"
    results = read_results(path)
    worst = results.atlas.least[0]
    html, page = read(write_report(ReportConfig(results=judged)))
    assert "Least plausible" in page.text and "Most plausible" in page.text
    assert all(words in page.text for words in (*worst.violations, Path(worst.image).name))
    assert {row.figure for row in results.subgroups} and "By subgroup" in page.text
    hidden = [row for row in results.subgroups if row.value is None]
    assert not hidden or hidden[0].reason in page.text
    write_text(path, to_json(replace(results, atlas=Atlas(), subgroups=())))
    _, bare = read(write_report(ReportConfig(results=judged)))
    assert "Least plausible" not in bare.text and "By subgroup" not in bare.text


def test_shows_the_audit_but_never_whom_an_image_is_like(judged: Path) -> None:
    results = read_results(judged / "results.json")
    worst = read_folder(judged / results.synthetic.folder)[2].image
    tree = Likeness(test="trees", value=0.9, p=0.001, excess=9.0, neighbour="images/secret.png")
    clear = Finding(
        image=worst.replace("2", "3"), verdict="clear", p=0.5, neighbour="x.png", likeness=(tree,)
    )
    audit = Audit(
        synthetic=results.synthetic,
        train=RealSet(images=30, patients=20, terms=(), folders=(results.against,)),
        holdout=RealSet(images=10, patients=9, terms=(), folders=(results.against,)),
        level=0.01,
        bar=2.0,
        chance=(),
        findings=(replace(clear, image=worst, verdict="same tree", neighbour="images/secret.png"), clear),
        figures=(
            Figure(
                name="audit_offenders", title="Offenders", value=0.125, n=8, extractor="x", resize="y", seed=0
            ),
        ),
        warnings=("Few held-out patients.",),
        settings={},
        command="",
        version="0",
    )
    audit.write(judged / "audit.json")
    html, page = read(write_report(ReportConfig(results=judged, audit=judged)))
    assert "searched for 30 training images of 20 patients" in page.text
    assert re.search(r"\b1 offend", page.text)
    assert f"{Path(worst).name}; same tree" in page.text
    assert "secret" not in html
    assert "Few held-out patients." in page.text
    assert "0.125" in page.text
    assert "Copies of patients" not in read(write_report(ReportConfig(results=judged)))[1].text


def test_an_audit_of_other_images_is_refused(judged: Path) -> None:
    with pytest.raises(DatasetError, match="`fundusforge audit` makes it"):
        write_report(ReportConfig(results=judged, audit=judged))
    results = read_results(judged / "results.json")
    other = RealSet(images=1, patients=1, terms=(), folders=())
    Audit(
        synthetic=replace(results.synthetic, metadata_sha256="0"),
        train=other,
        holdout=other,
        level=0.01,
        bar=2.0,
        chance=(),
        findings=(),
        figures=(),
        warnings=(),
        settings={},
        command="",
        version="0",
    ).write(judged / "audit.json")
    with pytest.raises(DatasetError, match=r"audit\.json: is of other images than the results"):
        write_report(ReportConfig(results=judged, audit=judged / "audit.json"))


def test_can_be_read_aloud(judged: Path) -> None:
    """A language, one h1, no skipped heading, alternatives for pictures, headers with a scope."""
    _, page = read(write_report(ReportConfig(results=judged)))
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    alternatives = [image.get("alt") for image in page.all("img")]
    assert len(alternatives) == 32  # photograph and masks of all eight, and in the atlas of four and four
    assert all(alternatives) and len(set(alternatives)) == 32
    assert all(header.get("scope") for header in page.all("th"))
    drawn = [svg for svg in page.all("svg") if svg.get("class") == "strip"]
    assert len(drawn) >= 10
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)


def test_real_images_only_when_asked_for(judged: Path) -> None:
    """By default no picture of the real set; when asked for, the page says twice that it has them."""
    plain, page = read(write_report(ReportConfig(results=judged, out=judged / "plain.html")))
    assert "do not share" not in plain
    assert not any("Real" in image["alt"] for image in page.all("img"))
    _, full = read(write_report(ReportConfig(results=judged, out=judged / "full.html", include_real=True)))
    assert full.text.count("contains patient images: do not share") == 2
    assert sum("Real fundus" in image["alt"] for image in full.all("img")) == 10


def test_unmarked_images_are_taken_for_real(judged: Path) -> None:
    """A picture in the judged folder that is not marked synthetic is not shown unasked."""
    synthetic = judged / json.loads((judged / "results.json").read_text())["synthetic"]["folder"]
    records = read_folder(synthetic)
    write_metadata(synthetic, [replace(record, synthetic=index > 1) for index, record in enumerate(records)])
    _, page = read(write_report(ReportConfig(results=judged)))
    told = [image["alt"] for image in page.all("img")]
    assert len([words for words in told if "Synthetic fundus" in words]) == 6
    assert not any(Path(record.image).name in words for record in records[:2] for words in told)
    assert "do not share" not in page.text
    write_metadata(synthetic, [replace(record, synthetic=False) for record in records])
    _, page = read(write_report(ReportConfig(results=judged)))
    assert not page.all("img") and "marked synthetic" in page.text


def test_patients_structure_is_a_warning(judged: Path) -> None:
    path = judged / "results.json"
    text = path.read_text()
    changed = text.replace('"structure_from_patient": 0', '"structure_from_patient": 8', 1)
    assert changed != text
    path.write_text(changed)
    _, page = read(write_report(ReportConfig(results=judged)))
    assert "do not share. A vessel tree identifies its owner" in page.text


def test_same_input_same_page(judged: Path) -> None:
    first = write_report(ReportConfig(results=judged, images=3)).read_bytes()
    assert write_report(ReportConfig(results=judged, images=3)).read_bytes() == first
    assert not list(judged.glob("*.partial"))


def test_moved_and_missing_folders(judged: Path, tmp_path: Path) -> None:
    """Without pictures if the folder is gone; an error if real ones were asked for, or no results."""
    path = judged / "results.json"
    path.write_text(re.sub(r'"folder": "[^"]*"', '"folder": "gone"', path.read_text()))
    _, page = read(write_report(ReportConfig(results=judged)))
    assert "no longer there" in page.text and not page.all("img")
    with pytest.raises(DatasetError, match="real images were asked for"):
        write_report(ReportConfig(results=judged, include_real=True))
    with pytest.raises(DatasetError, match="fundusforge evaluate"):
        write_report(ReportConfig(results=tmp_path / "nothing.json"))
