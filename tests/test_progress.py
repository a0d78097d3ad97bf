"""What a user sees meanwhile: plain lines keep their detail, and say how many requests are in flight."""

from __future__ import annotations

import io
import time

from rich.console import Console

from harness import client
from harness.client import Pulse, known_server
from harness.client.known_server import Script
from harness.progress import Progress
from harness.schema import Load, Request, RequestRecord, Trial, TrialResult, WorkloadSpec

TRIAL = Trial(variant="v", workload=WorkloadSpec(name="sharegpt"), load=Load(max_concurrency=2))


def view(terminal: bool = False, every_s: float = 10.0) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, _environ={})
    return Progress(console, every_s), out


def test_a_stage_keeps_what_stands_behind_its_colon() -> None:
    progress, out = view()
    with progress:
        progress.stage("installing guidellm: Collecting numpy==2.4.6")
        progress.stage("installing guidellm: Collecting torch==2.13.0")
        progress.stage("v sharegpt@c2: warm-up")
    assert out.getvalue().splitlines() == [
        "installing guidellm: Collecting numpy==2.4.6",
        "v sharegpt@c2: warm-up",
    ]


def test_a_long_stage_is_told_again_after_a_while() -> None:
    progress, out = view(every_s=0.0)
    progress.stage("loading v: 1/8 shards")
    time.sleep(0.01)
    progress.stage("loading v: 2/8 shards")
    progress.stage("loading v: 2/8 shards")
    assert out.getvalue().splitlines() == ["loading v: 1/8 shards", "loading v: 2/8 shards"]


def test_plain_lines_count_what_is_in_flight_even_before_anything_ended() -> None:
    progress, out = view(every_s=0.0)
    progress.trial_begin(TRIAL, 9)
    time.sleep(0.01)
    progress.pulse(Pulse(num_in_flight=7, num_ended=0))
    progress.record(RequestRecord(request_id="a", output_len=5))
    progress.trial_end(TrialResult(trial=TRIAL, status="done", duration_s=0.5))
    first, second, last = out.getvalue().splitlines()
    assert "v sharegpt-sample@c2 r1: 0 of 9 requests, 7 in flight, 0 failed" in first
    assert "1 of 9 requests, 7 in flight" in second
    assert "in flight" not in last and "1 of 9 requests, 0 failed, 10 tokens/s" in last


def test_a_terminal_shows_them_too() -> None:
    progress, out = view(terminal=True)
    with progress:
        progress.trial_begin(TRIAL, 9)
        progress.pulse(Pulse(num_in_flight=7, num_ended=0))
        time.sleep(0.4)
    assert "0 of 9 requests, 7 in flight" in out.getvalue()


def test_the_client_tells_how_many_are_in_flight_whoever_fires() -> None:
    requests = [Request(request_id=f"r{i}", prompt_token_ids=(i, 2), max_tokens=9) for i in range(6)]
    script = Script(first_token_s=0.5, token_s=0.1)
    for workers in (1, 2):
        seen: list[Pulse] = []
        with known_server.running(script) as url:
            target = client.Target(base_url=url, model="m", num_workers=workers)
            watch = client.Watch(on_pulse=seen.append)
            client.fire(target, requests, Load(max_concurrency=6), lambda record: None, watch)
        assert max(pulse.num_in_flight for pulse in seen) == 6
        assert (seen[-1].num_in_flight, seen[-1].num_ended) == (0, 6)
