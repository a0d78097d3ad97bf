"""Records that cannot be kept end a trial at once, with the reason."""

from __future__ import annotations

import pytest

from harness import client
from harness.client import known_server
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
