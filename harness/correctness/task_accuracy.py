"""Task accuracy of two variants, paired by item: what lm-evaluation-harness wrote for each, compared.

With `--log_samples` it writes samples_<task>_<time>.jsonl, one JSON object an item: doc_id, doc_hash,
metrics (names) and one value per name. Two runs of one task differ by luck on the items they both find hard;
McNemar's exact test looks only at the items that one variant solved and the other did not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from scipy.stats import binomtest

from harness.errors import InputError
from harness.schema import Noun


class PairedAccuracy(Noun):
    """Two variants on the same items."""

    task: str
    metric: str
    num_items: int
    baseline: float
    """Share of items solved."""
    variant: float
    only_baseline: int
    """Items the baseline solved and the variant did not."""
    only_variant: int
    p_value: float
    """Of "both are equally good", McNemar's exact test, two-sided."""


class _Item(msgspec.Struct):
    """One line; fields of no use here are skipped."""

    doc_id: int
    doc_hash: str = ""
    filter: str = "none"
    metrics: list[str] = []
    exact_match: float | None = None
    acc: float | None = None


def paired(baseline: Path, variant: Path, metric: str = "") -> PairedAccuracy:
    """Compare two sample files of one task; `metric` = exact_match or acc, "" = the first one given.

    Raises InputError for files that do not parse or do not hold the same items.
    """
    name = metric or next((m for i in _items(baseline) for m in i.metrics if hasattr(i, m)), "")
    if name not in ("exact_match", "acc"):
        raise InputError(f"{baseline.name} has no metric exact_match or acc; choose a task that has one")
    ours, theirs = _solved(variant, name), _solved(baseline, name)
    if ours.keys() != theirs.keys() or not ours:
        common = len(ours.keys() & theirs.keys())
        raise InputError(
            f"{variant.name} and {baseline.name} do not hold the same items ({common} in common); "
            "run the same task with the same limit on both"
        )
    only_variant = sum(ours[k] and not theirs[k] for k in ours)
    only_baseline = sum(theirs[k] and not ours[k] for k in ours)
    differing = only_variant + only_baseline
    return PairedAccuracy(
        task=variant.stem.removeprefix("samples_").rsplit("_", 1)[0],
        metric=name,
        num_items=len(ours),
        baseline=sum(theirs.values()) / len(theirs),
        variant=sum(ours.values()) / len(ours),
        only_baseline=only_baseline,
        only_variant=only_variant,
        p_value=float(binomtest(only_variant, differing).pvalue) if differing else 1.0,
    )


def words(found: PairedAccuracy) -> str:
    """One sentence."""
    verdict = "no difference beyond luck" if found.p_value >= 0.05 else "a difference beyond luck"
    return (
        f"{found.task}: {found.variant:.1%} against {found.baseline:.1%} of {found.num_items} items "
        f"({found.metric}); {found.only_variant} items only the variant solved, {found.only_baseline} "
        f"only the baseline: {verdict} (McNemar p = {found.p_value:.3g})"
    )


def _solved(path: Path, metric: str) -> dict[tuple[int, str, str], bool]:
    """(item, its hash, filter) -> solved."""
    return {
        (i.doc_id, i.doc_hash, i.filter): bool(getattr(i, metric))
        for i in _items(path)
        if getattr(i, metric) is not None
    }


def _items(path: Path) -> Iterator[_Item]:
    decoder = msgspec.json.Decoder(_Item)
    try:
        for line in path.read_bytes().splitlines():
            if line.strip():
                yield decoder.decode(line)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the samples_*.jsonl file"
        ) from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} is not a sample file of lm-evaluation-harness ({error})") from error
