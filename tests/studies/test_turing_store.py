"""Answers are stored once, survive, and are not mixed up: on SQLite, and on PostgreSQL where one is named.

FUNDUSFORGE_TEST_POSTGRES holds the address of a PostgreSQL database in which schemas may be made.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, text
from turing_study import rows, truths, two_folders

from fundusforge.studies.turing import database, store
from fundusforge.studies.turing.answers import read_answers
from fundusforge.studies.turing.database import Writer, connect, location, snapshot, transaction
from fundusforge.studies.turing.exports import export
from fundusforge.studies.turing.store import Given, Outcome
from fundusforge.studies.turing.study import Study, StudyError, read_key, read_study
from fundusforge.studies.turing.tokens import digest, ticket

POSTGRES = os.environ.get("FUNDUSFORGE_TEST_POSTGRES")


@pytest.fixture(scope="module")
def folder(drawn_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("turing") / "study"
    two_folders(drawn_folder).design(out, repeats=1, gap=1, orders=2)
    return out


@pytest.fixture
def study(folder: Path) -> Study:
    return read_study(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield location(tmp_path)
        return
    if not POSTGRES:
        pytest.skip("FUNDUSFORGE_TEST_POSTGRES names no database")
    name = f"turing_{uuid.uuid4().hex[:12]}"
    owner = connect(POSTGRES)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    yield f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}options=-csearch_path%3D{name}"
    with owner.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    owner.dispose()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = connect(url)
    yield made
    made.dispose()


def started(engine: Engine, count: int = 1) -> list[str]:
    """Invite readers who have begun; returns their tokens."""

    def job(connection: Any) -> list[str]:
        made = store.invite(connection, count)
        for name, _ in made:
            facts = {"consented": 1.0, "specialty": "resident", "years": 2.5, "started": 2.0}
            store.set_reader(connection, int(name[1:]), **facts)
        return [token for _, token in made]

    return transaction(engine, job)


def given(token: str, position: int, answer: str = "real", **further: Any) -> Given:
    times = {"elapsed": 1.0, "hidden": 0.25, "confirmed": 1.5}
    proof = {"ticket": ticket(token, position)}
    return Given(position=position, answer=answer, **(proof | times | further))  # type: ignore[arg-type]


def send(engine: Engine, study: Study, token: str, one: Given) -> Outcome:
    def job(connection: Any) -> Outcome:
        reader = store.reader_of(connection, token)
        assert reader is not None
        return store.answer(connection, reader, token, one, study)

    return transaction(engine, job)


def stored(engine: Engine) -> list[tuple[int, int, str]]:
    with snapshot(engine) as connection:
        return [(row.reader, row.position, row.answer) for row in store.answered(connection)]


def noted(engine: Engine) -> Counter[str]:
    with snapshot(engine) as connection:
        return Counter(connection.execute(select(database.events.c.kind)).scalars())


# ---- one answer a position ---------------------------------------------------------------------------------


def test_an_answer_is_stored_once_and_never_changed(engine: Engine, study: Study) -> None:
    (token,) = started(engine)
    first = given(token, 1, fidelity=4, marks="[]")
    assert send(engine, study, token, first) == "accepted"
    later = replace(first, elapsed=9.0, confirmed=9.5)
    assert send(engine, study, token, later) == "repeated", "the same answer, sent again"
    for other in (replace(first, answer="synthetic"), replace(first, fidelity=5), replace(first, marks="")):
        assert send(engine, study, token, other) == "changed"
    assert stored(engine) == [(1, 1, "real")]
    with snapshot(engine) as connection:
        (row,) = store.answered(connection)
    assert (row.elapsed, row.fidelity, row.marks) == (1.0, 4, "[]"), "the first stands"
    assert noted(engine) == {"changed": 3}


def test_only_the_next_position_can_be_answered(engine: Engine, study: Study) -> None:
    (token,) = started(engine)
    assert send(engine, study, token, given(token, 2)) == "stale"
    assert send(engine, study, token, given(token, 1)) == "accepted"
    assert send(engine, study, token, given(token, 3)) == "stale"
    assert [position for _, position, _ in stored(engine)] == [1]
    assert noted(engine) == {"stale": 2}


def test_what_no_page_could_send_is_forged(engine: Engine, study: Study) -> None:
    token, other = started(engine, 2)
    wrong = {"0": 0, "beyond": study.total + 1, "negative": -1}
    for position in wrong.values():
        assert send(engine, study, token, given(token, position)) == "forged"
    assert send(engine, study, token, replace(given(other, 1))) == "forged", "another reader's picture"
    assert send(engine, study, token, replace(given(token, 1), ticket=ticket(token, 2))) == "forged"
    assert stored(engine) == [] and noted(engine) == {"forged": 5}


def test_the_last_answer_ends_it(engine: Engine, study: Study) -> None:
    (token,) = started(engine)
    for position in range(1, study.total + 1):
        assert send(engine, study, token, given(token, position)) == "accepted"
    assert send(engine, study, token, given(token, study.total)) == "repeated", "its acknowledgement was lost"
    assert send(engine, study, token, given(token, study.total, "synthetic")) == "late"
    with snapshot(engine) as connection:
        reader = store.reader_of(connection, token)
    assert reader is not None and reader.step == "finished" and reader.answered == study.total


def test_who_has_not_begun_cannot_answer(engine: Engine, study: Study) -> None:
    (made,) = transaction(engine, lambda connection: store.invite(connection, 1))
    assert send(engine, study, made[1], given(made[1], 1)) == "stale"
    assert stored(engine) == []


def test_a_browser_cannot_have_looked_longer_than_the_server_waited(engine: Engine, study: Study) -> None:
    (token,) = started(engine)
    transaction(engine, lambda c: store.set_reader(c, 1, opened=time.time() - 10))
    assert send(engine, study, token, given(token, 1, confirmed=9.0)) == "accepted"
    assert noted(engine) == {}
    assert send(engine, study, token, given(token, 2, confirmed=9.0)) == "accepted"
    assert noted(engine) == {"time": 1}


# ---- at once -----------------------------------------------------------------------------------------------


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run jobs in threads that start together; returns their results."""
    barrier, results = threading.Barrier(len(jobs)), [None] * len(jobs)

    def run(place: int, job: Callable[[], Any]) -> None:
        barrier.wait()
        results[place] = job()

    threads = [threading.Thread(target=run, args=(place, job)) for place, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_several_answers_at_once_one_counts(url: str, engine: Engine, study: Study) -> None:
    """Each thread has connections of its own, as other processes would."""
    engines = [connect(url) for _ in range(6)]
    (token,) = started(engine)
    sent = ["real", "synthetic"] * 3

    def sends(mine: Engine, one: Given) -> Callable[[], Outcome]:
        return lambda: send(mine, study, token, one)

    for position in range(1, 4):
        every = [given(token, position, answer) for answer in sent]
        outcomes = at_once([sends(mine, one) for mine, one in zip(engines, every, strict=True)])
        assert Counter(outcomes) == {"accepted": 1, "repeated": 2, "changed": 3}
        assert stored(engine)[-1] == (1, position, sent[outcomes.index("accepted")])
    for one in engines:
        one.dispose()


def test_readers_at_once_lose_nothing(url: str, engine: Engine, study: Study) -> None:
    tokens = started(engine, 8)
    engines = [connect(url) for _ in tokens]

    def reads(mine: Engine, token: str) -> Callable[[], list[Outcome]]:
        places = range(1, study.total + 1)
        return lambda: [send(mine, study, token, given(token, place)) for place in places]

    for outcomes in at_once([reads(one, token) for one, token in zip(engines, tokens, strict=True)]):
        assert set(outcomes) == {"accepted"}
    assert [(reader, place) for reader, place, _ in stored(engine)] == [
        (reader, place) for reader in range(1, 9) for place in range(1, study.total + 1)
    ]
    for one in engines:
        one.dispose()


def test_the_writer_takes_a_hundred_jobs_in_few_transactions(engine: Engine, study: Study) -> None:
    tokens = started(engine, 100)
    commits = 0

    def counting(connection: Any, token: str) -> Outcome:
        reader = store.reader_of(connection, token)
        assert reader is not None
        return store.answer(connection, reader, token, given(token, 1), study)

    from sqlalchemy import event

    @event.listens_for(engine, "commit")
    def _count(_: Any) -> None:
        nonlocal commits
        commits += 1

    async def all_of_them() -> list[Outcome]:
        writer = Writer(engine)
        jobs = [writer(lambda c, token=token: counting(c, token)) for token in tokens]
        done = await asyncio.gather(*jobs)
        assert len(stored(engine)) == 100, "stored when acknowledged"
        await asyncio.to_thread(writer.close)
        return done

    assert set(asyncio.run(all_of_them())) == {"accepted"}
    assert commits < 60


def test_one_job_that_fails_takes_no_other_with_it(engine: Engine) -> None:
    async def mixed() -> list[Any]:
        writer = Writer(engine)

        def good(connection: Any) -> str:
            store.note(connection, "good")
            return "good"

        def twice(connection: Any) -> None:
            connection.execute(insert(database.facts).values(name="same", value="1"))
            connection.execute(insert(database.facts).values(name="same", value="2"))

        found = await asyncio.gather(*(writer(job) for job in (good, twice, good)), return_exceptions=True)
        await asyncio.to_thread(writer.close)
        return found

    one, failed, other = asyncio.run(mixed())
    assert one == other == "good" and isinstance(failed, Exception)
    assert noted(engine) == {"good": 2}
    with snapshot(engine) as connection:
        assert store.fact(connection, "same") is None


def test_a_lost_connection_is_made_anew(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no connection to lose")

    async def around() -> int:
        writer = Writer(engine)
        ours = await writer(lambda c: c.execute(text("SELECT pg_backend_pid()")).scalar_one())
        other = connect(str(POSTGRES))
        for job in (writer, writer.read):
            with other.begin() as connection:
                connection.execute(text(f"SELECT pg_terminate_backend({ours})"))
            await job(lambda c: store.everybody(c))
            ours = await job(lambda c: c.execute(text("SELECT pg_backend_pid()")).scalar_one())
        other.dispose()
        await writer(lambda c: store.note(c, "again"))
        await asyncio.to_thread(writer.close)
        return ours

    assert asyncio.run(around()) > 0
    assert noted(engine) == {"again": 1}


KILLED = """
import sys
from fundusforge.studies.turing import store
from fundusforge.studies.turing.database import connect, transaction
engine = connect(sys.argv[1])
for number in range(100000):
    transaction(engine, lambda connection: store.note(connection, "written", position=number))
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(url: str, engine: Engine) -> None:
    acknowledged = -1
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 60:
            process.send_signal(signal.SIGKILL)
    process.wait()
    with snapshot(engine) as connection:
        found = set(connection.execute(select(database.events.c.position)).scalars())
    assert found >= set(range(acknowledged + 1)) and acknowledged >= 60


# ---- invitations and the rest ------------------------------------------------------------------------------


def test_tokens_are_long_and_stored_nowhere(engine: Engine) -> None:
    made = transaction(engine, lambda connection: store.invite(connection, 20, label="clinic"))
    made += transaction(engine, lambda connection: store.invite(connection, 1))
    assert [name for name, _ in made] == [f"r{number:02d}" for number in range(1, 22)]
    assert len({token for _, token in made}) == 21
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for _, token in made)
    with snapshot(engine) as connection:
        kept = repr(list(connection.execute(select(database.readers))))
        first = store.reader_of(connection, made[0][1])
    assert not any(token in kept for _, token in made) and all(digest(token) in kept for _, token in made)
    assert first is not None and (first.name, first.label, first.step) == ("r01", "clinic", "consent")


def test_revoked_is_revoked(engine: Engine) -> None:
    tokens = started(engine, 2)
    assert transaction(engine, lambda connection: store.revoke(connection, ["r02"])) == ["r02"]
    with snapshot(engine) as connection:
        found = [store.reader_of(connection, token) for token in tokens]
    assert [one is not None and one.revoked is not None for one in found] == [False, True]
    with pytest.raises(StudyError, match=r"no reader 'r09'; expected some of r01, r02"):
        transaction(engine, lambda connection: store.revoke(connection, ["r01", "r09"]))
    with snapshot(engine) as connection:
        first = store.reader_of(connection, tokens[0])
    assert first is not None and first.revoked is None, "all or none"


def test_a_database_belongs_to_one_study(engine: Engine, study: Study) -> None:
    transaction(engine, lambda connection: store.claim(connection, study))
    transaction(engine, lambda connection: store.claim(connection, study))
    with pytest.raises(StudyError, match="another study"):
        transaction(engine, lambda connection: store.claim(connection, replace(study, sha256="0" * 64)))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is no database"),
        ("mysql://u@h/d", "SQLite or PostgreSQL, not mysql"),
        ("sqlite:////nowhere/at/all.db", "No such file|unable to open"),
        ("postgresql://nobody@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
def test_a_wrong_address_is_said(url: str, said: str) -> None:
    with pytest.raises((StudyError, OSError), match=said):
        connect(url)


def test_sqlite_is_durable_and_private(tmp_path: Path) -> None:
    engine = connect(location(tmp_path))
    with engine.begin() as connection:
        asked = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                 for name in ("journal_mode", "synchronous", "foreign_keys")}  # fmt: skip
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert (tmp_path / "answers.db").stat().st_mode & 0o077 == 0
    engine.dispose()


# ---- export ------------------------------------------------------------------------------------------------


def test_exports_are_what_the_statistics_read(
    engine: Engine, study: Study, folder: Path, tmp_path: Path
) -> None:
    tokens = started(engine, 3)
    transaction(engine, lambda connection: store.invite(connection, 1))  # never came
    for token, answer in zip(tokens, ("real", "synthetic", "real"), strict=True):
        for position in range(1, study.total + 1 if token != tokens[2] else 3):
            marks = '[{"x": 0.25, "y": 0.5, "word": "disc, or \\"cup\\""}]' if position == 2 else ""
            one = given(token, position, answer, fidelity=position, marks=marks, elapsed=position + 0.125)
            assert send(engine, study, token, one) == "accepted"
    lines = export(engine, study, read_key(folder), tmp_path)
    assert lines["readers.csv"] == 3 and lines["answers.csv"] == 2 * study.total + 2
    said = (tmp_path / "answers.csv").read_text("utf-8")
    people = (tmp_path / "readers.csv").read_text("utf-8")
    assert said.partition("\n")[0] == (
        "reader,position,image,truth,condition,showing,answer,seconds,fidelity,marks"
    )
    assert people.partition("\n")[0] == "reader,specialty,years,started,finished"
    known = truths(folder)
    for row in rows(said):
        reader, position = int(row["reader"][1:]), int(row["position"])
        picture = study.picture(reader, position)
        assert (row["image"], row["truth"]) == (picture.image, known[picture.image])
        assert row["showing"] == str(study.showing(reader, position))
        assert row["seconds"] == f"{position - 0.125:.3f}", "without the time out of sight"
    read = read_answers(tmp_path, unfinished=True)
    assert len(read.answers) == 2 * study.total + 2 and len(read.readers) == 3
    assert read.answers[1].marks == ({"x": 0.25, "y": 0.5, "word": 'disc, or "cup"'},)
    assert [reader.reader for reader in read_answers(tmp_path).readers] == ["r01", "r02"]
    assert len(read.repeats()) == 2
    times = rows((tmp_path / "timing.csv").read_text())
    assert (times[0]["elapsed"], times[0]["hidden"], times[0]["confirmed"]) == ("1.125", "0.250", "1.500")
