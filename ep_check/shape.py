"""The problem every rank works on: sizes, seed and who owns which expert."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one expert-parallel group. Experts are split evenly: rank r owns [r*E/W, (r+1)*E/W)."""

    rank: int
    world_size: int
    hidden: int
    num_experts: int
    top_k: int
    max_tokens: int
    """Most tokens any rank sends in one dispatch; source positions are rank * max_tokens + token."""
    seed: int = 0
    dispatch_dtype: str = "bf16"
    """bf16, or fp8: e4m3 with one float32 scale per 128 elements."""
    gpus_per_node: int = 8
    options: dict[str, str] = field(default_factory=dict)
    """Settings only one backend knows (--option name=value)."""

    def option(self, name: str) -> str:
        """A backend's own setting, "" when not given."""
        return self.options.get(name, "")

    @property
    def receive_limit(self) -> int:
        """Most rows a rank may receive under the option max_total_recv_tokens, as MORI rounds it; 0 = any."""
        total = int(self.option("max_total_recv_tokens") or 0)
        per_rank = min(self.max_tokens, -(-total // self.world_size))
        return self.world_size * per_rank

    @property
    def experts_per_rank(self) -> int:
        """Experts one rank owns."""
        return self.num_experts // self.world_size

    @property
    def dispatch_row_bytes(self) -> int:
        """Payload of one dispatched token: hidden x element size, plus scales; ids, weights not counted."""
        if self.dispatch_dtype == "fp8":
            return self.hidden + 4 * (self.hidden // 128)
        return 2 * self.hidden

    @property
    def combine_row_bytes(self) -> int:
        """Payload of one partial sum sent home: always bf16."""
        return 2 * self.hidden


def refuse(shape: Shape) -> str:
    """Why this shape cannot be run, "" when it can."""
    if shape.num_experts % shape.world_size:
        return f"{shape.num_experts} experts do not split over {shape.world_size} ranks: choose a multiple"
    if shape.top_k > shape.num_experts:
        return f"top-{shape.top_k} of {shape.num_experts} experts: --top-k must not exceed --experts"
    if shape.hidden % 128:
        return f"hidden {shape.hidden} is no multiple of 128 (the FP8 block and every backend's alignment)"
    if shape.max_tokens >= 1 << 16 or shape.world_size > 256:
        return "at most 65535 tokens per rank and 256 ranks: every payload carries its origin in three bytes"
    return ""
