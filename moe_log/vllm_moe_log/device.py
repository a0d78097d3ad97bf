"""Routing kept on the GPU until the step is over: written by kernels, so replayed CUDA graphs write it too.

Python runs once per CUDA graph, when it is captured; what it launches then runs at every replay. Hence each
logged layer copies its ids and weights into buffers of fixed address, and leaves beside them how many rows it
wrote; after the step one copy takes all layers to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Arrays = tuple[Any, Any, list[int]]
"""(ids [L, N, K], weights [L, N, K], rows written per layer), numpy."""


@dataclass(frozen=True)
class Buffers:
    """One slot per logged layer; num_written [L] is 0 where a layer has not run since clear()."""

    layers: tuple[int, ...]
    ids: torch.Tensor
    weights: torch.Tensor
    num_written: torch.Tensor

    @property
    def max_rows(self) -> int:
        """Rows one layer can hold."""
        return self.ids.shape[1]

    def store(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        """Launch the copies of one layer's rows; only kernels, no allocation, no host wait."""
        slot, rows = self.layers.index(layer), min(len(topk_ids), self.max_rows)
        self.ids[slot, :rows].copy_(signed(topk_ids)[:rows])
        self.weights[slot, :rows].copy_(topk_weights[:rows])
        self.num_written[slot].fill_(rows)

    def clear(self) -> None:
        """Before a step: nothing written yet."""
        self.num_written.zero_()

    def fetch(self, num_rows: int) -> Callable[[], Arrays]:
        """Start copying the first num_rows of every layer; the call that is returned waits for them."""
        num = min(num_rows, self.max_rows)
        host = [to_host(t) for t in (self.ids[:, :num], self.weights[:, :num], self.num_written)]
        wait = event(self.ids)

        def ready() -> Arrays:
            wait()
            ids, weights, num_written = host
            return ids.numpy(), weights.numpy(), num_written.tolist()

        return ready


def allocate(layers: Sequence[int], max_rows: int, topk_ids: torch.Tensor) -> Buffers:
    """Buffers on the device of topk_ids [N, K]; must not be called while a graph is captured."""
    shape = (len(layers), max_rows, topk_ids.shape[1])
    # vLLM runs in inference mode; what is made there may not be written outside it, as clear() does.
    with torch.inference_mode(False):
        return Buffers(
            tuple(layers),
            torch.zeros(shape, dtype=torch.int16, device=topk_ids.device),
            torch.zeros(shape, dtype=torch.float32, device=topk_ids.device),
            torch.zeros(len(layers), dtype=torch.int32, device=topk_ids.device),
        )


def signed(ids: torch.Tensor) -> torch.Tensor:
    """Ids as a type that every kernel converts: some dispatch kernels want them as uint32."""
    return ids.view(torch.int32) if ids.dtype == torch.uint32 else ids


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host: into pinned memory, not waited for, from a GPU."""
    if not tensor.is_cuda:
        return tensor.clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor.contiguous(), non_blocking=True)


def event(tensor: torch.Tensor) -> Callable[[], None]:
    """A call, for a thread of its own, that waits until what was launched so far is done."""
    if not tensor.is_cuda:
        return lambda: None
    done = torch.cuda.Event(blocking=True)  # sleeps; the default spins on a core the engine may need
    done.record()
    gpu = tensor.device

    def wait() -> None:
        torch.cuda.set_device(gpu)  # a new thread is on GPU 0 and would open a context there
        done.synchronize()

    return wait
