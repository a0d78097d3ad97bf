"""MORI-VIZ: what MORI's kernels logged of the last dispatch and combine, one Perfetto file a rank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ep_check.seam import UnavailableError

_SLOTS = {"IntraNode": "IntranodeSlots", "InterNode": "InternodeV1Slots", "AsyncLL": "LowLatencyAsyncSlots"}
"""By the kernel's family: enums of different kernels share numbers, so a merged map gives wrong names."""


class Recorder:
    """Writes FOLDER/trace_rank_N.json for `just trace`. Raises UnavailableError without the profiler."""

    def __init__(self, mori: Any, op: Any, folder: str, kernel: str) -> None:
        if not hasattr(mori.cpp, "get_debug_time_buf"):
            raise UnavailableError(
                "viz= needs MORI built with ENABLE_PROFILER=ON (an argument of docker/vllm-mori.Dockerfile), "
                "ENABLE_PROFILER=ON when it runs, and an empty ~/.mori; or leave out viz="
            )
        self._mori, self._op, self._folder = mori, op, Path(folder)
        family = next(name for name in _SLOTS if kernel.startswith(name))
        self._slots = getattr(mori.cpp, _SLOTS[family], None)

    def clear(self) -> None:
        """Forget what was logged: a warp's buffer is circular, and one iteration is enough."""
        self._op.get_debug_time_buf().zero_()
        if hasattr(self._mori.cpp, "get_debug_time_offset"):
            self._op.get_debug_time_offset().zero_()

    def write(self, rank: int) -> None:
        """Export what the last iteration logged."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = os.fspath(self._folder / f"trace_rank_{rank}.json")
        export = self._mori.kernel_profiler.export_to_perfetto
        export(self._op.get_debug_time_buf(), path, slot_map=self._slots)
