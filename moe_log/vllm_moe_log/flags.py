"""The environment variables that switch the log on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FORMATS = (".jsonl", ".moelog")


@dataclass(frozen=True)
class Flags:
    """What to log, where to."""

    path: Path
    layers: frozenset[int] | None
    """Decoder layers to log; None = every MoE layer."""
    num_moe_layers: int | None
    queue_steps: int
    warmup: bool = False
    """Log profiling and warm-up passes too, marked as such."""

    def wants(self, layer: int) -> bool:
        """Whether a layer is to be logged."""
        return self.layers is None or layer in self.layers


def parse(environ: Mapping[str, str]) -> Flags:
    """Read the variables; raises ValueError in one sentence."""
    path = Path(environ["VLLM_LOG_MOE"])
    if path.suffix not in FORMATS:
        raise ValueError(
            f"VLLM_LOG_MOE={path} must end in {' or '.join(FORMATS)}: the suffix picks the format"
        )
    if not path.parent.is_dir():
        raise ValueError(f"VLLM_LOG_MOE={path}: the folder {path.parent} does not exist; create it first")
    return Flags(
        path=path,
        layers=_layers(environ.get("VLLM_LOG_LAYER") or "0"),
        num_moe_layers=_number(environ, "VLLM_NUM_MOE_LAYERS"),
        queue_steps=_number(environ, "VLLM_LOG_QUEUE") or 4096,
        warmup=environ.get("VLLM_LOG_WARMUP", "") not in ("", "0"),
    )


def _layers(text: str) -> frozenset[int] | None:
    if text.strip().lower() == "all":
        return None
    try:
        return frozenset(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"VLLM_LOG_LAYER={text!r}: write one layer, a list such as 0,12,23, or all"
        ) from None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name) or ""
    if text and not text.isdigit():
        raise ValueError(f"{name}={text!r} is no whole number")
    return int(text) if text else None
