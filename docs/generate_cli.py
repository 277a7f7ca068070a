"""Write `docs/cli.md`, the command-line reference, from the program's own `--help`.

python docs/generate_cli.py            write the page
python docs/generate_cli.py --check    only tell whether it is up to date (exit code 1 if not)
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

PAGE = Path(__file__).resolve().parent / "cli.md"
PLAIN = {"COLUMNS": "100", "LINES": "50", "NO_COLOR": "1", "TERM": "dumb"}
"""Environment in which help has the same width, and no colours, on every machine."""
HEAD = """# Command line

Written by `make docs` from the program's own help; change the program, not this page.
Messages go to standard error, results to standard output; `--json` makes those readable to programs.
"""


def help_of(*command: str) -> str:
    """Return what `fundusforge <command> --help` prints, in plain text.

    Raises:
        RuntimeError: The command does not know `--help`, that is, does not end with exit code 0.
    """
    from fundusforge.cli import main

    printed = io.StringIO()
    with mock.patch.dict(os.environ, PLAIN), contextlib.redirect_stdout(printed):
        os.environ.pop("FORCE_COLOR", None)
        try:
            code = main([*command, "--help"])
        except SystemExit as end:
            code = end.code
    if code not in (0, None):
        raise RuntimeError(f"fundusforge {' '.join(command)} --help ended with exit code {code}")
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def commands() -> Iterator[tuple[str, ...]]:
    """Yield every command that has a page of help: the program, its commands, and `train` by family."""
    from fundusforge.cli import COMMANDS
    from fundusforge.models import FAMILIES

    yield ()
    for name in COMMANDS:
        yield (name,)
        if name == "train":
            yield from ((name, family) for family in FAMILIES)


def page() -> str:
    """Return the whole reference as Markdown."""
    sections = [HEAD]
    for command in commands():
        title = " ".join(("fundusforge", *command))
        sections.append(f"## {title}\n\n```text\n{help_of(*command)}\n```\n")
    return "\n".join(sections)


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit code."""
    text = page()
    if arguments == ["--check"]:
        current = PAGE.read_text("utf-8") if PAGE.is_file() else ""
        if current != text:
            print(f"{PAGE.name} is out of date: run `make docs`", file=sys.stderr)
        return int(current != text)
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
