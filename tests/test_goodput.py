"""search=goodput: against a server of known capacity, the interval that is found holds the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.client import known_server
from harness.client.known_server import Script
from harness.errors import InputError
from harness.extras.goodput import check
from harness.numbers import metrics
from harness.numbers.load_search import Probe, SearchResult, words
from harness.numbers.load_search import limit as limit_of
from harness.reporting import goodput, report
from harness.schema import Load, Options, Recipe, TrialResult
from tests.test_run import Desk, desk
from tests.test_shard import SRUN

__all__ = ["desk"]

SERVED = Script(first_token_s=0.1, token_s=0, slots=4)
CAPACITY = 4 / 0.1
"""Requests/s that SERVED can hold: four at a time, a tenth of a second each."""
WORDS = ("32/5", "search=goodput", "arrival=constant", "rate=25", "num_prompts=48")


def test_the_interval_holds_the_known_capacity(desk: Desk) -> None:
    with known_server.running(SERVED) as url:
        done = desk.run(
            "load", f"url={url}", *WORDS, "slo.ttft_s=0.14", "slo_share=0.9", "reference=none", "warmup=0"
        )
    assert done.returncode == 0, done.stderr
    (limit,) = desk.comparison().limits
    assert limit.high is not None and limit.low <= CAPACITY < limit.high <= 1.1 * limit.low
    assert limit.num_trials <= 8 and limit.rate == limit.low
    row = desk.row("attach", "text-32-5@goodput-constant")
    assert row.metrics is not None and row.metrics.completed == 48
    assert row.metrics.request_throughput == pytest.approx(limit.rate, rel=0.1)
    folder = desk.runs[0] / "attach" / "r1" / "text-32-5@goodput-constant"
    result = store.read(folder / "search.json", SearchResult)
    probes = sorted((folder / "probes").iterdir())
    assert len(probes) == len(result.probes)
    packed = [probe for probe in probes if (probe / "requests.jsonl.xz").exists()]
    assert len(packed) == len(probes) - 1, "the one at the found rate is the trial's own"
    assert all(len(list(store.records(probe))) == 48 for probe in packed)
    trial = store.read(folder / "trial.json", TrialResult).trial
    assert trial.load.request_rate == result.rate
    assert "requests/s, the limit lies in" in done.stdout
    ((*_, rate, between, tried),) = goodput.rows(desk.comparison())
    assert (rate, tried) == (f"{limit.rate:.1f}", f"{limit.num_trials} in 1 restart") and ".." in between
    assert "## Goodput" in report.markdown(desk.comparison(), None)


def test_placed_clients_search_too(desk: Desk, tmp_path: Path) -> None:
    """One request at a time, with which a search begins, is no work for two processes."""
    srun = tmp_path / "srun.py"
    srun.write_text(SRUN)
    words = ("32/5", "search=goodput", "arrival=constant", "rate=20", "num_prompts=24", "slo.ttft_s=0.16")
    with known_server.running(SERVED) as url:
        done = desk.run(
            "load",
            f"url={url}",
            *words,
            "slo_share=0.9",
            "reference=none",
            "warmup=0",
            f"place={sys.executable} {srun} 2",
        )
    assert done.returncode == 0, done.stderr
    (limit,) = desk.comparison().limits
    assert limit.rate >= 20 and limit.num_trials > 1


def test_an_slo_that_no_rate_can_meet_is_said() -> None:
    probe = Probe(rate=3.0, attained=0.2, passed=False)
    found = SearchResult(rate=0, low=0, high=3.0, probes=(probe,), reason="even one at a time does not")
    recipe = Recipe(question="q", variants=("v",), slo={"ttft_s": 0.1}, options=Options(slo_share=0.9))
    assert words(found, recipe) == (
        "no rate met 90% of requests within ttft_s <= 0.1 s: even one at a time does not (1 trials)"
    )


def test_restarts_are_one_interval() -> None:
    found = [
        SearchResult(rate=low, low=low, high=high, probes=(), reason="")
        for low, high in ((4.0, 5.0), (5.0, 5.5))
    ]
    both = limit_of(("v", "s"), found, Recipe(question="q", variants=("v",), slo={"ttft_s": 0.1}))
    assert (both.rate, both.low, both.high, both.num_restarts) == (4.5, 4.0, 5.5, 2)
    open_end = msgspec.structs.replace(found[0], high=None)
    assert limit_of(("v", "s"), [open_end, found[1]], Recipe(question="q", variants=("v",))).high is None


SEARCH = Load(search="goodput", arrival="poisson")


@pytest.mark.parametrize(
    ("slo", "load", "share", "told"),
    [
        ({}, SEARCH, 0.99, "give slo.ttft_s"),
        ({"ttft_s": 1.0}, Load(search="goodput", arrival="ramp", request_rate=1), 0.99, "arrival=ramp"),
        ({"ttft_s": 1.0}, SEARCH, 2.0, "slo_share=2"),
    ],
)
def test_a_search_that_cannot_be_made_is_a_sentence(
    slo: dict[str, float], load: Load, share: float, told: str
) -> None:
    options = Options(slo_share=share)
    recipe = Recipe(question="q", variants=("v",), loads=(load,), slo=slo, options=options)
    with pytest.raises(InputError, match=told):
        check(recipe)


def test_a_limit_on_what_has_none_is_a_sentence() -> None:
    with pytest.raises(InputError, match="write one of ttft_s"):
        metrics.check_slo({"ttft_ms": 1.0})
