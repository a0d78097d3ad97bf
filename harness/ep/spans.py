"""Spans of Chrome/Perfetto JSON traces: MORI-VIZ's, one file a rank, and torch's profiler's."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.errors import InputError

DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""What torch's profiler calls work on an accelerator; where there is any, host-side spans are left out."""
_HOST = ("python_function", "Trace", "ac2g", "fwdbwd", "overhead")
_RANKS = tuple(re.compile(rf"{name}[_-]?(\d+)", re.IGNORECASE) for name in ("rank", "[._-](?:ep|dp|tp)"))


class Span(NamedTuple):
    """One phase on one rank, microseconds from the trace's own zero."""

    rank: str
    phase: str
    start: float
    end: float

    @property
    def took(self) -> float:
        """Microseconds."""
        return self.end - self.start


def read(files: Sequence[str]) -> list[Span]:
    """Spans of all files; the rank is in the file's name, else what the trace names its processes.

    Raises InputError for a file that is no trace, or two of one rank.
    """
    ranks: dict[str, str] = {}
    spans: list[Span] = []
    for file in files:
        named = rank_of(file) if len(files) > 1 or rank_of(file) else ""
        if named and named in ranks:
            raise InputError(f"{file} and {ranks[named]} are both of {named}: give one trace a rank.")
        ranks[named] = file
        spans += durations(_events(Path(file)), named)
    return spans


def rank_of(file: str) -> str:
    """ "rank 3" of trace_rank_3_0826_101500.json (MORI), dp0_..._rank3.pt.trace.json.gz (vLLM), or TP-3."""
    match = next(filter(None, (pattern.search(Path(file).name) for pattern in _RANKS)), None)
    return f"rank {match[1]}" if match else ""


def durations(events: Iterable[Any], rank: str = "") -> list[Span]:
    """Every whole span. B and E pair by process, thread and name, as MORI-VIZ pairs by warp and slot.

    An E without a name (the format allows it) ends the last B of its thread.
    """
    whole = [event for event in events if _is_whole(event)]
    on_device = any(event.get("cat") in DEVICE for event in whole)
    names: dict[Any, str] = {}
    opened: dict[tuple[Any, Any], list[tuple[str, float]]] = defaultdict(list)
    spans: list[tuple[Any, str, float, float]] = []
    for event in whole:
        kind, pid = event.get("ph"), event.get("pid")
        if kind == "M" and event.get("name") == "process_name":
            names[pid] = str(event.get("args", {}).get("name", ""))
        elif event.get("cat") in _HOST or (on_device and event.get("cat") not in DEVICE):
            continue
        elif kind == "X":
            start = float(event.get("ts", 0))
            spans.append((pid, str(event.get("name")), start, start + float(event["dur"])))
        elif kind == "B":
            opened[pid, event.get("tid")].append((str(event.get("name")), float(event["ts"])))
        elif kind == "E":
            began = _pop(opened[pid, event.get("tid")], event.get("name"))
            if began:
                spans.append((pid, began[0], began[1], float(event["ts"])))
    return [Span(rank or names.get(pid) or str(pid), name, start, end) for pid, name, start, end in spans]


def _pop(stack: list[tuple[str, float]], name: Any) -> tuple[str, float] | None:
    for place in range(len(stack) - 1, -1, -1):
        if name is None or stack[place][0] == name:
            return stack.pop(place)
    return None


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Merged intervals, in order: time that is covered, once."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of their union."""
    return sum(end - start for start, end in union(spans))


def _events(path: Path) -> list[Any]:
    try:
        content = path.read_bytes()
        decoded = msgspec.json.decode(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, zlib.error) as reason:
        why = getattr(reason, "strerror", None) or reason
        raise InputError(f"Cannot read {path}: {why}; give the file export_to_perfetto wrote.") from None
    except msgspec.DecodeError as reason:
        raise InputError(
            f"{path} is no JSON trace ({reason}): give the file export_to_perfetto wrote."
        ) from None
    events = decoded.get("traceEvents", []) if isinstance(decoded, dict) else decoded
    return events if isinstance(events, list) else []


def _is_whole(event: Any) -> bool:
    """Whether it has the times that its kind needs."""
    if not isinstance(event, dict):
        return False
    needed = {"B": "ts", "E": "ts", "X": "dur"}.get(str(event.get("ph")))
    return needed is None or isinstance(event.get(needed), int | float)
