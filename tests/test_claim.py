"""One bench per run folder, and a word about another one on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import claim
from harness.errors import InputError, StoreError
from harness.registry import ROOT

HOLDER = """
import sys
from pathlib import Path
from harness import claim
with claim.alone(Path(sys.argv[1]), print, Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(run: Path, lock: Path) -> subprocess.Popen[str]:
    """Another process that holds `run`, until its standard input is closed."""
    words = [sys.executable, "-c", HOLDER, str(run), str(lock)]
    process = subprocess.Popen(words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_run_is_measured_by_one_bench(tmp_path: Path) -> None:
    run, lock = tmp_path / "run", tmp_path / "lock"
    with holder(run, lock) as other:
        with pytest.raises(InputError, match="Another bench measures into"), claim.alone(run, print, lock):
            pass
        other.kill()
    with claim.alone(run, print, lock):
        assert run.is_dir(), "a lock ends with its process"


def test_another_bench_of_the_machine_is_told(tmp_path: Path) -> None:
    lock, told = tmp_path / "lock", list[str]()
    with holder(tmp_path / "theirs", lock) as other:
        with claim.alone(tmp_path / "ours", told.append, lock):
            pass
        other.kill()
    assert len(told) == 1 and f"process {other.pid}, run theirs" in told[0]
    with claim.alone(tmp_path / "ours", told.append, lock):
        pass
    assert len(told) == 1


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim.alone(tmp_path / "run", print, tmp_path / "lock"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    run, lock = tmp_path / "run", tmp_path / "lock"
    with pytest.raises(StoreError, match="cannot be written"), claim.alone(run, print, lock):
        pass
