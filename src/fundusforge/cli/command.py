"""What every command shares: parsing a frozen dataclass from words, and printing its result."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar, cast, get_type_hints

import tyro

DONE, REJECTS, WRONG = 0, 1, 2
"""Exit codes."""
C = TypeVar("C")


class UsageError(ValueError):
    """A command was used in a way that its parser alone cannot notice."""


class Command(Protocol):
    """A command: a frozen dataclass of its options, and the call."""

    def run(self) -> int:
        """Do it; returns the exit code."""
        ...


def parse(command: type[Command], words: Sequence[str], *, prog: str) -> Command:
    """Build a command from its words.

    A command whose options depend on a choice among those words (the family to train, the format to read) has
    `fitted(words)`, which returns the type to parse and the defaults to start from.

    Raises:
        SystemExit: Help was asked for (0), or a word is wrong (2); the parser has printed why.
        UsageError: A value is out of range.
    """
    fitted = getattr(command, "fitted", None)
    try:
        kind, default = fitted(words) if fitted else (command, None)
        given = {} if default is None else {"default": default}
        return tyro.cli(
            kind,
            args=list(words),
            prog=prog,
            description=inspect.cleandoc(command.__doc__ or ""),
            config=(tyro.conf.FlagCreatePairsOff,),
            **given,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def chosen(words: Sequence[str], flag: str) -> str | None:
    """Return the value that follows `flag` among the words (`--flag value` or `--flag=value`), if any."""
    for place, word in enumerate(words):
        if word == flag and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def pick(name: str, known: Mapping[str, C], *, what: str) -> C:
    """Return `known[name]`.

    Raises:
        UsageError: Unknown; the message suggests the nearest and lists all.
    """
    if name not in known:
        raise UsageError(f"unknown {what} {name!r}{nearest(name, known)}; known are {', '.join(known)}")
    return known[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)`, or nothing if no known name is near."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def without(config: type, **hidden: Any) -> type[Any]:
    """Return a subclass of a frozen dataclass with some fields kept off the command line.

    Args:
        config: The dataclass.
        **hidden: Field names and the values they shall have.
    """
    hints = get_type_hints(config, include_extras=True)
    fields = [
        (name, Annotated[hints[name], tyro.conf.Fixed, tyro.conf.Suppress], dataclasses.field(default=value))
        for name, value in hidden.items()
    ]
    kind = dataclasses.make_dataclass(
        config.__name__,
        fields,
        bases=(config,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": config.__doc__},
    )
    kind.__module__ = config.__module__
    return kind


def restored(config: Any, kind: type[C], **changes: Any) -> C:
    """Return `config`, an instance of a class made by `without`, as an instance of the original class."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(cast(Any, kind)) if f.init}
    return kind(**values | changes)


def emit(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result on standard output: one JSON object for programs, or text for people."""
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else text)


def command_line() -> str:
    """Return the command as it was typed, for the record."""
    return "fundusforge " + shlex.join(sys.argv[1:])


def say(message: str) -> None:
    """Print a message for people on standard error."""
    print(message, file=sys.stderr, flush=True)


def listing(entries: Mapping[str, str], *, indent: int = 2) -> str:
    """Lay names and what they mean out in two columns, folded to the width of the terminal."""
    first = max(len(name) for name in entries) + indent + 2
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    lines = []
    for name, meaning in entries.items():
        folded = textwrap.wrap(meaning, width - first) or [""]
        lines.append(f"{' ' * indent}{name}".ljust(first) + folded[0])
        lines += [" " * first + line for line in folded[1:]]
    return "\n".join(lines)


def only(values: Sequence[C], what: str) -> C | None:
    """Return the one value of an argument that may be left out.

    Raises:
        UsageError: There are several.
    """
    if len(values) > 1:
        raise UsageError(f"expected at most one {what}, got {len(values)}: {', '.join(map(str, values))}")
    return values[0] if values else None


def progress(items: Iterable[C], what: str, *, total: int, quiet: bool = False) -> Iterator[C]:
    """Pass items on and show on standard error how far they are; nothing where that is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=what)
