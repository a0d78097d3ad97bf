"""Why the numbers of a finished trial must not be published. Pure."""

from __future__ import annotations

from harness.client import ClientStats, selfcheck, token_counts
from harness.schema import RequestRecord, TrialResult
from harness.tokens import Vocabulary


def reasons(
    outcome: TrialResult, kept: list[RequestRecord], stats: ClientStats, vocabulary: Vocabulary
) -> list[str]:
    """One sentence per violated condition of identical, uncached, equally counted, punctual work."""
    ok = [r for r in kept if not r.error]
    found = [
        _cached(outcome, ok),
        token_counts.token_counts(kept, outcome.counters, vocabulary).invalid,
        _misread(ok),
        _client_bound(stats),
    ]
    return [reason for reason in found if reason]


def _client_bound(stats: ClientStats) -> str:
    why = selfcheck.client_bound(stats)
    return f"client-bound: {why}" if why else ""


def _cached(outcome: TrialResult, ok: list[RequestRecord]) -> str:
    hits = outcome.counters.get("prefix_cache_hits", 0) or sum(r.cached_len for r in ok)
    if hits <= 0:
        return ""
    return f"{hits:.0f} prompt tokens came from the prefix cache, so prefill was not measured"


def _misread(ok: list[RequestRecord]) -> str:
    wrong = [r for r in ok if r.prompt_len and r.input_len and r.input_len != r.prompt_len]
    if not wrong:
        return ""
    first = f"first: {wrong[0].prompt_len} tokens sent, {wrong[0].input_len} read"
    return f"{len(wrong)} prompts were read as another length ({first})"
