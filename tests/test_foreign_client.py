"""Foreign clients: their command lines, and what happens when one fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from harness.errors import InputError, MachineError
from harness.extras import foreign_client
from harness.extras.foreign_client import TOOLS, ForeignJob, call, command, loaded, run
from harness.schema import Load

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


@pytest.mark.parametrize(
    ("tool", "arrival", "said"),
    [
        ("vllm-bench", "poisson", "--burstiness=1 "),
        ("vllm-bench", "gamma", "--burstiness=0.5 "),
        ("aiperf", "poisson", "--request-rate-mode poisson"),
        ("aiperf", "gamma", "--arrival-smoothness 0.5"),
        ("guidellm", "poisson", "kind=poisson,rate=2.5,max_concurrency=7"),
    ],
)
def test_a_load_is_told_in_the_tools_own_words(tool: str, arrival: str, said: str, tmp_path: Path) -> None:
    fields = {"arrival": arrival, "request_rate": 2.5, "max_concurrency": 7, "burstiness": 0.5}
    job = loaded(JOB, msgspec.convert(fields, Load))
    assert said in " ".join(command(tool, job, tmp_path)[0])


def test_a_load_that_cannot_be_told_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="arrival=ramp"):
        loaded(JOB, Load(arrival="ramp", request_rate=1, ramp_to=2))
    gamma = loaded(JOB, Load(arrival="gamma", request_rate=1, burstiness=2))
    with pytest.raises(InputError, match="gamma"):
        command("guidellm", gamma, tmp_path)


def fake(folder: Path, tool: str, script: str) -> Path:
    """A folder of programs with a stand-in for the tool: the harness side is what is tested."""
    folder.mkdir()
    program = folder / tool
    program.write_text(f"#!{sys.executable}\nimport sys, shutil\n{script}\n")
    program.chmod(0o755)
    return folder


def test_a_run_imports_the_file_and_keeps_the_log(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "foreign" / "guidellm-0.8.1.json"
    script = (
        "out = next(w for w in sys.argv if w.startswith('kind=json')).split('path=')[1]\n"
        f"shutil.copyfile({str(golden)!r}, out)\nprint('guidellm was here')"
    )
    found = run("guidellm", JOB, fake(tmp_path / "bin", "guidellm", script), tmp_path / "guidellm.log")
    assert found.tool_version == "0.8.1" and found.metrics.completed > 0
    assert "was here" in (tmp_path / "guidellm.log").read_text()


def test_a_tool_that_writes_nothing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="without a result file"):
        run("guidellm", JOB, fake(tmp_path / "bin", "guidellm", "pass"), tmp_path / "guidellm.log")


def test_a_tools_children_do_not_outlive_it(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    call("aiperf", [sys.executable, "-c", script], tmp_path, 30)
    pid = int((tmp_path / "aiperf.log").read_text())
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the tool's child still runs")


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
