"""What readers meet: link, consent, profile, instructions, one picture after the other, thanks."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy.engine import Connection
from starlette.routing import Route

from fundusforge.studies.turing import store
from fundusforge.studies.turing.site import COOKIE, Refusal, Site
from fundusforge.studies.turing.store import Given, Outcome, Reader
from fundusforge.studies.turing.study import Truth, read_key
from fundusforge.studies.turing.tokens import csrf, same, ticket

MOST_MARKS = 20
_MOST_YEARS = 70
_ROUNDING = 0.01
"""Seconds."""
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A place that looks wrong: x from the left and y from the top as parts of the picture as shown."""

    x: Part
    y: Part
    word: str


@dataclass(frozen=True, kw_only=True)
class Sent:
    """The body of `POST /answer`."""

    position: int
    ticket: Annotated[str, Field(max_length=64)]
    answer: Truth
    elapsed: Seconds
    hidden: Seconds
    confirmed: Seconds
    fidelity: Annotated[int, Field(ge=1, le=10)] | None
    marks: Annotated[tuple[Mark, ...], Field(max_length=MOST_MARKS)]


_SENT = TypeAdapter(Sent)


class Reading:
    """The pages of readers."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        """Return the routes."""
        routes: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("GET", "/", self.entry), ("GET", "/i/{token}", self.link),
            ("GET", "/consent", self.consent), ("POST", "/consent", self.consented),
            ("GET", "/profile", self.profile), ("POST", "/profile", self.profiled),
            ("GET", "/instructions", self.instructions), ("POST", "/begin", self.begin),
            ("GET", "/read", self.read), ("GET", "/state", self.state),
            ("GET", "/image/{position}/{name}", self.image), ("POST", "/answer", self.answer),
            ("GET", "/pause", self.pause), ("POST", "/leave", self.leave),
            ("GET", "/finished", self.finished),
        )  # fmt: skip
        return [Route(path, endpoint, methods=[method]) for method, path, endpoint in routes]

    async def entry(self, request: Request) -> Response:
        """Say that a link is needed."""
        return self.site.page("entry", known=COOKIE in request.cookies)

    async def link(self, request: Request) -> Response:
        """Let a reader in.

        The page is shown here and not by way of a redirection: a browser that comes from a mail would not
        send the new, strict cookie along with that.
        """
        site, token = self.site, request.path_params["token"]
        site.limited(token, "link")
        found = await site.writer.read(lambda connection: store.reader_of(connection, token))
        reader = await site.admitted(request, found, "link")
        if reader.step == "consent":
            response = self._page(token, reader)
        else:
            response = await (
                self._thanks(reader) if reader.step == "finished" else self._pause(token, reader)
            )
        return site.give(response, request, token)

    async def consent(self, request: Request) -> Response:
        """Ask for consent."""
        token, reader = await self.site.reader(request)
        return self._page(token, reader) if reader.step == "consent" else _to(reader)

    def _page(self, token: str, reader: Reader, **context: Any) -> Response:
        return self.site.page(reader.step, csrf=csrf(token), **{"missing": False} | context)

    async def consented(self, request: Request) -> Response:
        """Take consent."""
        token, reader = await self.site.reader(request)
        fields = await self.site.form(request, token)
        if reader.step == "consent":
            if fields.get("agree") != "on":
                return self._page(token, reader, missing=True, status=422)
            reader = await self._change(token, consented=time.time())
        return _to(reader)

    async def profile(self, request: Request) -> Response:
        """Ask who the reader is; that may be corrected until the study begins."""
        token, reader = await self.site.reader(request)
        if reader.step not in {"profile", "instructions"}:
            return _to(reader)
        return self._profile(token, reader.specialty, reader.years)

    def _profile(
        self, token: str, specialty: str | None, years: Any, *, missing: bool = False, status: int = 200
    ) -> Response:
        given = "" if years is None else f"{years:g}" if isinstance(years, float) else str(years)
        return self.site.page(
            "profile", csrf=csrf(token), specialty=specialty, years=given, missing=missing, status=status,
            most=_MOST_YEARS,
        )  # fmt: skip

    async def profiled(self, request: Request) -> Response:
        """Take who the reader is."""
        token, reader = await self.site.reader(request)
        fields = await self.site.form(request, token)
        if reader.step in {"profile", "instructions"}:
            specialty, typed = str(fields.get("specialty", "")), str(fields.get("years", ""))[:10]
            years = _years(typed)
            if specialty not in self.site.texts["specialties"] or years is None:
                return self._profile(token, specialty, typed, missing=True, status=422)
            reader = await self._change(token, specialty=specialty, years=years)
        return _to(reader)

    async def instructions(self, request: Request) -> Response:
        """Say how it works."""
        token, reader = await self.site.reader(request)
        return self._page(token, reader) if reader.step == "instructions" else _to(reader)

    async def begin(self, request: Request) -> Response:
        """Begin the study."""
        token, reader = await self.site.reader(request)
        await self.site.form(request, token)
        if reader.step == "instructions":
            reader = await self._change(token, started=time.time())
        return _to(reader)

    async def _change(self, token: str, **values: Any) -> Reader:
        """Store facts of a reader, unless the study has begun meanwhile."""

        def job(connection: Connection) -> Reader:
            reader = store.reader_of(connection, token)
            assert reader is not None
            if reader.started is None:
                store.set_reader(connection, reader.number, **values)
            changed = store.reader_of(connection, token)
            assert changed is not None
            return changed

        return await self.site.writer(job)

    async def read(self, request: Request) -> Response:
        """Show the page on which pictures are judged."""
        token, reader = await self.site.reader(request)
        if reader.step != "read":
            return _to(reader)

        def opened(connection: Connection) -> None:
            store.set_reader(connection, reader.number, opened=time.time())
            store.note(connection, "opened", reader=reader.number, position=reader.answered + 1)

        await self.site.writer(opened)
        settings = self.site.study.settings
        setup = {
            "state": self._state(token, reader.answered), "csrf": csrf(token), "fidelity": settings.fidelity,
            "marks": MOST_MARKS if settings.marks else 0, "words": self.site.texts["words"],
            "texts": self.site.texts["read"],
        }  # fmt: skip
        return self.site.page("read", setup=setup, position=reader.answered + 1)

    def _state(self, token: str, answered: int) -> dict[str, Any]:
        """Return where a reader is, and the names of the picture to judge and of the one after."""
        total = self.site.study.total
        here, following = answered + 1, answered + 2
        return {
            "position": min(here, total), "total": total, "finished": answered >= total,
            "ticket": ticket(token, here) if here <= total else None,
            "next": ticket(token, following) if following <= total else None,
        }  # fmt: skip

    async def state(self, request: Request) -> Response:
        """Tell a page where its reader is."""
        token, reader = await self.site.reader(request)
        if reader.step not in {"read", "finished"}:
            raise Refusal(403, "session")
        return JSONResponse(self._state(token, reader.answered))

    async def image(self, request: Request) -> Response:
        """Send the picture to be judged, or the one after."""
        token, reader = await self.site.reader(request)
        position, name = request.path_params["position"], request.path_params["name"]
        place = int(position) if position.isascii() and position.isdecimal() and len(position) < 7 else 0
        study = self.site.study
        if not (1 <= place <= study.total and same(name, ticket(token, place))):
            await self._note(reader, "forged", None, f"picture {position[:20]}")
            raise Refusal(404, "gone")
        if reader.step != "read" or place not in (reader.answered + 1, reader.answered + 2):
            raise Refusal(404, "gone")
        picture = study.picture(reader.number, place)
        return Response(
            self.site.pictures[picture.file],
            media_type="image/png" if picture.file.endswith("png") else "image/jpeg",
        )

    async def _note(self, reader: Reader, kind: str, position: int | None, detail: str) -> None:
        await self.site.writer(
            lambda connection: store.note(
                connection, kind, reader=reader.number, position=position, detail=detail
            )
        )

    async def answer(self, request: Request) -> Response:
        """Take an answer; it is acknowledged when it is on the disk."""
        site, token = self.site, self.site.token(request)
        if not same(request.headers.get("x-csrf-token", ""), csrf(token)):
            raise Refusal(403, "form")
        given = self._given(await request.body())

        def job(connection: Connection) -> tuple[Reader | None, Outcome | None]:
            reader = store.reader_of(connection, token)
            if reader is None or reader.revoked is not None:
                return reader, None
            if given is None:
                store.note(connection, "malformed", reader=reader.number)
                return reader, None
            return reader, store.answer(connection, reader, token, given, site.study)

        reader, outcome = await site.writer(job)
        reader = await site.admitted(request, reader, "session")
        if outcome is None:
            raise Refusal(422, "form")
        if outcome == "forged":
            raise Refusal(404, "gone")
        state = self._state(token, reader.answered + (outcome == "accepted"))
        if outcome in {"accepted", "repeated"}:
            return JSONResponse(state)
        return JSONResponse({"refused": outcome, "state": state}, status_code=409)

    def _given(self, body: bytes) -> Given | None:
        """Read what a page sent; None if this study's pages do not send such."""
        settings = self.site.study.settings
        try:
            sent = _SENT.validate_json(body, extra="forbid", strict=True)
        except ValidationError:
            return None
        known = {mark.word for mark in sent.marks} <= set(self.site.texts["words"])
        asked = (sent.fidelity is not None) == settings.fidelity and (settings.marks or not sent.marks)
        ordered = sent.hidden <= sent.elapsed + _ROUNDING and sent.elapsed <= sent.confirmed + _ROUNDING
        if not (known and asked and ordered):
            return None
        marks = [asdict(mark) for mark in sent.marks]
        return Given(
            position=sent.position, ticket=sent.ticket, answer=sent.answer, elapsed=sent.elapsed,
            hidden=sent.hidden, confirmed=sent.confirmed, fidelity=sent.fidelity,
            marks=json.dumps(marks, ensure_ascii=False) if marks else "",
        )  # fmt: skip

    async def pause(self, request: Request) -> Response:
        """Say that all is stored, and that the reader may leave."""
        token, reader = await self.site.reader(request)
        return _to(reader) if reader.step == "finished" else await self._pause(token, reader)

    async def _pause(self, token: str, reader: Reader) -> Response:
        return self.site.page("pause", csrf=csrf(token), answered=reader.answered)

    async def leave(self, request: Request) -> Response:
        """Forget the session in this browser."""
        token = self.site.token(request)
        await self.site.form(request, token)
        response = RedirectResponse("/", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    async def finished(self, request: Request) -> Response:
        """Thank the reader."""
        _, reader = await self.site.reader(request)
        return await self._thanks(reader) if reader.step == "finished" else _to(reader)

    async def _thanks(self, reader: Reader) -> Response:
        return self.site.page("finished", right=await self._right(reader))

    async def _right(self, reader: Reader) -> int | None:
        """Count right answers, if this study tells."""
        site = self.site
        if not site.study.settings.score:
            return None
        rows = await site.writer.read(lambda connection: store.answered(connection, [reader.number]))
        key = await run_in_threadpool(read_key, site.config.study)
        return sum(key.images[site.study.pictures[row.picture].image].truth == row.answer for row in rows)


def _to(reader: Reader) -> Response:
    """Send a reader where the study goes on."""
    return RedirectResponse(f"/{reader.step}", 303)


def _years(text: str) -> float | None:
    try:
        years = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return years if 0 <= years <= _MOST_YEARS else None
