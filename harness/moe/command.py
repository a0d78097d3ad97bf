"""`just moe FILE...`: what a routing log tells, as text, moe.json and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.escape import plain
from harness.moe import balance, distance, plots, routing_log
from harness.moe.routing_log import RoutingLog
from harness.schema import LayerBalance, RoutingDistance, RoutingReport

_REPEATED = 0.25


def run(files: Sequence[str], against: Sequence[str] = (), out: str = "", ep_sizes: str = "") -> str:
    """Analyse routing logs; `against` are logs to compare with; pictures and moe.json go to `out`.

    Returns the text to print. Raises InputError.
    """
    if not files:
        raise InputError(
            "moe needs at least one routing log: moe FILE... [against=FILE] [out=FOLDER] [ep=8,16]"
        )
    sizes = _sizes(ep_sizes)
    log = routing_log.read(files)
    if ep_sizes and any(log.num_experts % size for size in sizes):
        raise InputError(
            f"ep={ep_sizes}: {log.num_experts} experts do not split evenly over these ranks; give divisors."
        )
    other = routing_log.read(against) if against else None
    distances = distance.compare(log, other) if other else ()
    report = build(log, distances, sizes)
    written = publish(report, log, other, Path(out)) if out else ()
    return "\n".join([as_text(report), *(f"wrote {path}" for path in written)])


def build(
    log: RoutingLog, distances: Sequence[RoutingDistance] = (), ep_sizes: Sequence[int] = balance.EP_SIZES
) -> RoutingReport:
    """Every statistic of a log."""
    return RoutingReport(
        source=log.source,
        engine=log.engine,
        num_experts=log.num_experts,
        top_k=log.top_k,
        num_requests=len(log.request_ids),
        layers=balance.all_layers(log, ep_sizes),
        distances=tuple(distances),
        counts=log.counts,
        notes=(*log.notes, *_repetition(log)),
    )


def publish(report: RoutingReport, log: RoutingLog, other: RoutingLog | None, out: Path) -> tuple[Path, ...]:
    """moe.json and the pictures; raises InputError when the folder cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"Cannot write to {out}: {reason.strerror}; give another out=FOLDER.") from None
    path = out / "moe.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    busiest = max(
        (b for b in report.layers if b.phase == "all"),
        key=lambda b: b.max_over_mean,
        default=report.layers[0],
    ).layer
    figures = {
        "experts.png": plots.histograms(log, "Expert usage"),
        "ranks.png": plots.rank_balance(log, "Expert-parallel rank balance", _shown_sizes(report)),
        "pairs.png": plots.cooccurrence(log, busiest, "Experts chosen together"),
        "drift.png": plots.drift(log, busiest, "Expert shares over the run"),
    }
    if other is not None:
        names = (Path(log.source).stem, Path(other.source).stem)
        figures["comparison.png"] = plots.comparison(log, other, report.distances, names)
    return (path, *(plots.save(figure, out / name) for name, figure in figures.items()))


def _shown_sizes(report: RoutingReport) -> list[int]:
    return [int(size) for size in report.layers[0].rank_max_over_mean]


def as_text(report: RoutingReport) -> str:
    """Tables for a terminal."""
    head = (
        f"{plain(report.source)}: {plain(report.engine) or 'engine not named'}, "
        f"{report.num_experts} experts, top-{report.top_k}, {report.num_requests} requests"
    )
    lines = [head, "", _HEADER, *map(_row, report.layers)]
    if report.distances:
        lines += ["", "layer   JS distance   95 % interval        floor   differs"]
        lines += map(_distance, report.distances)
    return "\n".join([*lines, *(f"note: {plain(note)}" for note in report.notes)])


_HEADER = (
    f"{'layer':>5} {'phase':<8}{'tokens':>9}{'max/mean':>10}{'Gini':>7}{'entropy':>9}  "
    f"{'busiest EP rank / mean':<34}hot experts"
)


def _row(item: LayerBalance) -> str:
    ranks = " ".join(f"EP{size}:{ratio:.2f}" for size, ratio in item.rank_max_over_mean.items())
    hot = " ".join(map(str, item.hot_experts[:8])) or "-"
    unused = f" (unused: {item.unused_experts})" if item.unused_experts else ""
    return (
        f"{item.layer:>5} {item.phase:<8}{item.num_tokens:>9}{item.max_over_mean:>10.2f}{item.gini:>7.3f}"
        f"{item.entropy:>9.4f}  {ranks:<34}{hot}{unused}"
    )


def _distance(item: RoutingDistance) -> str:
    return (
        f"{item.layer:>5} {item.distance:>13.4f}   [{item.low:.4f}, {item.high:.4f}] {item.floor:>12.4f}   "
        f"{'yes' if item.differs else 'no'}"
    )


def _repetition(log: RoutingLog) -> Iterator[str]:
    """One token repeated (padding, profiling passes) routes one way; that skew is the input's."""
    for layer in log.layers:
        experts, share = balance.commonest_set(log, layer)
        if share >= _REPEATED:
            yield (
                f"layer {layer}: {share:.0%} of the tokens chose exactly the experts {list(experts)}: "
                "one token is repeated (padding, warm-up, a degenerate prompt), the skew is the input's"
            )


def _sizes(text: str) -> tuple[int, ...]:
    if not text:
        return balance.EP_SIZES
    try:
        sizes = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise InputError(f"ep={text!r}: write EP sizes such as ep=8 or ep=8,16.") from None
    if any(size < 1 for size in sizes):
        raise InputError(f"ep={text!r}: an EP size is at least 1.")
    return sizes
