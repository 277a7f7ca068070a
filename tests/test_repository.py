"""What may stand in the repository: sizes, file kinds, figures, decisions, and what must not be told."""

import ast
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEBIBYTE = 2**20
FIGURE_KEYS = {"name", "value", "low", "high", "n", "unit", "command", "commit"}
PICKLES = {
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".ckpt",
    ".joblib",
    ".npy",
    ".npz",
    ".bin",
    ".pb",
    ".onnx",
    ".h5",
}
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ppm", ".gif", ".bmp", ".dcm", ".nii", ".webp", ".jxl"}
MADE_BY_PROGRAM = re.compile(rb"digitalsourcetype/(trainedAlgorithmicMedia|algorithmicMedia|dataDrivenMedia)")
"""IPTC digital source types of a model's image, of a phantom, and of a chart."""


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Return every tracked file that exists; all files of an unpacked archive, where there is no git."""
    command = ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z"]
    try:
        listing = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listing.split("\0") if name and (path := root / name).is_file()]


def text_of(path: Path) -> str | None:
    """Return the text of a file, None for a binary one."""
    data = path.read_bytes()
    return None if b"\0" in data[:8192] else data.decode("utf-8", errors="replace")


# Joined from pieces, so that this file does not contain what it looks for.
TELLING = {
    "absolute path of one machine": re.compile(
        r"(?<![\w.<{$-])/(?:" + "|".join(("work", "root", "home", "Users", "mnt")) + r")/\w"
        r"|\b[A-Z]:\\" + r"\\?Us" + "ers"
    ),
    "temporary path of one machine": re.compile("(?<![\\w.<{$-])/tm" + r"p/\w"),
    "address of a package registry": re.compile(
        r"\b(?:"
        + "|".join(
            (
                r"py" r"pi\.org",
                r"python" r"hosted\.org",
                r"registry\.np" r"mjs\.org",
                r"download\.py" r"torch\.org",
                r"conda\." r"anaconda\.org",
            )
        )
        + r")\b"
        r"|^\s*(?:--)?(?:extra-)?index" + r"-url\b|--find" + r"-links\b",
        re.MULTILINE,
    ),  # fmt: skip
    "address inside a private network": re.compile(
        r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}:\d{2,5}\b|\.(?:inte"
        + r"rnal|lo"
        + r"cal)/"
    ),
    "secret": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KE" + r"Y|\b(?:gh[pousr]_|hf_|sk-)[A-Za-z0-9]{20,}"),
}


def telling_lines(text: str) -> list[str]:
    """Return `what: excerpt` for every stretch of text that tells of a machine, a registry or a secret."""
    return [f"{what}: {hit.group()!r}" for what, pattern in TELLING.items() for hit in pattern.finditer(text)]


def unpickling_calls(text: str) -> list[str]:
    """Return the calls in Python text that allow NumPy to read or write pickles."""
    return [
        f"line {node.lineno}: {keyword.arg}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "allow_pickle"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]


def figure_faults(line: str) -> list[str]:
    """Return what is wrong with one line of figures.jsonl."""
    try:
        figure = json.loads(line)
    except json.JSONDecodeError as error:
        return [f"not JSON: {error}"]
    if not isinstance(figure, dict) or set(figure) != FIGURE_KEYS:
        return [f"expected the keys {sorted(FIGURE_KEYS)}"]
    faults = [
        f"{key} must be text" for key in ("name", "unit", "command", "commit") if not _is_text(figure[key])
    ]
    if not _is_number(figure["value"]):
        faults.append("value must be a finite number")
    for key in ("low", "high"):
        if figure[key] is not None and not _is_number(figure[key]):
            faults.append(f"{key} must be a finite number or null")
    bounded = not faults and None not in (figure["low"], figure["high"])
    if bounded and not figure["low"] <= figure["value"] <= figure["high"]:
        faults.append("value must lie between low and high")
    if figure["n"] is not None and (not isinstance(figure["n"], int) or figure["n"] < 1):
        faults.append("n must be a positive whole number or null")
    return faults


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decision_faults(text: str) -> list[str]:
    """Return what a decision record lacks."""
    wanted = {
        "a title `# NNNN. ...`": r"\A# \d{4}\. \S",
        "a date": r"^- Date: \d{4}-\d{2}-\d{2}$",
        "a status": r"^- Status: (proposed|accepted|superseded by \d{4})$",
        "a context": r"^## Context$",
        "a decision": r"^## Decision$",
        "consequences": r"^## Consequences$",
    }
    return [what for what, pattern in wanted.items() if not re.search(pattern, text, re.MULTILINE)]


def decisions() -> list[Path]:
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_no_large_file_is_tracked() -> None:
    assert [path for path in tracked_files() if path.stat().st_size > 16 * MEBIBYTE] == []


def test_weights_are_small_and_each_has_a_card() -> None:
    weights = [path for path in tracked_files() if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) < 40 * MEBIBYTE
    assert [path for path in weights if not list(path.parent.glob(f"{path.stem}*.md"))] == []


def test_no_pickle_is_tracked() -> None:
    assert [path for path in tracked_files() if path.suffix.lower() in PICKLES] == []
    # protocol 2 and later begin with these bytes, whatever the name says
    begins = [
        path for path in tracked_files() if re.match(rb"\x80[\x02-\x05][\x95}\](cX]", path.read_bytes()[:3])
    ]
    assert begins == []


def test_numpy_never_reads_pickles() -> None:
    allowed = {
        str(path): calls
        for path in tracked_files()
        if path.suffix == ".py" and (calls := unpickling_calls(path.read_text("utf-8")))
    }
    assert allowed == {}


def test_pictures_stand_only_where_synthetic_ones_belong() -> None:
    """No patient's picture is committed: each lies under docs/ and declares itself as made by a program."""
    pictures = [path for path in tracked_files() if path.suffix.lower() in PICTURES]
    undeclared = [path for path in pictures if not MADE_BY_PROGRAM.search(path.read_bytes())]
    assert [path for path in pictures if (ROOT / "docs") not in path.parents] == []
    assert undeclared == []


