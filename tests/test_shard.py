"""Shards: cut by index, merged exactly, whoever runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import namespaces
from harness import client
from harness.client import known_server, pacing
from harness.client.body import Job
from harness.client.known_server import Script
from harness.client.shard import load_share, merge, num_shares, read_job, share, write_job
from harness.errors import HarnessError, InputError, MachineError
from harness.schema import Load, Request, RequestRecord

ROOT = Path(__file__).parent.parent


def made(sessions: list[str]) -> list[Request]:
    return [
        Request(request_id=f"r{i}", prompt_token_ids=(i, 2), max_tokens=4, session=s)
        for i, s in enumerate(sessions)
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "", "a", "b", "c"]), max_size=40), st.integers(1, 7))
def test_shares_part_the_schedule_and_keep_conversations_whole(sessions: list[str], count: int) -> None:
    requests = made(sessions)
    shares = [share(requests, i, count) for i in range(count)]
    assert sorted(r.request_id for s in shares for r in s) == sorted(r.request_id for r in requests)
    for name in set(sessions) - {""}:
        assert sum(any(r.session == name for r in s) for s in shares) == 1
    for s in shares:
        assert list(s) == sorted(s, key=lambda r: int(r.request_id[1:]))


THOUSAND = made([""] * 1000)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 16))
def test_concurrency_is_parted_exactly(limit: int, wanted: int) -> None:
    load = Load(max_concurrency=limit)
    count = num_shares(load, THOUSAND, wanted)
    parts = [load_share(load, i, count).max_concurrency for i in range(count)]
    assert sum(p or 0 for p in parts) == limit and all(parts)


def test_merge_is_in_schedule_order_and_refuses_what_does_not_fit() -> None:
    requests = made([""] * 5)
    records = [RequestRecord(request_id=r.request_id) for r in requests]
    assert merge([records[3:], records[:3]], requests) == records
    with pytest.raises(InputError, match="in two of them"):
        merge([records, records[:1]], requests)
    with pytest.raises(InputError, match="not in the schedule"):
        merge([records], requests[:4])
    with pytest.raises(InputError, match="1 of 5"):
        merge([records[:4]], requests)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with known_server.running(Script(first_token_s=0.01, token_s=0.002)) as base_url:
        yield base_url


def test_workers_give_the_records_one_process_gives(url: str) -> None:
    load = Load(request_rate=100, arrival="constant")
    due = pacing.due_times(load, 30, 0)
    requests = [msgspec.structs.replace(r, due_at_s=due[i]) for i, r in enumerate(made([""] * 30))]
    merged: dict[int, list[RequestRecord]] = {}
    for workers in (1, 3):
        records: list[RequestRecord] = []
        target = client.Target(base_url=url, model="m", num_workers=workers)
        stats = client.fire(target, requests, load, records.append)
        assert stats.num_workers == workers and stats.cpu_s > 0
        merged[workers] = merge([records], requests)
    for one, three in zip(merged[1], merged[3], strict=True):
        assert (one.request_id, one.due_at_s, one.output_token_ids) == (
            three.request_id,
            three.due_at_s,
            three.output_token_ids,
        )
        assert not one.error and not three.error
    late = sorted(r.sent_at_s - r.due_at_s for r in merged[3])
    assert late[0] >= 0 and late[15] < 0.01


def test_processes_that_share_nothing_but_a_job_file(url: str, tmp_path: Path) -> None:
    requests = tuple(made(["", "a", "", "a", "", ""]))
    job = Job(target=client.Target(base_url=url, model="m"), load=Load(max_concurrency=4), requests=requests)
    write_job(tmp_path / "job", job)
    assert read_job(tmp_path / "job") == job
    start = str(time.time() + 2)
    words = [sys.executable, "-m", "harness.client.shard", str(tmp_path / "job"), "--start", start]
    processes = [
        subprocess.Popen(
            [*words, "--out", str(tmp_path / f"{i}.jsonl")],
            cwd=ROOT,
            env={"SLURM_PROCID": str(i), "SLURM_NTASKS": "2"},
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=30)[0] for process in processes]
    assert all(json.loads(out)["num_in_flight_max"] <= 2 for out in outputs)
    decode = msgspec.json.Decoder(RequestRecord).decode
    shares = [[decode(x) for x in (tmp_path / f"{i}.jsonl").read_bytes().splitlines()] for i in range(2)]
    records = merge(shares, requests)
    assert len(records) == 6 and not any(r.error for r in records)
    assert records[1].done_at_s <= records[3].sent_at_s


def test_a_bad_job_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_job(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"{}")
    with pytest.raises(InputError, match="not a job file"):
        read_job(tmp_path / "bad")


def test_a_live_thread_moves_the_client_to_a_process_of_its_own(url: str) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        records: list[RequestRecord] = []
        client.fire(client.Target(base_url=url, model="m"), made([""] * 3), Load(), records.append)
    finally:
        done.set()
        thread.join()
    assert [r.error for r in records] == [""] * 3


SRUN = """
import os, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[2:], env={**os.environ, "SLURM_PROCID": str(i), "SLURM_NTASKS": sys.argv[1]})
    for i in range(int(sys.argv[1]))
]
sys.exit(max(task.wait() for task in tasks))
"""
"""A scheduler's command in small: its tail, N times."""


