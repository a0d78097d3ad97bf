"""Why the numbers of a finished trial must not be published: pure, one pass over any number of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from harness import registry
from harness.numbers import token_counts
from harness.numbers.sessions import Sessions
from harness.schema import Request, RequestRecord, TrialResult

if TYPE_CHECKING:
    from harness.client.window import ClientStats

SHORT_SHARE = 0.01
"""Of the tokens that had to come: missing more than this, engines did different amounts of work."""

MOST_FAILED = 0.5
"""Share of the requests: beyond it the speed of those that succeeded is that of another load."""

HIT_MARGIN = 0.02
"""Hits beyond those of an ideal cache, relative: engines also find prefixes that repeat by chance."""
CHANCE_HITS = 0.001
"""Share of all prompt tokens that may come from a cache although nothing repeats by design.

One block of 64 that two of 256 prompts of 1000 tokens have in common is a quarter of it.
"""


class Seen:
    """What a trial's records add up to; of no record more than the first that tells a story is kept."""

    def __init__(self, requests: Iterable[Request] = (), *, exact: bool = True) -> None:
        """`exact`: prompts hold the model's own tokens, so engines can be held to the lengths asked for."""
        requests = tuple(requests)
        self._exact = exact
        self._sessions = Sessions(requests)
        self._expected: Mapping[str, int] = {r.request_id: r.max_tokens for r in requests if r.ignore_eos}
        self._num_uncounted = 0
        self._tally = token_counts.Tally()
        self._cached = self._read = self._missing = self._due = 0
        self._num_short = self._num_misread = 0
        self._drafted = self._accepted = self._in_runs = 0
        self._misread = self.first_error = ""

    @property
    def num(self) -> int:
        """Records taken."""
        return self._tally.num

    @property
    def num_ok(self) -> int:
        """Of them, requests that succeeded."""
        return self._tally.num_ok

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        self._tally.add(record)
        self._sessions.add(record)
        if record.error:
            self.first_error = self.first_error or record.error
            return
        self._num_uncounted += token_counts.uncounted(record)
        self._cached += record.cached_len
        self._read += record.input_len
        self._drafted += record.drafted_len
        self._accepted += record.accepted_len
        self._in_runs += sum(num - 1 for _, num in record.runs)
        if record.prompt_len and record.input_len and record.input_len != record.prompt_len:
            self._num_misread += 1
            self._misread = self._misread or f"{record.prompt_len} tokens sent, {record.input_len} read"
        expected = self._expected.get(record.request_id, 0) if record.usage else 0
        self._due += expected
        if record.output_len < expected:
            self._num_short += 1
            self._missing += expected - record.output_len

    @property
    def sums(self) -> dict[str, float]:
        """Sums over the answers, to hold the engine's counters against; {} where a request failed."""
        if self.num_ok != self.num:
            return {}
        return {
            "prompt_tokens": self._read,
            "cached_tokens": self._cached,
            "draft_tokens": self._drafted,
            "accepted_tokens": self._accepted,
            "run_tokens": self._in_runs,
        }

    def reasons(self, outcome: TrialResult, stats: ClientStats) -> list[str]:
        """One sentence per violated condition of identical, uncached, equally counted, punctual work."""
        found = [
            self._failed(),
            self._from_cache(outcome),
            self._tally.counts(outcome.counters).invalid,
            f"{self._num_misread} prompts were read as another length (first: {self._misread})"
            if self._num_misread
            else "",
            self._short() if self._exact else "",
            self._uncounted(),
            _client_bound(stats),
        ]
        return [reason for reason in found if reason]

    def _failed(self) -> str:
        failed = self.num - self.num_ok
        if failed <= MOST_FAILED * self.num:
            return ""
        return f"{failed} of {self.num} requests failed, the first with: {self.first_error}"

    def notes(self, outcome: TrialResult) -> tuple[str, ...]:
        """What belongs beside valid numbers: lengths as counted, and how much of a prefix was reused."""
        counted = (*self._withheld(outcome), *(() if self._exact else self._as_counted()))
        if spoken := self._sessions.words():
            counted = (*counted, spoken)
        ideal, hits = ideal_hit_share(outcome), self._hits(outcome)
        if not self._read or not (ideal or hits):
            return counted
        if not ideal:
            told = f"prefix cache: {hits:.0f} of {self._read} prompt tokens came from it, by chance"
            return (*counted, told)
        share = hits / self._read
        reused = f"prefix cache: {share:.1%} of prompt tokens reused, an ideal cache would reuse {ideal:.1%}"
        return (*counted, reused)

    def _withheld(self, outcome: TrialResult) -> tuple[str, ...]:
        """Tokens that are counted without their ids, and what that leaves unjudged."""
        counts = self._tally.counts(outcome.counters)
        if not counts.withheld:
            return ()
        return (
            f"{counts.withheld} of {counts.usage} output tokens came without an id: they end inside a "
            "character, and its text came with its last token. Usage and the engine's counter agree on them; "
            "answers that hold them are not judged",
        )

    def _as_counted(self) -> tuple[str, ...]:
        """How far the lengths of a server of unknown weights are from those asked for."""
        if not self.num_ok:
            return ()
        read = f"weights and tokenizer not known: {self._read / self.num_ok:.0f} prompt tokens per request"
        short = f", {self._num_short} of {self.num_ok} outputs ended before max_tokens"
        counted = f"{read}{short if self._num_short else ''}, as the server counts them"
        return (
            counted,
            "output not verified: no reference that knows its tokens (model= and reference= name one)",
        )

    def _uncounted(self) -> str:
        if not self._num_uncounted:
            return ""
        return (
            f"the server states no usage for {self._num_uncounted} requests, and its tokenizer is not known "
            "to count their output with: give model="
        )

    def _hits(self, outcome: TrialResult) -> float:
        return outcome.counters.get("prefix_cache_hits", 0) or self._cached

    def _from_cache(self, outcome: TrialResult) -> str:
        hits, ideal = self._hits(outcome), ideal_hit_share(outcome)
        if hits <= ideal * self._read * (1 + HIT_MARGIN) + CHANCE_HITS * self._read:
            return ""
        if ideal:
            return (
                f"{hits / self._read:.1%} of prompt tokens came from the prefix cache, but only {ideal:.1%} "
                "repeat within the trial: it knew prompts from before"
            )
        return f"{hits:.0f} prompt tokens came from the prefix cache, so prefill was not measured"

    def _short(self) -> str:
        if self._missing <= SHORT_SHARE * self._due:
            return ""
        share = self._missing / self._due
        return (
            f"{self._num_short} outputs ended before max_tokens although ignore_eos was asked for: "
            f"{share:.1%} of the tokens did not come, so the work is not that of other engines"
        )


def ideal_hit_share(outcome: TrialResult) -> float:
    """Share of prompt tokens that repeat by design of the workload; 0 for workloads that share nothing."""
    spec = outcome.trial.workload
    expected = getattr(registry.workload(spec.file), "expected_hit_share", None)
    return float(expected(spec)) if expected else 0.0


def _client_bound(stats: ClientStats) -> str:
    return f"client-bound: {stats.client_bound}" if stats.client_bound else ""
