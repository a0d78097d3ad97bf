"""`just history` and `just site`: words in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import registry, store
from harness.errors import InputError
from harness.history import records, told
from harness.history.series import METRICS, Series, all_series
from harness.recipe import Words
from harness.reporting import log, publish

FILTERS = ("variant", "model", "workload", "host")
_KNOWN = "variant=, model=, workload=, host= (parts of the name), metric="


def history(given: Sequence[str]) -> str:
    """`history [variant=] [metric=] [model=] [workload=] [host=]`; one series, or one metric, with every run.

    Raises InputError for unknown words, StoreError for a log that cannot be read, MachineError where a series
    is long enough for change points and Otava is not installed.
    """
    words = Words(given)
    if words.plain:
        raise InputError(f"history has no word {words.plain[0]!r}: it knows {_KNOWN}.")
    metric = words.take("metric")
    names = [m.name for m in METRICS]
    if metric and metric not in (*names, told.VERDICT):
        raise InputError(f"history has no metric {metric!r}; there are: {', '.join((*names, told.VERDICT))}.")
    wanted = {key: words.take(key) for key in FILTERS}
    words.nothing_left("history", _KNOWN)
    found = [series for series in everything() if _matches(series, wanted)]
    every = bool(metric) or len(found) == 1
    return (
        "\n\n".join(told.blocks(found, told.chosen(metric), every=every))
        or "The log has no such series; `just log` lists its runs."
    )


def everything() -> list[Series]:
    """Every series of the log, completed from the kept results."""
    entries = log.entries(publish.log_path())
    return all_series(records.past(entries, store.results_root()))


def _matches(series: Series, wanted: dict[str, str]) -> bool:
    return all(part.casefold() in getattr(series.key, name).casefold() for name, part in wanted.items())


def site(given: Sequence[str], progress: Callable[[str], None]) -> Path:
    """`site [out=FOLDER]`: the path of the first page. Raises InputError for unknown words."""
    words = Words(given)
    out = Path(words.take("out", str(registry.ROOT / "site")))
    if words.plain:
        raise InputError(f"site has no word {words.plain[0]!r}: it knows out=FOLDER.")
    words.nothing_left("site", "out=FOLDER")
    from harness.history import site as pages  # matplotlib: half a second that `history` need not pay

    return pages.write(publish.log_path(), store.results_root(), out, progress)
