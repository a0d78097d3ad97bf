"""Seeded faults: what a broken backend looks like from outside. The check must turn red for each."""

from __future__ import annotations

from dataclasses import replace

import torch

from ep_check.routing import Routing
from ep_check.seam import Backend, Received
from ep_check.shape import Shape


class Faulty:
    """A sound backend with one defect added; passes everything else through."""

    def __init__(self, inner: Backend, shape: Shape, fault: str) -> None:
        if fault not in FAULTS:
            raise ValueError(f"unknown fault {fault!r}: choose one of {', '.join(FAULTS)}")
        self._inner = inner
        self._shape = shape
        self._fault = fault
        self._stale: torch.Tensor | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Dispatch, with the receive side damaged."""
        received = self._inner.dispatch(x, routing)
        if self._fault == "swapped-weights":
            return replace(received, topk_weights=received.topk_weights.flip(1))
        if self._fault == "wrong-reset":
            return self._unreset(received)
        return received

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Combine, with the send side damaged."""
        if self._fault == "dropped-rank" and self._shape.rank == self._shape.world_size // 2:
            partial = torch.zeros_like(partial)
        return self._inner.combine(partial)

    def reset(self) -> None:
        """Reset the sound part; the defect keeps its state."""
        self._inner.reset()

    def close(self) -> None:
        """Close the sound part."""
        self._inner.close()

    def _unreset(self, received: Received) -> Received:
        # The receive counter runs on, so the reader, starting at row 0, meets the last iteration's rows.
        rows = received.x if self._stale is None else torch.cat([self._stale, received.x])
        self._stale = received.x
        return replace(received, x=rows[: len(received.x)])


FAULTS = ("wrong-reset", "swapped-weights", "dropped-rank")
