"""The client against a server whose timing and faults are known."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness import client
from harness.client import known_server, pacing
from harness.client.known_server import Fault, Script
from harness.errors import InputError
from harness.numbers.columns import columns
from harness.schema import Load, Request, RequestRecord

FAST = Script(first_token_s=0.01, token_s=0.002)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with known_server.running(FAST) as base_url:
        yield base_url


def made(num: int, max_tokens: int = 8, due: tuple[float, ...] = ()) -> list[Request]:
    return [
        Request(
            request_id=f"r{i}",
            prompt_token_ids=(i, 5, 6),
            max_tokens=max_tokens,
            due_at_s=due[i] if due else 0.0,
        )
        for i in range(num)
    ]


def fired(
    target: client.Target, requests: list[Request], load: Load
) -> tuple[dict[str, RequestRecord], client.ClientStats]:
    records: list[RequestRecord] = []
    stats = client.fire(target, requests, load, records.append)
    assert len({r.request_id for r in records}) == len(records)
    return {r.request_id: r for r in records}, stats


def test_closed_loop_keeps_its_concurrency_and_every_record(url: str) -> None:
    records, stats = fired(client.Target(base_url=url, model="m"), made(40), Load(max_concurrency=8))
    assert len(records) == 40 and not any(r.error for r in records.values())
    assert stats.num_in_flight_max == 8 and stats.num_connections == 8
    for r in records.values():
        assert r.output_len == 8 == len(r.content_at_s) and r.usage and r.input_len == r.prompt_len == 3
        assert r.output_token_ids == tuple(range(1, 9)) and r.finish_reason == "length"
        assert r.sent_at_s < r.content_at_s[0] <= r.content_at_s[-1] <= r.done_at_s
    table = columns(records.values())
    assert (table.ttft_s >= 0.01).all() and not table.schedule_delay_s.any()


def test_stamps_lie_behind_the_servers_own_send_times(url: str) -> None:
    start = time.monotonic_ns()
    records, _ = fired(client.Target(base_url=url, model="m"), made(4), Load(max_concurrency=4))
    for r in records.values():
        words = r.text.split()
        received, first = map(int, words[0].split(":"))
        sends = [first, *map(int, words[1:])]
        assert start < received < first
        gaps = [seen * 1e9 - sent for seen, sent in zip(r.content_at_s, sends, strict=True)]
        assert max(gaps) - min(gaps) < 0.1e9
        assert r.sent_at_s * 1e9 - received <= min(gaps)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_endpoints(url: str, api: str, stream: bool) -> None:
    target = client.Target(base_url=url, model="m", api=api, stream=stream)
    records, _ = fired(target, [Request(request_id="a", prompt="hello", max_tokens=5)], Load())
    assert records["a"].error == "" and records["a"].output_len == 5 and records["a"].text
    assert len(records["a"].content_at_s) == (5 if stream else 1)


def test_several_tokens_a_chunk_without_ids_or_usage_or_done(url: str) -> None:
    script = {"tokens_per_chunk": 4, "usage": False, "done": False, "token_ids": False, "num_tokens": 10}
    target = client.Target(base_url=url, model="m", extras={"script": script})
    records, _ = fired(target, made(1), Load())
    assert len(records["r0"].content_at_s) == 3
    assert (records["r0"].usage, records["r0"].output_len, records["r0"].error) == (False, 0, "")


FAULTS: dict[Fault, tuple[str, str]] = {
    "http": ("http", "HTTP 429 (Retry-After: 3): "),
    "reset": ("reset", ""),
    "half_close": ("truncated", "closed the connection in the middle"),
    "no_answer": ("stall", "silent for 0.5 s"),
    "stall": ("stall", "silent for 0.5 s"),
    "truncated": ("truncated", "without finish_reason"),
    "error_event": ("engine", "scripted engine error"),
    "garbage": ("protocol", "not an HTTP/1.1 answer"),
    "close_at_once": ("reset", "without answering"),
}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_fault_gets_its_label_and_no_other_record_is_lost(num_workers: int) -> None:
    faults = tuple(FAULTS)
    with known_server.running(msgspec.structs.replace(FAST, faults=faults)) as base_url:
        target = client.Target(base_url=base_url, model="m", stall_s=0.5, num_workers=num_workers)
        records, _ = fired(target, made(40, max_tokens=12), Load(max_concurrency=4))
    assert len(records) == 40
    for i, fault in enumerate(faults):
        kind, words = FAULTS[fault]
        record = records[f"r{i}"]
        assert (fault, record.error_kind) == (fault, kind)
        assert words in record.error
    assert records[f"r{faults.index('http')}"].http_status == 429
    assert "scripted" in records[f"r{faults.index('http')}"].error
    for fault in ("half_close", "stall", "truncated", "error_event"):
        assert len(records[f"r{faults.index(fault)}"].content_at_s) == 2
    assert all(records[f"r{i}"].error == "" for i in range(len(faults), 40))


def test_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        target = client.Target(base_url=f"http://127.0.0.1:{port}", model="m")
        records, _ = fired(target, made(5), Load(max_concurrency=2))
    assert {r.error_kind for r in records.values()} == {"refused"} and len(records) == 5


def test_timeout_is_told_from_stall(url: str) -> None:
    target = client.Target(base_url=url, model="m", timeout_s=1.0, extras={"script": {"token_s": 0.05}})
    records, _ = fired(target, made(2, max_tokens=100), Load(max_concurrency=2))
    assert {r.error_kind for r in records.values()} == {"timeout"}
    assert all(2 <= len(r.content_at_s) <= 22 for r in records.values())


def test_open_loop_is_on_time_and_does_not_drift(url: str) -> None:
    load = Load(request_rate=50, arrival="constant")
    due = pacing.due_times(load, 100, 0)
    records, stats = fired(client.Target(base_url=url, model="m"), made(100, 4, due), load)
    late = [records[f"r{i}"].sent_at_s - due[i] for i in range(100)]
    assert min(late) >= 0
    assert sorted(late)[50] < 0.005
    assert sum(late[-20:]) / 20 < sum(late[:20]) / 20 + 0.02
    assert stats.late_p50_s < 0.005 and all(records[f"r{i}"].due_at_s == due[i] for i in range(100))


def test_waiting_for_a_slot_shows_as_schedule_delay(url: str) -> None:
    load = Load(request_rate=1000, arrival="constant", max_concurrency=1)
    records, stats = fired(
        client.Target(base_url=url, model="m"), made(5, 8, pacing.due_times(load, 5, 0)), load
    )
    assert stats.num_in_flight_max == 1
    last = columns([records["r4"]])
    assert last.schedule_delay_s[0] > max(3 * 0.02, last.ttft_s[0])


@pytest.mark.parametrize("load", [Load(max_concurrency=2), Load(request_rate=50, arrival="constant")])
def test_duration_ends_sending_and_lets_answers_finish(url: str, load: Load) -> None:
    due = pacing.due_times(load, 400, 0)
    timed = msgspec.structs.replace(load, duration_s=0.4)
    records, stats = fired(client.Target(base_url=url, model="m"), made(400, 4, due), timed)
    assert 5 < len(records) < 100 and not any(r.error for r in records.values())
    assert max(r.sent_at_s for r in records.values()) <= 0.41
    assert not stats.interrupted and stats.duration_s < 2


def test_stop_cancels_what_is_in_flight() -> None:
    stop = threading.Event()
    records: list[RequestRecord] = []

    def on_record(record: RequestRecord) -> None:
        records.append(record)
        stop.set()

    with known_server.running(FAST) as base_url:
        target = client.Target(base_url=base_url, model="m")
        requests = [*made(1), *(msgspec.structs.replace(r, max_tokens=5000) for r in made(60)[1:])]
        stats = client.fire(target, requests, Load(max_concurrency=3), on_record, client.Watch(stop))
    kinds = [r.error_kind for r in records]
    assert stats.interrupted and kinds.count("") == 1 and kinds.count("cancelled") == 3 and len(kinds) == 4


INTERRUPTED = """
import sys
from harness import client
from harness.schema import Load, Request
lengths = [3] * 80 + [5000] * 6
requests = [Request(request_id=f"r{i}", prompt_token_ids=(1,), max_tokens=n) for i, n in enumerate(lengths)]
target = client.Target(base_url=sys.argv[1], model="m", num_workers=int(sys.argv[2]))
def on_pulse(pulse):
    if pulse.num_ended == 80:
        print("long", flush=True)
