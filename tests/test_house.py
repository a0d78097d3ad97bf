"""The walls of the house. Breaches of today stand in house_debt.txt: no new one, no mended one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house

DEBT = Path(__file__).with_name("house_debt.txt")
RULES: dict[str, Callable[[], Counter[str]]] = {
    "import circle": house.circles,
    "engine named": house.engine_names,
    "launcher compared": house.launcher_comparisons,
    "spine imports an optional feature": house.spine_on_optional,
    "pure room": house.impure,
    "size": house.too_long,
}


def debt() -> Counter[str]:
    """Lines "rule | file | what", once for each time that it occurs."""
    lines = DEBT.read_text("utf-8").splitlines()
    return Counter(line for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("rule", RULES)
def test_a_wall_has_no_hole_but_those_listed(rule: str) -> None:
    breaches = Counter({f"{rule} | {what}": num for what, num in RULES[rule]().items()})
    listed = Counter({line: num for line, num in debt().items() if line.startswith(f"{rule} | ")})
    new, mended = sorted((breaches - listed).elements()), sorted((listed - breaches).elements())
    assert not new, "breaches a rule of tests/house.py:\n" + "\n".join(new)
    assert not mended, f"mended: strike it off {DEBT.name}:\n" + "\n".join(mended)


def test_every_debt_is_of_a_rule() -> None:
    assert not [line for line in debt() if line.split(" | ")[0] not in RULES]


def test_justfile_and_command_line_tell_the_same_verbs_in_the_same_words() -> None:
    assert house.just_verbs() == house.command_verbs()


def test_every_verb_is_written_down_and_every_verb_written_down_exists() -> None:
    recipes = (house.ROOT / "justfile").read_text("utf-8")
    own = {word for word in house.written_verbs() if f"\n{word}" in recipes or word.startswith("serve-")}
    assert house.written_verbs() - own == set()
    assert set(house.just_verbs()) - house.written_verbs() - {"serve"} == set()
