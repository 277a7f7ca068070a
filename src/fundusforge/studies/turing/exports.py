"""Answers as CSV files: `readers.csv`, `answers.csv`, and `timing.csv` with what else is known of times."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from fundusforge.records import write_text
from fundusforge.studies.turing.database import events, snapshot
from fundusforge.studies.turing.store import answered, everybody, name_of
from fundusforge.studies.turing.study import Key, Study

READERS, ANSWERS, TIMING, EVENTS = "readers.csv", "answers.csv", "timing.csv", "events.csv"
FILES = (READERS, ANSWERS, TIMING, EVENTS)


def export(engine: Engine, study: Study, key: Key, out: Path) -> dict[str, int]:
    """Write all files; returns the number of lines of each.

    Raises:
        OSError: A file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = tables(engine, study, key)
    for name, text in made.items():
        write_text(out / name, text)
    return {name: text.count("\n") - 1 for name, text in made.items()}


def tables(engine: Engine, study: Study, key: Key) -> dict[str, str]:
    """Return the texts of all files, as they are at one moment.

    `seconds` runs from the first paint of the picture to the choice, without the time in which the page was
    out of sight. In `timing.csv`, `elapsed` is the same with that time, `hidden` that time, `confirmed` runs
    to the confirmation, and `server` from the moment at which the server could send the picture to the moment
    at which the answer came: where it is less than `confirmed`, something is wrong.
    """
    with snapshot(engine) as connection:
        people = everybody(connection)
        given = answered(connection)
        happened = list(connection.execute(select(events).order_by(events.c.id)))
    started = [
        (one.name, one.specialty, _plain(one.years), _moment(one.started), _moment(one.finished))
        for one in people if one.started is not None
    ]  # fmt: skip
    said: list[Sequence[Any]] = []
    times: list[Sequence[Any]] = []
    for row in given:
        picture = study.pictures[row.picture]
        said.append((
            name_of(row.reader), row.position, picture.image, key.images[picture.image].truth,
            picture.condition, study.showing(row.reader, row.position), row.answer,
            f"{max(0.0, row.elapsed - row.hidden):.3f}", _plain(row.fidelity), row.marks,
        ))  # fmt: skip
        measured = (row.elapsed, row.hidden, row.confirmed, row.server)
        times.append((name_of(row.reader), row.position, *(f"{one:.3f}" for one in measured),
                      _moment(row.received)))  # fmt: skip
    log = [
        (_moment(row.time), "" if row.reader is None else name_of(row.reader), row.kind, _plain(row.position),
         row.detail)
        for row in happened
    ]  # fmt: skip
    return {
        READERS: _csv("reader,specialty,years,started,finished", started),
        ANSWERS: _csv("reader,position,image,truth,condition,showing,answer,seconds,fidelity,marks", said),
        TIMING: _csv("reader,position,elapsed,hidden,confirmed,server,received", times),
        EVENTS: _csv("time,reader,kind,position,detail", log),
    }


def _csv(head: str, rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head.split(","))
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: float | int | None) -> str:
    return "" if value is None else str(int(value) if value == int(value) else value)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
