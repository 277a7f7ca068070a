"""What stands before every request: who asks, how often, from where; and the headers of every response."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fundusforge.studies.turing.limits import Buckets

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 65_536
"""Bytes."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"x-robots-tag", b"noindex, nofollow"),
]
_NO_STORE = (b"cache-control", b"no-store")
_HSTS = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """Wraps the application, so that no response leaves without its headers, not even that of a fault."""

    def __init__(self, app: Application, *, addresses: Buckets, behind_proxy: bool, busy: str) -> None:
        self.app, self.addresses, self.behind_proxy, self.busy = app, addresses, behind_proxy, busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.behind_proxy:
            scope = {**scope, **_forwarded(headers)}
        safe = _with_headers(send, secure=scope["scheme"] == "https")
        address = (scope.get("client") or ("", 0))[0]
        if wait := self.addresses.take(address):
            await _plain(safe, 429, self.busy, (b"retry-after", str(math.ceil(wait)).encode()))
        elif scope["method"] in {"GET", "HEAD"}:
            await self.app(scope, receive, safe)
        elif headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            await _plain(safe, 403, "cross-site request")
        elif not headers.get("content-length", "").isdecimal():
            await _plain(safe, 411, "length required")
        elif int(headers["content-length"]) > LARGEST_BODY:
            await _plain(safe, 413, "too large")
        else:
            await self.app(scope, receive, safe)


def _forwarded(headers: dict[str, str]) -> dict[str, Any]:
    """Return what the proxy says; it adds itself at the end, and what stands before came from outside."""
    found: dict[str, Any] = {}
    if address := headers.get("x-forwarded-for", "").rpartition(",")[2].strip():
        found["client"] = (address, 0)
    if (scheme := headers.get("x-forwarded-proto", "").rpartition(",")[2].strip()) in {"http", "https"}:
        found["scheme"] = scheme
    return found


def _with_headers(send: Send, *, secure: bool) -> Send:
    async def safe(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            added = [*_HEADERS, *([_HSTS] if secure else [])]
            if not any(name == b"cache-control" for name, _ in given):
                added.append(_NO_STORE)
            message = {**message, "headers": given + added}
        await send(message)

    return safe


async def _plain(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    length = (b"content-length", str(len(body)).encode())
    kind = (b"content-type", b"text/plain; charset=utf-8")
    # What was sent is not read: the connection cannot be used again.
    closing = (b"connection", b"close")
    await send(
        {"type": "http.response.start", "status": status, "headers": [kind, length, closing, *headers]}
    )
    await send({"type": "http.response.body", "body": body})
