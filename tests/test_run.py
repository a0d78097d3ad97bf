"""The main job from words to log, as a user runs it, on deterministic engines with scripted faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import store
from harness.correctness.promises import Conformance
from harness.extras import traces
from harness.launchers.process import MARK
from harness.registry import ROOT
from harness.schema import Attestation, Comparison, Environment, Launch, Row, TrialResult, Workload
from harness.server import free_port


class Desk:
    """A folder of results and a log, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.results, self.log = folder / "results", folder / "log.md"
        self.env = {
            **os.environ,
            "HARNESS_RESULTS": str(self.results),
            "HARNESS_LOG": str(self.log),
            "HARNESS_ENGINES": str(ROOT / "tests" / "engines"),
            "HF_TOKEN": "hf_planted_secret",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "harness", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @property
    def runs(self) -> list[Path]:
        return sorted(self.results.iterdir())

    def comparison(self) -> Comparison:
        return store.read(self.runs[-1] / "comparison.json", Comparison)

    def row(self, variant: str, scenario: str = "text-32-8@c2") -> Row:
        return next(r for r in self.comparison().rows if (r.variant, r.scenario) == (variant, scenario))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


RESUMED, KILLED = f"resumed-{os.getpid()}", f"killed-{os.getpid()}"
QUICK = ("32/8", "concurrency=2", "num_prompts=6", "reference=mock")
ONCE = ("concurrency=2", "num_prompts=8", "reference=mock", "repeats=1")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, str]:
    """One finished bench, and what it told meanwhile."""
    desk = Desk(tmp_path_factory.mktemp("once"))
    done = desk.run("bench", "mock,mock-exits,mock-mislabelled,mock-traces", *QUICK, "repeats=1")
    assert done.returncode == 0, done.stderr
    return desk, done.stderr


@pytest.fixture
def finished(once: tuple[Desk, str], desk: Desk) -> Desk:
    """A copy of it that a test may change."""
    shutil.copytree(once[0].results, desk.results)
    shutil.copy(once[0].log, desk.log)
    return desk


