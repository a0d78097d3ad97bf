"""A trial's requests as numpy columns: what every statistic is computed from, at any size.

The only place that says what TTFT, TPOT, E2EL and schedule delay are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.numbers.decoding import Part, tabulate
from harness.schema import RequestRecord

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Columns:
    """One entry per request, in file order; times in seconds since the trial's start."""

    ok: NDArray[np.bool_]
    """True where the request succeeded."""
    due_at_s: Floats
    sent_at_s: Floats
    first_at_s: Floats
    """First content chunk; NaN without content."""
    last_at_s: Floats
    """Last content chunk; NaN without content."""
    input_len: NDArray[np.int64]
    output_len: NDArray[np.int64]
    num_chunks: NDArray[np.int64]
    """Chunks that carried content."""
    icl_s: NDArray[np.floating]
    """Gaps between content chunks of the successful requests, all requests in one flat array."""

    @property
    def ttft_s(self) -> Floats:
        """First content - sent; NaN without content."""
        return self.first_at_s - self.sent_at_s

    @property
    def e2el_s(self) -> Floats:
        """Last content - sent; NaN without content."""
        return self.last_at_s - self.sent_at_s

    @property
    def tpot_s(self) -> Floats:
        """(last content - first content) / (output_len - 1); NaN for fewer than two tokens."""
        gaps = np.where(self.output_len > 1, self.output_len - 1, 1)
        return np.where(self.output_len > 1, (self.last_at_s - self.first_at_s) / gaps, np.nan)

    @property
    def due_ttft_s(self) -> Floats:
        """First content - due: what a user waits. A send before it was due counts from the send."""
        return self.first_at_s - np.minimum(self.due_at_s, self.sent_at_s)

    @property
    def due_e2el_s(self) -> Floats:
        """Last content - due, as `due_ttft_s`."""
        return self.last_at_s - np.minimum(self.due_at_s, self.sent_at_s)

    @property
    def schedule_delay_s(self) -> Floats:
        """Sent - due: in open loop it is part of what the user waits for."""
        return self.sent_at_s - self.due_at_s


def columns(records: Iterable[RequestRecord]) -> Columns:
    """Columns of records already in memory, made as those of a file are: times that run backwards fail."""
    return Columns(**tabulate(records, Part()))
