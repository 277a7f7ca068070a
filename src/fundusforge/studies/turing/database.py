"""Where answers are kept: SQLite in the study folder, or PostgreSQL.

All work on the database is done by one thread of a server, the `Writer`. What is asked of it while a
transaction is being committed goes together into the next one, so that a hundred readers who answer at once
wait for one or two flushes of the disk instead of for a hundred. Nobody is told that something was stored
before the commit that holds it has returned: with SQLite's `synchronous=FULL` and PostgreSQL's
`synchronous_commit=on` it is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Double,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from fundusforge.studies.turing.study import StudyError

T = TypeVar("T")
DATABASE = "answers.db"
_MOST = 256
"""Jobs of one transaction."""
_TRIES = 5
_WAIT_MS = 10_000
"""How long SQLite waits for another process that writes."""

metadata = MetaData()
facts = Table(
    "facts", metadata,
    Column("name", String(32), primary_key=True),
    Column("value", String(200), nullable=False),
)  # fmt: skip
readers = Table(
    "readers", metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("label", Text, nullable=False),
    Column("invited", Double, nullable=False),
    Column("consented", Double),
    Column("specialty", String(100)),
    Column("years", Double),
    Column("started", Double),
    Column("opened", Double),
    Column("finished", Double),
    Column("revoked", Double),
)  # fmt: skip
"""One line a reader; times are seconds since 1970 (UTC)."""
answers = Table(
    "answers", metadata,
    Column("reader", ForeignKey("readers.id"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("picture", Integer, nullable=False),
    Column("answer", String(9), nullable=False),
    Column("elapsed", Double, nullable=False),
    Column("hidden", Double, nullable=False),
    Column("confirmed", Double, nullable=False),
    Column("server", Double, nullable=False),
    Column("fidelity", Integer),
    Column("marks", Text, nullable=False),
    Column("received", Double, nullable=False),
)  # fmt: skip
"""One line a reader and position, which the primary key keeps from ever being two."""
events = Table(
    "events", metadata,
    Column("id", Integer, primary_key=True),
    Column("time", Double, nullable=False),
    Column("reader", Integer),
    Column("kind", String(20), nullable=False),
    Column("position", Integer),
    Column("detail", Text, nullable=False),
)  # fmt: skip
"""What else happened: what was refused, when pages were opened, when the server was started."""


def location(folder: Path, url: str | None = None) -> str:
    """Return the address of a study's database: `url`, else SQLite in its folder."""
    return url or f"sqlite:///{Path(folder).absolute() / DATABASE}"


def connect(url: str) -> Engine:
    """Return an engine whose commits are durable, with all tables made.

    Raises:
        StudyError: The address is none, of another kind, or cannot be reached.
    """
    try:
        address = make_url(url)
    except ArgumentError:
        raise StudyError(
            f"{url!r} is no database; expected sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    if address.drivername in {"postgres", "postgresql"}:
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StudyError(f"expected a database of SQLite or PostgreSQL, not {address.get_backend_name()}")
    try:
        engine = _sqlite(address) if address.get_backend_name() == "sqlite" else _postgresql(address)
        metadata.create_all(engine)
    except DBAPIError as error:
        raise StudyError(f"{address.render_as_string()}: {str(error.orig).strip()}") from None
    except ModuleNotFoundError as error:
        raise StudyError(f"PostgreSQL needs {error.name}: pip install 'fundusforge[study]'") from None
    return engine


def _sqlite(address: Any) -> Engine:
    if address.database and not Path(address.database).exists():
        with suppress(FileExistsError):
            os.close(os.open(address.database, os.O_CREAT | os.O_EXCL, 0o600))
    engine = create_engine(address)

    @event.listens_for(engine, "connect")
    def _durable(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions are begun below
        for setting in (
            f"busy_timeout={_WAIT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _postgresql(address: Any) -> Engine:
    engine = create_engine(address)  # a connection that was lost is noticed, and `transaction` tries anew

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _: object) -> None:
        connection.execute("SET synchronous_commit TO on")
        connection.commit()

    return engine


def snapshot(engine: Engine) -> AbstractContextManager[Connection]:
    """Return a transaction that only reads, and sees everything as it is at one moment."""
    level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    return engine.execution_options(reads=True, **level).begin()


def reading(engine: Engine) -> Engine:
    """Return it for single statements that only read, which need no transaction."""
    level = {"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {}
    return engine.execution_options(reads=True, **level)


Job = Callable[[Connection], Any]


@dataclass(frozen=True)
class _Asked:
    job: Job
    done: asyncio.Future[Any]
    writes: bool


class Writer:
    """One thread that does all work on the database, in as few transactions as may be."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = reading(engine)
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    async def __call__(self, job: Callable[[Connection], T]) -> T:
        """Run `job(connection)`; return its result when the transaction that holds it is on the disk.

        A job may be run more than once, each time in a new transaction; only the last one counts.
        """
        return await self._ask(job, writes=True)

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Run a job of one statement that only reads."""
        return await self._ask(job, writes=False)

    async def _ask(self, job: Callable[[Connection], T], *, writes: bool) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.put(_Asked(job, done, writes))
        return await done

    def close(self) -> None:
        """Finish what was asked, and end."""
        self._asked.put(None)
        self._thread.join()
        self.engine.dispose()

    def _work(self) -> None:
        going = True
        while going:
            batch = [self._asked.get()]
            while len(batch) < _MOST and batch[-1] is not None:
                try:
                    batch.append(self._asked.get_nowait())
                except queue.Empty:
                    break
            going = batch[-1] is not None
            if asked := [one for one in batch if one is not None]:
                results = self._commit(asked)
                with suppress(RuntimeError):  # the server is gone, and so is who asked
                    asked[0].done.get_loop().call_soon_threadsafe(_tell, asked, results)

    def _commit(self, asked: Sequence[_Asked]) -> list[Any]:
        """Run all in one transaction; if one of them fails, each in its own."""
        engine = self.engine if any(one.writes for one in asked) else self._reading
        try:
            return transaction(engine, lambda connection: [one.job(connection) for one in asked], tries=1)
        except Exception:
            return [self._alone(one) for one in asked]

    def _alone(self, one: _Asked) -> Any:
        try:
            return transaction(self.engine if one.writes else self._reading, one.job)
        except Exception as error:
            return _Failed(error)


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _tell(asked: Sequence[_Asked], results: Sequence[Any]) -> None:
    """Hand results to those who wait for them, within their loop."""
    for one, result in zip(asked, results, strict=True):
        if one.done.done():  # whoever asked has gone
            continue
        if isinstance(result, _Failed):
            one.done.set_exception(result.error)
        else:
            one.done.set_result(result)


def transaction(engine: Engine, job: Callable[[Connection], T], *, tries: int = _TRIES) -> T:
    """Run `job(connection)` in one transaction, anew where another process was in the way.

    Raises:
        DBAPIError: The database cannot be reached, or was in the way all the time.
    """
    while True:
        tries -= 1
        try:
            with engine.begin() as connection:
                return job(connection)
        except DBAPIError:
            if tries <= 0:
                raise
