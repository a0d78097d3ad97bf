"""ROCm's MORI-EP behind the seam (AMD gfx942/gfx950 only; needs the package mori and a symmetric heap).

Two facts its users have tripped over are kept here: combine() wants this rank's ids from *before* dispatch,
and ids stay global after dispatch, each token arriving once per rank.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from ep_check import rules, tokens
from ep_check.routing import Routing
from ep_check.seam import Received, UnavailableError
from ep_check.shape import Shape
from harness.errors import InputError


class MoriEp:
    """Options: kernel=IntraNode|..., or priority=throughput|latency|overlap|baseline between nodes;
    zero_copy=1 (registered combine buffer), split=1 (send/recv halves), call_reset=1 (combine resets);
    block_num=, rdma_block_num=, warp_per_block= of each call (MANUAL launch mode only)."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._zero_copy = shape.option("zero_copy") == "1"
        self._split = shape.option("split") == "1"
        self._call_reset = shape.option("call_reset") == "1"
        self._launch = {name: int(shape.option(name)) for name in rules.OVERRIDES if shape.option(name)}
        config = self._limits = _checked(shape, self._launch)
        self._mori = _import()
        os.environ.setdefault("MORI_SHMEM_HEAP_SIZE", f"{config.suggested_heap_gib}G")
        torch._C._distributed_c10d._register_process_group("default", dist.group.WORLD)
        self._mori.shmem.shmem_torch_process_group_init("default")
        self._op = self._mori.ops.EpDispatchCombineOp(self._config(config))
        self._sent: tuple[torch.Tensor, torch.Tensor] | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """dispatch(), or dispatch_send() + dispatch_recv(); rows beyond the received count are cut off."""
        too_many = rules.check_batch(len(x), self._limits)
        if too_many:
            raise ValueError(too_many)
        ids = routing.topk_ids.to(torch.int32)
        payload, scales = self._payload(x)
        arguments = (payload, routing.topk_weights, scales, ids)
        if self._split:
            rows, weights, out_scales, out_ids, count = self._op.dispatch_send(*arguments)
            self._op.dispatch_recv()
        else:
            rows, weights, out_scales, out_ids, count = self._op.dispatch(*arguments, **self._launch)
        torch.cuda.synchronize(self._device)
        num = int(count[0])
        self._sent = (ids, weights)
        return Received(
            x=self._read(rows[:num], out_scales),
            topk_ids=out_ids[:num].to(torch.int64),
            topk_weights=weights[:num].clone(),
            source=self._op.get_dispatch_src_token_pos()[:num].to(torch.int64),
        )

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """combine() with the ids this rank dispatched, from the registered buffer when zero-copy."""
        if self._sent is None:
            raise RuntimeError("combine() without dispatch(): call dispatch() first in every iteration")
        ids, weights = self._sent
        if self._zero_copy:
            buffer = self._op.get_registered_combine_input_buffer(torch.bfloat16)
            buffer[: len(partial)].copy_(partial)
            partial = buffer
        if self._split:
            out, _ = self._op.combine_send(partial, weights, ids)
            self._op.combine_recv()
        else:
            out, _ = self._op.combine(partial, weights, ids, call_reset=self._call_reset, **self._launch)
        return torch.as_tensor(out)[: len(ids)].clone()

    def reset(self) -> None:
        """op.reset(), unless combine has done it."""
        if not self._call_reset:
            self._op.reset()
        self._sent = None

    def close(self) -> None:
        """Free the operator before the heap under it."""
        del self._op
        self._mori.shmem.shmem_finalize()

    def _payload(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._shape.dispatch_dtype != "fp8":
            return x, torch.empty(len(x), 0, dtype=torch.float32, device=self._device)
        values, scales = tokens.quantize(x)
        return values.view(
            torch.float8_e4m3fnuz
        ), scales.contiguous()  # bytes travel; nothing computes on them

    def _read(self, rows: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
        if self._shape.dispatch_dtype != "fp8" or scales is None:
            return rows.clone()
        return tokens.dequantize(rows.view(torch.float8_e4m3fn), scales[: len(rows)])

    def _config(self, config: rules.EpConfig) -> Any:
        ops = self._mori.ops
        fp8 = self._shape.dispatch_dtype == "fp8"
        return ops.EpDispatchCombineConfig(
            data_type=torch.float8_e4m3fnuz if fp8 else torch.bfloat16,
            rank=self._shape.rank,
            world_size=config.world_size,
            hidden_dim=config.hidden,
            scale_dim=config.scale_dim,
            scale_type_size=4,
            max_token_type_size=config.max_token_type_size,
            max_num_inp_token_per_rank=config.max_tokens_per_rank,
            num_experts_per_rank=self._shape.experts_per_rank,
            num_experts_per_token=config.top_k,
            use_external_inp_buf=not self._zero_copy,
            kernel_type=getattr(ops.EpDispatchCombineKernelType, config.kernel),
            gpu_per_node=config.gpus_per_node,
            **rules.launch_parameters(config.kernel),
        )


def _checked(shape: Shape, overrides: dict[str, int]) -> rules.EpConfig:
    """The configuration, every rule obeyed. Raises ValueError with the first rule that is not."""
    if shape.option("split") == "1" and (overrides or shape.option("call_reset") == "1"):
        raise ValueError(
            "split=1 goes with neither call_reset=1 nor launch parameters: the send and recv halves take none"
        )
    try:
        config = _settings(shape)
        rules.require(config)
        ignored = rules.launch_warning(os.environ.get(rules.MODE, "MANUAL"), overrides)
    except InputError as broken:
        raise ValueError(str(broken)) from None
    if ignored:
        raise ValueError(ignored)
    return config


def _settings(shape: Shape) -> rules.EpConfig:
    nodes = max(1, shape.world_size // shape.gpus_per_node)
    return rules.EpConfig(
        world_size=shape.world_size,
        gpus_per_node=min(shape.gpus_per_node, shape.world_size),
        hidden=shape.hidden,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        max_tokens_per_rank=shape.max_tokens,
        kernel=shape.option("kernel") or rules.choose_kernel(nodes, shape.option("priority") or "throughput"),
        scale_dim=shape.hidden // 128 if shape.dispatch_dtype == "fp8" else 0,
        heap=os.environ.get("MORI_SHMEM_HEAP_SIZE", "") or rules.OURS,
    )


def _import() -> Any:
    try:
        import mori
    except ImportError as reason:
        raise UnavailableError(
            f"the package mori is not in this environment ({reason}): it is not on PyPI; use a ROCm image of "
            "vLLM or SGLang that brings it"
        ) from None
    return mori
