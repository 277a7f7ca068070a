"""The administrator's page: who is how far, and the answers as CSV files."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Engine, func, select
from sqlalchemy.engine import Connection
from starlette.routing import Route

from fundusforge.studies.turing import store
from fundusforge.studies.turing.database import events, snapshot, transaction
from fundusforge.studies.turing.exports import FILES, tables
from fundusforge.studies.turing.site import ADMIN_COOKIE, Refusal, Site
from fundusforge.studies.turing.store import Reader
from fundusforge.studies.turing.study import StudyError, read_key
from fundusforge.studies.turing.tokens import csrf, digest, new_token, same, well_formed

FACT = "admin"
_REFUSED = ("changed", "stale", "late", "forged", "malformed")
"""Events of answers that were refused."""


def prepare_token(engine: Engine, file: Path | None) -> str | None:
    """See to it that there is an administrator's token.

    Args:
        engine: The study's database.
        file: Holds the token, or shall: it is made if it is not there.

    Returns:
        A new token that nobody has been shown, if one was made without a file.

    Raises:
        StudyError: The file holds no token.
    """

    def store_token(token: str) -> None:
        transaction(engine, lambda connection: store.set_fact(connection, FACT, digest(token)))

    if file is None:
        if transaction(engine, lambda connection: store.fact(connection, FACT)) is not None:
            return None
        token = new_token()
        store_token(token)
        return token
    with suppress(FileExistsError), open(file, "x", opener=_private) as new:
        new.write(new_token() + "\n")
    token = file.read_text("utf-8").strip()
    if not well_formed(token):
        raise StudyError(f"{file}: expected a token of 22 to 128 letters, digits, hyphens and underscores")
    store_token(token)
    return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Admin:
    """The administrator's pages."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/admin", self.home, methods=["GET"]),
            Route("/admin/enter", self.enter, methods=["POST"]),
            Route("/admin/leave", self.leave, methods=["POST"]),
            Route("/admin/{name}", self.download, methods=["GET"]),
        ]

    async def _token(self, request: Request) -> str | None:
        """Return the session's token, if it is the administrator's."""
        token = request.cookies.get(ADMIN_COOKIE)
        if token is None:
            return None
        return token if await self._right(request, token) else None

    async def _right(self, request: Request, token: str) -> bool:
        known = await self.site.writer.read(lambda connection: store.fact(connection, FACT))
        if known is not None and well_formed(token) and same(digest(token), known):
            return True
        await self.site.stranger(request, "unknown")
        return False

    async def home(self, request: Request) -> Response:
        """Show progress, or ask for the token."""
        token = await self._token(request)
        if token is None:
            return self.site.page("enter", wrong=False)
        overview = await run_in_threadpool(self._overview)
        return self.site.page("admin", csrf=csrf(token), files=FILES, **overview)

    async def enter(self, request: Request) -> Response:
        """Begin the administrator's session."""
        fields = await request.form(max_files=0, max_fields=10)
        token = str(fields.get("token", "")).strip()
        if not await self._right(request, token):
            return self.site.page("enter", wrong=True, status=403)
        return self.site.give_admin(RedirectResponse("/admin", 303), request, token)

    async def leave(self, request: Request) -> Response:
        """End the administrator's session."""
        if token := await self._token(request):
            await self.site.form(request, token)
        response = RedirectResponse("/admin", 303)
        response.delete_cookie(ADMIN_COOKIE, path="/admin", httponly=True, samesite="strict")
        return response

    async def download(self, request: Request) -> Response:
        """Send one of the CSV files."""
        if await self._token(request) is None:
            return RedirectResponse("/admin", 303)
        if (name := request.path_params["name"]) not in FILES:
            raise Refusal(404, "gone")
        made = await run_in_threadpool(self._tables)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(made[name], media_type="text/csv", headers=headers)

    def _tables(self) -> dict[str, str]:
        site = self.site
        return tables(site.writer.engine, site.study, read_key(site.config.study))

    def _overview(self) -> dict[str, Any]:
        with snapshot(self.site.writer.engine) as connection:
            people = store.everybody(connection)
            refused = _counts(connection)
            seconds: dict[int, list[float]] = defaultdict(list)
            for row in store.answered(connection):
                seconds[row.reader].append(row.elapsed - row.hidden)
        rows = [
            {
                "name": one.name, "label": one.label, "specialty": one.specialty or "", "years": one.years,
                "state": self.site.texts["admin"][_state(one)], "answered": one.answered,
                "seconds": statistics.median(seconds[one.number]) if seconds[one.number] else None,
                "last": _minute(one.last), "refused": refused.get(one.number, 0),
            }
            for one in people
        ]  # fmt: skip
        total = self.site.study.total
        summary = {
            "readers": len(people), "finished": sum(one.finished is not None for one in people),
            "answers": sum(one.answered for one in people), "expected": total * len(people),
        }  # fmt: skip
        return {"rows": rows, "summary": summary}


def _counts(connection: Connection) -> dict[int, int]:
    wanted = (
        select(events.c.reader, func.count())
        .where(events.c.kind.in_(_REFUSED), events.c.reader.is_not(None))
        .group_by(events.c.reader)
    )
    return {reader: count for reader, count in connection.execute(wanted)}


def _state(reader: Reader) -> str:
    if reader.revoked is not None:
        return "revoked"
    if reader.finished is not None:
        return "done"
    if reader.started is not None:
        return "reading"
    return "invited" if reader.consented is None else "consented"


def _minute(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
