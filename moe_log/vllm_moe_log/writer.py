"""Writes blocks from a thread of its own, so that the forward pass never waits for a disk."""

from __future__ import annotations

import atexit
import collections
import contextlib
import logging
import multiprocessing.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_moe_log.block import Block, encode, to_binary, to_text

_PERIOD_S = 0.01
"""The thread wakes this often. Waking it for every block would make it and the model take turns on the
interpreter lock; waiting longer would lose more of the log: vLLM kills its workers outright when it stops."""


@dataclass(frozen=True)
class Batch:
    """Blocks of one step, and amounts to add to the running totals."""

    blocks: tuple[Block, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


Ready = Callable[[], Batch]
"""Waits until the arrays are on the host, then returns them."""
logger = logging.getLogger("vllm.moe_log")


class Writer:
    """A bounded queue in front of one append-only file. A full queue drops steps and counts them."""

    def __init__(self, path: Path, header: dict[str, Any], queue_steps: int) -> None:
        self._encode = to_text if path.suffix == ".jsonl" else to_binary
        self._waiting: collections.deque[tuple[Ready, int]] = collections.deque()
        self._queue_steps = queue_steps
        self._counts: dict[str, int] = {}
        self._written_counts: dict[str, int] = {}
        self._num_blocks = self._num_tokens = 0
        self._failed = False
        self._closed = threading.Event()
        # Unbuffered: what was written survives the kill that ends many a worker.
        self._file = path.open("ab", buffering=0)
        self._file.write(encode({"type": "header", "format": 1, **header}))
        self._thread = threading.Thread(target=self._run, name="moe-log", daemon=True)
        self._thread.start()
        # A child of multiprocessing, as most workers are, runs its finalizers but not atexit's.
        atexit.register(self.close)
        multiprocessing.util.Finalize(None, self.close, exitpriority=100)

    def tell(self, problem: str) -> None:
        """Write down why something that was asked for is not logged."""
        with contextlib.suppress(OSError):  # a full disk is often the very problem
            self._file.write(encode({"type": "problem", "reason": problem}))

    def put(self, ready: Ready, num_tokens: int) -> None:
        """Queue a step's blocks, num_tokens rows in all; never waits."""
        if len(self._waiting) >= self._queue_steps:
            self._drop(num_tokens)
        else:
            self._waiting.append((ready, num_tokens))

    def count(self, name: str, amount: int) -> None:
        """Add to a running total; totals are written as `count` records."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def close(self) -> None:
        """Write what is queued and the final counts."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(timeout=30)
        self._file.close()

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD_S):
            self._write_waiting()
        self._write_waiting()
        self._write_counts()

    def _write_waiting(self) -> None:
        while self._waiting:
            ready, num_tokens = self._waiting[0]
            try:
                self._write(ready())
            except Exception as error:  # a disk that is full, a GPU that has died: the engine goes on
                self._lose(num_tokens, error)
            self._waiting.popleft()
        if self._counts != self._written_counts:  # what was written is counted at the end, and with these
            self._write_counts()

    def _write_counts(self) -> None:
        self._written_counts = dict(self._counts)
        written = {"blocks": self._num_blocks, "tokens": self._num_tokens}
        with contextlib.suppress(OSError):
            self._file.write(encode({"type": "count", **written, **self._written_counts}))

    def _write(self, batch: Batch) -> None:
        if batch.blocks:
            self._file.write(self._encode(batch.blocks))
        self._num_blocks += len(batch.blocks)
        self._num_tokens += sum([len(block.experts) for block in batch.blocks])
        for name, amount in batch.counts.items():
            self.count(name, amount)

    def _drop(self, num_tokens: int) -> None:
        self.count("dropped_steps", 1)
        self.count("dropped_tokens", num_tokens)

    def _lose(self, num_tokens: int, error: Exception) -> None:
        self._drop(num_tokens)
        if not self._failed:
            self._failed = True
            logger.error("moe_log: blocks are lost: %r", error)
            self.tell(f"blocks could not be written: {error!r}")
