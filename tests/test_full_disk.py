"""Records that cannot be kept end a trial at once, with the reason."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import client
from harness.client import known_server
from harness.client.body import Job
from harness.client.shard import write_job
from harness.errors import StoreError
from harness.schema import Load, Request, RequestRecord


@pytest.mark.parametrize("load", [Load(max_concurrency=2), Load(request_rate=200.0, arrival="poisson")])
def test_the_client_stops_when_a_record_cannot_be_kept(load: Load) -> None:
    kept: list[RequestRecord] = []

    def keep(record: RequestRecord) -> None:
        if len(kept) == 3:
            raise StoreError("The disk is full; free some space.")
        kept.append(record)

    requests = [
        Request(request_id=f"r{i}", prompt_token_ids=(1, 2, 3), max_tokens=4, due_at_s=i / 200)
        for i in range(40)
    ]
    quick = known_server.Script(first_token_s=0.002, token_s=0.001)
    with known_server.running(quick) as url, pytest.raises(StoreError, match="disk is full"):
        client.fire(client.Target(base_url=url, model="m"), requests, load, keep)
    assert len(kept) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's /dev/full")
def test_a_client_process_whose_records_cannot_be_written_says_so(tmp_path: Path) -> None:
    requests = tuple(Request(request_id=f"r{i}", prompt_token_ids=(1,), max_tokens=4) for i in range(4))
    with known_server.running(known_server.Script(first_token_s=0.002, token_s=0.001)) as url:
        target = client.Target(base_url=url, model="m")
        write_job(tmp_path / "job", Job(target=target, load=Load(max_concurrency=2), requests=requests))
        words = [
            "harness.client.shard",
            str(tmp_path / "job"),
            "--start",
            str(time.time()),
            "--out",
            "/dev/full",
        ]
        share = subprocess.run(
            [sys.executable, "-m", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True
        )
    assert share.returncode == 1
    assert share.stderr == (
        "records cannot be written to /dev/full (No space left on device): free some space\n"
    )
