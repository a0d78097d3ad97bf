"""Between the engine's hooks and the writer: knows the current step, and what each routed row belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from vllm_moe_log import step as steps
from vllm_moe_log.block import Block
from vllm_moe_log.flags import Flags
from vllm_moe_log.step import Span, Step
from vllm_moe_log.writer import Writer

FindSpans = Callable[[], tuple[Span, ...]]


class Recorder:
    """One per process. The header is written with the first real token, when all layers are known."""

    def __init__(self, flags: Flags, environment: Any) -> None:
        self._flags = flags
        self._environment = environment
        self._writer: Writer | None = None
        self._routers: dict[int, Any] = {}
        self._num_steps = 0
        self._find_spans: FindSpans | None = None
        self._step: Step | None = None
        self._seen = False
        self._warmup_tokens = 0

    def add_layer(self, layer: int, router: Any) -> None:
        """A layer that will be logged has been built."""
        self._routers[layer] = router

    def begin(self, find_spans: FindSpans) -> None:
        """A step over real requests starts; spans are asked for when the first router runs."""
        self._find_spans, self._step, self._seen = find_spans, None, False
        self._num_steps += 1

    def end(self, num_tokens: int) -> None:
        """The step is over; one that no logged router saw was replayed or took a fused kernel."""
        if num_tokens and not self._seen and self._routers and not self._environment.ranks["tp"]:
            self._open().count("unseen_steps", 1)
            self._open().count("unseen_tokens", num_tokens)
        self._find_spans = None

    def routed(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        """Logical ids [N, K] and weights [N, K] of one layer, still on the device."""
        if torch.compiler.is_compiling() or _capturing(topk_ids):
            return
        if self._find_spans is None:  # profiling, warm-up or an idle data-parallel rank's dummy step
            self._warmup(layer, topk_ids, topk_weights)
            return
        self._seen = True
        if self._step is None:
            self._step = Step(self._num_steps, self._find_spans())
        step, layout = self._step, self._environment.layout()
        if layout.tp_rank and not steps.is_shard(len(topk_ids), step.num_tokens):
            return  # every tensor-parallel rank routes the same tokens: rank 0 logs them
        rows = steps.own_rows(len(topk_ids), step.num_tokens, layout)
        if rows is None:
            self._open().count("unattributed_rows", len(topk_ids))
            return
        first, count, token = rows
        spans = steps.cut(step.spans, token, count)
        block = Block(step.number, time.time(), layer, self._environment.rank, spans, None, None)
        ready = _to_host(block, topk_ids[first : first + count], topk_weights[first : first + count])
        self._open().put(ready, count)

    def _warmup(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        self._warmup_tokens += len(topk_ids)
        if self._writer is not None:
            self._writer.count("warmup_tokens", len(topk_ids))
        if self._flags.warmup and not self._environment.ranks["tp"]:
            whole = (Span("(warm-up)", 0, len(topk_ids), len(topk_ids)),)
            block = Block(0, time.time(), layer, self._environment.rank, whole, None, None, warmup=True)
            self._open().put(_to_host(block, topk_ids, topk_weights), len(topk_ids))

    def _open(self) -> Writer:
        if self._writer is None:
            path = self._environment.path_of_rank(self._flags.path)
            self._writer = Writer(path, self._header(), self._flags.queue_blocks)
            self._writer.count("warmup_tokens", self._warmup_tokens)
        return self._writer

    def _header(self) -> dict[str, Any]:
        router = next(iter(self._routers.values()), None)
        return {
            **self._environment.describe(),
            "layers": sorted(self._routers),
            "num_experts": _num_logical_experts(router),
            "top_k": getattr(router, "top_k", 0),
            "ids": "logical",
        }


def _num_logical_experts(router: Any) -> int:
    """Experts of the model itself: under EPLB the engine's count includes replicas."""
    state = getattr(router, "eplb_state", None)
    replicas = getattr(state, "logical_replica_count", None)
    if replicas is not None:
        return int(replicas.shape[-1])
    return int(getattr(router, "global_num_experts", 0))


def _capturing(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda and bool(torch.cuda.is_current_stream_capturing())


def _to_host(block: Block, ids: torch.Tensor, weights: torch.Tensor) -> Callable[[], Block]:
    """Start the copies now, wait for them in the writer's thread."""
    small, half = ids.to(torch.int16), weights.to(torch.float32)
    if not ids.is_cuda:
        # The kernel may reuse the router's buffers once it has them.
        small = small.clone() if small.data_ptr() == ids.data_ptr() else small
        half = half.clone() if half.data_ptr() == weights.data_ptr() else half
        return lambda: replace(block, experts=small.numpy(), weights=half.numpy())
    host_ids, host_weights = _pinned(small), _pinned(half)
    copied = torch.cuda.Event()
    copied.record()

    def ready() -> Block:
        copied.synchronize()
        return replace(block, experts=host_ids.numpy(), weights=host_weights.numpy())

    return ready


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    return host
