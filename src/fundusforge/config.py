"""Frozen dataclasses to JSON and back: the only place that knows how a configuration is stored.

Reading is strict. pydantic drops unknown keys of plain dataclasses and takes `"512"` for 512 unless told not
to, so every reader in fundusforge goes through `from_json`, which refuses both.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class ConfigError(ValueError):
    """A stored configuration does not fit the code that reads it."""


def to_json(config: Any, *, kind: Any = None, indent: int | None = 2) -> str:
    """Return `config` as JSON text; `kind` is its declared type where that is wider (a union of configs)."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind or config.__class__)
    return adapter.dump_json(config, indent=indent).decode()


def from_json(kind: type[T], text: str | bytes, *, where: str = "configuration") -> T:
    """Read a configuration of type `kind` (a dataclass or an annotated union of them).

    Args:
        kind: The type to read.
        text: JSON text.
        where: What is being read, for the message (a file name, say).

    Raises:
        ConfigError: Malformed JSON, an unknown field, a missing field or a value of another type.
    """
    try:
        return TypeAdapter(kind).validate_json(text, extra="forbid", strict=True)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'document'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(f"{where}: {faults}") from None


def digest(config: Any) -> str:
    """Return 12 hexadecimal digits that name this configuration (SHA-256 of its JSON)."""
    return hashlib.sha256(to_json(config, indent=None).encode()).hexdigest()[:12]
