"""A variant against itself under two blind names."""

from __future__ import annotations

import pytest

from harness import plan, recipe, registry
from harness.errors import InputError
from harness.schema import Machine


def test_both_names_are_the_same_launch() -> None:
    words = recipe.against_itself(["vllm-cpu", "64/8", "concurrency=2"])
    assert words[:2] == ["vllm-cpu-blind1,vllm-cpu-blind2", "64/8"]
    assert "repeats=3" in words and "concurrency=2" in words
    assert "repeats=3" not in recipe.against_itself(["vllm-cpu", "repeats=5"])
    asked, _ = plan.recipe_of(words, Machine())
    one, two = plan.plan(asked, Machine())
    assert one.launch.argv == two.launch.argv and one.launch.env == two.launch.env
    assert (one.variant.name, two.variant.name) == asked.variants


def test_a_blind_name_is_its_variants() -> None:
    assert registry.variant("vllm-tp-x2-blind1").parallel == registry.variant("vllm-tp-x2").parallel
    assert registry.known_variant("nobody-blind1") is None


@pytest.mark.parametrize("words", [[], ["all"], ["vllm-cpu,sglang-cpu"], ["vllm-cpuu"]])
def test_it_takes_one_variant(words: list[str]) -> None:
    with pytest.raises(InputError):
        recipe.against_itself(words)
