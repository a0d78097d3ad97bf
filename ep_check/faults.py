"""Seeded faults: what a broken backend looks like from outside. The check must turn red for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from ep_check import tokens
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
        self._received: Received | None = None
        self._before: torch.Tensor | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Dispatch, with the receive side damaged."""
        received = self._inner.dispatch(x, routing)
        if self._fault == "swapped-weights":
            return replace(received, topk_weights=received.topk_weights.flip(1))
        if self._fault == "wrong-reset":
            return self._unreset(received)
        if self._fault in ("dispatched-ids", "stale-handle"):
            self._before = None if self._received is None else self._sources(self._received)
            self._received = received
        return received

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Combine, with the send side damaged."""
        if self._fault == "dropped-rank" and self._shape.rank == self._shape.world_size // 2:
            partial = torch.zeros_like(partial)
        if self._fault == "dispatched-ids":
            partial = self._fetched_by_dispatched_ids(partial)
        if self._fault == "stale-handle":
            partial = self._sent_by_the_last_handle(partial)
        return self._inner.combine(partial)

    def reset(self) -> None:
        """Reset the sound part; the defect keeps its state."""
        self._inner.reset()

    def close(self) -> None:
        """Close the sound part."""
        self._inner.close()

    def _sources(self, received: Received) -> torch.Tensor:
        return tokens.origin(received.x, self._shape) if received.source is None else received.source

    def _fetched_by_dispatched_ids(self, partial: torch.Tensor) -> torch.Tensor:
        # MORI's combine is given the ids that arrived: token t fetches from the owners of row t's experts;
        # what the others hold for it is never asked for.
        assert self._received is not None
        shape = self._shape
        named = torch.zeros(shape.max_tokens, shape.world_size, dtype=torch.bool, device=partial.device)
        ids = self._received.topk_ids[: shape.max_tokens].clamp_min(0)
        named[: len(ids)].scatter_(1, ids // shape.experts_per_rank, True)
        everyone: list[Any] = [None] * shape.world_size
        dist.all_gather_object(everyone, named.cpu())
        asked = torch.cat(everyone)[self._sources(self._received).cpu(), shape.rank].to(partial.device)
        return torch.where(asked[:, None], partial, torch.zeros_like(partial))

    def _sent_by_the_last_handle(self, partial: torch.Tensor) -> torch.Tensor:
        # DeepEP's combine is given the last dispatch's handle: row r goes where that one's row r came from.
        if self._before is None or self._received is None:
            return partial
        rows = {source: row for row, source in enumerate(self._sources(self._received).tolist())}
        moved = torch.zeros_like(partial)
        for row, source in enumerate(self._before.tolist()[: len(partial)]):
            if source in rows:
                moved[rows[source]] += partial[row]
        return moved

    def _unreset(self, received: Received) -> Received:
        # The receive counter runs on, so the reader, starting at row 0, meets the last iteration's rows.
        rows = received.x if self._stale is None else torch.cat([self._stale, received.x])
        self._stale = received.x
        return replace(received, x=rows[: len(received.x)])


FAULTS = ("wrong-reset", "swapped-weights", "dropped-rank", "dispatched-ids", "stale-handle")
