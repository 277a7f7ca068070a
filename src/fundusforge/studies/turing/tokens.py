"""Invitations, and what is derived from them.

A token is 256 random bits in an address-safe alphabet. Only its SHA-256 is stored, which for so many random
bits needs no salt: whoever reads the database cannot enter. The session's cookie holds the token itself; what
a page must prove (`csrf`) and the names under which it asks for pictures (`ticket`) are keyed hashes of it,
so they are of use to this reader alone and tell nothing about the picture.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")


def new_token() -> str:
    """Return a token of 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def well_formed(token: str | None) -> bool:
    """Whether a text can be a token: 22 to 128 characters of its alphabet, that is, 128 bits or more."""
    return bool(token and _TOKEN.fullmatch(token))


def digest(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def csrf(token: str) -> str:
    """Return the proof that a request comes from a page of this session."""
    return _keyed(token, "csrf")


def ticket(token: str, position: int) -> str:
    """Return the name under which a reader's browser knows the picture at a position."""
    return _keyed(token, f"picture {position}")


def _keyed(token: str, what: str) -> str:
    return hmac.new(token.encode(), what.encode(), hashlib.sha256).hexdigest()[:32]
