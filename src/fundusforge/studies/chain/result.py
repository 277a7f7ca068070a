"""What the tables of the chain hold, as JSON, text and Markdown; and figures of both studies in words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fundusforge.audit.findings import Chance
from fundusforge.config import to_json
from fundusforge.evaluate.figures import Figure, FolderSummary, figure_of
from fundusforge.studies.chain.anatomy import equivalent
from fundusforge.studies.chain.facts import HEAD, PAPER_FACTS, PAPER_SIMILARITY, Fact, laid_out
from fundusforge.studies.chain.leakage import Leak

HELD_OUT = "held-out real"
"""What the real eyes that nobody learnt from are called among the sets."""


class Report:
    """What every result of a study can do: give its figures, plain values, lines to record, and texts."""

    if TYPE_CHECKING:  # a field of some results, worked out by others

        @property
        def figures(self) -> tuple[Figure, ...]:
            """Figures, with intervals."""
            ...

        @property
        def command(self) -> str:
            """Command line."""
            ...

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: There is none.
        """
        return figure_of(self.figures, name)

    def to_dict(self) -> dict[str, Any]:
        """Return what the study's JSON file holds, as plain values."""
        return json.loads(to_json(self))

    def lines(self) -> list[dict[str, Any]]:
        """Return what `docs/results/record.py` takes: one entry for each figure with a value."""
        return [line(one, self.command) for one in self.figures if one.value is not None]

    def text(self) -> str:
        """Return tables and sentences for a terminal."""
        return self._laid_out(markdown=False)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        return self._laid_out(markdown=True)

    def _laid_out(self, *, markdown: bool) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SetTable:
    """All that was measured of one set."""

    name: str
    """As configured, or `HELD_OUT`."""
    stem: str
    """First part of its figures' names."""
    folder: FolderSummary
    fact: Fact
    figures: tuple[Figure, ...]
    leak: Leak | None = None
    """None of real eyes, or where nobody looked."""

    def figure(self, name: str) -> Figure | None:
        """Return the figure of that name without its first part, or None."""
        return next((one for one in self.figures if one.name == f"{self.stem}_{name}"), None)