def on_record(record):
    print(record.error_kind or "ok", flush=True)
try:
    client.fire(target, requests, Load(max_concurrency=4), on_record, client.Watch(on_pulse=on_pulse))
except KeyboardInterrupt:
    print("raised", flush=True)
"""


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_ctrl_c_keeps_records_and_is_raised_again(url: str, num_workers: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, url, num_workers],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    before = list(iter(process.stdout.readline, "long\n"))
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()  # communicate() would lose what readline() had read ahead
    process.wait(timeout=20)
    process.stdout.close()
    *kinds, last = [word for word in ("".join(before) + out).split() if word != "long"]
    assert last == "raised" and kinds.count("ok") == 80 and kinds.count("cancelled") == 4 == len(kinds) - 80


INTERRUPTED_AFTERWARDS = """
import os, signal, sys
from harness import client
from harness.schema import Load, Request
requests = [Request(request_id=f"r{i}", prompt_token_ids=(1,), max_tokens=2) for i in range(40)]
def on_record(record):
    print(record.error_kind or "ok", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
try:
    client.fire(client.Target(base_url=sys.argv[1], model="m"), requests, Load(max_concurrency=40), on_record)
except KeyboardInterrupt:
    print("raised", flush=True)
"""


def test_ctrl_c_after_the_timed_part_waits_for_its_records(url: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AFTERWARDS, url],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=Path(__file__).parent.parent,
    ).stdout
    assert out.split() == ["ok"] * 40 + ["raised"]


def test_plain_answers_are_parsed_after_the_timed_part_and_counted_in_it(url: str) -> None:
    told: list[client.Pulse | str] = []
    requests = made(40, max_tokens=2)
    target = client.Target(base_url=url, model="m")
    watch = client.Watch(on_pulse=told.append)
    stats = client.fire(
        target, requests, Load(max_concurrency=40), lambda r: told.append(r.error_kind), watch
    )
    assert told == [client.Pulse(num_in_flight=0, num_ended=40), *[""] * 40]
    assert stats.later_cpu_s > 0


def test_failures_are_recorded_at_once(url: str) -> None:
    told: list[client.Pulse | str] = []
    with known_server.running(msgspec.structs.replace(FAST, faults=("http",))) as base_url:
        target = client.Target(base_url=base_url, model="m")
        watch = client.Watch(on_pulse=told.append)
        client.fire(target, made(4), Load(max_concurrency=1), lambda r: told.append(r.error_kind), watch)
    assert told.index("http") < told.index(client.Pulse(num_in_flight=0, num_ended=4))


def test_conversation_turns_carry_the_answers(url: str) -> None:
    def turn(session: str, number: int) -> Request:
        said = {"role": "user", "content": f"turn {number}"}
        return Request(request_id=f"{session}{number}", messages=(said,), max_tokens=3, session=session)

    requests = [turn(s, n) for n in range(3) for s in ("a", "b")]
    records, stats = fired(client.Target(base_url=url, model="m"), requests, Load(max_concurrency=2))
    assert stats.num_in_flight_max == 2 and not any(r.error for r in records.values())
    for s in ("a", "b"):
        ends = [(records[f"{s}{n}"].sent_at_s, records[f"{s}{n}"].done_at_s) for n in range(3)]
        assert ends[0][1] <= ends[1][0] and ends[1][1] <= ends[2][0]


def test_a_failed_turn_ends_its_conversation_only() -> None:
    requests = [
        Request(request_id=f"{s}{n}", prompt_token_ids=(i, n), max_tokens=3, session=s)
        for i, s in enumerate(("bad", "good"))
        for n in range(3)
    ]
    with known_server.running(
        msgspec.structs.replace(FAST, faults=("error_event",), fault_after=1)
    ) as base_url:
        target = client.Target(base_url=base_url, model="m")
        records, _ = fired(target, requests, Load(max_concurrency=2))
    assert [records[f"bad{n}"].error_kind for n in range(3)] == ["engine", "cancelled", "cancelled"]
    assert all(records[f"good{n}"].error == "" for n in range(3))


def test_body_has_the_portable_fields_and_the_dialect_wins() -> None:
    extras = {"detokenize": False, "return_token_ids": None}
    target = client.Target(base_url="http://h:1", model="m", extras=extras)
    request = Request(request_id="r", prompt_token_ids=(1, 2), max_tokens=7, seed=3, logprobs=True)
    assert msgspec.json.decode(client.body(request, target)) == {
        "model": "m",
        "prompt": [1, 2],
        "max_tokens": 7,
        "temperature": 0.0,
        "seed": 3,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "logprobs": 1,
        "detokenize": False,
    }


def test_api_key_comes_from_the_named_variable(url: str) -> None:
    target = client.Target(base_url=url, model="m", api_key_env="NO_SUCH_KEY_HERE")
    with pytest.raises(InputError, match="NO_SUCH_KEY_HERE"):
        client.fire(target, made(1), Load(), lambda record: None)
    assert "NO_SUCH_KEY_HERE" not in os.environ


@pytest.mark.parametrize("bad", ["ftp://x", "localhost:80", ""])
def test_bad_address(bad: str) -> None:
    with pytest.raises(InputError, match="http://HOST:PORT"):
        client.fire(client.Target(base_url=bad, model="m"), made(1), Load(), lambda record: None)


def test_two_kinds_of_prompt_are_refused(url: str) -> None:
    request = Request(request_id="r", prompt="a", prompt_token_ids=(1,), max_tokens=1)
    with pytest.raises(InputError, match="exactly one"):
        client.fire(client.Target(base_url=url, model="m"), [request], Load(), lambda record: None)
