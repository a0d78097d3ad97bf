"""Why the numbers of a finished trial must not be published. Pure."""

from __future__ import annotations

from harness.schema import RequestRecord, TrialResult

_COUNT_TOLERANCE = 0.01


def reasons(outcome: TrialResult, kept: list[RequestRecord]) -> list[str]:
    """One sentence per violated condition of identical, uncached, equally counted work."""
    ok = [r for r in kept if not r.error]
    found = [_cached(outcome), _miscounted(outcome, ok, len(kept)), _misread(ok), _short(ok)]
    return [reason for reason in found if reason]


def _cached(outcome: TrialResult) -> str:
    hits = outcome.counters.get("prefix_cache_hits", 0)
    if hits <= 0:
        return ""
    return f"{hits:.0f} prompt tokens came from the prefix cache, so prefill was not measured"


def _miscounted(outcome: TrialResult, ok: list[RequestRecord], sent: int) -> str:
    """usage against the engine's own counter; only comparable when every request succeeded."""
    generated = outcome.counters.get("generation_tokens")
    counted = sum(r.output_len for r in ok)
    if not generated or len(ok) < sent or abs(generated - counted) <= _COUNT_TOLERANCE * counted:
        return ""
    return f"the engine counted {generated:.0f} output tokens, its usage says {counted}: over 1 % apart"


def _misread(ok: list[RequestRecord]) -> str:
    wrong = [r for r in ok if r.prompt_len and r.input_len and r.input_len != r.prompt_len]
    if not wrong:
        return ""
    first = f"first: {wrong[0].prompt_len} tokens sent, {wrong[0].input_len} read"
    return f"{len(wrong)} prompts were read as another length ({first})"


def _short(ok: list[RequestRecord]) -> str:
    """usage says fewer tokens than ids arrived: one of the two is wrong."""
    wrong = [r for r in ok if r.output_token_ids is not None and len(r.output_token_ids) != r.output_len]
    if not wrong:
        return ""
    first = f"first: usage {wrong[0].output_len}, {len(wrong[0].output_token_ids or ())} ids received"
    return f"{len(wrong)} answers carry another number of token ids than usage says ({first})"
