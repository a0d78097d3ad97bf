"""Three independent counts of a trial's output tokens: usage, the engine's counters, the ids received.

They agree on an honest engine; where two differ by more than 1 % the row is invalid, and it is said which.

Some servers send nothing while a character is not whole, then its text with the id of its last token only:
llama.cpp, in process_token() of tools/server/server-context.cpp (fb4026604c67). Ids that lack so are counted
as received where usage and the engine's counter agree without them, and a note says how many.
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
    withheld: int = 0
    """Of those received, tokens whose ids did not come because they end inside a character."""
    invalid: str = ""
    """Which counts disagree; "" when all that exist agree within 1 %."""


class Tally:
    """Counts over the successful requests, record by record: memory does not grow with their number.

    Text is not encoded again where ids did not come: encoding is not the inverse of decoding.
    """

    def __init__(self) -> None:
        self.num = self.num_ok = 0
        self._num_with_usage = self._usage = 0
        self._num_with_ids = self._received = self._withheld = 0

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
            self._withheld += withheld(record)

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
        if self._withheld and counts.received is not None and _told_twice(counts):
            received = counts.received + self._withheld
            counts = msgspec.structs.replace(counts, received=received, withheld=self._withheld)
        return msgspec.structs.replace(counts, invalid=_disagreement(counts))


def withheld(record: RequestRecord) -> int:
    """Ids that usage counts and that did not come, as far as characters of several bytes can explain them.

    Each lacks because its token ends inside a character, so a character of n bytes explains n - 1.
    """
    if not record.usage or record.output_token_ids is None:
        return 0
    missing = record.output_len - len(record.output_token_ids)
    return max(0, min(missing, len(record.text.encode("utf-8", "replace")) - len(record.text)))


def uncounted(record: RequestRecord) -> bool:
    """Whether it has text, and neither usage nor ids that say how much."""
    return bool(record.text) and not record.usage and not record.output_len


def filled(record: RequestRecord, vocabulary: Vocabulary) -> RequestRecord:
    """The record with output_len counted from its text, when the server sent neither usage nor ids."""
    if not uncounted(record):
        return record
    return msgspec.structs.replace(record, output_len=vocabulary.count(record.text))


def _told_twice(counts: TokenCounts) -> bool:
    """Usage and the engine's own counter say the same: the ids are not needed to count."""
    if counts.usage is None or counts.counters is None:
        return False
    return abs(counts.usage - counts.counters) <= TOLERANCE * max(counts.usage, counts.counters)


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
