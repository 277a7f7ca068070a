"""A reader's page and verdicts: nothing from the network, nothing unescaped, no verdict on other weights."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.images import read_image
from fundusforge.inspection import mask_colour
from fundusforge.models import ModelConfig
from fundusforge.models.pggan import Generator, PGGANConfig
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.models.styles import Generator as Styled
from fundusforge.sample.latents import Drawn
from fundusforge.studies.review.curve import curve
from fundusforge.studies.review.page import _tile
from fundusforge.studies.review.snapshots import Measured, measured_at, snapshots, validations
from fundusforge.training.checkpoint import Clock, annotate_metadata, read_metadata, save_model

pytestmark = pytest.mark.usefixtures("one_thread")
EYES = PGGANConfig(widths=(8, 8, 8, 8), latent=6, masks=("vessels", "disc"), budget=400)
LARGE = PGGANConfig(widths=(8,) * 5, latent=6, masks=("vessels",), budget=400)
CLOCKS = (1000, 2000, 3000)
HOSTILE = '"><script>alert(1)<!--'


def weigh(path: Path, clock: int, config: PGGANConfig = EYES, **facts: Any) -> None:
    """Untrained weights, other ones for each clock."""
    torch.manual_seed(clock)
    generator = Generator(config)
    generator.seen.fill_(10**6)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(
        path, torch.nn.ModuleDict({"generator": generator}), config_json=to_json(config, kind=ModelConfig),
        clock=Clock(images=clock), extra=facts,
    )  # fmt: skip


def measure(run: Path, rows: dict[int, tuple[float, float | None]]) -> None:
    lines = [
        {"images": images, "validation/distance": distance}
        | ({} if leaked is None else {"validation/leaked": leaked})
        for images, (distance, leaked) in rows.items()
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images": 99')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three snapshots, each nearer than the one before, with the model that it released itself."""
    folder = tmp_path / "eyes"
    for clock in CLOCKS:
        weigh(folder / "snapshots" / f"{clock:09}.safetensors", clock, LARGE)
    weigh(folder / "best.safetensors", 2500, LARGE, terms=["drawn: CC0"], patients=["a"], score="quality")
    measure(folder, {1000: (900.0, 0.0), 2000: (50.0, 0.02), 3000: (1.0, 0.06)})
    return folder


Say = Callable[..., Path]


@pytest.fixture
def say(run: Path, tmp_path: Path) -> Say:
    """Writes the verdict of a reader on the snapshots of the run, by their clocks."""

    def write(reader: str, answers: dict[int, str], **changes: Any) -> Path:
        judged = [
            {"name": one.name, "weights": one.weights, "images": 4, "wrong": [1, 3], "remark": "two discs",
             "verdict": answers[one.clock]}
            for one in snapshots(run) if one.clock in answers
        ]  # fmt: skip
        verdict = {
            "schema": 1, "run": "eyes", "reader": reader, "date": "2024-05-31", "seed": 0, "snapshots": judged
        }  # fmt: skip
        path = tmp_path / f"{len(list(tmp_path.glob('*.json')))}.json"
        path.write_text(json.dumps(verdict | changes))
        return path

    return write


def review(*words: str | Path) -> int:
    return main(["review", *map(str, words)])


def recorded(run: Path, clock: int) -> list[dict[str, Any]]:
    return json.loads(read_metadata(run / "snapshots" / f"{clock:09}.safetensors").get("review", "[]"))


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(place: Path, out: Path, images: int = 2) -> tuple[str, Page]:
    assert review(place, "--out", out, "--images", str(images), "--device", "cpu", "--quiet") == 0
    html = out.read_text("utf-8")
    return html, Page(html)


# ---- the page ----------------------------------------------------------------------------------------------


def test_the_page_asks_nothing_of_the_network(run: Path, tmp_path: Path) -> None:
    html, page = made(run, tmp_path / "page.html")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", html))
    assert not page.all("link") and not page.all("iframe") and not page.all("object")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert [script.get("src") for script in page.all("script")] == [None]
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_policy_lets_the_pages_own_script_run(run: Path, tmp_path: Path) -> None:
    import hashlib

    html, _ = made(run, tmp_path / "page.html")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in html


