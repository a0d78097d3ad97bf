"""The seam of launchers: what each file offers, and a new one that is served through as one file."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from harness import launchers, store
from harness.planned import TRACES
from harness.registry import ROOT
from harness.schema import Launch, TrialResult
from tests.test_run import Desk

OFFERED = {
    name: member
    for name, member in vars(launchers.Launcher).items()
    if inspect.isfunction(member) and not name.startswith("_")
}


@pytest.mark.parametrize("name", [*launchers.names(), "annex"])
def test_a_launchers_file_offers_all_that_is_asked_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_LAUNCHERS", str(ROOT / "tests" / "launchers"))
    found = launchers.named(name)
    assert isinstance(found.OWNS_SERVER, bool) and isinstance(found.ELSEWHERE, bool)
    for function, asked in OFFERED.items():
        parameters = list(inspect.signature(getattr(found, function)).parameters.values())
        wanted = list(inspect.signature(asked).parameters.values())[1:]
        assert [(p.name, p.kind, p.default) for p in parameters] == [
            (p.name, p.kind, p.default) for p in wanted
        ], function


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A command line that knows of one more launcher."""
    made = Desk(tmp_path)
    annex = tmp_path / "annex"
    annex.mkdir()
    made.env |= {"HARNESS_LAUNCHERS": str(ROOT / "tests" / "launchers"), "ANNEX": str(annex)}
    return made


WORDS = ("mock-traces", "32/8", "concurrency=2", "num_prompts=6", "launcher=annex")


def test_a_new_launcher_is_one_file(desk: Desk, tmp_path: Path) -> None:
    done = desk.run("bench", *WORDS, "reference=none")
    assert done.returncode == 0, done.stderr
    visit = desk.runs[0] / "mock-traces" / "r1"
    launch = store.read(visit / "launch.json", Launch)
    assert launch.launcher == "annex" and launch.base_url.startswith("http://127.0.0.2:")
    assert str(tmp_path / "annex" / "traces") in launch.argv
    assert store.read(visit / "text-32-8@c2" / "trial.json", TrialResult).status == "done"
    assert (visit / TRACES / "rank0.json").exists()
    assert desk.row("mock-traces").invalid == ""


def test_its_plan_is_its_own(desk: Desk, tmp_path: Path) -> None:
    done = desk.run("plan", *WORDS)
    assert done.returncode == 0, done.stderr
    assert f"cd {tmp_path / 'annex'}" in done.stdout
    shown = json.loads(desk.run("plan", *WORDS, "--json").stdout)[0]
    assert shown["launch"]["host"] == "127.0.0.2" and shown["skip"] == ""
    (tmp_path / "annex").rmdir()
    assert "is not there; make it" in desk.run("plan", *WORDS).stdout
