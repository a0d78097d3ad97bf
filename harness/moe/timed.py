"""The timed requests of a visit in its routing log: probes, warm-up prompts and known answers left out."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from harness import store
from harness.moe.routing_log import RoutingLog
from harness.schema import RequestRecord, TrialResult

_SLACK_S = 2.0
_SERVED = re.compile(r"^cmpl-(?P<sent>.+)-\d+-[0-9a-f]{8}$")
"""vLLM's own request id: the client's, the prompt's number, and a random part."""


@dataclass(frozen=True)
class _Timed:
    """What tells a timed request's rows: where they end, and when they were routed."""

    end: int
    """Tokens the engine has read of it: its prompt and all outputs but the last."""
    since: float
    until: float

    def is_it(self, reached: int, at: float) -> bool:
        """An engine that schedules ahead of its results routes one token more behind an end of sequence."""
        return self.end <= reached <= self.end + 1 and (not at or self.since <= at <= self.until)


def only(log: RoutingLog, folder: Path) -> RoutingLog:
    """The rows of requests whose records lie in folder/*/requests.jsonl; all rows where no id matches.

    Warm-up and a discarded first measurement carry the ids of timed requests: warm-up has shorter outputs,
    what was discarded an earlier time.
    """
    expected: dict[str, list[_Timed]] = defaultdict(list)
    for path in sorted(folder.glob("*/requests.jsonl*")):
        since, until = _window(path.parent)
        for record in store.read_lines(path.with_name("requests.jsonl"), RequestRecord):
            end = (record.input_len or record.prompt_len) + record.output_len - 1
            expected[record.request_id].append(_Timed(end, since, until))
    reached = np.zeros(len(log.request_ids), dtype=np.int64)
    np.maximum.at(reached, log.request, log.position + 1)
    first = np.full(len(log.request_ids), np.inf)
    np.minimum.at(first, log.request, log.at)
    known = [expected.get(client_id(name), []) for name in log.request_ids]
    timed = [
        any(one.is_it(end, at) for one in ones)
        for ones, end, at in zip(known, reached.tolist(), first.tolist(), strict=True)
    ]
    if not any(known) or all(timed):
        return log
    left = timed.count(False)
    return replace(
        log.where(np.array(timed, dtype=bool)[log.request]),
        notes=(*log.notes, f"{left} requests of the harness's own (probes, warm-up) are left out"),
    )


def _window(folder: Path) -> tuple[float, float]:
    """Epoch seconds between which a trial's timed requests ran, its stamp being of whole seconds."""
    path = folder / "trial.json"
    if not path.exists():
        return 0.0, math.inf
    trial = store.read(path, TrialResult)
    started = datetime.fromisoformat(trial.started_at).timestamp() if trial.started_at else 0.0
    return started, started + trial.duration_s + _SLACK_S if started else math.inf


def client_id(name: str) -> str:
    """The client's request id in the engine's own."""
    match = _SERVED.match(name)
    return match["sent"] if match else name
