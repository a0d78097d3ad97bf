"""A MORI-VIZ or torch profiler trace (Chrome/Perfetto JSON) as time per phase per rank."""

from __future__ import annotations

import gzip
import statistics
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError
from harness.escape import plain

Key = tuple[str, str]
"""(rank, phase)."""
_MOST_PHASES = 40


def run(file: str) -> str:
    """Table to print for a trace file. Raises InputError."""
    path = Path(file)
    try:
        content = msgspec.json.decode(_unpacked(path))
    except (OSError, EOFError, zlib.error) as reason:
        why = getattr(reason, "strerror", None) or reason
        raise InputError(f"Cannot read {path}: {why}; give the file export_to_perfetto wrote.") from None
    except msgspec.DecodeError as reason:
        raise InputError(
            f"{path} is no JSON trace ({reason}): give the file export_to_perfetto wrote."
        ) from None
    events = content.get("traceEvents", []) if isinstance(content, dict) else content
    spans = durations(events if isinstance(events, list) else [])
    if not spans:
        raise InputError(
            f"{path} holds no complete spans (ph X, or B with E): is it a Perfetto trace in JSON?"
        )
    return as_text(spans)


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def durations(events: Iterable[dict[str, Any]]) -> dict[Key, list[float]]:
    """Microseconds of every span by (rank, phase); process names from metadata events are used as ranks."""
    names: dict[Any, str] = {}
    spans: dict[Key, list[float]] = defaultdict(list)
    opened: dict[tuple[Any, Any], list[tuple[str, float]]] = defaultdict(list)
    for event in filter(_is_whole, events):
        kind, thread = event.get("ph"), (event.get("pid"), event.get("tid"))
        if kind == "M" and event.get("name") == "process_name":
            names[event.get("pid")] = str(event.get("args", {}).get("name", ""))
        elif kind == "X":
            spans[str(thread[0]), str(event.get("name"))].append(float(event["dur"]))
        elif kind == "B":
            opened[thread].append((str(event.get("name")), float(event["ts"])))
        elif kind == "E" and opened[thread]:
            name, start = opened[thread].pop()
            spans[str(thread[0]), name].append(float(event["ts"]) - start)
    return {(names.get(_number(pid), pid), phase): took for (pid, phase), took in spans.items()}


def _is_whole(event: Any) -> bool:
    """Whether it has the times that its kind needs."""
    if not isinstance(event, dict):
        return False
    needed = {"B": "ts", "E": "ts", "X": "dur"}.get(str(event.get("ph")))
    return needed is None or isinstance(event.get(needed), int | float)


def as_text(spans: dict[Key, list[float]]) -> str:
    """Count, total and median per phase and rank; the rank that waits longest shows as the largest total.

    Of a profiler's thousands of operators only the phases that took longest are shown.
    """
    phases: dict[str, float] = defaultdict(float)
    for (_, phase), took in spans.items():
        phases[phase] += sum(took)
    longest = sorted(phases, key=lambda phase: -phases[phase])[:_MOST_PHASES]
    shown = {key: took for key, took in spans.items() if key[1] in longest}
    lines = [f"{'rank':<16}{'phase':<36}{'spans':>8}{'total us':>14}{'median us':>12}"]
    for (rank, phase), took in sorted(shown.items(), key=lambda item: (item[0][1], item[0][0])):
        lines.append(
            f"{plain(rank, 15):<16}{plain(phase, 35):<36}{len(took):>8}{sum(took):>14.1f}"
            f"{statistics.median(took):>12.2f}"
        )
    if len(phases) > len(longest):
        lines.append(f"and {len(phases) - len(longest)} phases that took less")
    return "\n".join(lines)


def _number(pid: str) -> Any:
    return int(pid) if pid.lstrip("-").isdigit() else pid
