"""api_key_env=NAME: everything that talks to an engine has the key, and no file has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import requests

from harness import store
from harness.correctness.promises import Conformance
from harness.extras.foreign_client import ForeignJob, command, environment
from harness.registry import ROOT
from harness.schema import Opinion
from harness.server import free_port
from tests.test_run import QUICK, Desk, desk

__all__ = ["desk"]

KEY = "sesame-planted-secret"


@pytest.fixture
def locked(desk: Desk) -> Desk:
    """A desk on which every mock engine, the reference too, answers 401 to whoever lacks the key."""
    desk.env |= {"OUR_KEY": KEY, "MOCK_API_KEY": KEY}
    return desk


@pytest.fixture
def url(locked: Desk) -> Iterator[str]:
    """A locked engine that somebody else runs."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "engines" / "mock.py"), str(port)],
        env={**locked.env, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                requests.get(f"{base}/health", timeout=1)
                break
            except requests.RequestException:
                time.sleep(0.05)
        yield base
    finally:
        process.terminate()
        process.wait()


def leaks(desk: Desk) -> list[str]:
    """Files of the run and its log that hold the key."""
    files = [p for p in [*desk.results.rglob("*"), desk.log] if p.is_file()]
    assert len(files) > 8
    return [str(p) for p in files if KEY.encode() in p.read_bytes()]


def test_a_run_of_our_own_server(locked: Desk) -> None:
    done = locked.run(
        "bench", "mock", *QUICK, "api_key_env=OUR_KEY", "args=--api-key ${OUR_KEY}", "env.HF_TOKEN=${OUR_KEY}"
    )
    assert done.returncode == 0, done.stderr
    row = locked.row("mock")
    assert row.metrics is not None and (row.metrics.completed, row.metrics.failed) == (6, 0)
    assert row.agreement is not None and row.agreement.token_match == 1.0, "the reference was asked with it"
    visit = locked.runs[0] / "mock" / "r1"
    broken = [p.name for p in store.read(visit / "conformance.json", Conformance).points if "401" in p.found]
    assert broken == []
    assert leaks(locked) == [] and KEY not in done.stdout + done.stderr
    log = (visit / "server.log").read_text()
    assert "'--api-key', '***'] and the key ***" in log, "the engine printed it"
    assert "--api-key" in (locked.runs[0] / "recipe.toml").read_text()
    assert "${OUR_KEY}" in (locked.runs[0] / "recipe.toml").read_text(), "so that it can be run again"


def test_a_run_against_somebody_elses_server(locked: Desk, url: str) -> None:
    done = locked.run("bench", "attach", f"url={url}", *QUICK, "model=tiny-moe", "api_key_env=OUR_KEY")
    assert done.returncode == 0, done.stderr
    row = locked.row("attach")
    assert row.metrics is not None and (row.metrics.completed, row.metrics.failed) == (6, 0)
    assert row.agreement is not None and row.agreement.token_match == 1.0
    assert leaks(locked) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "asks for an API key: export it in a variable and give api_key_env=NAME_OF_THAT_VARIABLE"),
        (("api_key_env=OTHER_KEY",), "does not take the API key in OTHER_KEY: correct it (HTTP 401)"),
        (("api_key_env=UNSET_KEY",), "environment variable UNSET_KEY holds no usable API key"),
    ],
)
def test_without_the_right_key_it_is_a_sentence_at_once(
    locked: Desk, url: str, words: tuple[str, ...], told: str
) -> None:
    locked.env["OTHER_KEY"] = "open barley"
    began = time.monotonic()
    done = locked.run("bench", "attach", f"url={url}", *QUICK, *words)
    assert done.returncode and time.monotonic() - began < 30
    assert told in " ".join((done.stdout + done.stderr).split())


def test_a_probe(locked: Desk, url: str) -> None:
    done = locked.run("probe", url, "--api-key-env", "OUR_KEY")
    assert "kept    completions with token-id prompts: answered" in done.stdout, done.stderr
    assert "lists no model at" in locked.run("probe", url).stderr


def test_other_tools_get_it_by_their_environment_and_nobody_elses() -> None:
    os.environ |= {"TEST_KEY": KEY, "OPENAI_API_KEY": "the caller's own"}
    try:
        assert environment("aiperf", "TEST_KEY")["OPENAI_API_KEY"] == KEY
        assert "OPENAI_API_KEY" not in environment("aiperf")
        job = ForeignJob(
            base_url="http://h:1",
            model="m",
            tokenizer="/t",
            input_len=1,
            output_len=1,
            num_prompts=1,
            api_key_env="TEST_KEY",
        )
        for tool in ("vllm-bench", "sglang-bench", "aiperf", "guidellm"):
            assert KEY not in " ".join(command(tool, job, ROOT)[0])
    finally:
        del os.environ["TEST_KEY"], os.environ["OPENAI_API_KEY"]


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_each_tool_is_let_in(locked: Desk, url: str) -> None:
    tools = ("aiperf", "guidellm", "sglang-bench", "vllm-bench")
    process = locked.start(
        *("bench", "attach", f"url={url}", *QUICK, "model=tiny-moe", "api_key_env=OUR_KEY"),
        f"second_opinion={','.join(tools)}",
    )
    _, said = process.communicate(timeout=580)
    assert process.returncode == 0, said
    folder = locked.runs[0] / "attach" / "r1" / "text-32-8@c2" / "opinions"
    for tool in tools:
        opinion = store.read(folder / f"{tool}.json", Opinion)
        assert opinion.imported is not None, opinion.problem
        assert opinion.imported.metrics.completed == 6
    assert leaks(locked) == []
