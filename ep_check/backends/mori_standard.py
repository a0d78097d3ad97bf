"""MORI's standard-MoE interface (guide, section 4): tokens arrive packed by expert, weights act in combine.

Layout at ROCm/mori 624002c: packed [experts per rank, ranks x tokens per rank, hidden]; the first count[e]
slots of expert e hold its tokens, src_info[e, slot] their source position. Combine sums a token's slots, each
times its dispatched weight (ConvertCombineInputDevice in convert.hpp).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ep_check.routing import Routing
from ep_check.seam import Received, UnavailableError
from ep_check.shape import Shape


class StandardLayout:
    """The seam has each token once and weighted; here a token has a slot at each of its local experts.

    So a token's weighted sum goes, divided by that expert's weight, into the slot of its first local expert,
    and zeros into the others: what combine multiplies and adds is the sum again.
    """

    def __init__(self, op: Any, shape: Shape, launch: dict[str, int]) -> None:
        self._op, self._shape, self._launch = op, shape, launch
        self._slots = torch.empty(0)
        self._packed = torch.empty(0)
        self._first: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))

    def dispatch(
        self, x: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor, ids: torch.Tensor
    ) -> Received:
        """Each token once, in order of source; ids and weights are those its slots stand for, -1 and 0 else.

        Raises UnavailableError where MORI was built without the interface.
        """
        shape = self._shape
        every = self._everyones(Routing(ids.to(torch.int64), weights))
        try:
            packed, count, info, _ = self._op.dispatch_standard_moe(x, weights, scales, ids, **self._launch)
        except RuntimeError as reason:
            raise UnavailableError(
                f"{reason}: build MORI with ENABLE_STANDARD_MOE_ADAPT=ON, or leave out standard_moe=1"
            ) from None
        taken = torch.arange(packed.shape[1], device=packed.device)[None, :] < count[:, None]
        expert, slot = taken.nonzero(as_tuple=True)
        source, row = torch.unique(info[expert, slot].to(torch.int64), return_inverse=True)
        experts = expert + shape.rank * shape.experts_per_rank
        first = torch.full((len(source),), len(row), dtype=torch.int64, device=packed.device)
        first.scatter_reduce_(0, row, torch.arange(len(row), device=packed.device), reduce="amin")
        topk_ids, topk_weights = self._local(source, row, experts, every)
        chosen = (topk_ids == experts[first][:, None]).to(torch.float32)
        self._slots = expert[first] * packed.shape[1] + slot[first]
        self._packed = packed
        self._first = (topk_ids, (topk_weights * chosen).sum(dim=1))
        return Received(packed[expert[first], slot[first]].clone(), topk_ids, topk_weights, source)

    def combine(
        self, partial: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, call_reset: bool
    ) -> torch.Tensor:
        """[tokens per rank, H] the sums at home."""
        filled = torch.zeros_like(self._packed)
        share = (partial.float() / self._first[1][:, None]).to(filled.dtype)
        filled.flatten(0, 1)[self._slots] = share
        out, _ = self._op.combine_standard_moe(filled, weights, ids, call_reset=call_reset, **self._launch)
        return torch.as_tensor(out)

    def _everyones(self, own: Routing) -> dict[int, Routing]:
        """Ids and weights of all ranks' tokens: the interface hands on neither."""
        gathered: list[Any] = [None] * self._shape.world_size
        dist.all_gather_object(gathered, (own.topk_ids.cpu(), own.topk_weights.cpu()))
        return {rank: Routing(*pair) for rank, pair in enumerate(gathered)}

    def _local(
        self, source: torch.Tensor, row: torch.Tensor, experts: torch.Tensor, every: dict[int, Routing]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, K] a token's sent ids where a slot of that expert holds it, -1 else, and their weights."""
        pairs = [divmod(position, self._shape.max_tokens) for position in source.tolist()]
        shape = (len(pairs), self._shape.top_k)
        ids = torch.stack([every[r].topk_ids[t] for r, t in pairs]) if pairs else torch.empty(shape)
        weights = torch.stack([every[r].topk_weights[t] for r, t in pairs]) if pairs else torch.empty(shape)
        ids, weights = ids.to(experts.device, torch.int64), weights.to(experts.device, torch.float32)
        held = torch.zeros(len(pairs), self._shape.num_experts, dtype=torch.bool, device=experts.device)
        held[row, experts] = True
        here = held.gather(1, ids)
        return torch.where(here, ids, -1), torch.where(here, weights, 0.0)
