"""Foreign clients: their command lines, and what happens when one fails."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from harness.client import foreign_client
from harness.client.foreign_client import TOOLS, ForeignJob, call, command
from harness.errors import InputError, MachineError

JOB = ForeignJob(
    base_url="http://127.0.0.1:1",
    model="m",
    tokenizer="/t",
    input_len=16,
    output_len=20,
    num_prompts=9,
    concurrency=4,
)
OPEN = msgspec.structs.replace(JOB, concurrency=None, request_rate=2.5)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_command_names_server_lengths_and_load(tool: str, tmp_path: Path) -> None:
    words, file = command(tool, JOB, tmp_path)
    line = " ".join(words)
    assert all(part in line for part in ("http://127.0.0.1:1", "16", "20", "9", "4", "/t"))
    assert file.is_relative_to(tmp_path) and file.suffix in (".json", ".jsonl")
    paced = " ".join(command(tool, OPEN, tmp_path)[0])
    assert "2.5" in paced


def test_aiperf_counts_as_the_server_does(tmp_path: Path) -> None:
    assert "--use-server-token-count" in command("aiperf", JOB, tmp_path)[0]


def test_unknown_client_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vllm-bench, sglang-bench, aiperf, guidellm"):
        command("wrk", JOB, tmp_path)


def test_failure_shows_the_tail(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="exit code 3") as caught:
        call("aiperf", [sys.executable, "-c", "print('no such flag'); raise SystemExit(3)"], tmp_path, 30)
    assert "no such flag" in caught.value.details
    with pytest.raises(MachineError, match=r"within 0\.2 s"):
        call("aiperf", [sys.executable, "-c", "import time; time.sleep(9)"], tmp_path, 0.2)


def test_children_report_nothing_home() -> None:
    assert foreign_client.environment("guidellm")["DO_NOT_TRACK"] == "1"
