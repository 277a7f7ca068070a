"""Readers and their answers: what is stored, what is refused, and what is exported.

Every function works within the caller's transaction. A reader is where the answers end: the position to be
judged next is one more than the last that was answered, so no page can skip, repeat or change one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.engine import Connection

from fundusforge.studies.turing.database import answers, events, facts, readers
from fundusforge.studies.turing.study import Study, StudyError, Truth
from fundusforge.studies.turing.tokens import digest, new_token, same, ticket

SLACK = 2.0
"""Seconds by which a browser's time may exceed the server's before that is noted."""
Outcome = Literal["accepted", "repeated", "changed", "stale", "late", "forged"]
Step = Literal["consent", "profile", "instructions", "read", "finished"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader as stored."""

    number: int
    label: str
    consented: float | None
    specialty: str | None
    years: float | None
    started: float | None
    opened: float | None
    finished: float | None
    revoked: float | None
    answered: int
    """Positions that have an answer."""
    last: float | None
    """When the last answer came."""

    @property
    def name(self) -> str:
        """As in exports."""
        return name_of(self.number)

    @property
    def step(self) -> Step:
        """What the reader has to do next."""
        if self.finished is not None:
            return "finished"
        if self.consented is None:
            return "consent"
        if self.specialty is None:
            return "profile"
        return "instructions" if self.started is None else "read"


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer as a browser sends it; times in seconds from the picture's first paint."""

    position: int
    ticket: str
    answer: Truth
    elapsed: float
    """Until the answer was chosen."""
    hidden: float
    """Of it, with the page out of sight."""
    confirmed: float
    """Until it was confirmed."""
    fidelity: int | None = None
    marks: str = ""
    """JSON list, or empty."""


def name_of(number: int) -> str:
    """Return a reader's name.

    >>> name_of(7), name_of(123)
    ('r07', 'r123')
    """
    return f"r{number:02d}"


_LAST = (
    select(answers.c.position)
    .where(answers.c.reader == readers.c.id)
    .order_by(answers.c.position.desc())
    .limit(1)
    .scalar_subquery()
)
_WHEN = (
    select(answers.c.received)
    .where(answers.c.reader == readers.c.id)
    .order_by(answers.c.position.desc())
    .limit(1)
    .scalar_subquery()
)
_READERS = select(readers, _LAST.label("answered"), _WHEN.label("last"))
_READER = _READERS.where(readers.c.token == bindparam("digest"))
_BEFORE = select(answers).where(
    answers.c.reader == bindparam("number"), answers.c.position == bindparam("place")
)
_ANSWER, _EVENT = insert(answers), insert(events)


def claim(connection: Connection, study: Study) -> None:
    """Bind the database to a study.

    Raises:
        StudyError: It holds the answers to another one.
    """
    known = fact(connection, "study")
    if known is None:
        set_fact(connection, "study", study.sha256)
    elif known != study.sha256:
        raise StudyError(f"the database belongs to another study ({known[:12]}, not {study.sha256[:12]})")


def fact(connection: Connection, name: str) -> str | None:
    """Return what is stored under a name."""
    return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar_one_or_none()


def set_fact(connection: Connection, name: str, value: str) -> None:
    """Store a value under a name."""
    done = connection.execute(update(facts).where(facts.c.name == name).values(value=value))
    if not done.rowcount:
        connection.execute(insert(facts).values(name=name, value=value))


def invite(connection: Connection, count: int, *, label: str = "") -> list[tuple[str, str]]:
    """Make readers; returns the name and the token of each, which is stored nowhere."""
    last = connection.execute(select(func.max(readers.c.id))).scalar_one() or 0
    made = [(number, new_token()) for number in range(last + 1, last + count + 1)]
    rows = [
        {"id": number, "token": digest(token), "label": label, "invited": time.time()}
        for number, token in made
    ]
    connection.execute(insert(readers), rows)
    return [(name_of(number), token) for number, token in made]


def revoke(connection: Connection, names: Iterable[str]) -> list[str]:
    """Take invitations back; what was answered stays. Returns the names.

    Raises:
        StudyError: There is no such reader.
    """
    known = {reader.name: reader for reader in everybody(connection)}
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise StudyError(f"no reader {name!r}; expected some of {', '.join(known) or 'none yet'}")
        number = known[name].number
        connection.execute(update(readers).where(readers.c.id == number).values(revoked=time.time()))
        note(connection, "revoked", reader=number)
    return wanted


