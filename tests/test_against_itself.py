"""A variant against itself under two blind names."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.against_itself import tally
from harness import plan, recipe, registry
from harness.errors import InputError
from harness.schema import Comparison, Contrast, Interval, Machine
from tests.examples import row


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


def campaign(ratio: float, p_value: float, word: str = "PASS") -> Comparison:
    span = Interval(mean=ratio, low=ratio - 0.02, high=ratio + 0.02, num=3)
    contrast = Contrast(scenario="s", baseline="a-blind1", variant="a-blind2", ratio=span, p_value=p_value)
    return Comparison(
        run_id="r",
        question="q",
        rows=(row("a-blind1", 100.0, scenario="s"), row("a-blind2", 100.0, word, scenario="s")),
        contrasts=(contrast, msgspec.structs.replace(contrast, primary=False)),
    )


def test_campaigns_are_counted_by_what_they_called_and_by_the_words_of_their_rows() -> None:
    calm, false = campaign(1.01, 0.9), campaign(1.3, 0.001, "FAIL")
    found = tally([calm] * 19 + [false])
    assert (found.campaigns, found.comparisons, found.called, found.wrong) == (20, 20, 1, 1)
    assert found.words == {"PASS": 39, "FAIL": 1}
    assert found.bound == pytest.approx(0.2161, abs=1e-4)  # Clopper-Pearson: 1 of 20, one-sided 95 %
    assert tally([calm] * 20).bound == pytest.approx(1 - 0.05 ** (1 / 20))
