"""The main job on real engines: every CPU variant on the trained MoE, judged by the fp32 reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import store
from harness.registry import ROOT
from harness.schema import Attestation, Comparison, Row, Workload
from tests.test_run import leftovers

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
VARIANTS = ("vllm-cpu", "vllm-cpu-fp32", "sglang-cpu", "llamacpp", "transformers")
SCENARIO = "text-100-40@c4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bench of all of them; its folder."""
    folder = tmp_path_factory.mktemp("main-job")
    env = {**os.environ, "HARNESS_RESULTS": str(folder / "results"), "HARNESS_LOG": str(folder / "log.md")}
    words = ["100/40", "num_prompts=10", "verify=10", "repeats=1", "run_id=main-job"]
    command = [sys.executable, "-m", "harness", "bench", ",".join(VARIANTS), *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " main-job\n" in (folder / "log.md").read_text()
    assert not leftovers("main-job")
    return folder / "results" / "main-job"


@pytest.fixture(scope="module")
def rows(run: Path) -> dict[str, Row]:
    """The row of each variant."""
    return {r.variant: r for r in store.read(run / "comparison.json", Comparison).rows}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_engine_answers_everything_under_a_proven_label(rows: dict[str, Row], variant: str) -> None:
    row = rows[variant]
    assert (row.status, row.invalid, row.attested) == ("done", "", True)
    assert row.metrics is not None
    assert (row.metrics.completed, row.metrics.failed) == (10, 0)
    assert row.metrics.total_output_tokens == 400
    assert row.output_throughput is not None and row.output_throughput.mean > 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_engine_agrees_with_the_reference(rows: dict[str, Row], variant: str) -> None:
    found = rows[variant].agreement
    assert found is not None
    assert (found.verdict, found.num_tokens) == ("PASS", 400), found.reason
    assert found.token_match is not None and found.token_match > 0.9
    assert found.mean_abs_dlogprob is not None and found.mean_abs_dlogprob < 0.05


@pytest.mark.parametrize("variant", ["vllm-cpu-fp32", "llamacpp", "transformers"])
def test_single_precision_agrees_to_rounding(rows: dict[str, Row], variant: str) -> None:
    found = rows[variant].agreement
    assert found is not None and found.token_match == 1.0
    assert found.mean_abs_dlogprob is not None and found.mean_abs_dlogprob < 1e-4


def test_all_got_byte_identical_work(run: Path) -> None:
    found = {store.read(p, Workload).sha256 for p in run.glob(f"*/r1/{SCENARIO}/workload.json")}
    assert len(found) == 1
    assert len(list(run.glob(f"*/r1/{SCENARIO}/workload.json"))) == len(VARIANTS)


def test_vllm_shows_what_it_runs(run: Path) -> None:
    shown = store.read(run / "vllm-cpu" / "r1" / "attestation.json", Attestation).effective
    assert (shown.dtype, shown.device, shown.prefix_cache) == ("bfloat16", "cpu", False)
    assert shown.proof["dtype"]


def test_every_output_token_is_kept(run: Path) -> None:
    for variant in VARIANTS:
        kept = list(store.records(run / variant / "r1" / SCENARIO))
        assert all(r.output_token_ids is not None and len(r.output_token_ids) == 40 for r in kept), variant