def reader_of(connection: Connection, token: str) -> Reader | None:
    """Return who holds a token, revoked or not."""
    row = connection.execute(_READER, {"digest": digest(token)}).one_or_none()
    return None if row is None else _reader(row)


def everybody(connection: Connection) -> list[Reader]:
    """Return all readers by number."""
    return [_reader(row) for row in connection.execute(_READERS.order_by(readers.c.id))]


def _reader(row: Row[Any]) -> Reader:
    return Reader(
        number=row.id, label=row.label, consented=row.consented, specialty=row.specialty, years=row.years,
        started=row.started, opened=row.opened, finished=row.finished, revoked=row.revoked,
        answered=row.answered or 0, last=row.last,
    )  # fmt: skip


def set_reader(connection: Connection, number: int, **values: Any) -> None:
    """Store facts of a reader."""
    connection.execute(update(readers).where(readers.c.id == number).values(**values))


def note(
    connection: Connection,
    kind: str,
    *,
    reader: int | None = None,
    position: int | None = None,
    detail: str = "",
) -> None:
    """Write an event down."""
    row = {"time": time.time(), "reader": reader, "kind": kind, "position": position, "detail": detail[:500]}
    connection.execute(_EVENT, row)


def answer(connection: Connection, reader: Reader, token: str, given: Given, study: Study) -> Outcome:
    """Store an answer, or refuse it and write that down.

    Args:
        connection: Within a transaction.
        reader: As `reader_of` returned within the same transaction.
        token: The reader's.
        given: What came.
        study: What it answers to.

    Returns:
        `accepted`: stored now. `repeated`: the same was stored before. `changed`: another was stored before.
        `late`: after the end. `stale`: the reader is elsewhere, or has not begun. `forged`: no such picture.
    """
    found = _judged(connection, reader, token, given, study)
    if found == "accepted":
        _store(connection, reader, given, study)
    elif found != "repeated":
        note(connection, found, reader=reader.number, position=given.position, detail=_told(given))
    return found


def _judged(connection: Connection, reader: Reader, token: str, given: Given, study: Study) -> Outcome:
    if not (1 <= given.position <= study.total and same(given.ticket, ticket(token, given.position))):
        return "forged"
    if given.position <= reader.answered:
        before = connection.execute(_BEFORE, {"number": reader.number, "place": given.position}).one()
        if (before.answer, before.fidelity, before.marks) == (given.answer, given.fidelity, given.marks):
            return "repeated"
        return "late" if reader.step == "finished" else "changed"
    return "accepted" if reader.step == "read" and given.position == reader.answered + 1 else "stale"


def _store(connection: Connection, reader: Reader, given: Given, study: Study) -> None:
    now = time.time()
    since = max(reader.opened or 0.0, reader.last or 0.0)
    server = max(0.0, now - since)
    row = {
        "reader": reader.number, "position": given.position,
        "picture": study.order(reader.number)[given.position - 1], "answer": given.answer,
        "elapsed": given.elapsed, "hidden": given.hidden, "confirmed": given.confirmed, "server": server,
        "fidelity": given.fidelity, "marks": given.marks, "received": now,
    }  # fmt: skip
    connection.execute(_ANSWER, row)
    if given.confirmed > server + SLACK:
        detail = f"browser {given.confirmed:.3f} s, server {server:.3f} s"
        note(connection, "time", reader=reader.number, position=given.position, detail=detail)
    if given.position == study.total:
        set_reader(connection, reader.number, finished=now)


def _told(given: Given) -> str:
    return json.dumps({"answer": given.answer, "fidelity": given.fidelity, "marks": given.marks[:200]})


def answered(connection: Connection, numbers: Sequence[int] | None = None) -> list[Row[Any]]:
    """Return answers, by reader and position; of all readers if None."""
    wanted = select(answers).order_by(answers.c.reader, answers.c.position)
    if numbers is not None:
        wanted = wanted.where(answers.c.reader.in_(numbers))
    return list(connection.execute(wanted))
