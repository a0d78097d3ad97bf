"""Variants that say only what differs from another."""

from __future__ import annotations

from typing import Any

import pytest

from harness import registry
from harness.errors import InputError
from harness.label.extension import whole

TABLES: dict[str, Any] = {
    "base": {
        "source": "a",
        "args": ["--x"],
        "env": {"A": "1", "B": "2"},
        "max_model_len": 10,
        "reasons": {"dtype": "why"},
    },
    "child": {
        "extends": "base",
        "source": "b",
        "env": {"B": "3", "C": "4"},
        "more_args": ["--y"],
        "without": ["reasons.dtype", "env.A", "max_model_len"],
    },
    "grandchild": {"extends": "child", "source": "c", "args": ["--z"]},
    "left": {"extends": "right", "source": ""},
    "right": {"extends": "left", "source": ""},
}


def test_what_is_not_said_is_inherited() -> None:
    child = whole("child", TABLES, "e.toml")
    assert child == {"source": "b", "args": ["--x", "--y"], "env": {"B": "3", "C": "4"}, "reasons": {}}
    assert whole("grandchild", TABLES, "e.toml") == {**child, "source": "c", "args": ["--z"]}
    assert whole("base", TABLES, "e.toml") == TABLES["base"], "nobody changes whom it extends"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"extends": "nobody", "source": ""}, "nobody is not a table"),
        ({"extends": "base", "without": ["env.Z"]}, "without names env.Z, which is not inherited"),
        ({"source": "", "more_args": ["--y"]}, "more_args is for a variant that extends another"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(table: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        whole("new", {**TABLES, "new": table}, "e.toml")


def test_a_circle_is_a_sentence() -> None:
    with pytest.raises(InputError, match="left extends right extends left; one of them must stand alone"):
        whole("left", TABLES, "e.toml")


def test_a_source_is_never_inherited() -> None:
    """Every variant of the repository says itself where it is from."""
    assert "source" not in whole("new", {**TABLES, "new": {"extends": "base"}}, "e.toml")
    assert all(variant.source for variant in registry.variants().values())
