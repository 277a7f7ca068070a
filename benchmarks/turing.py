"""The image Turing test under load and under the knife: what is lost, what is doubled, how long it takes.

    python benchmarks/turing.py [--readers 100] [--images 100] [--kills 200] [--postgres URL] [--place FOLDER]

One server process, as `fundusforge turing serve` starts it; simulated readers go by HTTP through link,
consent, profile and instructions, fetch every picture and answer it. All of it runs on this machine.

- At once: every reader answers as soon as the picture is there. This is far beyond any study; what a reader
  waits is then the number of readers divided by the answers a second.
- Paced: every reader answers once in two seconds, the readers evenly spread. Latency counts from the moment
  at which the answer was due, so a reader who is kept waiting is not let off.
- Kills: readers answer without pause while the server is killed (SIGKILL) at random moments and started
  again. A reader who was not acknowledged sends the same answer again, as the page does.

Afterwards every acknowledged answer must stand in the database with the value that was acknowledged, and no
position twice. Prints JSON lines: `turing_p99_ms_sqlite` and `turing_p99_ms_postgres` (paced) and the same at
once, each with a 95 % interval by order statistics; `turing_lost_answers` and `turing_doubled_answers` over
everything; `turing_kills`. Fails if an answer is lost or doubled. PostgreSQL is that of --postgres, else a
temporary one on this machine's programs, else it is left out.

An answer waits for the disk, so what else writes to it counts. `disk_p99` and `disk_max` beside each latency
are milliseconds that flushing one block took in the meantime, in a file beside the database: no answer can be
quicker. --place says where studies and databases are made.
"""

from __future__ import annotations

import argparse
import asyncio
import glob
import hashlib
import json
import math
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sqlalchemy import text

from fundusforge import __version__
from fundusforge.config import to_json
from fundusforge.images import encode_image
from fundusforge.studies.turing import store
from fundusforge.studies.turing.database import connect, location, snapshot, transaction
from fundusforge.studies.turing.study import Key, Picture, Settings, Study, Truths, key_text
from fundusforge.studies.turing.tokens import csrf

PACE = 2.0
"""Seconds between two answers of a paced reader."""
Answers = dict[tuple[str, int], str]


