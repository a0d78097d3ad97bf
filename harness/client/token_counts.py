"""Three independent counts of a trial's output tokens: usage, the engine's counters, the text again.

They agree on an honest engine; where two differ by more than 1 % the row is invalid, and it is said which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


class Tally:
    """Adds up what token_counts() needs, record by record: memory does not grow with their number."""

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self._vocabulary = vocabulary
        self.num = self.num_ok = 0
        self._num_with_usage = self._usage = 0
        self._num_with_ids = self._retokenised = 0

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
            self._retokenised += len(record.output_token_ids)
        elif self._vocabulary is not None:
            self._retokenised += self._vocabulary.count(record.text)

    def counts(self, counters_delta: Mapping[str, float]) -> TokenCounts:
        """The counts so far; the engine's counter is left out when a request failed."""
        counter = counters_delta.get("generation_tokens") if self.num_ok == self.num else None
        exact = bool(self.num_ok) and self._num_with_ids == self.num_ok
        counts = TokenCounts(
            usage=self._usage if self.num_ok and self._num_with_usage == self.num_ok else None,
            counters=counter or None,
            retokenised=self._retokenised
            if self._vocabulary is not None or self._num_with_ids == self.num_ok
            else None,
            num_without_usage=self.num_ok - self._num_with_usage,
            exact_ids=exact,
        )
        return msgspec.structs.replace(counts, invalid=_disagreement(counts))


def token_counts(
    records: Iterable[RequestRecord], counters_delta: Mapping[str, float], vocabulary: Vocabulary | None
) -> TokenCounts:
    """Counts over the successful requests. The engine's counter is left out when a request failed.

    A failed or cancelled request generated tokens that the counter holds and no record does. Text is only
    encoded again where the ids did not come: encoding is not the inverse of decoding, so that count is
    rough, and it is compared only when it is ids.
    """
    tally = Tally(vocabulary)
    for record in records:
        tally.add(record)
    return tally.counts(counters_delta)


def uncounted(record: RequestRecord) -> bool:
    """Whether it has text, and neither usage nor ids that say how much."""
    return bool(record.text) and not record.usage and not record.output_len


def filled(record: RequestRecord, vocabulary: Vocabulary) -> RequestRecord:
    """The record with output_len counted from its text, when the server sent neither usage nor ids."""
    if not uncounted(record):
        return record
    return msgspec.structs.replace(record, output_len=vocabulary.count(record.text))


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
