"""Client processes placed by a real Slurm of two nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import slurm
from harness import client
from harness.client import known_server, pacing
from harness.client.known_server import Script
from harness.client.shard import merge
from harness.errors import MachineError
from harness.schema import Load, Request, RequestRecord

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(bool(slurm.missing()), reason=f"not installed: {', '.join(slurm.missing())}"),
]
SCRIPT = Script(first_token_s=0.01, token_s=0.002)


@pytest.fixture(scope="module")
def srun() -> Iterator[tuple[str, ...]]:
    with slurm.cluster() as env:
        yield ("env", f"SLURM_CONF={env['SLURM_CONF']}", "srun")


def scheduled(num: int, rate: float) -> tuple[list[Request], Load]:
    load = Load(request_rate=rate, arrival="constant")
    due = pacing.due_times(load, num, 0)
    made = [
        Request(request_id=f"r{i}", prompt_token_ids=(i, 2), max_tokens=4, due_at_s=due[i])
        for i in range(num)
    ]
    return made, load


def test_two_nodes_give_every_record_once_and_are_seen_meanwhile(
    srun: tuple[str, ...], tmp_path: Path
) -> None:
    requests, load = scheduled(100, 50)
    came: list[tuple[float, RequestRecord]] = []
    flying: list[client.Pulse] = []
    with known_server.running(SCRIPT) as url:
        place = (*srun, "--nodes=2", "--ntasks=2")
        target = client.Target(base_url=url, model="m", place=place, share_folder=str(tmp_path))
        stats = client.fire(
            target,
            requests,
            load,
            lambda record: came.append((time.monotonic(), record)),
            client.Watch(on_pulse=flying.append),
        )
    records = merge([[record for _, record in came]], requests)
    assert stats.num_workers == 2 and not any(r.error for r in records)
    assert [r.due_at_s for r in records] == [r.due_at_s for r in requests]
    late = sorted(r.sent_at_s - r.due_at_s for r in records)
    assert late[0] >= 0 and late[50] < 0.05
    assert came[-1][0] - came[0][0] > 0.5 and flying
    assert list(tmp_path.iterdir()) == []


def test_what_slurm_refuses_is_told_in_its_own_words(srun: tuple[str, ...], tmp_path: Path) -> None:
    requests, load = scheduled(4, 50)
    place = (*srun, "--partition=none")
    target = client.Target(base_url="http://127.0.0.1:9", model="m", place=place, share_folder=str(tmp_path))
    with pytest.raises(MachineError, match="exit code 1") as caught:
        client.fire(target, requests, load, lambda record: None)
    assert "invalid partition" in caught.value.details


def test_a_bodys_share_is_the_same_as_one_process_would_send(srun: tuple[str, ...], tmp_path: Path) -> None:
    requests, load = scheduled(20, 100)
    found = []
    with known_server.running(SCRIPT) as url:
        for place in ((), (*srun, "--ntasks=2")):
            records: list[RequestRecord] = []
            target = client.Target(base_url=url, model="m", place=place, share_folder=str(tmp_path))
            client.fire(target, requests, load, records.append)
            found.append(merge([records], requests))
    for alone, placed in zip(*found, strict=True):
        same = ("request_id", "due_at_s", "input_len", "output_len", "output_token_ids", "error")
        assert [getattr(alone, n) for n in same] == [getattr(placed, n) for n in same]
