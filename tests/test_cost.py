"""The line before a run says what it costs and what it will be able to see."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import compare, cost, plan, store
from harness.host import environment
from harness.numbers import power
from harness.schema import Load, Machine, Recipe, WorkloadSpec
from tests import runs
from tests.examples import ENVIRONMENT

SPEC = WorkloadSpec(name="random_tokens", num_prompts=12, params={"input_len": 64, "output_len": 8})
ASKED = Recipe(
    question="q", variants=("vllm-cpu", "sglang-cpu"), workloads=(SPEC,), loads=(Load(max_concurrency=4),)
)


def said(repeats: int, variants: tuple[str, ...] = ASKED.variants) -> str:
    recipe = msgspec.structs.replace(ASKED, repeats=repeats, variants=variants)
    planned = tuple(msgspec.structs.replace(p, skip="") for p in plan.plan(recipe, Machine()))
    return cost.line(recipe, planned)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    return tmp_path


def test_without_earlier_runs_it_says_so() -> None:
    line = said(3)
    assert line.startswith("6 trials in 6 server lives, no earlier run on this host tells how long")
    assert "would be seen four times in five if restarts differ by 2.0% (nothing earlier says" in line


def test_one_restart_decides_nothing_and_one_variant_compares_nothing() -> None:
    assert "one restart has no interval and decides nothing: repeats=3 would" in said(1)
    assert "one variant: nothing is compared" in said(3, ("vllm-cpu",))
    assert said(0).startswith("6 trials in 6 server lives at the least (repeats=auto)")


def test_earlier_runs_tell_their_spread(results: Path) -> None:
    run = runs.write_run(results / "earlier")
    store.write(run / "comparison.json", compare.compare(run))
    assert cost._past({"slow", "fast"}).spreads == [], "another host's runs say nothing here"
    own = msgspec.structs.replace(ENVIRONMENT, hostname_hash=environment.hostname_hash())
    store.write(run / "environment.json", own)
    past = cost._past({"slow", "fast"})
    assert past.spreads and all(0.0 < s < 0.1 for s in past.spreads)


def test_more_restarts_and_fewer_comparisons_see_smaller_differences() -> None:
    three, five = power.detectable(3, 6, 12, 0.02), power.detectable(5, 6, 12, 0.02)
    alone = power.detectable(3, 6, 1, 0.02)
    assert three and five and alone and 1.0 < five < three and alone < three
    assert power.detectable(1, 6, 12, 0.02) is None
