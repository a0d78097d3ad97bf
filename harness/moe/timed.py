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

    Warm-up requests carry the ids of a scenario's first requests; they are told by their shorter outputs.
    """
    ends: dict[str, set[int]] = {}
    for path in sorted(folder.glob("*/requests.jsonl*")):
        for record in store.read_lines(path.with_name("requests.jsonl"), RequestRecord):
            end = (record.input_len or record.prompt_len) + record.output_len - 1
            # An engine that schedules ahead of its results routes one token more behind an end of sequence.
            ends.setdefault(record.request_id, set()).update((end, end + 1))
    reached = np.zeros(len(log.request_ids), dtype=np.int64)
    np.maximum.at(reached, log.request, log.position + 1)
    known = [client_id(name) in ends for name in log.request_ids]
    timed = [end in ends.get(client_id(name), ()) for name, end in zip(log.request_ids, reached, strict=True)]
    if not any(known) or all(timed):
        return log
    left = timed.count(False)
    return replace(
        log.where(np.array(timed, dtype=bool)[log.request]),
        notes=(*log.notes, f"{left} requests of the harness's own (probes, warm-up) are left out"),
    )


def client_id(name: str) -> str:
    """The client's request id in the engine's own."""
    match = _SERVED.match(name)
    return match["sent"] if match else name
