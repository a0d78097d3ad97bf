"""A few fixed bf16 matrix products on each accelerator, timed by its own events: how fast it is right now.

Run by an engine's own Python, which has torch (the harness's has not), as `matmul.py NUM [cpu]`; imports
nothing of the harness. Prints a JSON object: {"device": name, "tflops": [one per accelerator]}, or {"error"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = {"cuda": 8192, "cpu": 1024}
"""Side of the square matrices; 8192: 1.1 TFLOP each, over a millisecond on an H200."""
WARM, TRIES, EACH = 20, 5, 10
"""Products before the timing (clocks rise), tries of which the best counts, products in a try."""


def tflops(torch: Any, device: str) -> float:
    """10^12 operations/s of one device, the best of TRIES."""
    size = SIZES[device.partition(":")[0]]
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))

    def work(num: int) -> None:
        for _ in range(num):
            torch.matmul(a, b)

    timed = _on_device if device.startswith("cuda") else _on_host
    timed(torch, device, lambda: work(WARM if device.startswith("cuda") else 1))
    best = min(timed(torch, device, lambda: work(EACH)) for _ in range(TRIES))
    return 2e-12 * float(size) ** 3 * EACH / best


def _on_device(torch: Any, device: str, work: Callable[[], None]) -> float:
    """Seconds between two events of the device's own stream; CUDA and ROCm builds alike."""
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def _on_host(torch: Any, device: str, work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(num: int, kind: str) -> dict[str, Any]:
    """The figures of the first `num` accelerators, or of the CPU, or why there are none."""
    try:
        import torch

        if kind == "cpu":
            return {"device": "cpu", "tflops": [tflops(torch, "cpu")]}
        here = torch.cuda.device_count()
        if not here:
            return {"error": f"torch {torch.__version__} sees no accelerator"}
        found = [tflops(torch, f"cuda:{index}") for index in range(min(num, here))]
        return {"device": str(torch.cuda.get_device_name(0)), "tflops": found}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), "".join(sys.argv[2:]))) + "\n")