def test_every_recorded_figure_is_complete() -> None:
    path = ROOT / "docs" / "results" / "figures.jsonl"
    if not path.is_file():
        pytest.skip("no figures recorded yet")
    faults = {
        n: f for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if (f := figure_faults(line))
    }
    assert faults == {}


def test_every_decision_has_date_and_status() -> None:
    assert decisions()
    assert {path.name: faults for path in decisions() if (faults := decision_faults(path.read_text()))} == {}


def test_decisions_are_numbered_without_gap_and_listed() -> None:
    numbers = [int(path.name[:4]) for path in decisions()]
    assert numbers == list(range(1, len(numbers) + 1))
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert [path.name for path in decisions() if path.name not in index] == []


def test_tracked_text_tells_nothing_of_the_machine() -> None:
    told = {
        str(path.relative_to(ROOT)): lines
        for path in tracked_files()
        if (text := text_of(path)) is not None and (lines := telling_lines(text))
    }
    assert told == {}


def test_constraints_hold_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert pins == sorted(pins)


def test_declared_dependencies_are_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[\[>=<~ ]", d)[0] for d in [*project["dependencies"], *sum(extras.values(), [])]}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert wanted - pinned == set()


def test_every_import_of_the_package_is_declared() -> None:
    """What src/ imports is a hard dependency, or stands in an extra; the rest of dev is for tests."""
    import tomllib
    from importlib.metadata import packages_distributions

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(d for name in ("cluster", "study") for d in extras[name])]
    declared = {re.split(r"[\[>=<~ ]", requirement)[0].lower() for requirement in wanted}
    providers = packages_distributions()
    undeclared = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"fundusforge"}:
                found = {re.sub(r"[-_.]+", "-", name).lower() for name in providers.get(top, [top])}
                if not found & declared:
                    undeclared.add(f"{path.relative_to(ROOT)}: {top}")
    assert undeclared == set()


@pytest.mark.parametrize(
    "text",
    [
        "data = '/wo" + "rk/data'",
        "see /ho" + "me/ann/photos",
        "/tm" + "p/results.json",
        "C:\\Us" + "ers\\ann",
        "fetch https://py" + "pi.org/simple",
        "--index" + "-url x",
        "http://10.0." + "0.7:8080/",
        "-----BEGIN RSA PRIVATE KE" + "Y-----",
    ],
)
def test_a_telling_line_is_caught(text: str) -> None:
    assert telling_lines(text)


@pytest.mark.parametrize(
    "text",
    ["src/tmp/x", "/etc/ssl", "home/work", "$HOME/photos", "../shared/data", "https://doi.org/10.1000/1"],
)
def test_an_innocent_line_passes(text: str) -> None:
    assert telling_lines(text) == []


GOOD_FIGURE = {
    "name": "f1",
    "value": 0.8,
    "low": 0.7,
    "high": 0.9,
    "n": 5,
    "unit": "1",
    "command": "c",
    "commit": "a",
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"value": float("nan")}, "finite"),
        ({"value": "0.8"}, "finite"),
        ({"value": 0.95}, "between"),
        ({"command": ""}, "command"),
        ({"n": 0}, "positive"),
        ({"extra": 1}, "keys"),
    ],
)
def test_a_faulty_figure_is_caught(change: dict[str, object], fault: str) -> None:
    assert figure_faults(json.dumps(GOOD_FIGURE)) == []
    assert fault in " ".join(figure_faults(json.dumps(GOOD_FIGURE | change)))


def test_a_faulty_decision_is_caught() -> None:
    good = "# 0001. A\n- Date: 2026-01-31\n- Status: accepted\n## Context\n## Decision\n## Consequences\n"
    assert decision_faults(good) == []
    assert decision_faults(good.replace("- Date: 2026-01-31\n", "")) == ["a date"]
    assert decision_faults(good.replace("accepted", "maybe")) == ["a status"]


def test_a_call_that_reads_pickles_is_caught() -> None:
    assert unpickling_calls("numpy.load(path, allow_pickle=True)") == ["line 1: allow_pickle"]
    assert unpickling_calls("numpy.load(path, allow_pickle=False)") == []