def srun(num: int) -> tuple[str, ...]:
    return (sys.executable, "-c", SRUN, str(num))


def test_placed_processes_give_the_records_one_process_gives(url: str, tmp_path: Path) -> None:
    load = Load(request_rate=100, arrival="constant")
    due = pacing.due_times(load, 30, 0)
    requests = [msgspec.structs.replace(r, due_at_s=due[i]) for i, r in enumerate(made([""] * 30))]
    target = client.Target(base_url=url, model="m", place=srun(3), share_folder=str(tmp_path))
    records: list[RequestRecord] = []
    stats = client.fire(target, requests, load, records.append)
    records = merge([records], requests)
    assert not any(r.error for r in records) and stats.num_workers == 3 and stats.cpu_s > 0
    late = sorted(r.sent_at_s - r.due_at_s for r in records)
    assert late[0] >= 0 and late[15] < 0.02
    assert list(tmp_path.iterdir()) == [], "nothing of the shares is left"


def test_placed_processes_are_seen_while_they_fire(url: str, tmp_path: Path) -> None:
    load = Load(request_rate=20, arrival="constant")
    due = pacing.due_times(load, 50, 0)
    requests = [msgspec.structs.replace(r, due_at_s=due[i]) for i, r in enumerate(made([""] * 50))]
    target = client.Target(base_url=url, model="m", place=srun(2), share_folder=str(tmp_path))
    began = time.monotonic()
    came: list[float] = []
    flying: list[client.Pulse] = []
    watch = client.Watch(on_pulse=flying.append)
    client.fire(target, requests, load, lambda record: came.append(time.monotonic() - began), watch)
    assert len(came) == 50 and came[-1] - came[0] > 1, "records come while others are still due"
    assert len(flying) > 4 and all(0 <= pulse.num_in_flight <= 50 for pulse in flying)
    ended = [pulse.num_ended for pulse in flying]
    assert ended == sorted(ended) and 20 < ended[-1] <= 50


def test_placed_processes_can_be_stopped_and_keep_what_they_have(url: str, tmp_path: Path) -> None:
    load = Load(request_rate=20, arrival="constant")
    due = pacing.due_times(load, 400, 0)
    requests = [msgspec.structs.replace(r, due_at_s=due[i]) for i, r in enumerate(made([""] * 400))]
    target = client.Target(base_url=url, model="m", place=srun(2), share_folder=str(tmp_path))
    records: list[RequestRecord] = []
    stop = threading.Event()

    def keep(record: RequestRecord) -> None:
        records.append(record)
        stop.set()

    began = time.monotonic()
    stats = client.fire(target, requests, load, keep, client.Watch(stop=stop))
    assert stats.interrupted and time.monotonic() - began < 15
    assert 0 < len(merge([records], requests, complete=False)) < 400