def test_every_snapshot_has_its_figures_and_samples(run: Path, tmp_path: Path) -> None:
    _, page = made(run, tmp_path / "page.html", images=3)
    there = snapshots(run)
    assert [(one.get("data-name"), one.get("data-weights")) for one in page.all("section")[1:4]] == [
        (one.name, one.weights) for one in there
    ]
    for one in there:
        assert f"Clock {one.clock:,} images seen" in page.text and one.weights[:12] in page.text
    assert "Distance 50" in page.text and "Leaked 6.0 %" in page.text
    photographs = [image for image in page.all("img") if image.get("class") != "mask"]
    assert len(photographs) == 9 and all(image["alt"].startswith("Synthetic") for image in photographs)
    assert len({image["src"] for image in photographs}) == 9, "other weights draw other pictures"
    assert page.text.count(", synthetic") == 9
    boxes = [box for box in page.all("input") if "data-number" in box]
    assert [box["data-number"] for box in boxes] == ["0", "1", "2"] * 3
    labelled = {label["for"] for label in page.all("label")}
    assert all(box["id"] in labelled for box in page.all("input") if box["type"] != "hidden")
    assert len([svg for svg in page.all("svg") if svg.get("class") == "curve"]) == 1


def test_samples_are_those_of_the_seed_and_are_marked(run: Path, tmp_path: Path) -> None:
    path = run / "snapshots" / "000002000.safetensors"
    _, page = made(path, tmp_path / "page.html")
    assert len([one for one in page.all("section") if "data-weights" in one]) == 1
    assert main(["sample", str(path), "-n", "2", "--out", str(tmp_path / "drawn"), "--quiet"]) == 0
    shown = [image["src"] for image in page.all("img") if image.get("class") != "mask"]
    for number, uri in enumerate(shown):
        data = base64.b64decode(uri.partition(",")[2])
        assert b"trainedAlgorithmicMedia" in data
        picture = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))
        assert (picture == read_image(tmp_path / "drawn" / "images" / f"{number:06}.png")).all()


def test_a_large_picture_is_made_smaller_with_its_masks() -> None:
    drawn = Drawn(
        image=np.full((600, 600, 3), (200, 90, 40), np.uint8),
        masks={"vessels": np.pad(np.full((200, 600), 255, np.uint8), ((0, 400), (0, 0)))},
        contrasts={},
        field_of_view=np.full((600, 600), 255, np.uint8),
    )
    tile = _tile(drawn, 3)
    assert tile.image.startswith("data:image/jpeg;") and tile.masks == ("vessels",)
    image, mask = (
        np.asarray(Pillow.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))
        for uri in (tile.image, tile.mask)
    )
    assert image.shape == mask.shape == (512, 512, 3) and abs(image.astype(int) - (200, 90, 40)).max() < 8
    assert tuple(mask[50, 9]) == mask_colour("vessels") and tuple(mask[400, 9]) == (38, 38, 38)


def test_hostile_words_stay_words(run: Path, tmp_path: Path, say: Say) -> None:
    assert review(run, "--verdict", say("A<b>", {1000: "accept"})) == 0
    annotate_metadata(
        run / "snapshots" / "000001000.safetensors",
        review=[recorded(run, 1000)[0] | {"remark": HOSTILE, "reader": HOSTILE}],
    )
    named = run.rename(tmp_path / HOSTILE.replace("/", ""))
    html, page = made(named, tmp_path / "page.html")
    assert len(page.all("script")) == 1 and "<script>alert" not in html
    assert page.all("main")[0]["data-run"] == named.name and page.text.count(HOSTILE) == 4
    assert review(named, "--out", tmp_path / "no.html", "--verdict", "x") == 2


def test_a_run_without_snapshots_or_log_shows_its_best(tmp_path: Path) -> None:
    weigh(tmp_path / "run" / "best.safetensors", 700)
    weigh(tmp_path / "run" / "model.safetensors", 800)
    _, page = made(tmp_path / "run", tmp_path / "page.html", images=1)
    assert "Snapshot 1: best.safetensors" in page.text and "model.safetensors" not in page.text
    assert "there is no curve" in page.text and "Distance not measured" in page.text


