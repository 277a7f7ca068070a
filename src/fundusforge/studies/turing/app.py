"""The web application: FastAPI behind the guard, served by uvicorn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from fundusforge.config import from_json, to_json
from fundusforge.studies.turing.admin import Admin, prepare_token
from fundusforge.studies.turing.database import connect, location, transaction
from fundusforge.studies.turing.guard import Guard
from fundusforge.studies.turing.limits import Buckets
from fundusforge.studies.turing.reading import Reading
from fundusforge.studies.turing.site import Refusal, ServeConfig, Site
from fundusforge.studies.turing.store import claim
from fundusforge.studies.turing.study import read_study
from fundusforge.studies.turing.texts import read_texts

_CONFIG = "FUNDUSFORGE_TURING"
"""Environment variable that hands the configuration on to uvicorn's processes."""
_AGAIN = 2.0
"""Seconds after which a page asks again, when the database could not be reached."""


def application(config: ServeConfig) -> Guard:
    """Return the application, which opens the database at once and closes it at shutdown.

    Raises:
        StudyError: The study, its database or its texts cannot be used.
    """
    site = Site(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        site.close()

    async def static(request: Request) -> Response:
        return site.asset(request.path_params["name"])

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    # Plain routes: forms, strict JSON and pages need nothing that FastAPI would add to each request.
    routes = [*Reading(site).routes(), *Admin(site).routes()]
    routes += [Route("/static/{name}", static), Route("/health", health)]
    app = FastAPI(routes=list(routes), openapi_url=None, lifespan=lifespan)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return site.refusal(request, error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return site.refusal(
            request, Refusal(error.status_code, "gone" if error.status_code == 404 else "form")
        )

    @app.exception_handler(DBAPIError)
    async def unreachable(request: Request, _: DBAPIError) -> Response:
        return site.refusal(request, Refusal(503, "fault", wait=_AGAIN))

    @app.exception_handler(Exception)
    async def fault(request: Request, _: Exception) -> Response:
        return site.refusal(request, Refusal(500, "fault"))

    addresses = Buckets(config.rate_address, 4 * config.rate_address)
    busy = site.texts["errors"]["busy"]
    return Guard(app, addresses=addresses, behind_proxy=config.behind_proxy, busy=busy)


def from_environment() -> Guard:
    """Return the application as `serve` configured it."""
    return application(from_json(ServeConfig, os.environ[_CONFIG], where=_CONFIG))


def check(config: ServeConfig, *, admin_token_file: Path | None = None) -> str | None:
    """Look whether a study can be served, and see to its administrator's token.

    Returns:
        A new administrator's token, if one was made without a file.

    Raises:
        StudyError: The study, its database, its texts or the token's file cannot be used.
    """
    study = read_study(config.study)
    read_texts(config.texts)
    engine = connect(location(config.study, config.database))
    try:
        transaction(engine, lambda connection: claim(connection, study))
        return prepare_token(engine, admin_token_file)
    finally:
        engine.dispose()


def serve(config: ServeConfig) -> None:
    """Serve a study until the process is told to stop."""
    import uvicorn

    os.environ[_CONFIG] = to_json(config, indent=None)
    uvicorn.run(
        f"{__name__}:from_environment", factory=True, host=config.host, port=config.port,
        workers=config.workers, access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=75, log_level="warning",
    )  # fmt: skip
