"""Where this process stands among the ranks, asked of vLLM."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import time
from pathlib import Path
from typing import Any

from vllm_moe_log.step import ALONE, Layout


class Placement:
    """Ranks and sizes of the running worker; asked for only once the process groups exist."""

    @functools.cached_property
    def ranks(self) -> dict[str, int]:
        """Rank and size in the tensor, pipeline and data parallel groups."""
        from vllm.distributed import parallel_state

        groups = {
            "tp": parallel_state.get_tp_group(),
            "pp": parallel_state.get_pp_group(),
            "dp": parallel_state.get_dp_group(),
        }
        ranks = {name: group.rank_in_group for name, group in groups.items()}
        return ranks | {f"{name}_size": group.world_size for name, group in groups.items()}

    @property
    def rank(self) -> int:
        """One number for the process: (data, pipeline, tensor) rank in mixed radix."""
        ranks = self.ranks
        return int((ranks["dp"] * ranks["pp_size"] + ranks["pp"]) * ranks["tp_size"] + ranks["tp"])

    def path_of_rank(self, path: Path) -> Path:
        """Rank 0 writes the path as given, rank N beside it: moe.jsonl, moe.rank3.jsonl."""
        return path if self.rank == 0 else path.with_name(f"{path.stem}.rank{self.rank}{path.suffix}")

    def layout(self) -> Layout:
        """Layout of the forward pass that is running now."""
        ranks = self.ranks
        if ranks["dp_size"] == 1:
            return ALONE
        from vllm.forward_context import get_forward_context

        metadata = get_forward_context().dp_metadata
        return Layout(
            tokens_per_dp=() if metadata is None else tuple(metadata.num_tokens_across_dp_cpu.tolist()),
            shard_sizes=tuple(getattr(metadata, "local_sizes", None) or ()),
            dp_rank=ranks["dp"],
        )

    def describe(self) -> dict[str, Any]:
        """Header fields."""
        return {
            "engine": f"vllm {importlib.metadata.version('vllm')}",
            "pid": os.getpid(),
            "started_at": time.time(),
            "rank": self.rank,
            "ranks": self.ranks,
        }