def test_what_draws_on_request_asks_as_its_run_does(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    c = StyleGANConfig(widths=(8, 8, 8), latent=6, style=6, classes=("grade",))
    net = torch.nn.ModuleDict({"generator": Styled(c)})
    own, words = tmp_path / "snapshots" / "000000001.safetensors", to_json(c, kind=ModelConfig)
    own.parent.mkdir()
    save_model(own, net, config_json=words, clock=Clock(images=1))
    before = own.read_bytes()
    assert review(tmp_path, "--out", tmp_path / "page.html", "--images", "1") == 2
    assert "what that may be" in capsys.readouterr().err
    asked = [c.condition(2, ())]
    save_model(
        tmp_path / "model.safetensors", net, config_json=words, clock=Clock(images=1), extra={"asked": asked}
    )
    _, page = made(tmp_path, tmp_path / "page.html", images=1)
    assert page.all("img") and own.read_bytes() == before


def test_the_curve_is_logarithmic_where_it_can_be() -> None:
    rows = [
        Measured(images=(n * 100,), distance=10.0 ** (9 - n), leaked=0.0 if n < 5 else None) for n in range(9)
    ]
    drawn = str(curve(rows, (), bar=0.03))
    ys = [float(y) for y in re.findall(r",([\d.]+)", re.search(r'<polyline points="([^"]*)"', drawn)[1])]
    steps = [after - before for before, after in zip(ys, ys[1:], strict=False)]
    assert max(steps) - min(steps) < 0.3 and min(steps) > 0
    below = [Measured(images=(row.images[0],), distance=row.distance - 5e4, leaked=None) for row in rows]
    assert "not measured" in str(curve(below, (), bar=0.03)) and "nan" not in str(curve(below, (), bar=0.03))
    assert str(curve([], (), bar=0.03)) == ""


def test_between_two_validations_the_worse_counts(run: Path) -> None:
    rows = validations(run / "log.jsonl")
    assert [row.images for row in rows] == [(1000,), (2000,), (3000,)]
    assert measured_at(rows, 2000) == rows[1]
    assert measured_at(rows, 2500) == Measured(images=(2000, 3000), distance=50.0, leaked=0.06)
    assert measured_at(rows, 9000) == rows[2] and measured_at([], 1) is None


# ---- verdicts ----------------------------------------------------------------------------------------------


def test_two_readers_add_up(run: Path, say: Say, capsys: pytest.CaptureFixture) -> None:
    """The file changes when a verdict is recorded; the second one, of the same page, fits all the same."""
    weights = [one.weights for one in snapshots(run)]
    first = say("A. B.", {1000: "reject", 2000: "accept"})
    second = say("C. D.", {2000: "accept"}, date="2024-06-01", seed=7)
    before = (run / "snapshots" / "000002000.safetensors").read_bytes()
    assert review(run, "--verdict", first) == 0
    assert "reject by A. B., 2 of 4 images look wrong (1 reader)" in capsys.readouterr().out
    assert (run / "snapshots" / "000002000.safetensors").read_bytes() != before
    assert review(run, "--verdict", second, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["recorded"]
    assert told["new"] and told["readers"] == 2 and told["wrong"] == [1, 3]
    assert [one.weights for one in snapshots(run)] == weights
    assert recorded(run, 2000) == [
        {"reader": name, "date": day, "seed": seed, "images": 4, "wrong": [1, 3], "remark": "two discs",
         "verdict": "accept"}
        for name, day, seed in (("A. B.", "2024-05-31", 0), ("C. D.", "2024-06-01", 7))
    ]  # fmt: skip
    assert [len(recorded(run, clock)) for clock in CLOCKS] == [1, 2, 0]
    assert review(run, "--verdict", first) == 0
    assert "recorded before" in capsys.readouterr().out and len(recorded(run, 2000)) == 2


def test_a_verdict_on_other_weights_is_refused_whole(
    run: Path, say: Say, capsys: pytest.CaptureFixture
) -> None:
    verdict = say("A", {1000: "accept", 2000: "accept"})
    weigh(run / "snapshots" / "000002000.safetensors", 1999, LARGE)
    assert review(run, "--verdict", verdict) == 2
    said = capsys.readouterr().err
    assert str(verdict) in said and "'000002000.safetensors'" in said and "expected the weights" in said
    assert recorded(run, 1000) == []


def test_the_identity_is_of_tensors_configuration_and_clock(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.safetensors" for n in range(3)]
    weigh(paths[0], 5)
    weigh(paths[1], 5, terms=["other: facts"])
    weigh(paths[2], 5)
    generator = Generator(EYES)
    torch.manual_seed(5)
    generator = Generator(EYES)
    generator.seen.fill_(10**6 + 1)
    save_model(
        paths[2], torch.nn.ModuleDict({"generator": generator}), config_json=to_json(EYES, kind=ModelConfig),
        clock=Clock(images=5),
    )  # fmt: skip
    found = [snapshots(path)[0].weights for path in paths]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema"),
        ({"schema": True}, "schema"),
        ({"reader": " "}, "reader must be a name"),
        ({"reader": "a\x1b[31m"}, "reader must be a name"),
        ({"date": "31.5.2024"}, "YYYY-MM-DD"),
        ({"date": "20240531"}, "YYYY-MM-DD"),
        ({"seed": "0"}, "seed"),
        ({"seed": -1}, "seed must not be negative"),
        ({"snapshots": []}, "one judgement or more"),
        ({"extra": 1}, "extra"),
        ({"wrong": [4]}, "rising numbers of 0 to 3"),
        ({"wrong": [3, 1]}, "rising numbers"),
        ({"wrong": [1, 1]}, "rising numbers"),
        ({"images": 0}, "images must be 1 to"),
        ({"remark": "x" * 2001}, "at most 2000 characters"),
        ({"remark": "\x07"}, "control characters"),
        ({"verdict": "maybe"}, "verdict"),
        ({"weights": "12"}, "64 hexadecimal digits"),
    ],
)
def test_a_verdict_that_no_page_made_is_refused(
    run: Path, say: Say, capsys: pytest.CaptureFixture, change: dict[str, Any], said: str
) -> None:
    path = say("A", {1000: "accept"})
    verdict = json.loads(path.read_text())
    inner = verdict["snapshots"][0]
    (inner if change.keys() & inner.keys() else verdict).update(change)
    path.write_text(json.dumps(verdict))
    assert review(run, "--verdict", path) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and str(path) in printed.err and said in printed.err
    assert "expected a verdict.json" in printed.err and recorded(run, 1000) == []


def test_wrong_use_is_said(run: Path, say: Say, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"schema": 1,')
    annotate_metadata(run / "best.safetensors", review="[1]")
    weigh(tmp_path / "lone.safetensors", 1)
    for words, said in (
        ([run], "expected either --out FILE, or --verdict FILE"),
        ([run, "--verdict", tmp_path / "none.json"], "none.json"),
        ([run, "--verdict", tmp_path / "cut.json"], "cut.json"),
        ([run, "--out", tmp_path / "page.png"], "an .html file"),
        ([run, "--out", tmp_path / "page.html", "--images", "0"], "images must be 1 to"),
        ([run / "best.safetensors", "--out", tmp_path / "p.html"], "expected the metadata 'review'"),
        ([tmp_path / "nowhere", "--out", tmp_path / "p.html"], "nowhere"),
    ):
        assert review(*words) == 2
        assert said in capsys.readouterr().err
    assert review(tmp_path / "lone.safetensors", "--release") == 1
    assert "expected a run folder" in capsys.readouterr().err


# ---- release -----------------------------------------------------------------------------------------------


def test_the_nearest_accepted_snapshot_that_does_not_leak_is_released(
    run: Path, say: Say, capsys: pytest.CaptureFixture
) -> None:
    """The third is nearer but leaks; the run's own best is kept, and its facts are handed on."""
    own = (run / "best.safetensors").read_bytes()
    verdict = say("A", dict.fromkeys(CLOCKS, "accept"))
    assert review(run, "--verdict", verdict, "--release", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["released"]["name"] == "000002000.safetensors" and printed.err == ""
    assert snapshots(run / "best.safetensors")[0].weights == snapshots(run)[1].weights
    metadata = read_metadata(run / "best.safetensors")
    assert (
        json.loads(metadata["terms"]) == ["drawn: CC0"] and json.loads(metadata["review"])[0]["reader"] == "A"
    )
    assert "score" not in metadata, "a score of other weights"
    assert (run / "best.replaced.safetensors").read_bytes() == own
    assert review(run, "--verdict", say("B", {2000: "reject"}), "--release") == 0
    assert "released 000001000.safetensors" in capsys.readouterr().out
    assert json.loads(read_metadata(run / "best.safetensors")["terms"]) == ["drawn: CC0"]
    assert (run / "best.replaced.safetensors").read_bytes() == own, "a snapshot is not kept twice"
    assert not list(run.rglob("*.partial"))


def test_nothing_is_released_that_nobody_accepted(run: Path, say: Say, capsys: pytest.CaptureFixture) -> None:
    own = (run / "best.safetensors").read_bytes()
    assert review(run, "--verdict", say("A", {1000: "reject", 3000: "accept"}), "--release", "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["released"] is None and len(json.loads(printed.out)["recorded"]) == 2
    for words in ("000001000.safetensors was rejected by A", "000002000.safetensors was judged by nobody",
                  "000003000.safetensors leaks: 6.0%"):  # fmt: skip
        assert words in printed.err
    assert (run / "best.safetensors").read_bytes() == own
    assert review(run, "--verdict", say("A", {1000: "accept"}, date="2024-06-02"), "--release") == 0
    assert "released 000001000" in capsys.readouterr().out, "the last word of a reader counts"


def test_what_was_never_measured_is_not_released(
    run: Path, say: Say, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert review(run, "--verdict", say("A", {1000: "accept"})) == 0
    measure(run, {1000: (3.0, None)})
    assert review(run, "--release") == 1
    assert "was not looked at for copies" in capsys.readouterr().err
    (run / "log.jsonl").unlink()
    assert review(run, "--release") == 1
    assert "has no validation/distance" in capsys.readouterr().err
    kept = json.loads(read_metadata(run / "snapshots" / "000001000.safetensors")["review"])
    weigh(tmp_path / "small" / "snapshots" / "1.safetensors", 1000, review=kept)
    measure(tmp_path / "small", {1000: (3.0, None)})
    assert review(tmp_path / "small", "--release") == 0, "32 px show nobody's vessels"
    assert "lacks 'terms'" in capsys.readouterr().err


# ---- the page in a browser ---------------------------------------------------------------------------------

FILL = """
document.getElementById("s1-1").click();
document.getElementById("s2-0").click(); document.getElementById("s2-1").click();
document.getElementById("s2-1").click();
document.getElementById("s2-reject").click();
document.getElementById("s2-remark").value = "a <b> \\u0007 & \\u00fc";
document.getElementById("reader").value = "A. B.";
document.getElementById("copy").click();
const early = document.getElementById("said").textContent;
document.getElementById("s1-accept").click();
document.getElementById("copy").click();
const result = document.createElement("pre");
result.id = "result";
result.textContent = JSON.stringify([early, document.getElementById("text").value]);
document.body.append(result);
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_what_the_page_gathers_is_what_is_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    html, _ = made(run, tmp_path / "page.html")
    opened = re.sub(r'<meta http-equiv="[^>]*>', "", html).replace(
        "</body>", f"<script>{FILL}</script></body>"
    )
    (tmp_path / "filled.html").write_text(opened)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        ["chromium", *options, profile, f"file://{tmp_path / 'filled.html'}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = Page("<pre>" + done.stdout.rpartition('<pre id="result">')[2].partition("</pre>")[0] + "</pre>")
    early, text = json.loads("".join(found.words))
    assert early == "000001000.safetensors: please choose accept or reject."
    (tmp_path / "verdict.json").write_text(text)
    capsys.readouterr()
    assert review(run, "--verdict", tmp_path / "verdict.json") == 0
    assert [len(recorded(run, clock)) for clock in CLOCKS] == [1, 1, 0]
    assert recorded(run, 1000)[0]["wrong"] == [1] and recorded(run, 1000)[0]["verdict"] == "accept"
    kept = recorded(run, 2000)[0]
    assert kept["wrong"] == [0] and kept["remark"] == "a <b>   & \u00fc" and kept["verdict"] == "reject"
    assert kept["reader"] == "A. B." and kept["images"] == 2
