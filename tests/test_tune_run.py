"""A campaign's trials are ordinary ones: a planted flag that is fast and wrong, one that does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import registry, store
from harness.registry import ROOT
from harness.reporting import bundle
from harness.schema import Comparison
from harness.sealing import verify
from harness.tune import campaign, found_file, outcomes, stages, telling, verbs
from harness.tune.campaign import Campaign
from harness.tune.telling import Outcome, Runs

ENGINES = {"HARNESS_ENGINES": str(ROOT / "tests" / "engines")}
POISON, DEAD = "mock~pace=0.01~poison=fast", "mock~pace=0.01~oom=CUDA"
WORDS = ["mock", "32/24", "concurrency=2", "num_prompts=6", "reference=mock", "budget_s=60"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench of four points, one of them poisoned, one that exits."""
    folder = tmp_path_factory.mktemp("points")
    env = {**os.environ, **ENGINES, "HARNESS_RESULTS": str(folder), "HARNESS_LOG": str(folder / "log.md")}
    names = f"mock~default,mock~pace=0.01,{POISON},{DEAD}"
    words = (names, *WORDS[1:5], "repeats=1", "run_id=points")
    command = [sys.executable, "-m", "harness", "bench", *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 3, done.stderr
    return folder / "points"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """A campaign over the mock's space."""
    monkeypatch.setenv(*next(iter(ENGINES.items())))
    registry.variants.cache_clear()
    registry.space.cache_clear()
    return campaign.from_words(WORDS)


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    registry.variants.cache_clear()
    registry.space.cache_clear()


def test_a_flag_that_is_fast_and_wrong_is_measured_counts_nothing_and_can_never_be_chosen(
    run: Path, asked: Campaign
) -> None:
    comparison = store.read(run / "comparison.json", Comparison)
    rates = {row.variant: row.output_throughput for row in comparison.rows if row.output_throughput}
    assert rates[POISON].mean > 1.2 * rates["mock~pace=0.01"].mean, "the poison has to be the fastest"
    tried = outcomes.tried(asked, "mock", comparison)
    assert tried[POISON].value is None and tried[POISON].why.startswith("FAIL")
    assert [name for name, _ in outcomes.ranked(asked, comparison)] == ["mock~pace=0.01", "mock~default"]
    assert stages.candidates(asked, "mock", comparison) == ["mock~pace=0.01"]
    won = telling.winner(asked, "mock", Runs(comparison, comparison, comparison))
    assert won == "mock~pace=0.01"


def test_a_point_that_does_not_start_is_data_with_its_cause(run: Path, asked: Campaign) -> None:
    dead = outcomes.tried(asked, "mock", store.read(run / "comparison.json", Comparison))[DEAD]
    assert dead.value is None
    assert dead.why.startswith("failed: ") and "ended while starting" in dead.why


def test_every_restart_says_what_it_took_failed_ones_too(run: Path, asked: Campaign) -> None:
    assert stages.of("mock", run) == sorted(["mock~default", "mock~pace=0.01", POISON, DEAD])
    lives = stages.lives_s(run, "mock")
    assert len(lives) == 4 and min(lives) > 0


@pytest.mark.parametrize("spent, begins", [(0.0, True), (95.0, True), (96.0, False), (120.0, False)])
def test_a_restart_begins_while_half_of_it_is_left(spent: float, begins: bool) -> None:
    assert stages.affords(100.0, spent, cost_s=10.0) is begins


@pytest.mark.parametrize(
    "totals, costs, chosen",
    [
        ({"a": 150.0, "b": 159.0}, {"a": 9.0, "b": 9.0}, "a"),
        ({"a": 150.0, "b": 154.0}, {"a": 9.0, "b": 9.0}, ""),
        ({"a": 190.0, "b": 150.0}, {"a": 9.0, "b": 100.0}, ""),
        ({"a": 150.0}, {"a": 9.0}, ""),
    ],
)
def test_who_is_behind_by_half_a_restart_spends_another(
    totals: dict[str, float], costs: dict[str, float], chosen: str
) -> None:
    assert stages.poorer(totals, costs) == chosen


def test_nothing_that_is_right_in_the_proof_leaves_the_engine_s_default(run: Path, asked: Campaign) -> None:
    comparison = store.read(run / "comparison.json", Comparison)
    wrong = msgspec.structs.replace(comparison, rows=tuple(r for r in comparison.rows if r.variant == POISON))
    assert telling.winner(asked, "mock", Runs(comparison, comparison, wrong)) == "mock~default"


def test_what_a_campaign_tells_is_recomputed_and_changes_no_signed_run() -> None:
    assert verbs.TOLD in bundle.DERIVED and verbs.TOLD in verify.DERIVED


def test_what_was_found_is_a_file_that_the_registry_reads(
    run: Path, asked: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_VARIANTS", str(tmp_path / "tuned"))
    found = Outcome(base="mock", winner="mock~pace=0.01", verdict="PASS")
    variant = found_file.tuned(asked, found, run, "2026-01-02T03:04:05Z")
    assert found_file.kept(variant, "tuned") == tmp_path / "tuned" / "mock-tuned-20260102.toml"
    read = registry.variant("mock-tuned-20260102")
    assert (read.slot, read.env, read.engine) == ("tuned", {"MOCK_TOKEN_S": "0.01"}, "mock")
    assert read.found["run"] == "points" and read.found["point"] == "mock~pace=0.01"
    assert "mock-tuned-20260102" not in registry.variants()
