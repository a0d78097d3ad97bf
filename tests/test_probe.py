"""The verb `probe` on endpoints that keep their promises and on one that does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.correctness import probe
from harness.errors import InputError
from harness.registry import ROOT
from tests.completions_server import Flaws, serving


def test_every_finding_is_a_line() -> None:
    with serving() as url:
        found = probe.run(url, "m", harsh=True)
    told = probe.lines(found)
    assert len(told) == len(found.points) + 3
    assert all(line.startswith("kept") for line in told[:-3])
    assert told[-3] == "known answers: 1 of 1 right"
    assert told[-2].startswith("What is 2+2? 3 4 5 6")
    assert told[-1].startswith("greedy output equal to that of requests alone: 16/16 at 1 in flight")


def test_the_exit_status_says_that_a_promise_is_broken() -> None:
    with serving(Flaws(no_done=True)) as url:
        command = [sys.executable, "-m", "harness", "probe", url, "m"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "BROKEN  [DONE] ends the stream: absent" in done.stdout


def test_nothing_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="lists no model"):
        probe.run("http://127.0.0.1:9")
