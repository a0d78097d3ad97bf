"""The timed requests of a visit in its routing log: probes, warm-up prompts and known answers left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness import store
from harness.moe.routing_log import RoutingLog
from harness.schema import RequestRecord

_SERVED = re.compile(r"^cmpl-(?P<sent>.+)-\d+-[0-9a-f]{8}$")
"""vLLM's own request id: the client's, the prompt's number, and a random part."""


def only(log: RoutingLog, folder: Path) -> RoutingLog:
    """The rows of requests whose records lie in folder/*/requests.jsonl; all rows where no id matches.

    Warm-up requests of a scenario carry the ids of its first requests and stay in.
    """
    sent = {
        record.request_id
        for path in sorted(folder.glob("*/requests.jsonl*"))
        for record in store.read_lines(path.with_name("requests.jsonl"), RequestRecord)
    }
    known = np.array([_client_id(name) in sent for name in log.request_ids], dtype=bool)
    if not known.any() or known.all():
        return log
    left = int((~known).sum())
    return replace(
        log.where(known[log.request]),
        notes=(*log.notes, f"{left} requests of the harness's own (probes, warm-up) are left out"),
    )


def _client_id(name: str) -> str:
    match = _SERVED.match(name)
    return match["sent"] if match else name