@pytest.mark.parametrize(
    ("place", "limit", "told"),
    [
        (("/no/such/srun",), 4, "cannot be started"),
        ((sys.executable, "-c", "raise SystemExit('no nodes')"), 4, "exit code 1"),
        (srun(3), 2, "start at most 2"),
    ],
)
def test_a_placement_that_fails_is_a_sentence(
    place: tuple[str, ...], limit: int, told: str, url: str, tmp_path: Path
) -> None:
    target = client.Target(base_url=url, model="m", place=place, share_folder=str(tmp_path))
    with pytest.raises(HarnessError, match=told):
        client.fire(target, made([""] * 6), Load(max_concurrency=limit), lambda record: None)
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_takes_too_long_is_given_up_at_the_limit_asked_for(url: str, tmp_path: Path) -> None:
    queue = (sys.executable, "-c", "import time; time.sleep(60)")
    target = client.Target(base_url=url, model="m", place=queue, place_wait_s=0.5, share_folder=str(tmp_path))
    began = time.monotonic()
    with pytest.raises(MachineError, match=r"ready within 0\.5 s: .*place_wait_s="):
        client.fire(target, made([""] * 6), Load(max_concurrency=4), lambda record: None)
    assert time.monotonic() - began < 10 and list(tmp_path.iterdir()) == []


def processes_of(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "harness.client.shard" in (words := process.info["cmdline"] or ())
        and any(word.startswith(str(folder)) for word in words)
    ]


def test_a_client_process_that_is_killed_ends_the_load_with_a_sentence(url: str, tmp_path: Path) -> None:
    load = Load(request_rate=20, arrival="constant")
    due = pacing.due_times(load, 1000, 0)
    requests = [msgspec.structs.replace(r, due_at_s=due[i]) for i, r in enumerate(made([""] * 1000))]
    target = client.Target(base_url=url, model="m", num_workers=2, share_folder=str(tmp_path))

    def kill_one(record: RequestRecord) -> None:
        if len(processes := processes_of(tmp_path)) == 2:
            processes[0].kill()

    with pytest.raises(MachineError, match=r"a client process ended \(exit code -9\)"):
        client.fire(target, requests, load, kill_one)
    assert not processes_of(tmp_path) and list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from harness import client
from harness.schema import Load, Request
requests = [Request(request_id=f"r{i}", prompt_token_ids=(1,), max_tokens=5000) for i in range(4)]
target = client.Target(base_url=sys.argv[1], model="m", num_workers=2, share_folder=sys.argv[2])
watch = client.Watch(on_pulse=lambda pulse: pulse.num_in_flight and os.kill(os.getpid(), signal.SIGKILL))
client.fire(target, requests, Load(max_concurrency=4), lambda record: None, watch)
"""


def test_client_processes_end_with_whoever_started_them(url: str, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, url, str(tmp_path)], cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 8
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(tmp_path) and list(tmp_path.iterdir()) == []


def may_make_namespaces() -> bool:
    try:
        with namespaces.namespaces(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.mark.skipif(not may_make_namespaces(), reason="network namespaces need root and `ip`")
def test_two_network_namespaces_merge_exactly(tmp_path: Path) -> None:
    requests = made(["", "a", "", "a", "", ""] * 5)
    requests = [
        msgspec.structs.replace(r, session=r.session and f"{r.session}{i // 6}")
        for i, r in enumerate(requests)
    ]
    script = Script(first_token_s=0.01, token_s=0.002)
    records: list[RequestRecord] = []
    with namespaces.namespaces(2) as names, known_server.running(script, namespaces.GATEWAY) as url:
        place = tuple(namespaces.placing(names).split())
        target = client.Target(base_url=url, model="m", place=place, share_folder=str(tmp_path))
        stats = client.fire(target, requests, Load(max_concurrency=4), records.append)
    assert stats.num_workers == 2 and stats.num_in_flight_max <= 4
    assert not any(r.error for r in merge([records], requests))
