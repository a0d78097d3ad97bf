"""Between the engine's hooks and the writer: knows the current step, and what each routed row belongs to."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vllm_moe_log import device
from vllm_moe_log import step as steps
from vllm_moe_log.block import Block
from vllm_moe_log.flags import Flags
from vllm_moe_log.step import Span, Step
from vllm_moe_log.writer import Batch, Ready, Writer

FindSpans = Callable[[], tuple[Span, ...]]
Rows = dict[int, tuple[Any, Any, int]]
"""Per layer ids [N, K], weights [N, K] (numpy) and the rows the router wrote; 0 rows = it was not called."""
logger = logging.getLogger("vllm.moe_log")


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """A log that fails says why and ends; it never takes the engine down."""

    @functools.wraps(method)
    def call(self: Recorder, *args: Any) -> None:
        if self.broken:
            return
        try:
            method(self, *args)
        except Exception as error:
            self.give_up(error)

    return call


@dataclass(frozen=True)
class Limits:
    """What the engine's configuration says about a step."""

    max_tokens: int = 0
    """Most tokens of one step on one rank, padding included."""
    sequence_parallel: bool = False
    """Tensor-parallel ranks route a share of the tokens each; otherwise all of them route all."""


class Recorder:
    """One per process. The header is written with the first real token, when all layers are known."""

    def __init__(self, flags: Flags, environment: Any) -> None:
        self._flags = flags
        self._environment = environment
        self._limits = Limits()
        self._writer: Writer | None = None
        self._routers: dict[int, Any] = {}
        self._other_layers: dict[int, str] = {}
        self._buffers: device.Buffers | None = None
        self._num_steps = 0
        self._find_spans: FindSpans | None = None
        self._rows: Rows = {}
        self._warmup_tokens = 0
        self.broken = False

    def give_up(self, error: Exception) -> None:
        """Stop logging for good, and write down why."""
        self.broken = True
        logger.error("moe_log: the routing log has failed and ends here", exc_info=error)
        with contextlib.suppress(Exception):
            self._open().tell(f"the log ends here, it failed: {error!r}")

    def add_layer(self, layer: int, router: Any, limits: Limits) -> None:
        """A layer that will be logged has been built."""
        self._routers[layer] = router
        self._limits = limits

    def pass_over(self, layer: int, reason: str) -> None:
        """A layer that will not be logged has been built; reason "" = it was not asked for."""
        self._other_layers[layer] = reason

    @_harmless
    def begin(self, find_spans: FindSpans) -> None:
        """A step over real requests starts; spans are asked for once the batch is in its final order."""
        self._find_spans, self._rows = find_spans, {}
        self._num_steps += 1
        if self._buffers is not None:
            self._buffers.clear()

    @_harmless
    def end(self, num_tokens: int) -> None:
        """The step is over: queue what a CPU has collected, or fetch what the device holds."""
        find_spans, self._find_spans = self._find_spans, None
        if find_spans is None or not self._logs_here():
            return
        if not self._routers:
            if self._environment.ranks["pp_size"] == 1:
                self._open()  # to say why nothing is logged
            return
        step = Step(self._num_steps, find_spans())
        if step.spans:
            ready = self._fetch(self._buffers, step) if self._buffers else self._collected(step)
            self._open().put(ready, num_tokens * len(self._routers))

    @_harmless
    def routed(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        """Logical ids [N, K] and weights [N, K] of one layer, still on the device."""
        if topk_ids.is_cuda:
            self._store(layer, topk_ids, topk_weights)
        if self._find_spans is None:  # profiling, warm-up, capture or an idle data-parallel rank's dummy step
            self._warmup(layer, topk_ids, topk_weights)
        elif not topk_ids.is_cuda:
            self._collect(layer, topk_ids, topk_weights)

    def _collect(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        """On a CPU: keep a copy of the rows until the step is over."""
        if not self._logs_here():
            return
        first, num_rows = steps.own_rows(len(topk_ids), self._layout())
        rows = slice(first, first + num_rows)
        # Copied even where the type fits: the kernel may reuse the router's buffers once it has them.
        # numpy takes a third of the time of torch for it.
        ids = topk_ids.numpy()[rows].astype(np.int16)
        weights = topk_weights.float().numpy()[rows].copy()
        self._rows[layer] = (ids, weights, num_rows)

    def _collected(self, step: Step) -> Ready:
        rows = {layer: self._rows.get(layer, (None, None, 0)) for layer in sorted(self._routers)}
        return lambda: self._batch(step, rows)

    def _store(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        """On a GPU: into the buffers, in a graph or not; they are made in the first pass, the profiling."""
        if self._buffers is None:
            if torch.cuda.is_current_stream_capturing() or not self._logs_here():
                return
            rows = max(self._limits.max_tokens, len(topk_ids))
            self._buffers = device.allocate(sorted(self._routers), rows, topk_ids)
        first, num_rows = steps.own_rows(len(topk_ids), self._layout())
        rows_here = slice(first, first + num_rows)
        self._buffers.store(layer, topk_ids[rows_here], topk_weights[rows_here])

    def _fetch(self, buffers: device.Buffers, step: Step) -> Ready:
        arrays = buffers.fetch(step.num_tokens)

        def ready() -> Batch:
            ids, weights, num_written = arrays()
            parts = zip(buffers.layers, zip(ids, weights, num_written, strict=True), strict=True)
            return self._batch(step, dict(parts))

        return ready

    def _batch(self, step: Step, layers: Rows) -> Batch:
        """Blocks of the layers' (ids, weights, rows written), and what cannot be attributed."""
        blocks: list[Block] = []
        counts: dict[str, int] = {}
        for layer, (ids, weights, num_rows) in layers.items():
            part = steps.own_tokens(num_rows, step.num_tokens, self._tp_rank_of_shard())
            if part is None:
                name, amount = (
                    ("unattributed_rows", num_rows) if num_rows else ("unseen_tokens", step.num_tokens)
                )
                counts[name] = counts.get(name, 0) + amount
                continue
            token, num = part
            spans = steps.cut(step.spans, token, num)
            blocks.append(
                Block(step.number, step.at, layer, self._environment.rank, spans, ids[:num], weights[:num])
            )
        if counts.get("unseen_tokens"):
            counts["unseen_steps"] = 1
        return Batch(tuple(block for block in blocks if block.spans), counts)

    def _warmup(self, layer: int, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> None:
        if topk_ids.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        self._warmup_tokens += len(topk_ids)
        if self._writer is not None:
            self._writer.count("warmup_tokens", len(topk_ids))
        if self._flags.warmup and self._logs_here():
            whole = (Span("(warm-up)", 0, len(topk_ids), len(topk_ids)),)
            block = Block(0, time.time(), layer, self._environment.rank, whole, None, None, warmup=True)
            # Waited for here: graphs are captured between these passes, and while one is, no other thread
            # may wait for the GPU.
            ids = device.signed(topk_ids).cpu().numpy().astype(np.int16)
            weights = topk_weights.float().cpu().numpy().copy()
            batch = Batch((replace(block, experts=ids, weights=weights),))
            self._open().put(lambda: batch, len(topk_ids))

    def _logs_here(self) -> bool:
        """Every tensor-parallel rank routes the same tokens: rank 0 logs them, unless each has a share."""
        return self._limits.sequence_parallel or not self._environment.ranks["tp"]

    def _layout(self) -> steps.Layout:
        layout: steps.Layout = self._environment.layout()
        return layout

    def _tp_rank_of_shard(self) -> int | None:
        return int(self._environment.ranks["tp"]) if self._limits.sequence_parallel else None

    def _open(self) -> Writer:
        if self._writer is None:
            path = self._environment.path_of_rank(self._flags.path)
            self._writer = Writer(path, self._header(), self._flags.queue_steps)
            self._writer.count("warmup_tokens", self._warmup_tokens)
            for reason in self._not_logged():
                self._writer.tell(reason)
        return self._writer

    def _not_logged(self) -> list[str]:
        """Why layers that were asked for are not in the log."""
        built = {**dict.fromkeys(self._routers, ""), **self._other_layers}
        missing = sorted((self._flags.layers or set()) - set(built))
        told = [f"layer {layer}: {reason}" for layer, reason in self._other_layers.items() if reason]
        if missing and self._environment.ranks["pp_size"] == 1:
            told.append(
                f"VLLM_LOG_LAYER asks for layer {', '.join(map(str, missing))}, the model's MoE layers are "
                f"{', '.join(map(str, sorted(built)))}: choose among those"
            )
        if self._flags.num_moe_layers not in (None, len(built)) and self._environment.ranks["pp_size"] == 1:
            told.append(
                f"VLLM_NUM_MOE_LAYERS={self._flags.num_moe_layers}, the model has {len(built)} MoE layers: "
                "the log goes by the engine's own"
            )
        return told

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