@dataclass(frozen=True, kw_only=True)
class Tables(Report):
    """The content of `tables.json`."""

    sets: tuple[SetTable, ...]
    real: FolderSummary
    reference: str
    """Real image of the one reference."""
    maps: str
    """How vessel maps were brought to one size."""
    chance: tuple[Chance, ...]
    """What unrelated trees show; empty where nobody looked."""
    warnings: tuple[str, ...]
    settings: dict[str, Any]
    command: str
    version: str
    paper_similarity: dict[str, float] = field(default_factory=lambda: dict(PAPER_SIMILARITY))
    paper_facts: tuple[Fact, ...] = PAPER_FACTS
    schema: int = 1

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures of all sets."""
        return tuple(figure for one in self.sets for figure in one.figures)

    def _laid_out(self, *, markdown: bool) -> str:
        parts = [f"Reference: {self.reference} of {self.real.folder}. Maps {self.maps}."]
        parts += [
            laid_out(rows, markdown=markdown)
            for rows in (self._similarity(), self._facts(), self._vessels(), self._leaks())
            if len(rows) > 1
        ]
        parts.append("The paper names no side and no window of its SSIM: compare gaps, not values with it.")
        return "\n\n".join([*parts, *(f"warning: {warning}" for warning in self.warnings)])

    def _similarity(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("Set", "SSIM of", "References", "Set's", "Real", "Real less set")]
        for one in self.sets:
            for kind, what in (("vessel", "vessel maps"), ("photograph", "photographs")):
                for suffix, to in (("", "one"), ("_all", "all")):
                    stem = f"{kind}_ssim{suffix}"
                    cells = [words(one.figure(stem + end)) for end in ("", "_real", "_gap")]
                    if one.figure(stem):
                        rows.append((one.name, what, to, *cells))
        paper = [
            (f"paper: {name}", "vessel maps", "one", f"{value:.2f}", "0.78", f"{0.78 - value:.2f}")
            for name, value in self.paper_similarity.items() if not name.startswith("real")
        ]  # fmt: skip
        return [*rows, *paper]

    def _facts(self) -> list[tuple[str, ...]]:
        return [HEAD, *(one.fact.cells for one in self.sets), *(row.cells for row in self.paper_facts)]

    def _vessels(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("Set", "Measure", "Set's", "Real", "Cohen's d", "Equivalent")]
        for one in self.sets:
            for mean in one.figures:
                tested = one.figure(mean.name.removeprefix(f"{one.stem}_") + "_d")
                if tested is not None:
                    shown = {True: "yes", False: "not shown", None: "no test"}[equivalent(tested)]
                    real = "" if mean.real is None else f"{mean.real:.4g}"
                    title = f"{mean.title} ({mean.unit})" if mean.unit else mean.title
                    rows.append((one.name, title, words(mean), real, words(tested), shown))
        return rows

    def _leaks(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("Set", "Leaked share", "Nearest training tree", "Unrelated", "n")]
        for one in self.sets:
            if one.leak is not None:
                near = one.leak.nearest
                cells = (words(one.leak.share), words(near), f"{near.real:.3f}" if near.real else "")
                rows.append((one.name, *cells, str(near.n)))
        return rows


def line(figure: Figure, command: str) -> dict[str, Any]:
    """Return a figure as `docs/results/record.py` takes it."""
    return {
        "name": figure.name, "value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n,
        "unit": figure.unit or "1", "command": command,
    }  # fmt: skip


def slug(name: str) -> str:
    """Return a name as part of a figure's: lower case, underscores.

    >>> slug("VAE 512")
    'vae_512'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def words(figure: Figure | None) -> str:
    """Return value and interval, or why there is none."""
    if figure is None or figure.value is None:
        return "" if figure is None else f"none: {figure.reason}"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4g}"
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]"


def gap_in_words(figure: Figure, source: str, *, within: float) -> str:
    """Say whether training on drawn eyes alone comes within a bound of training on real ones."""
    if figure.value is None:
        return f"Synthetic eyes (trees: {source}) alone were not compared: {figure.reason}."
    near = "within" if figure.value <= within else "not within"
    sure = ""
    if figure.low is not None and figure.high is not None:
        settled = figure.high <= within or figure.low > within
        sure = "; the interval agrees" if settled else "; the interval does not settle it"
    return (
        f"Trained on synthetic eyes (trees: {source}) alone, F1 on held-out eyes is {words(figure)} below "
        f"training on real eyes ({figure.n} eyes): {near} {within:g}{sure}."
    )


def gain_in_words(figure: Figure, source: str) -> str:
    """Say whether adding drawn eyes to real ones makes a segmenter better on eyes of other cameras."""
    if figure.value is None:
        return f"Adding synthetic eyes (trees: {source}) was not judged on external eyes: {figure.reason}."
    what = f"Synthetic eyes (trees: {source}) added to real ones change F1 on external eyes by"
    return f"{what} {_above(figure, 'training on real eyes alone')}."


def over_in_words(figure: Figure, source: str, first: str) -> str:
    """Say whether the trees of one source are better to learn from than those of another."""
    if figure.value is None:
        return f"Trees of {source} were not held against those of {first}: {figure.reason}."
    what = (
        f"Trained on synthetic eyes alone, trees of {source} in place of {first} change F1 on held-out eyes"
    )
    return f"{what} by {_above(figure, f'trees of {first}')}."


def _above(figure: Figure, what: str) -> str:
    """Return a difference with its interval, and whether both say that it is above something."""
    verdict = "above" if figure.value is not None and figure.value > 0 else "not above"
    sure = ""
    if figure.low is not None and figure.high is not None:
        sure = "; the interval agrees" if figure.low > 0 or figure.high <= 0 else "; the interval holds zero"
    return f"{words(figure)} ({figure.n} eyes): {verdict} {what}{sure}"
