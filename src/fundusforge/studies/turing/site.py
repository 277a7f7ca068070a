"""What all pages of a study share: the study, its texts, its database, its limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.engine import Connection

from fundusforge import __version__
from fundusforge.studies.turing import store
from fundusforge.studies.turing.database import Writer, connect, location, transaction
from fundusforge.studies.turing.limits import Buckets
from fundusforge.studies.turing.store import Reader
from fundusforge.studies.turing.study import Study, StudyError, read_picture, read_study
from fundusforge.studies.turing.texts import Texts, read_texts
from fundusforge.studies.turing.tokens import csrf, digest, same, well_formed

PACKAGE = "fundusforge.studies.turing"
COOKIE, ADMIN_COOKIE = "fundusforge", "fundusforge_admin"
_MONTH = 30 * 24 * 3600
_STATIC = {"turing.css": "text/css", "turing.js": "text/javascript", "turing.svg": "image/svg+xml"}
_STRANGERS = (0.5, 20)
"""Wrong tokens from one address that are looked into: a second, and at once."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve, and how."""

    study: Path
    """Study folder."""
    database: str | None = None
    """Address of the database; SQLite in the study folder if None."""
    texts: Path | None = None
    """File of texts, or the name of a shipped language; English if None."""
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    """Processes."""
    behind_proxy: bool = False
    """Trust a proxy's X-Forwarded-For and X-Forwarded-Proto."""
    rate_address: float = 100.0
    """Requests a second from one address; four times as many at once."""
    rate_token: float = 20.0
    """Requests a second of one reader; four times as many at once."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name, value, low in (
            ("port", self.port, 1), ("workers", self.workers, 1), ("rate_address", self.rate_address, 0.1),
            ("rate_token", self.rate_token, 0.1),
        ):  # fmt: skip
            if value < low:
                raise StudyError(f"{name} must be {low} or more, not {value}")


class Refusal(Exception):
    """A request that is answered with a page, or a line of JSON, that says why not."""

    def __init__(self, status: int, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.wait = status, reason, wait
        """HTTP status; entry of `errors` in the texts; seconds after which it may work."""


class Site:
    """A study that is being served."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.study: Study = read_study(config.study)
        # What was checked is what is shown, whatever happens to the files.
        self.pictures = {one.file: read_picture(config.study, one) for one in self.study.pictures}
        self.texts: Texts = read_texts(config.texts)
        engine = connect(location(config.study, config.database))
        transaction(engine, self._begin)
        self.writer = Writer(engine)
        self.tokens = Buckets(config.rate_token, 4 * config.rate_token)
        self.strangers = Buckets(*_STRANGERS)
        static = files(PACKAGE) / "static"
        self.static = {name: (static / name).read_bytes() for name in _STATIC}
        self._pages = Environment(
            loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        version = hashlib.sha256(b"".join(self.static.values())).hexdigest()[:12]
        self._pages.globals.update(t=self.texts, study=self.study, static=f"?v={version}")

    def _begin(self, connection: Connection) -> None:
        store.claim(connection, self.study)
        words = hashlib.sha256(repr(sorted(self.texts.items())).encode()).hexdigest()
        store.note(connection, "served", detail=f"fundusforge {__version__}, texts {words[:12]}")

    def close(self) -> None:
        """Let go of the database."""
        self.writer.close()

    def page(self, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Return a page."""
        text = self._pages.get_template(f"{name}.html.j2").render(**context)
        return HTMLResponse(text, status_code=status)

    def refusal(self, request: Request, refusal: Refusal) -> Response:
        """Say why not: as JSON to the page's script, else as a page."""
        reason = self.texts["errors"][refusal.reason]
        headers = {"retry-after": str(math.ceil(refusal.wait))} if refusal.wait else {}
        response: Response
        if request.url.path.startswith(("/answer", "/state", "/image")):
            response = JSONResponse({"reason": reason}, status_code=refusal.status)
        else:
            response = self.page("message", status=refusal.status, reason=reason)
        response.headers.update(headers)
        return response

    def give(self, response: Response, request: Request, token: str) -> Response:
        """Let a response carry the reader's session."""
        return _with_cookie(response, request, COOKIE, token, path="/", max_age=_MONTH)

    def give_admin(self, response: Response, request: Request, token: str) -> Response:
        """Let a response carry the administrator's session, which ends with the browser."""
        return _with_cookie(response, request, ADMIN_COOKIE, token, path="/admin", max_age=None)

    def token(self, request: Request) -> str:
        """Return the token of a reader's session.

        Raises:
            Refusal: There is none, or it asks too often.
        """
        return self.limited(request.cookies.get(COOKIE), "session")

    def limited(self, token: str | None, reason: str) -> str:
        """Return a token that may ask now.

        Raises:
            Refusal: It is none (for `reason`), or asks too often.
        """
        if token is None or not well_formed(token):
            raise Refusal(403, reason)
        if wait := self.tokens.take(digest(token)):
            raise Refusal(429, "busy", wait=wait)
        return token

    async def reader(self, request: Request) -> tuple[str, Reader]:
        """Return the token and the reader of a request.

        Raises:
            Refusal: Nobody's, or taken back.
        """
        token = self.token(request)
        found = await self.writer.read(lambda connection: store.reader_of(connection, token))
        return token, await self.admitted(request, found, "session")

    async def admitted(self, request: Request, reader: Reader | None, reason: str) -> Reader:
        """Return the reader, if it is one who may come in.

        Raises:
            Refusal: For `reason`; it is written down, unless too many came from this address.
        """
        if reader is not None and reader.revoked is None:
            return reader
        await self.stranger(request, "unknown" if reader is None else "refused", reader)
        raise Refusal(403, reason if reader is None else "link")

    async def stranger(self, request: Request, kind: str, reader: Reader | None = None) -> None:
        """Write down that somebody came with a wrong token.

        Raises:
            Refusal: Too many came from this address.
        """
        if wait := self.strangers.take(request.client.host if request.client else ""):
            raise Refusal(429, "busy", wait=wait)
        number = None if reader is None else reader.number
        path = request.url.path if not request.url.path.startswith("/i/") else "/i/"
        await self.writer(lambda connection: store.note(connection, kind, reader=number, detail=path))

    async def form(self, request: Request, token: str) -> Mapping[str, Any]:
        """Return the fields of a form that one of this session's pages sent.

        Raises:
            Refusal: It came from elsewhere, or is no form.
        """
        fields = await request.form(max_files=0, max_fields=10)
        if not same(str(fields.get("csrf", "")), csrf(token)):
            raise Refusal(403, "form")
        return fields

    def asset(self, name: str) -> Response:
        """Return a static file.

        Raises:
            Refusal: There is none of that name.
        """
        if name not in self.static:
            raise Refusal(404, "gone")
        lasting = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(self.static[name], media_type=_STATIC[name], headers=lasting)


def _with_cookie(
    response: Response, request: Request, name: str, token: str, *, path: str, max_age: int | None
) -> Response:
    response.set_cookie(
        name, token, max_age=max_age, path=path, secure=request.url.scheme == "https", httponly=True,
        samesite="strict",
    )  # fmt: skip
    return response
