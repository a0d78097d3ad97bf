"""Runs as pandas DataFrames: runs, rows, requests, scores, telemetry, each of one or many runs.

    from harness import frames
    frames.requests("20261121-h200-one-gpu").groupby("variant").ttft_s.median()

A run is named by its id or path; none named is the newest, as for every verb. Columns are named as the fields
of harness/schema.py, with a dot for each step inwards: metrics.ttft_s.p99. Times are seconds. docs/FRAMES.md
works an example through.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness import compare, store
from harness.errors import MachineError
from harness.numbers.columns import columns
from harness.schema import Comparison, Environment, RequestRecord, Sample, Score, TrialResult

try:
    import pandas as pd
except ImportError as error:
    raise MachineError(
        "Runs as DataFrames need pandas, which is not in .venv: `sh scripts/setup.sh frames` installs it."
    ) from error

_LATENCIES = ("ttft_s", "tpot_s", "e2el_s", "due_ttft_s", "due_e2el_s", "schedule_delay_s")
"""Defined in harness/numbers/columns.py."""
_PER_TOKEN = ("content_at_s", "output_token_ids", "output_logprobs", "output_tokens", "top_logprobs")


def runs(*names: str) -> pd.DataFrame:
    """One row per run: run_id, what its recipe asked (recipe.*), the machine (environment.*).

    Tables within these (recipe.env, environment.packages) stay one value.
    """
    found = (
        {
            "run_id": run.name,
            "recipe": msgspec.to_builtins(store.read_recipe(run)),
            "environment": msgspec.to_builtins(store.read(run / "environment.json", Environment)),
        }
        for run in _runs(names)
    )
    return _table(found, depth=1)


def rows(*names: str) -> pd.DataFrame:
    """One row per line of the table: a variant at a scenario over all restarts, as comparison.json has it."""
    return _table(
        {"run_id": run.name, "rankable": row.rankable, **msgspec.to_builtins(row)}
        for run in _runs(names)
        for row in _comparison(run).rows
    )


def requests(*names: str) -> pd.DataFrame:
    """One row per request: its record, its latencies (NaN where it has none), and whether it is ok.

    What a record holds per token is left out: scores() has it where the reference looked.
    """
    parts = [_requests(where, path.parent) for where, path in _trials(names)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def scores(*names: str) -> pd.DataFrame:
    """One row per emitted token that the reference scored; position counts from 0.

    Outputs that it could not score have none: scores.jsonl says why.
    """
    return _table(
        {**where, "request_id": score.request_id, "reference": score.reference, "position": at, **token}
        for where, path in _trials(names)
        if store.present(path.parent / "scores.jsonl")
        for score in store.read_lines(path.parent / "scores.jsonl", Score)
        if not score.error
        for at, token in enumerate(_tokens(score))
    )


def telemetry(*names: str) -> pd.DataFrame:
    """One row per second and accelerator (gpu.*), with what the engine showed then (engine.*).

    A machine without accelerators has one row per second.
    """
    return _table(
        {
            **where,
            "at_s": sample.at_s,
            "engine": sample.engine,
            "gpu": msgspec.to_builtins(gpu) if gpu else {},
        }
        for where, path in _trials(names)
        if store.present(path.parent / "telemetry.jsonl")
        for sample in store.read_lines(path.parent / "telemetry.jsonl", Sample)
        for gpu in sample.gpus or (None,)
    )


TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    "runs": runs,
    "rows": rows,
    "requests": requests,
    "scores": scores,
    "telemetry": telemetry,
}


def write(found: list[Path], target: Path, form: str) -> Iterator[Path]:
    """A file per table: <target>/<table>.<form>, form csv or parquet. Lists become JSON text.

    Raises StoreError when a file cannot be written.
    """
    for name, table in TABLES.items():
        path = target / f"{name}.{form}"
        flat = table(*map(str, found)).map(_text)
        with store.writing(path):
            target.mkdir(parents=True, exist_ok=True)
            flat.to_csv(path, index=False) if form == "csv" else flat.to_parquet(path, index=False)
        yield path


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _runs(names: tuple[str, ...]) -> list[Path]:
    return [store.find_run(name) for name in names or ("",)]


def _comparison(run: Path) -> Comparison:
    path = run / "comparison.json"
    return store.read(path, Comparison) if path.exists() else compare.compare(run)


def _trials(names: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], Path]]:
    """Where each trial stands, and its trial.json; those without records are left out."""
    for run in _runs(names):
        for path in sorted(run.glob("*/r*/*/trial.json")):
            trial = store.read(path, TrialResult).trial
            where = {"run_id": run.name, "variant": trial.variant, "scenario": trial.scenario}
            if store.present(path.parent / "requests.jsonl"):
                yield where | {"restart": trial.restart}, path


def _requests(where: dict[str, Any], folder: Path) -> pd.DataFrame:
    records = list(store.records(folder))
    kept = [name for name in RequestRecord.__struct_fields__ if name not in _PER_TOKEN]
    timed = columns(records)
    latencies = {name: getattr(timed, name) for name in _LATENCIES}
    fields = {name: [getattr(record, name) for record in records] for name in kept}
    table = pd.DataFrame({**fields, "ok": timed.ok, "num_chunks": timed.num_chunks, **latencies})
    return pd.concat([pd.DataFrame(where, index=table.index), table], axis=1)


def _tokens(score: Score) -> Iterator[dict[str, float | None]]:
    emitted = score.emitted_logprob or (None,) * len(score.token_ids)
    named = zip(score.token_ids, score.logprob, score.rank, score.margin, emitted, strict=True)
    for values in named:
        yield dict(zip(("token_id", "logprob", "rank", "margin", "emitted_logprob"), values, strict=True))


def _table(rows: Iterator[dict[str, Any]], depth: int | None = None) -> pd.DataFrame:
    """One column per leaf of the nested rows, its path as name."""
    return pd.json_normalize(list(rows), max_level=depth)
