"""ROCm's MORI-EP behind the seam (AMD gfx942/gfx950 only; needs the package mori and a symmetric heap).

Two facts its users have tripped over are kept here: combine() wants this rank's ids from *before* dispatch,
and ids stay global after dispatch, each token arriving once per rank.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from ep_check import heap, mori_config, rules, tokens
from ep_check.backends.mori_standard import StandardLayout
from ep_check.backends.mori_viz import Recorder
from ep_check.mori_config import EpConfig
from ep_check.routing import Routing
from ep_check.seam import Received, UnavailableError
from ep_check.shape import Shape


class MoriEp:
    """Options: kernel=IntraNode|..., or priority=throughput|latency|overlap|baseline between nodes;
    zero_copy=1 (registered combine buffer), split=1 (send/recv halves, AsyncLL), call_reset=1 (by combine),
    standard_moe=1 (DeepEP's 3D layout), init=unique-id, quant_type=, num_qp_per_pe=, max_total_recv_tokens=,
    max_token_type_size=, viz=FOLDER (MORI-VIZ traces); block_num=, rdma_block_num=, warp_per_block= of each
    call (MANUAL mode only)."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._launch = mori_config.overrides(shape.options)
        config = self._limits = _checked(shape, self._launch)
        self._mori = _import()
        os.environ.setdefault("MORI_SHMEM_HEAP_SIZE", f"{heap.suggested_gib(config)}G")
        _join_heap(self._mori.shmem, shape, config.init)
        self._op = self._mori.ops.EpDispatchCombineOp(self._config(config))
        self._standard = StandardLayout(self._op, shape, self._launch) if config.standard_moe else None
        folder = shape.option("viz")
        self._viz = Recorder(self._mori, self._op, folder, config.kernel) if folder else None
        self._sent: tuple[torch.Tensor, torch.Tensor] | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """dispatch(), or one of its other interfaces; rows beyond the received count are cut off."""
        too_many = rules.check_batch(len(x), self._limits)
        if too_many:
            raise ValueError(too_many)
        if self._viz:
            self._viz.clear()
        ids = routing.topk_ids.to(torch.int32)
        payload, scales = self._payload(x)
        if self._standard:
            self._sent = (ids, routing.topk_weights)
            return self._standard.dispatch(payload, routing.topk_weights, scales, ids)
        arguments = (payload, routing.topk_weights, scales, ids)
        if self._limits.split:
            rows, weights, out_scales, out_ids, count = self._op.dispatch_send(*arguments)
            self._op.dispatch_recv()
        else:
            rows, weights, out_scales, out_ids, count = self._op.dispatch(*arguments, **self._launch)
        _wait(self._device)
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
        if self._standard:
            out = self._standard.combine(partial, weights, ids, self._limits.call_reset)
            return out[: len(ids)].clone()
        if self._limits.zero_copy:
            buffer = self._op.get_registered_combine_input_buffer(torch.bfloat16)
            buffer[: len(partial)].copy_(partial)
            partial = buffer
        if self._limits.split:
            out, _ = self._op.combine_send(partial, weights, ids)
            self._op.combine_recv()
        else:
            reset = self._limits.call_reset
            out, _ = self._op.combine(partial, weights, ids, call_reset=reset, **self._launch)
        return torch.as_tensor(out)[: len(ids)].clone()

    def reset(self) -> None:
        """op.reset(), unless combine has done it."""
        if not self._limits.call_reset:
            self._op.reset()
        self._sent = None

    def close(self) -> None:
        """Free the operator before the heap under it."""
        if self._viz:
            self._viz.write(self._shape.rank)
        self._standard = self._viz = None
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

    def _config(self, config: EpConfig) -> Any:
        ops = self._mori.ops
        fp8 = self._shape.dispatch_dtype == "fp8"
        return ops.EpDispatchCombineConfig(
            data_type=torch.float8_e4m3fnuz if fp8 else torch.bfloat16,
            rank=self._shape.rank,
            world_size=config.world_size,
            hidden_dim=config.hidden,
            scale_dim=config.scale_dim,
            scale_type_size=heap.SCALE_BYTES,
            max_token_type_size=config.max_token_type_size,
            max_num_inp_token_per_rank=config.max_tokens_per_rank,
            num_experts_per_rank=self._shape.experts_per_rank,
            num_experts_per_token=config.top_k,
            max_total_recv_tokens=config.max_total_recv_tokens,
            use_external_inp_buf=not config.zero_copy,
            kernel_type=getattr(ops.EpDispatchCombineKernelType, config.kernel),
            gpu_per_node=config.gpus_per_node,
            num_qp_per_pe=config.num_qp_per_pe,
            quant_type=config.quant_type,
            **rules.launch_parameters(config.kernel),
        )


def _join_heap(shmem: Any, shape: Shape, init: str) -> None:
    """The two initialisations of the guide's section 5; the id of the second travels over the gloo group."""
    if init == "process-group":
        torch._C._distributed_c10d._register_process_group("default", dist.group.WORLD)
        shmem.shmem_torch_process_group_init("default")
        return
    told = [shmem.shmem_get_unique_id() if shape.rank == 0 else None]
    dist.broadcast_object_list(told, src=0)
    status = shmem.shmem_init_attr(shmem.MORI_SHMEM_INIT_WITH_UNIQUEID, shape.rank, shape.world_size, told[0])
    if status:
        raise UnavailableError(f"shmem_init_attr answered {status} on rank {shape.rank}: leave out init=")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _checked(shape: Shape, given: dict[str, int]) -> EpConfig:
    """The configuration, every rule obeyed. Raises ValueError with the first rule that is not."""
    start = EpConfig(
        world_size=shape.world_size,
        gpus_per_node=min(shape.gpus_per_node, shape.world_size),
        hidden=shape.hidden,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        max_tokens_per_rank=shape.max_tokens,
        dispatch_dtype=shape.dispatch_dtype,
        scale_dim=shape.hidden // tokens.FP8_BLOCK if shape.dispatch_dtype == "fp8" else 0,
    )
    config = mori_config.configured(shape.options, os.environ, start)
    rules.require(config)
    refused = rules.launch_refusal(os.environ.get(rules.MODE, "MANUAL"), config, given)
    if refused:
        raise ValueError(refused)
    return config


def _import() -> Any:
    try:
        import mori
    except ImportError as reason:
        raise UnavailableError(
            f"the package mori is not in this environment ({reason}): it is not on PyPI; use a ROCm image of "
            "vLLM or SGLang that brings it"
        ) from None
    return mori
