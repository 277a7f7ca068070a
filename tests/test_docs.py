"""The documentation is true: help pages, commands in guides, links and examples in docstrings."""

import doctest
import importlib
import importlib.util
import inspect
import re
import shlex
import types
from pathlib import Path

import pytest

from fundusforge.cli import COMMANDS, command

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def commands_in(text: str) -> list[list[str]]:
    """Return the arguments of every `fundusforge ...` command in the fenced code blocks of a Markdown text.

    Continued lines are joined; prompts, comments, pipes and redirections are cut off.
    """
    found = []
    # Every block is matched, whatever its language: a skipped one's end would pass for the next one's start.
    for language, block in re.findall(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", text, re.MULTILINE | re.DOTALL):
        if language in {"text", "json", "python"}:
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            for part in _parts(words):
                if part and part[0].rpartition("/")[2] == "fundusforge":
                    found.append(part[1:])
    return found


def _parts(words: list[str]) -> list[list[str]]:
    """Split a command line at `&&`, `||`, `;` and `|`; drop redirections and leading assignments."""
    parts: list[list[str]] = [[]]
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in {"&&", "||", ";", "|", "&"}:
            parts.append([])
        elif word in {">", ">>", "2>", "<", "2>>"}:
            skip = True
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=\S*|time|nice", word):
            parts[-1].append(word)
    return parts


def documented_commands() -> list[tuple[str, list[str]]]:
    """Return (place, arguments) of the commands in all guides, and of the examples in the program's help."""
    guides = [(page.relative_to(ROOT).as_posix(), page) for page in PAGES if page.name != "cli.md"]
    found = [(place, words) for place, page in guides for words in commands_in(page.read_text("utf-8"))]
    for name, kind in COMMANDS.items():
        examples = inspect.cleandoc(kind.__doc__ or "").partition("\nExamples:\n")[2]
        found += [(f"fundusforge {name} --help", words) for words in commands_in(f"```\n{examples}\n```\n")]
    return found


def parse(words: list[str]) -> object:
    """Parse a command as `fundusforge` would, and run nothing."""
    name, *rest = words
    return command.parse(COMMANDS[name], rest, prog=f"fundusforge {name}")


def load_generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_reference_is_up_to_date() -> None:
    generator = load_generator()
    assert generator.PAGE.read_text("utf-8") == generator.page(), "run `make docs`"


def test_every_command_stands_in_the_reference() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"## fundusforge {name}\n" not in text] == []


@pytest.mark.parametrize(("page", "words"), documented_commands())
def test_documented_command_is_accepted(
    page: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if words in (["--help"], ["--version"]):
        return
    assert words and words[0] in COMMANDS, f"{page}: fundusforge {shlex.join(words)}: no such command"
    try:
        parse(words)
    except command.UsageError as error:
        pytest.fail(f"{page}: fundusforge {shlex.join(words)}\n{error}")
    except SystemExit as end:
        if end.code != 0 or "--help" not in words:
            pytest.fail(f"{page}: fundusforge {shlex.join(words)}\n{capsys.readouterr()}")


@pytest.mark.parametrize("words", [["prepare", "--no-such-flag"], ["sample", "-n", "many"]])
def test_wrong_command_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2


def test_commands_are_found_in_markdown() -> None:
    text = """
    Run `fundusforge not-this`.
```
$ fundusforge sample -n 4 \\
    --out "my folder"   # a comment
OMP_NUM_THREADS=1 .venv/bin/fundusforge inspect a > list.txt && fundusforge models | head
make demo
```
```text
fundusforge neither-this
```
"""
    assert commands_in(text) == [
        ["sample", "-n", "4", "--out", "my folder"],
        ["inspect", "a"],
        ["models"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]+src=\"([^\"]+)\"", page.read_text("utf-8"))
    local = [target for pair in targets for target in pair if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def modules_with_examples() -> list[str]:
    return [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((SOURCE / "fundusforge").rglob("*.py"))
        if re.search(r"^\s*>>> ", path.read_text("utf-8"), re.MULTILINE)
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0
