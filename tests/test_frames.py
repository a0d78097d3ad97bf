"""Runs as DataFrames: the documented example on a kept run, what each table holds, files, and no pandas."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness import compare, frames, store
from harness.numbers.metrics import metrics
from harness.registry import ROOT

KEPT = "20261121-h200-engine-killed"
OTHER = "20261121-031457-vllm-cpu-100-50-docker"


def test_the_page_that_explains_them_says_what_is_so() -> None:
    result = doctest.testfile(str(ROOT / "docs" / "FRAMES.md"), module_relative=False)
    assert result.attempted >= 10 and result.failed == 0


def test_requests_have_the_latencies_of_the_table() -> None:
    table = frames.requests(OTHER)
    for (variant, scenario), group in table.groupby(["variant", "scenario"]):
        folder = store.find_run(OTHER) / str(variant) / "r1" / str(scenario)
        ours = metrics(list(store.records(folder)))
        good = group[group.ok]
        assert len(good) == ours.completed
        assert ours.ttft_s is not None and good.ttft_s.median() == pytest.approx(ours.ttft_s.p50)


def test_several_runs_are_one_table_told_apart_by_their_ids() -> None:
    assert list(frames.runs(OTHER, KEPT).run_id) == [OTHER, KEPT]
    rows = frames.rows(OTHER, KEPT)
    assert len(rows) == sum(len(compare.compare(store.find_run(run)).rows) for run in (OTHER, KEPT))
    assert {"metrics.ttft_s.p99", "agreement.verdict", "rankable"} <= set(rows.columns)


def test_each_scored_token_is_a_row() -> None:
    table = frames.scores(OTHER)
    assert list(table.groupby("request_id").position.min().unique()) == [0]
    assert (table.margin >= 0).all() and table["rank"].min() == 1


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_files_hold_the_same(form: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "harness", "export", KEPT, OTHER, "--format", form, "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / f"{name}.{form}") for name in frames.TABLES]
    read = pd.read_csv if form == "csv" else pd.read_parquet
    assert read(tmp_path / f"requests.{form}").shape == frames.requests(KEPT, OTHER).shape


def test_tables_of_several_runs_need_a_folder_of_their_own() -> None:
    words = [sys.executable, "-m", "harness", "export", KEPT, OTHER, "--format", "csv"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "give --out FOLDER" in done.stderr


def test_without_pandas_the_command_that_brings_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise ImportError('not here')\n")
    words = [sys.executable, "-m", "harness", "export", KEPT, "--format", "csv", "--out", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode not in (0, -11) and "sh scripts/setup.sh frames" in done.stderr
