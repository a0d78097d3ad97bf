"""Three independent counts of a trial's output tokens: usage, the engine's counters, the ids received.

They agree on an honest engine; where two differ by more than 1 % the row is invalid, and it is said which.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    received: int | None = None
    """Token ids received."""
    num_without_usage: int = 0
    """Requests whose output_len is our own count."""
    invalid: str = ""
    """Which counts disagree; "" when all that exist agree within 1 %."""


class Tally:
    """Counts over the successful requests, record by record: memory does not grow with their number.

    Text is not encoded again where ids did not come: encoding is not the inverse of decoding.
    """

    def __init__(self) -> None:
        self.num = self.num_ok = 0
        self._num_with_usage = self._usage = 0
        self._num_with_ids = self._received = 0

    def add(self, record: RequestRecord) -> None:
        """Take one record; of a failed one only that it failed."""
        self.num += 1
        if record.error:
            return
        self.num_ok += 1
        if record.usage:
            self._num_with_usage += 1
            self._usage += record.output_len
        if record.output_token_ids is not None:
            self._num_with_ids += 1
            self._received += len(record.output_token_ids)

    def counts(self, counters_delta: Mapping[str, float]) -> TokenCounts:
        """The counts so far; one that not every request has is left out.

        So is the engine's counter when a request failed: it holds tokens that no record does.
        """
        counter = counters_delta.get("generation_tokens") if self.num_ok == self.num else None
        counts = TokenCounts(
            usage=self._usage if self.num_ok and self._num_with_usage == self.num_ok else None,
            counters=counter or None,
            received=self._received if self.num_ok and self._num_with_ids == self.num_ok else None,
            num_without_usage=self.num_ok - self._num_with_usage,
        )
        return msgspec.structs.replace(counts, invalid=_disagreement(counts))


def uncounted(record: RequestRecord) -> bool:
    """Whether it has text, and neither usage nor ids that say how much."""
    return bool(record.text) and not record.usage and not record.output_len


def filled(record: RequestRecord, vocabulary: Vocabulary) -> RequestRecord:
    """The record with output_len counted from its text, when the server sent neither usage nor ids."""
    if not uncounted(record):
        return record
    return msgspec.structs.replace(record, output_len=vocabulary.count(record.text))


def _disagreement(counts: TokenCounts) -> str:
    named = {
        "usage says": counts.usage,
        "the engine's counters grew by": counts.counters,
        "the ids received are": counts.received,
    }
    known = [(name, float(value)) for name, value in named.items() if value is not None]
    for i, (name, value) in enumerate(known):
        for other, rival in known[i + 1 :]:
            if abs(value - rival) > TOLERANCE * max(value, rival):
                return f"output tokens disagree by over 1 %: {name} {value:.0f}, {other} {rival:.0f}"
    return ""
