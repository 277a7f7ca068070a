"""The web application: a whole study, what it refuses, what it never tells, the headers of every response."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from turing_study import Folders, hidden, invited, rows, truths, two_folders

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.studies.turing import database, store
from fundusforge.studies.turing.app import application, check
from fundusforge.studies.turing.database import connect, location, snapshot, transaction
from fundusforge.studies.turing.site import ServeConfig
from fundusforge.studies.turing.study import StudyError, read_key, read_study
from fundusforge.studies.turing.texts import read_texts
from fundusforge.studies.turing.tokens import csrf, ticket

Folder = Callable[..., Path]
TEXTS = Path(store.__file__).parent / "texts"


@pytest.fixture(scope="module")
def folders(drawn_folder: Folder) -> Folders:
    return two_folders(drawn_folder)


@pytest.fixture(scope="module")
def frozen(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with nothing but the question."""
    out = tmp_path_factory.mktemp("turing") / "study"
    folders.design(out, repeats=1)
    return out


@pytest.fixture(scope="module")
def asking(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that also asks for a score and marks, and tells at the end."""
    out = tmp_path_factory.mktemp("turing") / "asking"
    folders.design(out, fidelity=True, marks=True, score=True)
    return out


Open = Callable[..., "Session"]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Serve a copy of a study, with one invitation."""
    clients: list[TestClient] = []

    def make(study: Path, *, base: str = "http://testserver", **settings: Any) -> Session:
        place = tmp_path / f"{len(clients)}"
        shutil.copytree(study, place)
        check(ServeConfig(study=place))
        (token,) = invited(place)
        config = ServeConfig(study=place, **{"rate_address": 1e4, "rate_token": 1e4} | settings)
        client = TestClient(application(config), base_url=base)
        client.__enter__()
        clients.append(client)
        return Session(client, place, token)

    yield make
    for client in clients:
        client.__exit__()


class Session:
    """A reader's browser, without a screen."""

    def __init__(self, client: TestClient, place: Path, token: str) -> None:
        self.client, self.place, self.token = client, place, token
        self.csrf = csrf(token)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def post(self, path: str, **fields: str) -> Any:
        return self.client.post(path, data={"csrf": self.csrf} | fields)

    def enter(self) -> dict[str, Any]:
        """Come as far as the first picture; returns the state."""
        self.get(f"/i/{self.token}")
        self.post("/consent", agree="on")
        self.post("/profile", specialty="resident", years="4")
        assert self.post("/begin").url.path == "/read"
        return self.state()

    def state(self) -> dict[str, Any]:
        return self.get("/state").json()

    def body(self, state: dict[str, Any], answer: str = "real", **more: Any) -> dict[str, Any]:
        given = {"position": state["position"], "ticket": state["ticket"], "answer": answer}
        times = {"elapsed": 0.01, "hidden": 0, "confirmed": 0.01, "fidelity": None, "marks": []}
        return given | times | more

    def send(self, body: Any, **headers: str) -> Any:
        return self.client.post("/answer", json=body, headers={"x-csrf-token": self.csrf} | headers)

    def answer(self, state: dict[str, Any], answer: str = "real", **more: Any) -> Any:
        return self.send(self.body(state, answer, **more))

    def events(self) -> Counter[str]:
        with snapshot(connect(location(self.place))) as connection:
            kinds = connection.execute(select(database.events.c.kind)).scalars()
            return Counter(kind for kind in kinds if kind not in {"served", "opened"})

    def stored(self) -> list[tuple[int, int, str]]:
        with snapshot(connect(location(self.place))) as connection:
            return [(row.reader, row.position, row.answer) for row in store.answered(connection)]


def admin_token(place: Path) -> str:
    file = place.parent / "token"
    assert check(ServeConfig(study=place), admin_token_file=file) is None
    return file.read_text().strip()


# ---- a whole study -----------------------------------------------------------------------------------------


def test_a_reader_goes_through_a_whole_study(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    page = session.get(f"/i/{session.token}")
    assert page.status_code == 200 and "You will see 8 pictures" in page.text
    assert hidden(page.text) == session.csrf
    assert "tick the box" in session.post("/consent").text
    assert session.post("/consent", agree="on").url.path == "/profile"
    for wrong in ({"specialty": "resident", "years": "-1"}, {"specialty": "king", "years": "3"},
                  {"specialty": "resident", "years": "nan"}, {"specialty": "resident"}):  # fmt: skip
        refused = session.post("/profile", **wrong)
        assert refused.status_code == 422 and "from 0 to 70" in refused.text
    assert session.post("/profile", specialty="resident", years="2,5").url.path == "/instructions"
    assert session.post("/profile", specialty="retinal specialist", years="12").url.path == "/instructions"
    read = session.post("/begin")
    assert read.url.path == "/read" and "Picture 1 of 8" in read.text
    state = session.state()
    for position in range(1, 9):
        assert (state["position"], state["total"], state["finished"]) == (position, 8, False)
        assert session.get(f"/image/{position}/{state['ticket']}").headers["content-type"] == "image/png"
        answered = session.answer(state, "real" if position % 2 else "synthetic")
        assert answered.status_code == 200
        state = answered.json()
    assert state["finished"] and state["ticket"] is None
    end = session.get("/read")
    assert end.url.path == "/finished" and "all 8 pictures" in end.text
    assert "were right" not in end.text, "no score unless the design says so"
    back = session.get(f"/i/{session.token}", follow_redirects=False)
    assert back.status_code == 200 and "all 8 pictures" in back.text, "no redirection out of a mail"
    assert len(session.stored()) == 8 and session.events() == {}
    assert session.post("/profile", specialty="resident", years="1").url.path == "/finished"
    with snapshot(connect(location(session.place))) as connection:
        (reader,) = store.everybody(connection)
    assert (reader.specialty, reader.years) == ("retinal specialist", 12.0)


def test_each_page_leads_where_the_reader_is(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    session.get(f"/i/{session.token}")
    for path in ("/profile", "/instructions", "/read", "/finished"):
        assert session.get(path).url.path == "/consent"
    session.enter()
    for path in ("/consent", "/profile", "/instructions", "/finished"):
        assert session.get(path).url.path == "/read"
    assert "0 of 8 pictures" in session.get("/pause").text


def test_a_reader_comes_back_by_the_link_or_the_cookie(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    session.answer(state)
    assert session.get("/read").text.count("Picture 2 of 8") == 1
    session.client.cookies.clear()
    assert session.get("/read").status_code == 403
    assert "1 of 8 pictures" in session.get(f"/i/{session.token}").text
    assert session.state()["position"] == 2
    assert "Continue the study" in session.get("/").text
    session.post("/leave")
    assert session.get("/state").status_code == 403 and "Continue the study" not in session.get("/").text


def test_score_and_marks_are_asked_and_kept(opened: Open, asking: Path) -> None:
    session = opened(asking)
    state, known = session.enter(), truths(asking)
    study, right = read_study(asking), 0
    page = session.get("/read").text
    assert page.count('class="score"') == 10 and 'data-word="vessels"' in page
    while not state["finished"]:
        picture = study.picture(1, state["position"])
        marks = [{"x": 0.25, "y": 1, "word": "disc"}] if state["position"] == 1 else []
        right += known[picture.image] == "synthetic"
        answered = session.answer(state, "synthetic", fidelity=state["position"], marks=marks)
        assert answered.status_code == 200, answered.text
        state = answered.json()
    assert f"{right} of your 7 answers" in session.get("/finished").text
    with snapshot(connect(location(session.place))) as connection:
        first, second, *_ = store.answered(connection)
    assert json.loads(first.marks) == [{"x": 0.25, "y": 1.0, "word": "disc"}] and second.marks == ""
    assert (first.fidelity, second.fidelity) == (1, 2)


NO_ANSWERS: tuple[dict[str, Any], ...] = (
    {"fidelity": None}, {"fidelity": 0}, {"fidelity": 11}, {"fidelity": "4"}, {"fidelity": 4.5},
    {"answer": "maybe"}, {"elapsed": -1}, {"elapsed": "1"}, {"hidden": 5}, {"elapsed": 0.5},
    {"elapsed": 1e9}, {"marks": [{"x": 2, "y": 0, "word": "disc"}]}, {"marks": "disc"},
    {"marks": [{"x": 0, "y": 0, "word": "nonsense"}]}, {"marks": [{"x": 0, "y": 0, "word": "disc"}] * 21},
    {"extra": 1}, {"position": "1"}, {"position": None}, {"ticket": "x" * 65},
)  # fmt: skip
NO_BODIES = (b"", b"{", b"[]", b"null", b"\xff", b'{"elapsed": NaN}', b"[" * 60_000)


def test_what_no_page_sends_is_refused(opened: Open, asking: Path) -> None:
    session = opened(asking)
    good = session.body(session.enter(), fidelity=5)
    for change in NO_ANSWERS:
        assert session.send(good | change).status_code == 422, change
    for body in NO_BODIES:
        sent = session.client.post("/answer", content=body, headers={"x-csrf-token": session.csrf})
        assert sent.status_code == 422, body[:20]
    assert session.stored() == []
    assert session.events() == {"malformed": len(NO_ANSWERS) + len(NO_BODIES)}
    assert session.send(good).status_code == 200


def test_a_score_that_nobody_asked_for_is_refused(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    assert session.answer(state, fidelity=5).status_code == 422
    assert session.answer(state, marks=[{"x": 0, "y": 0, "word": "disc"}]).status_code == 422


# ---- once, in order, by the right one ----------------------------------------------------------------------


def test_a_double_click_is_one_answer(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    first, again = session.answer(state), session.answer(state, elapsed=0.5, confirmed=0.5)
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    other = session.answer(state, "synthetic")
    assert other.status_code == 409 and other.json()["refused"] == "changed"
    assert other.json()["state"] == first.json(), "a stale page is told where the reader is"
    assert session.stored() == [(1, 1, "real")] and session.events() == {"changed": 1}


def test_late_and_stale_answers_are_refused(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    ahead = {"position": 3, "ticket": ticket(session.token, 3)}
    assert session.answer(ahead).json()["refused"] == "stale"
    seen = []
    while not state["finished"]:
        seen.append(state)
        state = session.answer(state).json()
    late = session.answer(seen[2], "synthetic")
    assert late.status_code == 409 and late.json() == {"refused": "late", "state": state}
    assert session.answer(seen[-1]).status_code == 200, "only the acknowledgement was lost"
    assert session.events() == {"stale": 1, "late": 1} and len(session.stored()) == 8


def test_forged_answers_are_refused(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    (other,) = invited(session.place)
    for forged in ({"position": 1, "ticket": ticket(other, 1)}, {"position": 99, "ticket": "0" * 32},
                   {"position": 1, "ticket": state["next"]}, {"position": 0, "ticket": ""}):  # fmt: skip
        assert session.answer(forged).status_code == 404
    assert session.events() == {"forged": 4} and session.stored() == []


def test_pictures_are_for_their_reader_and_their_moment(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    (other,) = invited(session.place)
    path = "/image/{}/{}".format

    def status(position: Any, name: str) -> int:
        return session.get(path(position, name)).status_code

    assert status(1, state["ticket"]) == status(2, state["next"]) == 200
    assert status(3, ticket(session.token, 3)) == 404, "not yet"
    session.answer(state)
    assert status(1, state["ticket"]) == 404, "no way back"
    for position, name in ((2, ticket(other, 2)), (2, "x"), ("..", "x"), (2**70, "x"), ("2a", "x")):
        assert status(position, name) == 404
    assert session.get(path(2, "%2e%2e%2fkey.json")).status_code == 404
    names = [p.name for p in session.place.rglob("*.*")]
    for name in names:
        for place in ("", "static/", "images/", "image/1/", "static/..%2f"):
            assert session.get(f"/{place}{name}").status_code == 404


def test_nobody_comes_in_without_a_valid_link(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    session.client.cookies.clear()
    for token in ("x" * 43, "short", session.token[:-1] + "_", session.token.swapcase()):
        assert session.get(f"/i/{token}").status_code == 403
    for path in ("/consent", "/profile", "/instructions", "/read", "/state", "/pause", "/finished",
                 f"/image/1/{state['ticket']}"):  # fmt: skip
        assert session.get(path).status_code == 403
        assert session.get(path, headers={"cookie": "fundusforge=" + "y" * 43}).status_code == 403
    assert session.answer(state).status_code == 403
    assert session.stored() == [] and session.events()["unknown"] >= 8


def test_a_revoked_reader_is_out_at_once(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    assert main(["turing", "revoke", str(session.place), "--readers", "r01"]) == 0
    refused = session.answer(state)
    assert refused.status_code == 403 and "taken back" in refused.json()["reason"]
    for path in ("/read", "/state", f"/image/1/{state['ticket']}", f"/i/{session.token}"):
        assert session.get(path).status_code == 403
    assert session.stored() == [] and session.events() == {"revoked": 1, "refused": 5}


def test_two_readers_do_not_mix(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    first = session.enter()
    (token,) = invited(session.place)
    mine, theirs = dict(session.client.cookies), Session(session.client, session.place, token)
    session.client.cookies.clear()
    second = theirs.enter()
    assert second["ticket"] != first["ticket"]
    theirs.answer(second, "synthetic")
    assert session.send(session.body(first)).status_code == 403, "one's page in the other's session"
    session.client.cookies.clear()
    session.client.cookies.update(mine)
    session.answer(first)
    assert session.stored() == [(1, 1, "real"), (2, 1, "synthetic")]


def test_requests_from_elsewhere_are_refused(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    for proof in ("", "0" * 32, csrf("x" * 43)):
        assert session.send(session.body(state), **{"x-csrf-token": proof}).status_code == 403
    for site in ("cross-site", "same-site"):
        assert session.send(session.body(state), **{"sec-fetch-site": site}).status_code == 403
    for path in ("/consent", "/profile", "/begin", "/leave"):
        assert session.client.post(path, data={"agree": "on", "csrf": "0" * 32}).status_code == 403
        assert session.client.post(path, data={"agree": "on"}).status_code == 403
    assert session.stored() == []
    assert session.send(session.body(state), **{"sec-fetch-site": "same-origin"}).status_code == 200


def test_an_unreachable_database_is_a_pause_not_a_loss(
    opened: Open, frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    session = opened(frozen)
    state = session.enter()

    def broken(*_: Any) -> Any:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(store, "_store", broken)
    refused = session.answer(state)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "2"
    monkeypatch.undo()
    assert session.answer(state).status_code == 200 and session.stored() == [(1, 1, "real")]


# ---- what is never told ------------------------------------------------------------------------------------


def transcript(session: Session) -> list[tuple[str, int, Any, bytes]]:
    """Everything that a reader is sent from the link to the last answer."""
    said: list[tuple[str, int, Any, bytes]] = []

    def keep(response: Any) -> Any:
        sent = sorted((k, v) for k, v in response.headers.items() if k != "set-cookie")
        said.append((str(response.url), response.status_code, sent, response.content))
        return response

    keep(session.get(f"/i/{session.token}"))
    keep(session.post("/consent", agree="on"))
    keep(session.post("/profile", specialty="resident", years="4"))
    keep(session.post("/begin"))
    state = session.state()
    for name in ("turing.js", "turing.css", "turing.svg"):
        keep(session.get(f"/static/{name}"))
    for turn in range(8):
        keep(session.get("/read"))
        keep(session.get("/state"))
        keep(session.get("/pause"))
        keep(session.get(f"/image/{state['position']}/{state['ticket']}"))
        state = keep(session.answer(state, "real" if turn % 3 else "synthetic")).json()
        keep(session.answer({"position": 1, "ticket": ticket(session.token, 1)}, "real"))
    return said


def test_nothing_that_a_reader_is_sent_depends_on_the_truth(
    opened: Open, frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same study with every truth turned round is, to a reader, the same byte for byte."""
    turned = tmp_path / "turned"
    shutil.copytree(frozen, turned)
    key, other = read_key(turned), {"real": "synthetic", "synthetic": "real"}
    images = {n: replace(e, truth=other[e.truth]) for n, e in key.images.items()}  # type: ignore[arg-type]
    from fundusforge.studies.turing.study import key_text

    text = key_text(replace(key, images=images))
    (turned / "key.json").write_text(text)
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    (turned / "study.json").write_text(to_json(replace(read_study(frozen), key_sha256=digest).sealed()))
    monkeypatch.setattr(store, "new_token", lambda: "t" * 43)
    first, second = transcript(opened(frozen)), transcript(opened(turned))
    assert first == second and len(first) == 55


def test_no_name_of_a_file_or_an_image_is_sent(opened: Open, frozen: Path) -> None:
    sent = b"".join(body for url, *_, body in transcript(opened(frozen)) if "/image/" not in url)
    study = read_study(frozen)
    for picture in study.pictures:
        for name in (picture.image, picture.sha256, Path(picture.file).stem):
            assert name.encode() not in sent
    for entry in read_key(frozen).images.values():
        assert Path(entry.record["file_name"]).name.encode() not in sent


def test_a_repeat_is_not_recognised_by_its_address(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state, names, pictures = session.enter(), set(), Counter()
    while not state["finished"]:
        names.add(state["ticket"])
        pictures[session.get(f"/image/{state['position']}/{state['ticket']}").content] += 1
        state = session.answer(state).json()
    assert len(names) == 8 and sorted(pictures.values()) == [1] * 6 + [2]


def test_real_and_synthetic_pictures_come_with_the_same_headers(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state, found = session.enter(), set()
    while not state["finished"]:
        headers = session.get(f"/image/{state['position']}/{state['ticket']}").headers
        found.add(tuple(sorted((k, v) for k, v in headers.items() if k != "content-length")))
        state = session.answer(state).json()
    assert len(found) == 1


# ---- headers, limits, languages ----------------------------------------------------------------------------


def test_every_response_is_headed(opened: Open, frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(frozen)
    client = TestClient(session.client.app, raise_server_exceptions=False)
    client.cookies = session.client.cookies
    responses = {path: client.get(path) for path in ("/", f"/i/{session.token}", "/nowhere", "/admin",
                                                     "/static/turing.js", "/health", "/state")}  # fmt: skip
    responses["method"] = client.delete("/read")
    responses["cross"] = client.post("/begin", data={}, headers={"sec-fetch-site": "cross-site"})
    responses["large"] = client.post("/consent", data={"csrf": "x" * 70_000})
    monkeypatch.setattr(store, "reader_of", lambda *_: 1 / 0)
    responses["fault"] = client.get("/read")
    statuses = {name: response.status_code for name, response in responses.items()}
    assert statuses == {
        "/": 200, f"/i/{session.token}": 200, "/nowhere": 404, "/admin": 200, "/static/turing.js": 200,
        "/health": 200, "/state": 403, "method": 411, "cross": 403, "large": 413, "fault": 500,
    }  # fmt: skip
    for name, response in responses.items():
        headers = response.headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, name
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in headers
        lasting = name.startswith("/static")
        assert ("no-store" in headers["cache-control"]) is not lasting, name
    assert "ZeroDivision" not in responses["fault"].text


def test_one_cookie_and_how_it_is_kept(opened: Open, frozen: Path) -> None:
    for base, safe in (("http://testserver", False), ("https://testserver", True)):
        session = opened(frozen, base=base)
        response = session.get(f"/i/{session.token}")
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and ("secure" in cookie) is safe
        assert ("strict-transport-security" in response.headers) is safe
        session.enter()
        assert list(session.client.cookies) == ["fundusforge"]


def test_no_page_needs_anything_from_elsewhere(opened: Open, asking: Path) -> None:
    session = opened(asking)
    pages = [session.get(f"/i/{session.token}").text, session.post("/consent", agree="on").text]
    pages.append(session.post("/profile", specialty="resident", years="4").text)
    pages += [session.post("/begin").text, session.get("/pause").text, session.get("/admin").text]
    for page in pages:
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert addresses and all(re.match(r"/[^/]", address) for address in addresses)
        assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    css = session.get("/static/turing.css").text
    assert "url(" not in css and "@import" not in css and "http" not in css


def test_too_many_requests_are_held_up(opened: Open, frozen: Path) -> None:
    address = opened(frozen, rate_address=5.0)
    statuses = [address.get("/health").status_code for _ in range(40)]
    assert statuses[:20] == [200] * 20 and 429 in statuses[20:]
    refused = address.get("/health")
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "wait a moment" in refused.text
    reader = opened(frozen, rate_token=2.0)
    statuses = [reader.get(f"/i/{reader.token}").status_code for _ in range(20)]
    assert statuses[:8] == [200] * 8 and 429 in statuses[8:]
    assert reader.get("/health").status_code == 200, "others go on"
    (other,) = invited(reader.place)
    assert reader.get(f"/i/{other}").status_code == 200


def test_guessing_is_held_up_but_not_the_readers_beside(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    statuses = [session.get(f"/i/{number:043}").status_code for number in range(40)]
    assert Counter(statuses).keys() == {403, 429} and statuses[:20] == [403] * 20
    assert session.get(f"/i/{session.token}").status_code == 200
    assert session.events()["unknown"] <= 25, "guesses do not fill the disk"


def test_a_proxy_is_believed_only_when_told(opened: Open, frozen: Path) -> None:
    sent = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9, 198.51.100.1"}
    plain = opened(frozen)
    assert "strict-transport-security" not in plain.get("/", headers=sent).headers
    behind = opened(frozen, behind_proxy=True, rate_address=1.0)
    assert "strict-transport-security" in behind.get("/", headers=sent).headers
    for number in range(10):  # what stands before the proxy's own word came from outside
        forged = sent | {"x-forwarded-for": f"203.0.113.{number}, 198.51.100.1"}
        last = behind.get("/", headers=forged).status_code
    assert last == 429
    assert behind.get("/", headers=sent | {"x-forwarded-for": "198.51.100.2"}).status_code == 200


def test_german_is_german(opened: Open, asking: Path) -> None:
    session = opened(asking, texts=Path("de"))
    page = session.get(f"/i/{session.token}").text
    assert '<html lang="de" dir="ltr">' in page and "Sie sehen nacheinander 7 Bilder" in page
    session.post("/consent", agree="on")
    assert "In Weiterbildung" in session.get("/profile").text
    session.post("/profile", specialty="resident", years="4")
    read = session.post("/begin").text
    for word in ("Bild 1 von 7", "Künstlich", "Gefäße", '<kbd aria-hidden="true">E</kbd>'):
        assert word in read
    assert "Open your link" not in session.get("/nowhere").text


def test_texts_are_complete_or_refused(tmp_path: Path) -> None:
    for language in ("en", "de"):
        assert read_texts(TEXTS / f"{language}.json") == read_texts(Path(language))
    english = json.loads((TEXTS / "en.json").read_text("utf-8"))
    file = tmp_path / "fr.json"

    def refused(edit: Callable[[dict[str, Any]], Any]) -> str:
        texts = json.loads(json.dumps(english))
        edit(texts)
        file.write_text(json.dumps(texts))
        with pytest.raises(StudyError) as error:
            read_texts(file)
        assert str(file) in str(error.value)
        return str(error.value)

    assert "study is missing; read.question is missing" in refused(
        lambda t: (t.pop("study"), t["read"].pop("question"))
    )
    assert "read.zoo is unknown" in refused(lambda t: t["read"].update(zoo="?"))
    assert "read.progress: expected the placeholders ['position', 'total']" in refused(
        lambda t: t["read"].update(progress="Image {position}")
    )
    assert "placeholders" in refused(lambda t: t["pause"].update(text="{answered.__class__} {total}"))
    assert "placeholders" in refused(lambda t: t["entry"].update(text="{"))
    assert "read.real: expected a text" in refused(lambda t: t["read"].update(real=""))
    assert "one letter" in refused(lambda t: t["read"].update(key_real="F"))
    assert "three different" in refused(lambda t: t["read"].update(key_real="s"))
    assert "specialties: expected one entry" in refused(lambda t: t.update(specialties={}))
    assert "short name" in refused(lambda t: t["words"].update({"<b>": "x"}))
    file.write_text("{")
    with pytest.raises(StudyError, match="not JSON"):
        read_texts(file)
    with pytest.raises(StudyError, match="no such file"):
        read_texts(tmp_path / "none.json")


def test_own_specialties_and_hostile_texts_are_only_text(opened: Open, frozen: Path, tmp_path: Path) -> None:
    texts = json.loads((TEXTS / "en.json").read_text("utf-8"))
    texts["specialties"] = {"optometrist": "Optometrist <script>alert(1)</script>"}
    texts["read"]["question"] = "'\"><img src=x onerror=alert(1)>"
    (tmp_path / "own.json").write_text(json.dumps(texts))
    session = opened(frozen, texts=tmp_path / "own.json")
    session.get(f"/i/{session.token}")
    session.post("/consent", agree="on")
    assert "<script>alert" not in session.get("/profile").text
    session.post("/profile", specialty="optometrist", years="4")
    assert "<img" not in session.post("/begin").text


# ---- the administrator -------------------------------------------------------------------------------------


def test_the_administrator_sees_progress_and_exports(opened: Open, asking: Path) -> None:
    session = opened(asking)
    token = admin_token(session.place)
    state = session.enter()
    session.answer(state, "synthetic", fidelity=3)
    session.answer(state, "real", fidelity=3)
    invited(session.place, 2)
    for path in ("/admin/answers.csv", "/admin/readers.csv", "/admin/events.csv"):
        assert session.get(path).url.path == "/admin", "not without the token"
    assert session.client.post("/admin/enter", data={"token": "x" * 43}).status_code == 403
    assert session.client.post("/admin/enter", data={"token": session.token}).status_code == 403
    page = session.client.post("/admin/enter", data={"token": token})
    assert page.url.path == "/admin" and "Readers: 3. Finished: 0. Answers: 1 of 21." in page.text
    assert "1 / 7" in page.text and "invited" in page.text and "resident" in page.text
    answers = session.get("/admin/answers.csv")
    assert answers.headers["content-disposition"] == 'attachment; filename="answers.csv"'
    (row,) = rows(answers.text)
    assert row["truth"] == truths(asking)[row["image"]] and row["answer"] == "synthetic"
    assert [r["reader"] for r in rows(session.get("/admin/readers.csv").text)] == ["r01"]
    assert Counter(r["kind"] for r in rows(session.get("/admin/events.csv").text))["changed"] == 1
    assert session.get("/admin/key.json").status_code == 404
    session.client.post("/admin/leave", data={"csrf": csrf(token)})
    assert session.get("/admin/answers.csv").url.path == "/admin"


def test_the_administrators_cookie_is_for_the_administrators_pages(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    entered = session.client.post(
        "/admin/enter", data={"token": admin_token(session.place)}, follow_redirects=False
    )
    cookie = entered.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/admin"):
        assert part in cookie
    assert "max-age" not in cookie, "ends with the browser"


def test_the_administrators_token_is_made_once(frozen: Path, tmp_path: Path) -> None:
    shutil.copytree(frozen, tmp_path / "study")
    config = ServeConfig(study=tmp_path / "study")
    token = check(config)
    assert token is not None and len(token) == 43 and check(config) is None
    file = tmp_path / "token"
    assert check(config, admin_token_file=file) is None
    assert len(file.read_text().strip()) == 43 and file.stat().st_mode & 0o077 == 0
    kept = file.read_text()
    check(config, admin_token_file=file)
    assert file.read_text() == kept
    file.write_text("short")
    with pytest.raises(StudyError, match="expected a token"):
        check(config, admin_token_file=file)


# ---- the commands ------------------------------------------------------------------------------------------


def test_a_changed_study_is_not_served(frozen: Path, tmp_path: Path) -> None:
    shutil.copytree(frozen, tmp_path / "study")
    picture = next((tmp_path / "study" / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(StudyError, match="was changed since the study was frozen"):
        application(ServeConfig(study=tmp_path / "study"))
    assert main(["turing", "serve", str(tmp_path / "study")]) == 2


def test_what_was_checked_is_what_is_shown(opened: Open, frozen: Path) -> None:
    session = opened(frozen)
    state = session.enter()
    for picture in (session.place / "images").iterdir():
        picture.write_bytes(b"another")
    study = read_study(frozen)
    shown = session.get(f"/image/1/{state['ticket']}").content
    assert shown == (frozen / study.picture(1, 1).file).read_bytes()


def test_invitations_and_exports_by_command(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "study"
    shutil.copytree(frozen, place)
    words = ["turing", "invite", str(place), "-n", "2", "--url", "https://study.example.org/"]
    assert main(words) == 0
    printed = capsys.readouterr()
    links = re.findall(r"^(r\d\d)  https://study\.example\.org/i/([\w-]{43})$", printed.out, re.MULTILINE)
    assert [name for name, _ in links] == ["r01", "r02"] and "shown only now" in printed.err
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["readers"]
    assert [one["reader"] for one in made] == ["r03", "r04"]
    engine = connect(location(place))
    with snapshot(engine) as connection:
        assert store.reader_of(connection, links[1][1]) is not None
    transaction(engine, lambda connection: store.set_reader(connection, 1, specialty="resident", years=1.0))
    assert main(["turing", "export", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"]["answers.csv"] == 0
    assert (place / "answers.csv").read_text().startswith("reader,position,image,truth")
    for wrong, said in (
        (["turing", "invite"], "STUDY"), (["turing", "invite", str(place), "-n", "0"], "-n"),
        (["turing", "revoke", str(place)], "--readers"),
        (["turing", "revoke", str(place), "--readers", "r77"], "no reader 'r77'"),
        (["turing", "export", str(tmp_path)], "no such file"),
        (["turing", "serve", str(place), "--texts", "none.json"], "none.json"),
        (["turing", "invite", str(place), "--database", "mysql://x/y"], "not mysql"),
    ):  # fmt: skip
        assert main(wrong) == 2
        assert said in capsys.readouterr().err
