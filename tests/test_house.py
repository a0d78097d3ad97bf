"""The walls of the house: what each rule of tests/house.py finds is nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests import house

RULES: dict[str, Callable[[], Counter[str]]] = {
    "import circle": house.circles,
    "engine named": house.engine_names,
    "launcher compared": house.launcher_comparisons,
    "spine imports an optional feature": house.spine_on_optional,
    "pure room": house.impure,
    "size": house.too_long,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_wall_has_no_hole(rule: str) -> None:
    assert sorted(RULES[rule]()) == []


def test_visiting_engines_reaches_less_than_half_of_the_house() -> None:
    assert 10_000 < house.lines_within("harness.run") < 13_000


def test_justfile_and_command_line_tell_the_same_verbs_in_the_same_words() -> None:
    assert house.just_verbs() == house.command_verbs()


def test_every_verb_is_written_down_and_every_verb_written_down_exists() -> None:
    recipes = (house.ROOT / "justfile").read_text("utf-8")
    own = {word for word in house.written_verbs() if f"\n{word}" in recipes or word.startswith("serve-")}
    assert house.written_verbs() - own == set()
    assert set(house.just_verbs()) - house.written_verbs() - {"serve"} == set()
