"""`just replay ID`: what an entry of the log runs again as, and how far the result is from the entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from harness.containers.docker_engine import image_digest
from harness.errors import InputError
from harness.escape import plain
from harness.numbers.measured import calibrations
from harness.reporting.cells import number
from harness.reporting.log import Entry
from harness.schema import Calibration, Comparison, Interval, LogFacts, Recipe

_SPEEDS = (("sha256", "cpu_mb_s", "MB/s"), ("memory copy", "memory_gb_s", "GB/s"))
"""Name, field of Calibration, unit."""


def slug(run_id: str) -> str:
    """What a replay's run id says after its date: replay and the old one without its own date."""
    return "replay-" + re.sub(r"^(\d{8}-(\d{6}-)?)?(replay-)?", "", run_id)


def recipe_of(entry: Entry) -> Recipe:
    """What to run again. Raises InputError when the entry does not say, or its images are others now."""
    if entry.facts is None:
        raise InputError(
            f"Entry {entry.run_id} has no part that this version can replay; use its commit or recipe.toml."
        )
    for name, digest in entry.facts.image_digests.items():
        now = image_digest(name)
        if digest and now != digest:
            raise InputError(
                f"Image {name} is {now or 'not here'}, entry {entry.run_id} used {digest}; fetch that one: "
                f"docker pull {name.partition(':')[0]}@{digest.rpartition('@')[2]} and tag it {name}."
            )
    return entry.facts.recipe


def distance(before: LogFacts, now: Comparison) -> list[str]:
    """How far each row of a replay is from the entry, in words."""
    rows = {(row.variant, row.scenario): row for row in now.rows}
    lines = []
    for old in before.rows:
        new = rows.get((old.variant, old.scenario))
        name = f"{old.variant} at {old.scenario}"
        if new is None:
            lines.append(f"{name}: not measured again")
        elif not old.output_throughput or not new.output_throughput:
            lines.append(f"{name}: {old.status} then, {new.status} now")
        else:
            verdict = new.agreement.verdict if new.agreement else ""
            changed = f"; verdict {old.verdict} then, {verdict} now" * (old.verdict != verdict)
            lines.append(f"{name}: {_change(old.output_throughput, new.output_throughput)}{changed}")
    return [plain(line) for line in lines]


def differences(old: Entry, new: Entry, comparison: Comparison, run: Path) -> list[str]:
    """Everything a replay has to say; `run` is its folder, the old one is looked for beside it."""
    if old.facts is None or new.facts is None:
        return []
    found = circumstances(old.facts, new.facts, run.parent / old.run_id, run)
    return [*_remarked(old, new), *distance(old.facts, comparison), *found]


def _remarked(old: Entry, new: Entry) -> list[str]:
    """The release that a bisection named then and now; [] where nothing was bisected."""
    then, now = ([line for line in e.text.splitlines() if line.startswith("- Bisect: ")] for e in (old, new))
    return [
        f"{line.removeprefix('- ')} ({when})"
        for line, when in zip((then + now), ("then", "now"), strict=False)
    ]


def circumstances(before: LogFacts, now: LogFacts, then_run: Path, now_run: Path) -> list[str]:
    """What else changed between an entry and its replay: commit, host, and how fast the host was."""
    lines = []
    if before.commit != now.commit:
        lines.append(f"commit: {before.commit[:12]} then, {now.commit[:12]} now")
    if before.host != now.host:
        lines.append(f"host: {before.host} then, {now.host} now: differences may be the machines'")
    return lines + speeds(calibrations(then_run), calibrations(now_run))


def speeds(then: Mapping[str, Calibration], now: Mapping[str, Calibration]) -> list[str]:
    """The host's own speed then and now, medians over launches; [] where one side was not calibrated."""
    if not then or not now:
        return []
    lines = []
    for name, field, unit in _SPEEDS:
        old, new = (median(getattr(c, field) for c in side.values()) for side in (then, now))
        lines.append(f"host's {name}: {number(old)} {unit} then, {number(new)} now ({new / old - 1:+.1%})")
    gpus = [[min(c.gpu_tflops) for c in side.values() if c.gpu_tflops] for side in (then, now)]
    if all(gpus):
        old, new = (median(side) for side in gpus)
        lines.append(
            f"slowest GPU's bf16: {number(old)} TFLOP/s then, {number(new)} now ({new / old - 1:+.1%})"
        )
    return lines


def _change(old: Interval, new: Interval) -> str:
    change = new.mean / old.mean - 1 if old.mean else float("nan")
    apart = new.low > old.high or new.high < old.low
    sure = "one restart each" if min(old.num, new.num) < 2 else "intervals apart" if apart else "within noise"
    return f"{number(old.mean)} then, {number(new.mean)} output tok/s now ({change:+.1%}, {sure})"
