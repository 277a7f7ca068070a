"""The command line: one dataclass and one call per command.

`main` looks at the first word, builds the parser of that command alone and runs it, so `fundusforge --help`
loads neither torch nor OpenCV. Messages go to standard error, results to standard output. Exit codes:

    0    done
    1    done, but more inputs were rejected than --max-rejects allows
    2    wrong use or bad input; the message says what was expected
    3    a fault of fundusforge itself, with a traceback
    130  interrupted from the keyboard
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from fundusforge import __version__
from fundusforge.cli.annotate import Annotate
from fundusforge.cli.audit import Audit
from fundusforge.cli.chain import Chain
from fundusforge.cli.command import Command, listing, nearest, parse
from fundusforge.cli.drgan import Drgan
from fundusforge.cli.evaluate import Evaluate
from fundusforge.cli.inspect import Inspect
from fundusforge.cli.label import Label
from fundusforge.cli.latent import Latent
from fundusforge.cli.models import Models
from fundusforge.cli.prepare import Prepare
from fundusforge.cli.release import Release
from fundusforge.cli.report import Report
from fundusforge.cli.review import Review
from fundusforge.cli.sample import Sample
from fundusforge.cli.series import Series
from fundusforge.cli.study import Study
from fundusforge.cli.train import Train
from fundusforge.cli.turing import Turing
from fundusforge.cli.upscale import Upscale

COMMANDS: dict[str, type[Command]] = {
    "prepare": Prepare,
    "inspect": Inspect,
    "train": Train,
    "annotate": Annotate,
    "label": Label,
    "sample": Sample,
    "series": Series,
    "chain": Chain,
    "drgan": Drgan,
    "latent": Latent,
    "upscale": Upscale,
    "review": Review,
    "turing": Turing,
    "evaluate": Evaluate,
    "audit": Audit,
    "study": Study,
    "release": Release,
    "report": Report,
    "models": Models,
}
"""Every command by its name, in the order of the work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `fundusforge`; those of the process if None.

    Returns:
        The exit code, as the module's docstring lists them.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"fundusforge {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        say(f"unknown command {name!r}{nearest(name, COMMANDS)}; `fundusforge --help` lists the commands")
        return 2
    return _run(name, rest)


def _run(name: str, words: Sequence[str]) -> int:
    """Parse and run; turn what goes wrong into a message and an exit code."""
    try:
        return parse(COMMANDS[name], words, prog=f"fundusforge {name}").run()
    except SystemExit as leaving:  # the parser has said why
        return leaving.code if isinstance(leaving.code, int) else 2
    except KeyboardInterrupt:
        say(f"fundusforge {name}: interrupted")
        return 130
    except Exception as error:
        if not _expected(error):
            traceback.print_exc()
            say(f"fundusforge {name}: this is a fault of fundusforge; please report it with the lines above")
            return 3
        say(f"fundusforge {name}: {_sentence(error)}")
        return 2


def _expected(error: Exception) -> bool:
    """Whether an error is the world's (files, input, settings) and not a fault of the program.

    Such are the system's errors, the package's own kinds, and values that the package itself refuses: there
    the statement that raised stands in the package, where a library's does not.
    """
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] == "fundusforge":
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    place = frames[-1][0].f_globals.get("__name__", "")
    return isinstance(error, ValueError) and place.split(".")[0] == "fundusforge"


def _sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def say(message: str) -> None:
    """Print a message for people."""
    print(message, file=sys.stderr)


def overview() -> str:
    """Return the help of `fundusforge` itself."""
    return f"""usage: fundusforge COMMAND ...

Real retinal photographs in, trained generators and judged synthetic labelled images out.

commands:
{listing({name: (kind.__doc__ or "").partition(".")[0] for name, kind in COMMANDS.items()})}

`fundusforge COMMAND --help` explains a command, with examples. Without any data or network, try:
  fundusforge sample -n 16 --out synthetic

exit codes: 0 done; 1 done, but more inputs rejected than --max-rejects; 2 wrong use or bad input;
            3 a fault of fundusforge; 130 interrupted.
messages go to standard error; --json prints the result on standard output."""
