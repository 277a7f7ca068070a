"""Configurations come back as they were stored; anything else is refused."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fundusforge.config import ConfigError, digest, from_json, to_json


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    kind: Literal["outer"] = "outer"
    name: str = "eye"
    size: int = 512
    flag: bool = False
    where: Path | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("size must be positive")


@dataclass(frozen=True)
class Other:
    kind: Literal["other"] = "other"


Either = Annotated[Outer | Other, Field(discriminator="kind")]


def test_comes_back_equal() -> None:
    config = Outer(name="Ögon 眼", where=Path("a/b"), inner=Inner(rate=0.1, sides=(3,)))
    assert from_json(Outer, to_json(config)) == config
    assert from_json(Outer, to_json(config, indent=None).encode()) == config


@pytest.mark.parametrize("config", [Outer(size=3), Other()])
def test_union_is_told_apart_by_its_kind(config: Outer | Other) -> None:
    assert from_json(Either, to_json(config, kind=Either)) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"sise": 3}', "sise"),
        ('{"inner": {"rat": 3}}', "inner.rat"),
        ('{"size": "512"}', "size"),
        ('{"size": 1.5}', "size"),
        ('{"flag": "yes"}', "flag"),
        ('{"size": true}', "size"),
        ('{"inner": {"sides": [1, "2"]}}', "inner.sides.1"),
        ('{"size": 0}', "size must be positive"),
        ("{", "JSON"),
        ("", "JSON"),
        ("[]", "document"),
    ],
)
def test_refuses_and_names_the_fault(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=r"^run/config\.json: ") as error:
        from_json(Outer, text, where="run/config.json")
    assert named in str(error.value)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind"):
        from_json(Either, '{"kind": "third"}')


def test_the_message_does_not_repeat_the_input() -> None:
    with pytest.raises(ConfigError) as error:
        from_json(Outer, '{"size": "Doe^Jane"}')
    assert "Doe" not in str(error.value)


def test_digest_names_the_configuration() -> None:
    assert digest(Outer()) == digest(Outer()) != digest(Outer(size=3))
    assert len(digest(Outer())) == 12
    assert set(digest(Outer())) <= set("0123456789abcdef")