def leftovers(run: str) -> list[int]:
    """Engine processes of one run that still live."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(run):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_one_run_leaves_all_its_files_and_an_entry(finished: Desk) -> None:
    run = finished.runs[0]
    trial = run / "mock" / "r1" / "text-32-8@c2"
    assert store.read(run / "environment.json", Environment).weights["tiny-moe/model.safetensors"]
    assert store.read(run / "mock" / "r1" / "launch.json", Launch).variant == "mock"
    assert store.read(run / "mock" / "r1" / "attestation.json", Attestation).valid
    assert store.read(trial / "workload.json", Workload).num_requests == 6
    assert store.read(trial / "trial.json", TrialResult).status == "done"
    assert len(list(store.records(trial))) == 6
    assert (trial / "scores.jsonl.xz").exists() and (run / "mock" / "r1" / "server.log").exists()
    row = finished.row("mock")
    assert row.agreement is not None and row.agreement.token_match == 1.0
    assert row.metrics is not None and row.metrics.total_output_tokens == 48
    assert (run / "report.md").read_text().count(run.name) >= 1
    assert finished.log.read_text().count(f" {run.name}\n") == 1
    assert not leftovers(run.name)


def test_no_secret_reaches_a_file(desk: Desk) -> None:
    desk.run(
        "bench", "mock", *QUICK, "env.OPENAI_API_KEY=sk_planted_secret", "args=--api-key sk_planted_secret"
    )
    files = [p for p in [*desk.results.rglob("*"), desk.log] if p.is_file()]
    assert len(files) > 8
    assert [str(p) for p in files if b"planted_secret" in p.read_bytes()] == []


def test_a_wrong_engine_fails_and_so_does_the_exit_status(desk: Desk) -> None:
    done = desk.run("bench", "mock,mock-wrong", "32/64", *ONCE)
    assert done.returncode == 3, done.stderr
    row = desk.row("mock-wrong", "text-32-64@c2")
    assert row.agreement is not None and row.agreement.verdict == "FAIL"
    right = desk.row("mock", "text-32-64@c2")
    assert right.agreement is not None and right.agreement.verdict == "PASS"
    assert "~~" in (desk.runs[0] / "report.md").read_text()


def test_an_engine_that_dies_loses_only_what_was_in_flight(desk: Desk) -> None:
    done = desk.run("bench", "mock-dies,mock", "32/8,16/4", *ONCE)
    assert done.returncode == 0, done.stderr
    row = desk.row("mock-dies")
    assert row.status == "failed"
    assert "died during text-32-8@c2 (exit code 3)" in row.reason
    assert row.metrics is not None and row.metrics.completed >= 1
    assert desk.row("mock").status == "done"
    assert (
        "scripted death"
        in store.read(desk.runs[0] / "mock-dies" / "r1" / "text-32-8@c2" / "trial.json", TrialResult).evidence
    )
    assert "died during" in desk.log.read_text()


def test_an_engine_that_dies_in_the_pre_flight_is_sent_no_timed_request(desk: Desk) -> None:
    done = desk.run("bench", "mock", "32/8", "env.MOCK_DIE_AT=2", *ONCE)
    assert done.returncode == 1, done.stderr
    assert "mock died before text-32-8@c2 began (exit code 3)" in desk.row("mock").reason
    assert not list(desk.runs[0].rglob("requests.jsonl*"))


def test_an_engine_that_exits_at_the_start_is_a_failed_row_with_its_cause(finished: Desk) -> None:
    row = finished.row("mock-exits")
    assert row.status == "failed" and "memory" in row.reason
    evidence = store.read(finished.runs[0] / "mock-exits" / "r1" / "text-32-8@c2" / "trial.json", TrialResult)
    assert "by hand" in evidence.evidence and "mock.py" in evidence.evidence


def test_an_engine_that_never_answers_is_given_up_with_its_log(desk: Desk) -> None:
    done = desk.run("bench", "mock-hangs", *QUICK, "run_id=hangs")
    assert done.returncode == 1, done.stderr
    assert "did not answer a completion within" in desk.row("mock-hangs").reason
    result = store.read(desk.runs[0] / "mock-hangs" / "r1" / "text-32-8@c2" / "trial.json", TrialResult)
    assert "thinking about it" in result.evidence and "by hand" in result.evidence


def test_a_label_that_is_not_proven_is_not_ranked(finished: Desk) -> None:
    row = finished.row("mock-mislabelled")
    assert not row.attested
    assert "label says 'bfloat16', engine runs 'float32'" in row.invalid
    assert "label says 8, engine does not show it" in row.invalid


def test_restarts_interleave_and_give_an_interval(desk: Desk) -> None:
    done = desk.run("bench", "mock,mock-slow", *QUICK, "repeats=2")
    assert done.returncode == 0, done.stderr
    starts = [line for line in done.stderr.splitlines() if line.startswith("starting mock")]
    assert starts[:4] == ["starting mock", "starting mock-slow", "starting mock-slow", "starting mock"]
    rate = desk.row("mock").output_throughput
    assert rate is not None and rate.num == 2 and rate.low < rate.mean < rate.high
    assert any("mock-slow" in c.variant for c in desk.comparison().contrasts)
    lives = [desk.runs[0] / "mock" / restart / "conformance.json" for restart in ("r1", "r2")]
    first, second = (store.read(path, Conformance).points for path in lives)
    assert len(first) > 9 and len(second) <= 1, "its API is asked once, known answers of every life"


def test_an_engine_that_cannot_be_reset_starts_anew_for_every_scenario(desk: Desk) -> None:
    words = ("32/8,32/4", "concurrency=2", "num_prompts=6", "reference=none")
    done = desk.run("bench", "hoarder,mock", *words, "repeats=1")
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stderr.splitlines() if line.startswith("starting ")]
    assert stages.count("starting hoarder") == 2 and stages.count("starting mock") == 1
    for scenario in ("text-32-8@c2", "text-32-4@c2"):
        row = desk.row("hoarder", scenario)
        assert (row.status, row.invalid) == ("done", "")
    folder = desk.runs[0] / "hoarder" / "r1"
    assert sorted(p.name for p in folder.glob("*.log")) == ["server-1.log", "server.log"]
    planned = desk.run("plan", "hoarder,mock", *words).stdout
    assert planned.count("started anew for every scenario") == 1


def test_an_engine_that_remembers_its_prompts_is_not_measured_once_more_when_it_was_cold(desk: Desk) -> None:
    words = ("32/40", "concurrency=2", "num_prompts=24", "verify=24", "repeats=1", "reference=mock")
    assert desk.run("bench", "hoarder-cold", *words).returncode == 0
    row = desk.row("hoarder-cold", "text-32-40@c2")
    assert (row.status, row.invalid) == ("done", "")
    assert any("not measured once more" in note for note in row.notes), row.notes
    assert not list(desk.runs[0].rglob("requests.cold.jsonl*"))


def test_prompts_that_an_engine_remembers_make_its_row_invalid(desk: Desk) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    process = desk.start("serve", "hoarder", "tiny-moe", f"port={url.rsplit(':', 1)[1]}")
    assert process.stderr is not None and any("answers at" in line for line in process.stderr)
    words = ("32/8,32/4", "num_prompts=6", "concurrency=2", "reference=none")
    done = desk.run("bench", "attach", *words, f"url={url}")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    assert desk.row("attach").invalid == ""
    assert "came from the prefix cache" in desk.row("attach", "text-32-4@c2").invalid


def test_traces_are_taken_after_the_timed_part_and_kept_with_the_run(
    once: tuple[Desk, str], finished: Desk
) -> None:
    visit = finished.runs[0] / "mock-traces" / "r1"
    assert "1 trace files; read the largest with" in once[1]
    shown = finished.run("trace", str(visit / "traces" / "rank0.json"))
    assert shown.returncode == 0 and "dispatch" in shown.stdout
    assert finished.row("mock-traces").status == "done"


def test_traces_of_a_served_engine_outlive_it(desk: Desk) -> None:
    port = free_port()
    process = desk.start("serve", "mock-traces", "tiny-moe", f"port={port}")
    assert process.stderr is not None and any("answers at" in line for line in process.stderr)
    with traces.profiling(f"http://127.0.0.1:{port}"):
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert [p.name for p in desk.results.glob("*-serve-mock-traces/traces/*")] == ["rank0.json"]


def test_ctrl_c_keeps_what_was_measured_and_a_rerun_resumes(desk: Desk) -> None:
    words = ("bench", "mock,mock-slow", "32/8,32/80", *ONCE)
    process = desk.start(*words, f"run_id={RESUMED}")
    record = desk.results / RESUMED / "mock-slow" / "r1" / "text-32-80@c2" / "requests.jsonl"
    for _ in range(1800):
        if record.exists() and record.stat().st_size > 0:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not leftovers(RESUMED)
    trial = store.read(record.parent / "trial.json", TrialResult)
    assert trial.status == "interrupted"
    kept = list(store.records(record.parent))
    assert any(not r.error for r in kept) and any(r.error_kind == "cancelled" for r in kept)
    assert desk.row("mock").status == "done"
    done_before = (desk.results / RESUMED / "mock" / "r1" / "text-32-8@c2" / "trial.json").stat().st_mtime_ns
    again = desk.run("bench", f"run_id={RESUMED}")
    assert again.returncode == 0, again.stderr
    assert desk.row("mock-slow", "text-32-80@c2").status == "done"
    untouched = desk.results / RESUMED / "mock" / "r1" / "text-32-8@c2" / "trial.json"
    assert untouched.stat().st_mtime_ns == done_before, "a finished trial was repeated"
    assert "mock text-32-8@c2: warm-up" not in again.stderr


def test_an_engine_killed_from_outside_is_a_failed_trial(desk: Desk) -> None:
    process = desk.start("bench", "mock-slow", "32/80", "concurrency=2", "num_prompts=8", f"run_id={KILLED}")
    record = desk.results / KILLED / "mock-slow" / "r1" / "text-32-80@c2" / "requests.jsonl"
    for _ in range(1800):
        if record.exists() and record.stat().st_size > 0:
            break
        time.sleep(0.05)
    for pid in leftovers(KILLED):
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    row = desk.row("mock-slow", "text-32-80@c2")
    assert row.status == "failed" and "SIGKILL" in row.reason
    assert row.metrics is not None and row.metrics.completed >= 2


def test_compare_needs_no_engine_and_gives_the_same_rows(finished: Desk) -> None:
    before = finished.comparison()
    (finished.runs[0] / "comparison.json").unlink()
    done = finished.run("compare", finished.runs[0].name)
    assert done.returncode == 0, done.stderr
    assert finished.comparison() == before
    assert finished.log.read_text().count("## 2") == 1, "compare must not log"


def test_a_run_kept_without_records_is_shown_not_overwritten(finished: Desk) -> None:
    for path in finished.runs[0].rglob("requests.jsonl*"):
        path.unlink()
    stored = (finished.runs[0] / "comparison.json").read_bytes()
    done = finished.run("compare", finished.runs[0].name)
    assert done.returncode == 0, done.stderr
    assert "is kept without requests.jsonl: this" in " ".join(done.stdout.split())
    pages = finished.run("report", finished.runs[0].name)
    assert pages.returncode == 0 and "kept without requests" in (finished.runs[0] / "report.md").read_text()
    assert (finished.runs[0] / "comparison.json").read_bytes() == stored


def test_load_drives_a_running_endpoint(desk: Desk) -> None:
    from harness.client import known_server

    with known_server.running(known_server.Script(first_token_s=0.01, token_s=0.001)) as url:
        done = desk.run("load", f"url={url}", "32/8", "num_prompts=6", "concurrency=2", "reference=none")
    assert done.returncode == 0, done.stderr
    row = desk.row("attach")
    assert row.metrics is not None and row.metrics.completed == 6
    assert row.metrics.ttft_s is not None and 0.01 <= row.metrics.ttft_s.p50 < 0.03


def test_a_port_in_use_is_told(desk: Desk) -> None:
    from harness.client import known_server

    with known_server.running() as url:
        done = desk.run("serve", "mock", "tiny-moe", f"port={url.rsplit(':', 1)[1]}")
    assert done.returncode == 1
    assert "is in use" in done.stderr and "port=" in done.stderr


def test_serve_answers_until_ctrl_c(desk: Desk) -> None:
    process = desk.start("serve", "mock", "tiny-moe", f"port={free_port()}")
    assert process.stderr is not None
    for line in process.stderr:
        if "answers at" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "dtype=float32" in out, "the engine's log is on the terminal"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("bench", "nosuch"), "There is no variant 'nosuch'"),
        (("bench", "mock", "nosuch"), "There is no workload 'nosuch'"),
        (("bench", "mock", "32/8", "model=nosuch"), "There is no model 'nosuch'"),
        (("bench", "recipe=/nonexistent.toml"), "cannot be read"),
        (("bench", "recipe=/nonexistent.toml", "repeats=3"), "repeats=3 would be ignored"),
        (("load", "32/8"), "load needs url="),
        (("compare", "nosuch"), "There is no run 'nosuch'"),
        (("bench", "vllm-cpu", "32/8", "args=--load-format dummy"), "mixture of experts"),
        (
            ("bench", "vllm-cpu", "32/8", "env.VLLM_MOE_ROUTING_SIMULATION_STRATEGY=uniform_random"),
            "mixture of",
        ),
    ],
)
def test_bad_input_is_one_sentence(desk: Desk, words: tuple[str, ...], told: str) -> None:
    done = desk.run(*words)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_results_folder_is_told(desk: Desk) -> None:
    desk.env["HARNESS_RESULTS"] = "/proc/nowhere"
    done = desk.run("bench", "mock", *QUICK)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr and "HARNESS_RESULTS" in done.stderr


def test_a_shape_too_long_is_skipped_before_the_launch(desk: Desk) -> None:
    done = desk.run("bench", "mock", "32/8,9000/8", "concurrency=2", "num_prompts=6", "reference=none")
    assert done.returncode == 0, done.stderr
    row = desk.row("mock", "text-9000-8@c2")
    assert row.status == "skipped" and "exceed" in row.reason