class Disk(threading.Thread):
    """Flushes a block to the disk twenty times a second, and keeps how long that takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.file, self.going = folder / "disk", True
        self.seconds: list[float] = []

    def run(self) -> None:
        """Flush until told to stop."""
        with open(self.file, "wb", buffering=0) as file:
            while self.going:
                os.pwrite(file.fileno(), bytes(4096), 0)
                began = time.perf_counter()
                os.fsync(file.fileno())
                self.seconds.append(time.perf_counter() - began)
                time.sleep(0.05)

    def stop(self) -> dict[str, float]:
        """Return the figures."""
        self.going = False
        self.join()
        return {"disk_p99": quantile(self.seconds)[0], "disk_max": round(1000 * max(self.seconds), 1)}


@dataclass
class Tally:
    """What was acknowledged, and how long it took."""

    acknowledged: Answers = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    retries: int = 0
    wrong: int = 0
    """Responses that a page would not have expected."""


class Client:
    """One connection of a simulated reader: as much of HTTP as is needed."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token, self.csrf = port, token, csrf(token)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
        """Return status and body of a response."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: fundusforge={self.token}\r\n"
        if body or method == "POST":
            head += f"X-CSRF-Token: {self.csrf}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        try:
            writer.write(head.encode() + b"\r\n" + body)
            top = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(top.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            return int(top[9:12]), await reader.readexactly(length)
        except BaseException:
            self.close()
            raise

    async def form(self, path: str, fields: str) -> None:
        """Send a form that leads on to another page."""
        kind = "application/x-www-form-urlencoded"
        status, _ = await self.ask("POST", path, f"csrf={self.csrf}&{fields}".encode(), kind)
        assert status == 303, (path, status)

    async def begin(self) -> dict[str, Any]:
        """Come from the link to the first picture; returns the state."""
        status, _ = await self.ask("GET", f"/i/{self.token}")
        assert status == 200, status
        await self.form("/consent", "agree=on")
        await self.form("/profile", "specialty=resident&years=4")
        await self.form("/begin", "")
        await self.ask("GET", "/read")
        return json.loads((await self.ask("GET", "/state"))[1])

    def close(self) -> None:
        """Close the connection."""
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


async def answer(client: Client, state: dict[str, Any], tally: Tally, *, since: float) -> dict[str, Any]:
    """Answer until it is acknowledged; returns the next state."""
    said = random.choice(("real", "synthetic"))
    place = {"position": state["position"], "ticket": state["ticket"], "answer": said}
    times = {"elapsed": 0.001, "hidden": 0, "confirmed": 0.001, "fidelity": None, "marks": []}
    body = json.dumps(place | times).encode()
    while True:
        try:
            status, found = await client.ask("POST", "/answer", body, "application/json")
        except (OSError, asyncio.IncompleteReadError):
            tally.retries += 1
            await asyncio.sleep(0.05)
            continue
        if status == 200:
            tally.seconds.append(time.perf_counter() - since)
            tally.acknowledged[client.token, state["position"]] = said
            return json.loads(found)
        tally.wrong += 1
        assert status in {429, 503}, (status, found)
        await asyncio.sleep(0.1)


async def look(client: Client, state: dict[str, Any]) -> None:
    """Fetch the picture."""
    while not state["finished"]:
        try:
            status, _ = await client.ask("GET", f"/image/{state['position']}/{state['ticket']}")
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.05)
            continue
        assert status == 200, status
        return


async def crowd(port: int, tokens: list[str], *, pace: float) -> Tally:
    """Let all readers go through the study at the same time; with `pace` 0 each as fast as it can."""
    tally = Tally()
    clients = [Client(port, token) for token in tokens]
    states = [await client.begin() for client in clients]
    start = time.perf_counter() + 0.2

    async def reads(number: int) -> None:
        client, state = clients[number], states[number]
        due = start + pace * number / len(clients)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await look(client, state)
        while not state["finished"]:
            due += pace
            if pace:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            state = await answer(client, state, tally, since=due if pace else time.perf_counter())
            await look(client, state)

    await asyncio.gather(*(reads(number) for number in range(len(clients))))
    for client in clients:
        client.close()
    return tally


async def under_the_knife(server: Server, tokens: list[str], readers: int, kills: int) -> Tally:
    """Let readers answer, one after the other in `readers` queues, while the server is killed and started."""
    tally, left, going = Tally(), list(reversed(tokens)), True

    async def queue() -> None:
        while going and left:
            client = Client(server.port, left.pop())
            state: dict[str, Any] | None = None
            while state is None:
                try:
                    state = json.loads((await client.ask("GET", "/state"))[1])
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.05)
            while going and not state["finished"]:
                state = await answer(client, state, tally, since=time.perf_counter())
                await asyncio.sleep(0.02)
            client.close()

    queues = [asyncio.create_task(queue()) for _ in range(readers)]
    for number in range(kills):
        before = len(tally.acknowledged)
        while len(tally.acknowledged) == before:  # it serves again
            await asyncio.sleep(0.01)
        await asyncio.sleep(random.uniform(0, 0.5))
        server.kill()
        server.start()
        if sys.stderr.isatty() or number % 20 == 19:
            print(f"{number + 1} kills, {len(tally.acknowledged)} answers", file=sys.stderr)
        assert left, "more invitations are needed for so many kills"
    await asyncio.to_thread(server.wait)
    going = False
    await asyncio.gather(*queues)
    return tally


class Server:
    """A server process."""

    def __init__(self, folder: Path, database: str | None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["turing", "serve", str(folder), "--port", str(self.port), "--quiet"]
        words += ["--rate-address", "1e6", "--rate-token", "1e6"]
        words += ["--admin-token-file", str(folder / "token")]
        words += ["--database", database] if database else []
        self.command = [sys.executable, "-m", "fundusforge", *words]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert self.process is not None and self.process.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the server did not start")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def make_study(folder: Path, images: int, side: int) -> Study:
    """Freeze a study of clouds, which are as heavy as photographs."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    pictures: list[Picture] = []
    truths: dict[str, Truths] = {}
    for number in range(images):
        cloud = rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
        pixels = np.asarray(cv2.resize(cloud, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
        data = encode_image(pixels)
        digest = hashlib.sha256(data).hexdigest()
        file = f"images/{digest[:16]}.png"
        (folder / file).write_bytes(data)
        pictures.append(
            Picture(image=digest[16:32], condition="full", file=file, sha256=digest, width=side, height=side)
        )
        truths[digest[16:32]] = Truths(truth="real" if number % 2 else "synthetic", folder="", record={})
    key = key_text(Key(images=truths))
    (folder / "key.json").write_text(key)
    study = Study(
        version=__version__, settings=Settings(), resize="none", folders=(), pictures=tuple(pictures),
        orders=tuple(tuple(rng.permutation(images).tolist()) for _ in range(20)),
        key_sha256=hashlib.sha256(key.encode()).hexdigest(),
    ).sealed()  # fmt: skip
    (folder / "study.json").write_text(to_json(study))
    return study


def invited(url: str, study: Study, count: int, *, begun: bool = False) -> list[str]:
    """Make invitations; with `begun`, of readers who stand before the first picture."""

    def job(connection: Any) -> list[str]:
        store.claim(connection, study)
        made = store.invite(connection, count)
        if begun:
            for name, _ in made:
                facts = {"consented": 1.0, "specialty": "resident", "years": 2.0, "started": 1.0}
                store.set_reader(connection, int(name[1:]), **facts)
        return [token for _, token in made]

    engine = connect(url)
    try:
        return transaction(engine, job)
    finally:
        engine.dispose()


def missing(url: str, tallies: list[Tally]) -> tuple[int, int]:
    """Return how many acknowledged answers are not in the database, and how many stand there twice."""
    engine = connect(url)
    with snapshot(engine) as connection:
        rows = store.answered(connection)
        numbers = {
            token: reader.number
            for tally in tallies
            for token in {token for token, _ in tally.acknowledged}
            if (reader := store.reader_of(connection, token)) is not None
        }
    engine.dispose()
    stored = {(row.reader, row.position): row.answer for row in rows}
    lost = sum(
        stored.get((numbers[token], position)) != said
        for tally in tallies
        for (token, position), said in tally.acknowledged.items()
    )
    return lost, len(rows) - len(stored)


def quantile(seconds: list[float], share: float = 0.99) -> tuple[float, float, float]:
    """Return a quantile in milliseconds with its 95 % interval by order statistics."""
    ordered, n = sorted(seconds), len(seconds)
    spread = 1.96 * math.sqrt(n * share * (1 - share))
    ranks = (n * share, n * share - spread, n * share + spread)
    value, low, high = (1000 * ordered[min(n - 1, max(0, math.ceil(rank) - 1))] for rank in ranks)
    return round(value, 1), round(low, 1), round(high, 1)


@contextmanager
def postgres(url: str | None, where: Path | None) -> Iterator[str | None]:
    """Give an empty schema of a PostgreSQL server: the one named, else one that lives as long as this."""
    if url is not None:
        with schema(url) as own:
            yield own
        return
    found = [shutil.which("initdb"), *glob.glob("/usr/lib/postgresql/*/bin/initdb")]
    programs = next((Path(path).resolve().parent for path in found if path), None)
    if programs is None:
        print("no PostgreSQL here: left out", file=sys.stderr)
        yield None
        return
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir=where) as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        if as_user:
            shutil.chown(place, "postgres")
        data, sockets = f"{place}/data", f"-p {port} -c listen_addresses=127.0.0.1 -k {place}"
        control = [*as_user, str(programs / "pg_ctl"), "-D", data, "-w", "-l", f"{place}/log"]
        quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": place}
        subprocess.run(
            [*as_user, str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "turing"], **quiet
        )
        subprocess.run([*control, "-o", sockets, "start"], **quiet)
        try:
            with schema(f"postgresql://turing@127.0.0.1:{port}/postgres") as own:
                yield own
        finally:
            subprocess.run([*control, "-m", "fast", "stop"], **quiet)


@contextmanager
def schema(url: str) -> Iterator[str]:
    name = f"turing_{uuid.uuid4().hex[:12]}"
    owner = connect(url)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    try:
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
    finally:
        with owner.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        owner.dispose()


class Report:
    """Figures as JSON lines."""

    def __init__(self) -> None:
        self.lost = self.doubled = self.answers = 0

    def line(self, name: str, value: float, *, n: int, unit: str, **more: Any) -> None:
        """Print one figure."""
        figure = {"name": name, "value": value, "low": None, "high": None, "n": n, "unit": unit} | more
        print(json.dumps(figure | {"command": "python " + shlex.join(sys.argv)}), flush=True)

    def latency(self, name: str, tally: Tally, **more: Any) -> None:
        """Print the 99th percentile."""
        value, low, high = quantile(tally.seconds)
        median = quantile(tally.seconds, 0.5)[0]
        self.line(name, value, low=low, high=high, n=len(tally.seconds), unit="ms", median=median, **more)

    def check(self, url: str, tallies: list[Tally]) -> None:
        """Look for what was acknowledged."""
        lost, doubled = missing(url, tallies)
        self.lost += lost
        self.doubled += doubled
        self.answers += sum(len(tally.acknowledged) for tally in tallies)


def measure(options: argparse.Namespace, name: str, database: str | None, report: Report, kills: int) -> None:
    """Load one server, then kill it."""
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        folder = Path(place) / "study"
        study = make_study(folder, options.images, options.side)
        url = location(folder, database)
        server = Server(folder, database)
        tallies: list[Tally] = []
        first = invited(url, study, 2 * options.readers)
        more = invited(url, study, options.readers + 10 * kills, begun=True) if kills else []
        server.start()
        try:
            server.wait()
            for label, tokens, pace in (
                ("_at_once", first[: options.readers], 0.0), ("", first[options.readers :], PACE),
            ):  # fmt: skip
                began, disk = time.perf_counter(), Disk(folder)
                disk.start()
                tally = asyncio.run(crowd(server.port, tokens, pace=pace))
                rate = round(len(tally.seconds) / (time.perf_counter() - began), 1)
                found = disk.stop() | {"answers_per_second": rate}
                report.latency(f"turing_p99_ms_{name}{label}", tally, **found)
                tallies.append(tally)
            if kills:
                readers = min(30, options.readers)
                tally = asyncio.run(under_the_knife(server, more, readers, kills))
                tallies.append(tally)
                label = "" if name == "sqlite" else f"_{name}"
                answers = len(tally.acknowledged)
                report.line(f"turing_kills{label}", kills, n=answers, unit="kills", retries=tally.retries)
        finally:
            server.kill()
        report.check(url, tallies)


def main() -> int:
    parser = argparse.ArgumentParser(description="Load and crashes of the image Turing test")
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--side", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--kills", type=int, default=200, help="with SQLite; a tenth of it with PostgreSQL")
    parser.add_argument("--postgres", help="address of a database in which schemas may be made")
    parser.add_argument("--place", type=Path, help="folder in which studies and databases are made")
    options = parser.parse_args()
    random.seed(0)
    report = Report()
    measure(options, "sqlite", None, report, options.kills)
    with postgres(options.postgres, options.place) as url:
        if url is not None:
            measure(options, "postgres", url, report, options.kills // 10)
    report.line("turing_lost_answers", report.lost, n=report.answers, unit="answers")
    report.line("turing_doubled_answers", report.doubled, n=report.answers, unit="answers")
    return int(report.lost > 0 or report.doubled > 0)


if __name__ == "__main__":
    sys.exit(main())
