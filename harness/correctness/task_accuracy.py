"""Task accuracy of two variants, paired by item: what lm-evaluation-harness wrote for each, compared.

With `--log_samples` it writes samples_<task>_<time>.jsonl, one JSON object an item: doc_id, doc_hash,
metrics (names) and one value per name. Two runs of one task differ by luck on the items they both find hard;
McNemar's exact test looks only at the items that one variant solved and the other did not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.schema import Noun

FOLDER = "tasks"
"""Of a server life: where its sample files lie ..."""
PROBLEM = "problem.txt"
"""... or why there are none."""


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
    name = metric or _metric(baseline)
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
        task=task_of(variant),
        metric=name,
        num_items=len(ours),
        baseline=sum(theirs.values()) / len(theirs),
        variant=sum(ours.values()) / len(ours),
        only_baseline=only_baseline,
        only_variant=only_variant,
        p_value=_p_value(only_variant, differing) if differing else 1.0,
    )


def _p_value(num: int, differing: int) -> float:
    from scipy.stats import binomtest  # half a second to import, and only runs with tasks need it

    return float(binomtest(num, differing).pvalue)


def task_of(path: Path) -> str:
    """The task's name from samples_<task>_<time>.jsonl."""
    return path.stem.removeprefix("samples_").rsplit("_", 1)[0]


def alone(path: Path) -> str:
    """One sentence about one sample file, or about what is wrong with it."""
    try:
        metric = _metric(path)
        solved = _solved(path, metric)
    except InputError as error:
        return f"{task_of(path)}: {error.message}"
    return f"{task_of(path)}: {sum(solved.values()) / len(solved):.1%} of {len(solved)} items ({metric})"


def _metric(path: Path) -> str:
    name = next((m for i in _items(path) for m in i.metrics if hasattr(i, m)), "")
    if name not in ("exact_match", "acc"):
        raise InputError(f"{path.name} has no metric exact_match or acc; choose a task that has one")
    return name


def words(found: PairedAccuracy) -> str:
    """One sentence."""
    verdict = "no difference beyond luck" if found.p_value >= 0.05 else "a difference beyond luck"
    return (
        f"{found.task}: {found.variant:.1%} against {found.baseline:.1%} of {found.num_items} items "
        f"({found.metric}); {found.only_variant} items only the variant solved, {found.only_baseline} "
        f"only the baseline: {verdict} (McNemar p = {found.p_value:.3g})"
    )


def remarks(run_folder: Path, baseline: str) -> tuple[str, ...]:
    """A sentence per task and variant against the baseline, and per variant that could not be asked."""
    found = {p.parent.parent.parent.name: p for p in sorted(run_folder.glob(f"*/r1/{FOLDER}/{PROBLEM}"))}
    lines = [
        f"tasks of {variant} not answered: {p.read_text('utf-8').strip()}" for variant, p in found.items()
    ]
    ours = samples(run_folder, baseline)
    for variant in sorted(p.parent.parent.name for p in run_folder.glob(f"*/r1/{FOLDER}")):
        for task, path in samples(run_folder, variant).items():
            if variant != baseline and task in ours:
                lines.append(_paired(f"{variant} against {baseline}", ours[task], path))
            else:
                lines.append(f"{variant}, {alone(path)}")
    return tuple(lines)


def samples(run_folder: Path, variant: str) -> dict[str, Path]:
    """Task -> its sample file, of a variant's first restart."""
    files = sorted((run_folder / variant / "r1" / FOLDER).glob("samples_*.jsonl"))
    return {task_of(path): path for path in files}


def _paired(name: str, baseline: Path, variant: Path) -> str:
    try:
        return f"{name}, {words(paired(baseline, variant))}"
    except InputError as error:
        return f"{name}: {error.message}"


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
