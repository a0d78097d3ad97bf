"""How fast whole sessions went: conversations, and agents with all that they started. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from harness.client.order import groups
from harness.schema import Request, RequestRecord


class Sessions:
    """Sums over the requests that wait for each other, record by record."""

    def __init__(self, requests: Iterable[Request]) -> None:
        made = tuple(requests)
        self._think_s = {r.request_id: r.think_s for r in made}
        together = groups(made) if any(r.session or r.after for r in made) else []
        self._group = {made[i].request_id: g for g, members in enumerate(together) for i in members}
        self._begun: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        self._tokens: dict[int, int] = {}
        self._broken: set[int] = set()

    def add(self, record: RequestRecord) -> None:
        """Take one record; a session with a failed request has no speed."""
        group = self._group.get(record.request_id)
        if group is None:
            return
        if record.error:
            self._broken.add(group)
            return
        self._begun[group] = min(record.sent_at_s, self._begun.get(group, record.sent_at_s))
        self._ended[group] = max(record.done_at_s, self._ended.get(group, 0.0))
        self._tokens[group] = self._tokens.get(group, 0) + record.output_len

    def words(self) -> str:
        """ "8 sessions: median 12.3 s, 41 output tokens/s each"; "" where there are none."""
        whole = [g for g in self._begun if g not in self._broken and self._ended[g] > self._begun[g]]
        if not whole:
            return ""
        lasted = [self._ended[g] - self._begun[g] for g in whole]
        speeds = [self._tokens[g] / s for g, s in zip(whole, lasted, strict=True)]
        thought = " (think times included)" if any(self._think_s.values()) else ""
        broken = f", {len(self._broken)} broken off" if self._broken else ""
        return (
            f"{len(whole)} sessions{broken}: median {median(lasted):.1f} s{thought}, "
            f"{median(speeds):.0f} output tokens/s each"
        )
