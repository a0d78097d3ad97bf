"""Writes blocks from a thread of its own, so that the forward pass never waits for a disk."""

from __future__ import annotations

import atexit
import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_moe_log.block import Block, to_binary, to_text

_IDLE_S = 0.1
_COUNT_EVERY = 1000
Ready = Callable[[], Block]
"""Waits until a block's arrays are on the host, then returns it."""


class Writer:
    """A bounded queue in front of one append-only file. A full queue drops blocks and counts them."""

    def __init__(self, path: Path, header: dict[str, Any], queue_blocks: int) -> None:
        self._encode = to_text if path.suffix == ".jsonl" else to_binary
        self._queue: queue.Queue[Ready | None] = queue.Queue(maxsize=queue_blocks)
        self._counts: dict[str, int] = {}
        self._written_counts: dict[str, int] = {}
        # Unbuffered: what was written survives the kill that ends many a worker.
        self._file = path.open("ab", buffering=0)
        self._line({"type": "header", "format": 1, **header})
        self._thread = threading.Thread(target=self._drain, name="moe-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def put(self, ready: Ready, num_tokens: int) -> None:
        """Queue a block; never blocks."""
        try:
            self._queue.put_nowait(ready)
        except queue.Full:
            self.count("dropped_blocks", 1)
            self.count("dropped_tokens", num_tokens)

    def count(self, name: str, amount: int) -> None:
        """Add to a running total; totals are written as `count` records."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def close(self) -> None:
        """Write what is queued and the final counts."""
        if self._file.closed:
            return
        self._queue.put(None)
        self._thread.join(timeout=30)
        self._counts_line()
        self._file.close()

    def _drain(self) -> None:
        while True:
            try:
                ready = self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                self._counts_line()
                continue
            if ready is None:
                return
            block = ready()
            self._file.write(self._encode(block))
            self.count("blocks", 1)
            self.count("tokens", len(block.experts))
            if self._counts["blocks"] % _COUNT_EVERY == 0:
                self._counts_line()

    def _counts_line(self) -> None:
        if self._counts != self._written_counts:
            self._written_counts = dict(self._counts)
            self._line({"type": "count", **self._written_counts})

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
