"""A new engine with everything an engine can have is its own files: tests/engines/full.* and its parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import store
from harness.host import engine_env
from harness.registry import ROOT
from harness.schema import Launch, TrialResult
from tests.test_run import Desk

WORDS = ("full", "32/8", "concurrency=2", "num_prompts=6")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_it_is_served_counted_and_proven(desk: Desk) -> None:
    done = desk.run("bench", *WORDS, "env.FULL_MODE=quick", "reference=none")
    assert done.returncode == 0, done.stderr
    visit = desk.runs[0] / "full" / "r1"
    trial = store.read(visit / "text-32-8@c2" / "trial.json", TrialResult)
    assert trial.counters == {"generation_tokens": 48.0}
    assert desk.row("full").invalid == ""
    kept = json.loads((visit / "evidence.json").read_text())
    assert kept["environ"]["FULL_MODE"] == "quick"


def test_what_is_known_of_it_is_said_before_it_starts(desk: Desk) -> None:
    planned = desk.run("plan", "full", "1500/8,32/8", "args=--eager --lazy")
    assert "# warning: --eager and --lazy fail together; drop one" in planned.stdout
    assert "# skips text-1500-8@c4: full reads 1000 tokens, not 1500" in planned.stdout
    assert "text-32-8@c4" not in planned.stdout
    for words in ("args=--gates random", "env.FULL_RANDOM_GATES=1"):
        refused = desk.run("plan", "full", words)
        assert refused.returncode != 0 and "random" in refused.stderr.lower()
        assert "mixture of experts" in refused.stderr.replace("\n", " ")


def test_its_compiled_kernels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.containers import settings

    monkeypatch.setenv("HARNESS_ENGINES", str(ROOT / "tests" / "engines"))
    kept = settings.caches(Launch(engine="full"))
    assert kept["full"] == ".cache/full" and "triton" in kept and "vllm" not in kept
    assert settings.caches(Launch(engine="not-here")) == settings.CACHES


@pytest.mark.engine
def test_its_own_parser_is_asked(desk: Desk) -> None:
    engine_env.ensure("llamacpp", ROOT, lambda _: None)
    good = desk.run("plan", "full", "--check")
    assert good.returncode == 0, good.stderr
    assert "parses   full: full 1.0 (environment llamacpp)" in good.stdout
    bad = desk.run("plan", "full", "args=--lazy", "--check")
    assert bad.returncode != 0
    assert "unrecognized arguments: --lazy" in bad.stderr.replace("\n", " ")
