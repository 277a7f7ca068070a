"""The rules of ARCHITECTURE.md that a program can check, and proof that the checks notice a breach."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "fundusforge"
LEVELS = (
    {"config", "records", "images", "severity"},
    {"sources", "weights"},
    {"prepare", "inspection"},
    {"models"},
    {"training"},
    {"annotate", "sample"},
    {"evaluate"},
    {"audit"},
    {"studies"},
    {"report"},
    {"cli"},
    {"__main__"},
)
"""Rooms from the ground up. A room imports from lower levels and from itself; on the ground level, freely."""
GROUND = LEVELS[0]
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
MAX_LINES = 400


def level_of(room: str) -> int | None:
    """Return the level of a room, None for a room that ARCHITECTURE.md does not know."""
    return next((level for level, rooms in enumerate(LEVELS) if room in rooms), None)


def modules(source: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the dotted parts below the package and the path of every module."""
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source / PACKAGE).with_suffix("").parts
        yield tuple(part for part in parts if part != "__init__"), path


def imported(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Yield (line, dotted name, relative level) of every import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}" if node.module else alias.name
                yield node.lineno, name, node.level


def breaches(source: Path) -> list[str]:
    """Return every breach of the one-way import order, as `file:line: what`."""
    found = []
    for parts, path in modules(source):
        room = parts[0] if parts else "__init__"
        level = -1 if room == "__init__" else level_of(room)
        if level is None:
            found.append(f"{path}: room {room!r} stands in no level of ARCHITECTURE.md")
            continue
        for line, name, relative in imported(ast.parse(path.read_text("utf-8"))):
            target = name.split(".")
            if relative:
                found.append(f"{path}:{line}: relative import of {name!r}")
            elif target[0] == PACKAGE and len(target) > 1 and not _allowed(source, room, level, target[1]):
                found.append(f"{path}:{line}: {room} may not import {'.'.join(target[1:])}")
    return found


def _allowed(source: Path, room: str, level: int, target: str) -> bool:
    target_level = level_of(target)
    if target_level is None:  # a name that the package's own __init__ defines, such as __version__
        return not (source / PACKAGE / target).is_dir() and not (source / PACKAGE / f"{target}.py").is_file()
    return target == room or target_level < level or (room in GROUND and target in GROUND)


def import_cycles(source: Path) -> list[str]:
    """Return the cycles among modules of the package, imports inside functions left out."""
    known = {".".join((PACKAGE, *parts)) for parts, _ in modules(source)}
    graph: dict[str, set[str]] = {}
    for parts, path in modules(source):
        module = ".".join((PACKAGE, *parts))
        tree = ast.parse(path.read_text("utf-8"))
        top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        names = {name for _, name, _ in imported(top)}
        found = {name if name in known else name.rpartition(".")[0] for name in names} & known
        graph[module] = found - {module, PACKAGE}
    cycles: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            cycles.append(" -> ".join((*trail[trail.index(module) :], module)))
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    return cycles


def test_imports_run_one_way() -> None:
    assert breaches(SOURCE) == []


def test_modules_form_no_cycle() -> None:
    assert import_cycles(SOURCE) == []


def test_no_module_has_a_name_without_meaning() -> None:
    named = [str(path) for parts, path in modules(SOURCE) if BANNED_NAMES & set(parts)]
    assert named == []


def test_no_file_is_too_long() -> None:
    long = {
        str(path): n for _, path in modules(SOURCE) if (n := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_every_module_begins_with_a_docstring() -> None:
    silent = [
        str(path)
        for _, path in modules(SOURCE)
        if (tree := ast.parse(path.read_text("utf-8"))).body and not ast.get_docstring(tree)
    ]
    assert silent == []


def make_tree(source: Path, files: dict[str, str]) -> Path:
    """Write a made-up package, for the checks to find fault with."""
    for name, text in files.items():
        path = source / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("records.py", "from fundusforge.sources import drive\n"),
        ("sources/drive.py", "from fundusforge import prepare\n"),
        ("sources/phantom/eye.py", "import fundusforge.models.unet\n"),
        ("models/unet.py", "def late():\n    from fundusforge.training.loop import train\n"),
        ("training/loop.py", "from fundusforge.evaluate.ssim import ssim\n"),
        ("annotate/stage.py", "from fundusforge.sample.stage import sample\n"),
        ("sample/stage.py", "from fundusforge.annotate.stage import annotate\n"),
        ("evaluate/ssim.py", "from fundusforge.audit.gate import release\n"),
        ("report.py", "from fundusforge.cli import main\n"),
        ("models/vae.py", "from . import layers\n"),
        ("models/vae.py", "from .layers import Block\n"),
        ("__init__.py", "from fundusforge.records import Record\n"),
        ("trainer/loop.py", "import math\n"),
    ],
)
def test_a_reversed_or_relative_import_is_caught(tmp_path: Path, name: str, text: str) -> None:
    found = breaches(make_tree(tmp_path, {name: text}))
    assert len(found) == 1
    assert name in found[0].replace("\\", "/") or "trainer" in found[0]


def test_imports_that_follow_the_order_pass(tmp_path: Path) -> None:
    files = {
        "images.py": "from fundusforge.records import Record\n",
        "sources/drive.py": "from fundusforge.sources.item import Item\n",
        "sources/folder.py": "from fundusforge import __version__\n",
        "training/loop.py": "import torch\nfrom fundusforge.models.recipe import Recipe\n",
        "evaluate/stage.py": "from fundusforge.annotate.stage import annotate\n",
        "cli.py": "from fundusforge.report import write\n",
    }
    assert breaches(make_tree(tmp_path, files)) == []


def test_a_cycle_is_caught(tmp_path: Path) -> None:
    files = {
        "records.py": "from fundusforge.images import grid\n",
        "images.py": "from fundusforge import records\n",
    }
    assert import_cycles(make_tree(tmp_path, files)) == [
        "fundusforge.images -> fundusforge.records -> fundusforge.images"
    ]
