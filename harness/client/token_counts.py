"""Three independent counts of a trial's output tokens: usage, the engine's counters, the text again.

They agree on an honest engine; where two differ by more than 1 % the row is invalid, and it is said which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from harness.schema import Noun, RequestRecord
from harness.tokens import Vocabulary

TOLERANCE = 0.01


class TokenCounts(Noun):
    """Output tokens of one trial; None = could not be counted that way."""

    usage: int | None = None
    """Sum of usage.completion_tokens."""
    counters: float | None = None
    """Growth of the engine's own generation counter over the timed part."""
    retokenised: int | None = None
    """Token ids received, or the text encoded again where no ids came."""
    num_without_usage: int = 0
    """Requests whose output_len is our own count."""
    exact_ids: bool = False
    """`retokenised` counts ids the engine sent, for every request."""
    invalid: str = ""
    """Which counts disagree; "" when all that exist agree within 1 %."""


def token_counts(
    records: Sequence[RequestRecord], counters_delta: Mapping[str, float], vocabulary: Vocabulary | None
) -> TokenCounts:
    """Counts over the successful requests. The engine's counter is left out when a request failed.

    A failed or cancelled request generated tokens that the counter holds and no record does. Text is only
    encoded again where the ids did not come: encoding is not the inverse of decoding, so that count is
    rough, and it is compared only when it is ids.
    """
    ok = [r for r in records if not r.error]
    with_usage = [r for r in ok if r.usage]
    counter = counters_delta.get("generation_tokens") if len(ok) == len(records) else None
    exact = bool(ok) and all(r.output_token_ids is not None for r in ok)
    counts = TokenCounts(
        usage=sum(r.output_len for r in with_usage) if ok and len(with_usage) == len(ok) else None,
        counters=counter or None,
        retokenised=_retokenised(ok, vocabulary),
        num_without_usage=len(ok) - len(with_usage),
        exact_ids=exact,
    )
    return msgspec.structs.replace(counts, invalid=_disagreement(counts))


def filled(record: RequestRecord, vocabulary: Vocabulary) -> RequestRecord:
    """The record with output_len counted from its text, when the server sent neither usage nor ids."""
    if record.usage or record.output_len or not record.text:
        return record
    return msgspec.structs.replace(record, output_len=vocabulary.count(record.text))


def _retokenised(ok: Sequence[RequestRecord], vocabulary: Vocabulary | None) -> int | None:
    if vocabulary is None and any(r.output_token_ids is None for r in ok):
        return None
    return sum(
        len(r.output_token_ids)
        if r.output_token_ids is not None
        else (vocabulary.count(r.text) if vocabulary is not None else 0)
        for r in ok
    )


def _disagreement(counts: TokenCounts) -> str:
    named = {"usage says": counts.usage, "the engine's counters grew by": counts.counters}
    if counts.exact_ids:
        named["the ids received are"] = counts.retokenised
    known = [(name, float(value)) for name, value in named.items() if value is not None]
    for i, (name, value) in enumerate(known):
        for other, rival in known[i + 1 :]:
            if abs(value - rival) > TOLERANCE * max(value, rival):
                return f"output tokens disagree by over 1 %: {name} {value:.0f}, {other} {rival:.0f}"
    return ""
