"""What a restart of a version showed, read from a run's stored files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import store
from harness.bisect.judging import Seen
from harness.bisect.search import Outcome, driven
from harness.numbers.measured import Measured, load
from harness.schema import Attestation, Recipe, Row, Trial

STARTS, FAILS = "starts", "does not start"
PROVEN, UNPROVEN = "proven", "not proven"


class Metric(NamedTuple):
    """What a bisection looks at."""

    words: str
    speed: Callable[[Measured], float | None] | None = None
    """The figure of a trial; None where it is no speed."""
    unit: str = ""
    scale: float = 1.0
    """Figure x scale is printed."""


def _rate(trial: Measured) -> float | None:
    return trial.metrics.output_throughput if trial.metrics else None


def _ttft(trial: Measured) -> float | None:
    return trial.metrics.ttft_s.p50 if trial.metrics and trial.metrics.ttft_s else None


def _tpot(trial: Measured) -> float | None:
    return trial.metrics.tpot_s.p50 if trial.metrics and trial.metrics.tpot_s else None


METRICS = {
    "output_throughput": Metric("output tok/s", _rate, "tok/s"),
    "ttft": Metric("TTFT p50", _ttft, "ms", 1e3),
    "tpot": Metric("TPOT p50", _tpot, "ms", 1e3),
    "verdict": Metric("the verdict of the reference"),
    "output": Metric("the very tokens of the output"),
    "label": Metric("whether the label is proven"),
    "start": Metric("whether it starts"),
}


def trial_of(recipe: Recipe, place: int, number: int) -> Trial:
    """The one trial of a version's restart: a bisection has one scenario."""
    workload, load_ = recipe.offered[0]
    return Trial(variant=recipe.variants[place], workload=workload, load=load_, restart=number)


def seen(run: Path, recipe: Recipe, place: int, number: int, rows: Sequence[Row] = ()) -> Seen | None:
    """What that restart showed; None where it was not measured, or not to its end.

    `rows` of the run's comparison hold the verdicts. Raises StoreError for files that cannot be read.
    """
    trial = trial_of(recipe, place, number)
    folder = store.trial_folder(run, trial)
    if not (folder / "trial.json").exists():
        return None
    measured = load(folder, recipe)
    result = measured.result
    if result.status == "interrupted":
        return None
    if result.status == "skipped":
        return Seen(place, number, problem=result.reason, final=True)
    started = measured.attestation is not None
    if recipe.options.bisect == "start":
        return Seen(place, number, STARTS if started else FAILS, result.reason)
    if result.status == "failed":
        return Seen(place, number, problem=result.reason, final=not started)
    if recipe.options.bisect == "label":
        proven = measured.attestation is not None and measured.attestation.valid
        return Seen(place, number, PROVEN if proven else UNPROVEN)
    if why := _other(measured.attestation) or _failures(measured):
        return Seen(place, number, problem=why)
    if recipe.options.bisect == "output":
        # What makes a speed invalid (outputs that ended early) may be the very change.
        return Seen(place, number, _digest(measured), result.invalid)
    if result.invalid:
        return Seen(place, number, problem=result.invalid)
    if recipe.options.bisect == "verdict":
        return _judged(place, number, recipe, rows)
    speed = METRICS[recipe.options.bisect].speed
    figure = speed(measured) if speed else None
    if not figure or figure <= 0:
        return Seen(place, number, problem="gave no figure")
    return Seen(place, number, math.log(figure))


def outcome(run: Path, recipe: Recipe, rows: Sequence[Row]) -> Outcome:
    """Where the bisection of a run stands by its stored trials."""
    return driven(
        len(recipe.variants),
        max(recipe.repeats, 2),
        lambda place, number: seen(run, recipe, place, number, rows),
    )


def _other(attestation: Attestation | None) -> str:
    """Claims that are shown not to hold; what an older engine does not show is no other work."""
    shown = [c for c in attestation.claims if not c.held and c.actual is not None] if attestation else []
    return "; ".join(f"{c.field}: label says {c.expected!r}, engine runs {c.actual!r}" for c in shown)


def _failures(measured: Measured) -> str:
    failed = measured.metrics.failed if measured.metrics else 0
    return f"{failed} requests failed" if failed else ""


def _digest(measured: Measured) -> str:
    """Of all output, by request: the same for the same tokens."""
    digest = hashlib.sha256()
    for record in sorted(measured.records, key=lambda r: r.request_id):
        said = record.output_token_ids or record.output_tokens or record.text
        digest.update(f"{record.request_id} {said}\n".encode())
    return digest.hexdigest()[:12]


def _judged(place: int, number: int, recipe: Recipe, rows: Sequence[Row]) -> Seen:
    row = next((r for r in rows if r.variant == recipe.variants[place]), None)
    if row is None or row.agreement is None:
        return Seen(place, number, problem="no verdict was reached")
    if row.agreement.verdict in ("PASS", "FAIL"):
        return Seen(place, number, row.agreement.verdict)
    return Seen(place, number, problem=f"{row.agreement.verdict}: {row.agreement.reason}")


def text(metric: str, shown: Seen) -> str:
    """What a restart showed, in words."""
    asked = METRICS[metric]
    if shown.value is None:
        return f"gave no answer: {shown.problem}"
    if isinstance(shown.value, str):
        return shown.value
    return f"{math.exp(shown.value) * asked.scale:.4g} {asked.unit}"
