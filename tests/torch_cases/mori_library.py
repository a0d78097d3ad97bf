"""MORI's Python interface over gloo on CPUs: calls, layouts and refusals of ROCm/mori 624002c, kernels apart.

python/mori/ops/dispatch_combine.py (EpDispatchCombineOp), python/mori/shmem/api.py, and for the layouts
src/ops/dispatch_combine/convert.hpp. Combine fetches from the ranks that *its* ids name, as the library does.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class KernelType(enum.IntEnum):
    """EpDispatchCombineKernelType, dispatch_combine.hpp."""

    IntraNode = 0
    InterNode = 1
    InterNodeV1 = 2
    InterNodeV1LL = 3
    AsyncLL = 4
    IntraNodeLL = 5


@dataclasses.dataclass
class Config:
    """EpDispatchCombineConfig with its defaults."""

    data_type: torch.dtype
    rank: int
    world_size: int
    hidden_dim: int
    scale_dim: int
    scale_type_size: int
    max_token_type_size: int
    max_num_inp_token_per_rank: int
    num_experts_per_rank: int
    num_experts_per_token: int
    warp_num_per_block: int = 8
    block_num: int = 80
    max_total_recv_tokens: int = 0
    use_external_inp_buf: bool = True
    kernel_type: KernelType = KernelType.IntraNode
    gpu_per_node: int = 8
    rdma_block_num: int = 0
    num_qp_per_pe: int = 1
    quant_type: str = "none"


class Op:
    """EpDispatchCombineOp."""

    def __init__(self, config: Config) -> None:
        assert config.gpu_per_node & (config.gpu_per_node - 1) == 0
        assert config.world_size % config.gpu_per_node == 0
        assert shmem_state["joined"], "shmem is not initialised"
        self.config = config
        self._rows = torch.empty(0)

    def dispatch(self, *sent: torch.Tensor, **launch: int) -> tuple[torch.Tensor, ...]:
        c = self.config
        _known(launch)
        everyone: list[Any] = [None] * c.world_size
        dtype = sent[0].dtype
        # Bytes: torch neither pickles nor gathers float8 tensors' rows.
        dist.all_gather_object(everyone, (sent[0].view(torch.uint8), *sent[1:]))
        parts, sources = [], []
        for rank, (rows, w, s, i) in enumerate(everyone):
            here = (i // c.num_experts_per_rank == c.rank).any(dim=1).nonzero()[:, 0]
            parts.append((rows[here], w[here], s[here], i[here]))
            sources.append(rank * c.max_num_inp_token_per_rank + here)
        x, w, s, i = (torch.cat(column) for column in zip(*parts, strict=True))
        self._source = torch.cat(sources)
        shuffled = torch.randperm(len(x))  # rows land in the order they come
        self._source, self._weights = self._source[shuffled], w[shuffled]
        limit = c.world_size * c.max_num_inp_token_per_rank
        if c.max_total_recv_tokens:
            limit = min(limit, -(-c.max_total_recv_tokens // c.world_size) * c.world_size)
        assert len(x) <= limit, "the kernel asserts"
        padded = torch.full((limit, x.shape[1]), 77, dtype=torch.uint8)
        padded[: len(x)] = x[shuffled]
        return padded.view(dtype), w[shuffled], s[shuffled], i[shuffled], torch.tensor([len(x)])

    def dispatch_send(self, *sent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.dispatch(*sent)

    def dispatch_recv(self) -> None:
        self._async()

    def combine(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor,
        call_reset: bool = False,
        **launch: int,
    ) -> tuple[torch.Tensor, None]:
        _known(launch)
        c, num = self.config, len(self._source)
        rows = x[:num]
        if not c.use_external_inp_buf:
            assert x is self._registered, "zero-copy reads the registered buffer"
        if c.quant_type == "fp8_direct_cast":
            rows = rows.to(torch.float8_e4m3fn).to(torch.bfloat16)
        everyone: list[Any] = [None] * c.world_size
        dist.all_gather_object(everyone, (self._source, rows))
        out = torch.zeros(c.max_num_inp_token_per_rank, c.hidden_dim)
        named = torch.zeros(c.max_num_inp_token_per_rank, c.world_size, dtype=torch.bool)
        named[: len(ids)].scatter_(1, (ids // c.num_experts_per_rank).long(), True)
        for rank, (source, values) in enumerate(everyone):
            mine = source // c.max_num_inp_token_per_rank == c.rank
            token = source[mine] % c.max_num_inp_token_per_rank
            asked = named[token, rank]
            out[token[asked]] += values[mine][asked].float()
        if call_reset:
            self.reset()
        return out.to(torch.bfloat16), None

    def combine_send(self, *given: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.combine(*given)

    def combine_recv(self) -> None:
        self._async()

    def dispatch_standard_moe(self, *sent: torch.Tensor, **launch: int) -> tuple[torch.Tensor, ...]:
        c = self.config
        if c.kernel_type not in (KernelType.InterNodeV1LL, KernelType.IntraNode):
            raise ValueError("dispatch_standard_moe only supports IntraNode/InterNodeV1LL")
        assert c.max_token_type_size == sent[0].element_size(), "rows are strided by max_token_type_size"
        rows, _, _, arrived, count = self.dispatch(*sent, **launch)
        packed = torch.full(
            (c.num_experts_per_rank, c.world_size * c.max_num_inp_token_per_rank, c.hidden_dim), 9.0
        ).to(rows.dtype)
        info = torch.full(packed.shape[:2], -5, dtype=torch.int32)
        counts = torch.zeros(c.num_experts_per_rank, dtype=torch.int32)
        self._slots = torch.full((int(count[0]), c.num_experts_per_token), -1)
        for token in range(int(count[0])):
            for k, expert in enumerate((arrived[token] - c.rank * c.num_experts_per_rank).tolist()):
                if 0 <= expert < c.num_experts_per_rank:
                    slot = int(counts[expert])
                    packed[expert, slot], info[expert, slot] = rows[token], self._source[token]
                    self._slots[token, k] = expert * packed.shape[1] + slot
                    counts[expert] += 1
        return packed, counts, info, torch.empty(0, dtype=torch.int64)

    def combine_standard_moe(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor,
        call_reset: bool = False,
        **launch: int,
    ) -> tuple[torch.Tensor, None]:
        flat = x.flatten(0, 1).float()
        shares = torch.where(self._slots >= 0, self._weights, 0.0)[:, :, None]
        rows = (flat[self._slots.clamp_min(0)] * shares).sum(dim=1).to(torch.bfloat16)
        return self.combine(rows, weights, ids, call_reset, **launch)

    def get_dispatch_src_token_pos(self) -> torch.Tensor:
        return self._source

    def get_registered_combine_input_buffer(self, dtype: torch.dtype) -> torch.Tensor:
        limit = self.config.world_size * self.config.max_num_inp_token_per_rank
        self._registered = torch.zeros(limit, self.config.hidden_dim, dtype=dtype)
        return self._registered

    def reset(self) -> None:
        del self._source

    def get_debug_time_buf(self) -> torch.Tensor:
        return profiled

    def _async(self) -> None:
        if self.config.kernel_type is not KernelType.AsyncLL:
            raise ValueError(
                f"dispatch_recv only supports AsyncLL, got kernel_type={self.config.kernel_type}"
            )


def _known(launch: dict[str, int]) -> None:
    assert set(launch) <= {"block_num", "rdma_block_num", "warp_per_block"}, launch


profiled = torch.ones(4)


def _export(trace_buffer: torch.Tensor, filename: str, slot_map: object = None) -> None:
    Path(filename).write_text(
        json.dumps({"traceEvents": [], "zeroed": not trace_buffer.any(), "slots": slot_map})
    )


shmem_state = {"joined": False}


def _by_group(name: str) -> None:
    dist.distributed_c10d._resolve_process_group(name)
    shmem_state["joined"] = True


def _by_id(flags: int, rank: int, world_size: int, unique_id: bytes) -> int:
    shmem_state["joined"] = flags == 1 and len(unique_id) == 128
    return 0 if shmem_state["joined"] else -1


def install() -> None:
    """Make `import mori` find this."""
    mori = types.ModuleType("mori")
    mori.ops = types.SimpleNamespace(
        EpDispatchCombineConfig=Config, EpDispatchCombineOp=Op, EpDispatchCombineKernelType=KernelType
    )
    mori.shmem = types.SimpleNamespace(
        MORI_SHMEM_INIT_WITH_UNIQUEID=1,
        shmem_torch_process_group_init=_by_group,
        shmem_get_unique_id=lambda: bytes(128),
        shmem_init_attr=_by_id,
        shmem_finalize=lambda: None,
    )
    mori.cpp = types.SimpleNamespace(get_debug_time_buf=None, IntranodeSlots="IntranodeSlots")
    mori.kernel_profiler = types.SimpleNamespace(export_to_perfetto=_export)
    sys.modules["mori"] = mori
