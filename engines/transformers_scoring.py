"""Given tokens scored for as many requests as wait, together: what they share is read once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch

from engines.transformers_oracle import Oracle
from engines.transformers_played import Precision
from engines.transformers_views import Asked, View, Viewer


class Played(msgspec.Struct, forbid_unknown_fields=True):
    """Whose rounding, and whether the named faults, are to be played on the scored tokens."""

    dtype: Literal["bfloat16", "float16", "float32"]
    kv_cache_dtype: Literal["", "fp8_e4m3"] = ""
    kv_rounding: Literal["", "toward zero"] = ""
    products: bool = False
    faults: bool = False

    def part(self, asked: Asked) -> Asked:
        """The question with the parts to play."""
        precision = Precision(self.dtype, self.kv_cache_dtype, self.kv_rounding, self.products)
        return asked._replace(precision=precision, faults=self.faults)


class Waiting:
    """One request's tokens to score, and what came of it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.view: View | None = None
        self.error: Exception | None = None


GATHER_S = 0.02
"""How long the first of several requests waits for the others: what they share is read once."""
AT_ONCE = 16
"""Requests scored together; each holds the hidden states of its output."""


class Scorer:
    """The oracle's views behind the lock of whoever else uses it."""

    def __init__(self, oracle: Oracle, lock: threading.Lock) -> None:
        self.lock = lock
        self._viewer = Viewer(oracle)
        self._waiting: deque[Waiting] = deque()

    def view(self, asked: Asked) -> View:
        """What the oracle thinks of given tokens; whoever holds the lock scores for all that wait.

        Raises torch.OutOfMemoryError.
        """
        own = Waiting(asked)
        self._waiting.append(own)
        time.sleep(GATHER_S)
        with self.lock:
            while own.view is None and own.error is None:
                self._score([self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))])
        if own.view is None:
            raise own.error or RuntimeError("a request was scored without an answer")
        return own.view

    def _score(self, batch: list[Waiting]) -> None:
        """Together; one by one where that does not fit the memory."""
        try:
            for one, view in zip(batch, self._viewer.views([b.asked for b in batch]), strict=True):
                one.view = view
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                batch[0].error = error
            else:
                for one in batch:
                    self._score([one])
        except Exception as error:
            for one in batch:
                one.error = error
            raise


def prompt_logprobs(text: Callable[[int], str], question: Asked, view: View) -> list[dict[str, Any] | None]:
    """vLLM's shape: per position {token id: {logprob, rank, decoded_token}}, null before those asked for."""
    num_best = question.num_best
    rows: list[dict[str, Any] | None] = [None] * question.first
    for top in view.tops:
        row = {
            str(i): {"logprob": value, "rank": rank, "decoded_token": text(i)}
            for rank, (i, value) in enumerate(top.best[:num_best], start=1)
        }
        own = {"logprob": top.logprob, "rank": top.rank, "decoded_token": text(top.token_id)}
        rows.append({**row, str(top.token_id): own})
    return rows
