"""Terms of use: their order, what is recognised, and that the unknown never passes for permission."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fundusforge.audit import terms
from fundusforge.audit.terms import LEVELS, MEANING, level_of, strictest

SOURCES = Path(terms.__file__).parents[1] / "sources"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("CC0", "public"),
        ("phantom: free of patients; CC0", "public"),
        ("CC BY 4.0", "attribution"),
        ("cc-by-4.0", "attribution"),
        ("MIT", "attribution"),
        ("dicom: MIT licence", "attribution"),
        ("as agreed with MIT, Boston", "unknown"),
        ("CC BY-SA 4.0", "share-alike"),
        ("CC BY-NC 4.0", "non-commercial"),
        ("CC-BY-NC-SA-4.0", "non-commercial-share-alike"),
        ("CC BY-ND 4.0", "no-derivatives"),
        ("CC BY-NC-ND 4.0", "no-derivatives"),
        ("drive: research and education only", "research"),
        ("eyepacs: Kaggle competition rules: research only, no redistribution", "no-redistribution"),
        ("must not be redistributed", "no-redistribution"),
        ("clinic: unknown", "unknown"),
        ("ask Dr. A.", "unknown"),
        ("by permission", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        ("CC BY 4.0; and what our ethics board says", "unknown"),
        ("a: CC BY 4.0; b: research only; c: CC0", "research"),
    ],
)
def test_levels(text: str | None, level: str) -> None:
    assert level_of(text) == level


def test_the_strictest_wins_whatever_the_order() -> None:
    texts = ["a: CC BY 4.0", "b: CC BY-NC 4.0", "c: CC0", "a: CC BY 4.0"]
    for order in (texts, texts[::-1]):
        found = strictest(order)
        assert found.level == "non-commercial"
        assert found.entries == ("a: CC BY 4.0", "b: CC BY-NC 4.0", "c: CC0")
        assert level_of(found.text) == found.level, "read again, it says the same"
    assert strictest(["a: CC BY 4.0; b: CC BY-NC 4.0", "phantom: free of patients; CC0"]).entries == (
        "a: CC BY 4.0", "b: CC BY-NC 4.0", "phantom: free of patients; CC0",
    )  # fmt: skip
    assert strictest([*texts, None]).level == "unknown"
    assert strictest([]).level == "unknown" and strictest(["CC0"]).level == "public"


def test_every_level_is_explained_and_in_the_order_of_the_page() -> None:
    assert set(MEANING) == set(LEVELS)
    places = [terms.__doc__.index(f"| `{level}` |") for level in LEVELS]
    assert places == sorted(places)


def test_the_terms_of_our_own_sources_are_recognised() -> None:
    found = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            given = isinstance(node, ast.keyword) and node.arg == "terms"
            named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").strip("_") == "TERMS"
            if (
                (given or named)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found.append(node.value.value)
    assert len(found) >= 8
    assert [text for text in found if level_of(text) == "unknown"] == []
