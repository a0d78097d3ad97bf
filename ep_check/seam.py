"""The seam every dispatch/combine library is put behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ep_check.routing import Routing


@dataclass(frozen=True)
class Received:
    """Tokens that reached this rank, each once, however many of its experts live here.

    x [R, H] bfloat16; topk_ids [R, K] int64 global ids (-1 allowed where the expert lives elsewhere);
    topk_weights [R, K] float32; source [R] int64 = source rank * max_tokens + token, None if not told.
    """

    x: torch.Tensor
    topk_ids: torch.Tensor
    topk_weights: torch.Tensor
    source: torch.Tensor | None

    @property
    def routing(self) -> Routing:
        """Ids and weights of the received rows."""
        return Routing(self.topk_ids, self.topk_weights)


class Backend(Protocol):
    """One library's dispatch/combine pair. Calls come in the order dispatch, combine, reset."""

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Send x [T, H] bfloat16 to the ranks that own its experts (collective)."""

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Send partial [R, H] bfloat16, rows as received and already weighted, home and add: [T, H]."""

    def reset(self) -> None:
        """Forget this iteration."""

    def close(self) -> None:
        """Release what the library holds."""


class UnavailableError(RuntimeError):
    """This backend cannot run here; the message says why and what to do."""
