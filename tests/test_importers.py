"""Results of other tools, as those tools really wrote them (tests/golden/foreign), in our terms.

All of them but vllm-0.8.4 and InferenceX measured the same server: 50 ms to the first token, 10 ms between
tokens, a token a chunk, two requests at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from harness import store
from harness.errors import InputError
from harness.reporting import importers
from harness.reporting.exporters import export
from harness.reporting.importers import adoption, folder
from harness.schema import (
    Comparison,
    Imported,
    Load,
    RequestRecord,
    Trial,
    TrialResult,
    WorkloadSpec,
)

FOREIGN = Path(__file__).parent / "golden" / "foreign"


def read(name: str) -> Imported:
    return importers.read(FOREIGN / name)[0]


@pytest.mark.parametrize(
    "name",
    [
        "vllm-0.32.0-detailed.json",
        "guidellm-0.8.1.json",
        "aiperf-0.13.0-server-count.json",
        "aiperf-0.13.0-profile_export.jsonl",
    ],
)
def test_tools_that_measured_the_same_server_agree_once_in_our_terms(name: str) -> None:
    found = read(name)
    m = found.metrics
    assert (m.completed, m.failed, m.total_output_tokens) == (6, 0, 48)
    assert m.output_throughput == pytest.approx(117, rel=0.05)
    assert m.ttft_s is not None and m.ttft_s.p50 == pytest.approx(0.0525, rel=0.05)
    assert m.tpot_s is not None and m.tpot_s.p50 == pytest.approx(0.0107, rel=0.06)
    assert not found.incomparable


def test_requested_tokens_compare_with_nothing() -> None:
    found = read("sglang-0.5.23.jsonl")
    assert "29 output tokens are those requested" in found.incomparable
    assert found.metrics.tpot_s is None and found.metrics.icl_s is not None
    assert len(importers.read(FOREIGN / "sglang-0.5.23.jsonl")) == 2
    assert found.scenario == "16-8@c2"


def test_retokenized_counts_are_replaced_by_usage() -> None:
    found = read("aiperf-0.13.0-retokenized.json")
    assert found.metrics.total_output_tokens == 48  # the tool itself said 96, and 234 tokens/s
    assert found.metrics.output_throughput == pytest.approx(117.7, rel=0.01)
    assert found.metrics.tpot_s is None and "recomputed from the server's usage" in found.caveats[0]
    assert not found.incomparable


def test_the_role_chunk_is_no_token() -> None:
    found = read("vllm-0.32.0-chat.json")  # the tool itself said 2 ms to the first token
    assert found.metrics.ttft_s is found.metrics.tpot_s is None
    assert "role chunk" in found.caveats[0]
    assert found.metrics.e2el_s is not None and found.metrics.e2el_s.p99 is None
    assert found.scenario == "12-8@20rps"


def test_guidellms_names_mean_other_things() -> None:
    data = json.loads((FOREIGN / "guidellm-0.8.1.json").read_text())
    itl = data["benchmarks"][0]["metrics"]["inter_token_latency_ms"]["successful"]
    found = read("guidellm-0.8.1.json")
    assert found.metrics.tpot_s is not None and found.metrics.icl_s is None
    assert found.metrics.tpot_s.mean == pytest.approx(itl["mean"] * 1e-3, rel=0.01)
    assert found.tool_version == "0.8.1" and found.scenario == "8-8@c2"


def test_guidellm_without_single_requests(tmp_path: Path) -> None:
    data = json.loads((FOREIGN / "guidellm-0.8.1.json").read_text())
    data["benchmarks"][0]["requests"]["successful"] = []
    (tmp_path / "g.json").write_text(json.dumps(data))
    full, aggregated = read("guidellm-0.8.1.json").metrics, importers.read(tmp_path / "g.json")[0].metrics
    assert aggregated.output_throughput == pytest.approx(full.output_throughput, rel=0.02)
    assert aggregated.ttft_s is not None and full.ttft_s is not None
    assert aggregated.ttft_s.mean == pytest.approx(full.ttft_s.mean, rel=0.01)


def test_the_old_spelling_of_vllm() -> None:
    """0.8.4 writes the lists of single requests even without --save-detailed, but no start times."""
    found = read("vllm-0.8.4.json")
    assert found.records == () and found.metrics.request_goodput == pytest.approx(1.4545, abs=1e-4)
    assert (found.metrics.completed, found.metrics.failed) == (5, 1)
    assert found.metrics.total_output_tokens == 91 and found.metrics.window_s == 1.375
    assert found.metrics.ttft_s is not None and found.metrics.ttft_s.p50 == pytest.approx(0.55)
    assert found.scenario == "100-18@all-at-once"


def test_inferencex_is_in_seconds_and_per_gpu() -> None:
    found = read("agg_inferencex.json")
    assert found.metrics.output_throughput == pytest.approx(3200.0) and found.num_gpus == 8
    assert found.metrics.tpot_s is not None and found.metrics.tpot_s.p50 == pytest.approx(0.02)
    assert (found.variant, found.scenario) == ("vllm-mi300x-fp8-tp8-ep8-dpa", "1024-8192@c64")
    assert "counts of requests" in found.caveats[0]


def test_inferencex_divides_output_by_the_gpus_that_decode() -> None:
    found = read("agg_inferencex-disaggregated.json")
    assert found.num_gpus == 24 and found.metrics.output_throughput == pytest.approx(400 * 16)
    assert found.metrics.total_token_throughput == pytest.approx(400 * 16 + 100 * 8)
    assert found.variant == "dynamo-sglang-gb200-fp8-prefill-tp4-ep4-decode-tp16-ep16-dpa"


def test_inferencex_counts_and_context_parallel_gpus(tmp_path: Path) -> None:
    data = json.loads((FOREIGN / "agg_inferencex.json").read_text())
    data |= {"pp": 2, "pcp_size": 2, "benchmark_outcome": {"requested": 640, "completed": 638}}
    (tmp_path / "agg.json").write_text(json.dumps(data))
    found = importers.read(tmp_path / "agg.json")[0]
    assert found.num_gpus == 32 and (found.metrics.completed, found.metrics.failed) == (638, 2)


@pytest.mark.parametrize(
    "text", ["", "[]", "not json", '{"a": 1}', '{"model_id": 1, "output_throughput": 2}']
)
def test_what_cannot_be_imported_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        importers.read(tmp_path / "x.json")


def fleet(target: Path) -> Path:
    """A folder as the origin kept it: <engine>-<in>-<out>-<tag>.json."""
    base = json.loads((FOREIGN / "vllm-0.8.4.json").read_text())
    for engine, shape, rate in (
        ("vllm", "1000-2000", 2450.0),
        ("sgl", "1000-2000", 2000.0),
        ("vllm", "30000-100", 70.0),
        ("sgl", "30000-100", 77.0),
        ("vllm", "sharegpt", 1000.0),
    ):
        data = base | {"duration": 40.0, "total_output_tokens": int(rate * 40), "output_throughput": rate}
        (target / f"{engine}-{shape}-run1.json").write_text(json.dumps(data))
    return target


def shown(table: object) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    return console.export_text()


def test_the_origins_table(tmp_path: Path) -> None:
    found, problems = folder.read([fleet(tmp_path)])
    assert problems == [] and {one.variant for one in found} == {"vllm", "sgl"}
    text = shown(folder.gap_table(found, baseline="vllm"))
    lines = [line.split() for line in text.splitlines()]
    assert ["1000-2000@all-at-once", "2450", "2000", "-18.4%"] in lines
    assert ["30000-100@all-at-once", "70.0", "77.0", "+10.0%"] in lines
    assert ["sharegpt@all-at-once", "1000", "-", "-"] in lines
    for restart, rate in ((1, 60.0), (2, 61.0), (3, 62.0)):
        data = json.loads((tmp_path / "vllm-30000-100-run1.json").read_text())
        data["total_output_tokens"] = int(rate * 40)
        (tmp_path / f"vllm-9-9-run1-r{restart}.json").write_text(json.dumps(data))
        data["total_output_tokens"] = int(rate * 80)
        (tmp_path / f"sgl-9-9-run1-r{restart}.json").write_text(json.dumps(data))
    repeated, _ = folder.read([tmp_path])
    assert {one.variant for one in repeated} == {"vllm", "sgl"}
    assert "+100.0% (+92.7%..+107.6%)" in shown(folder.gap_table(repeated, baseline="vllm"))
    with pytest.raises(InputError, match="there are: sgl, vllm"):
        folder.gap_table(found, baseline="trt")


def written(path: Path, rate: float, **changes: object) -> Path:
    """A file of vLLM's bench that calls itself vllm, whatever its name says."""
    path.parent.mkdir(exist_ok=True)
    data = json.loads((FOREIGN / "vllm-0.8.4.json").read_text()) | {"backend": "vllm"}
    path.write_text(json.dumps(data | {"duration": data["total_output_tokens"] / rate} | changes))
    return path


def rates(found: Sequence[Imported]) -> dict[str, list[float]]:
    table: dict[str, list[float]] = {}
    for (_, variant), group in folder.repeats(found).items():
        table.setdefault(variant, []).extend(round(one.metrics.output_throughput, 3) for one in group)
    return table


def test_an_empty_tag_is_a_name(tmp_path: Path) -> None:
    """As the origin wrote them: <engine>-<in>-<out>-.json, all with "backend": "vllm" inside."""
    for name, rate in (("vllm-1000-2000-", 2450.0), ("sgl-1000-2000-", 2000.0)):
        written(tmp_path / f"{name}.json", rate)
    found, problems = folder.read([tmp_path])
    assert rates(found) == {"sgl": [2000.0], "vllm": [2450.0]} and problems == []


@pytest.mark.parametrize(
    ("files", "variants"),
    [
        (("a.json", "b.json"), {"a", "b"}),
        (("one/same.json", "two/same.json"), {"one/same", "two/same"}),
        (("vllm-1000-2000-b.json", "vllm-b-1000-2000-.json"), {"vllm-1000-2000-b", "vllm-b-1000-2000"}),
        (("a.json", "a-r2.json"), {"here/a.json", "here/a-rN.json"}),
        (("vllm-1000-2000.json", "vllm-1000-2000-.json"), {"vllm-1000-2000", "vllm-1000-2000-"}),
    ],
)
def test_what_is_not_numbered_is_never_averaged(
    files: tuple[str, ...], variants: set[str], tmp_path: Path
) -> None:
    for number, name in enumerate(files):
        written(tmp_path / (name if "/" in name else f"here/{name}"), 1000.0 + number)
    found, problems = folder.read([tmp_path])
    assert set(rates(found)) == variants and all(len(group) == 1 for group in rates(found).values())
    assert "number the files of restarts <name>-r1, <name>-r2" in problems[0]


def test_numbered_files_are_repeats_and_the_table_says_how_many(tmp_path: Path) -> None:
    for restart in (1, 2, 3):
        written(tmp_path / f"vllm-r{restart}.json", 1000.0 + restart)
        written(tmp_path / f"sgl-r{restart}.json", 2000.0 + restart, label="sgl")
    found, problems = folder.read([tmp_path])
    assert rates(found) == {"sgl": [2001.0, 2002.0, 2003.0], "vllm": [1001.0, 1002.0, 1003.0]}
    assert problems == [] and "1002 (n=3)" in shown(folder.gap_table(found))
    row = adoption.compared("id", found).rows[0]
    assert row.output_throughput is not None and row.output_throughput.num == 3


@pytest.mark.parametrize(
    "name", ["sglang-0.5.23.jsonl", "agg_inferencex.json", "guidellm-0.8.1.json", "vllm-0.32.0-chat.json"]
)
def test_measurements_of_one_file_that_look_alike_stay_apart(name: str, tmp_path: Path) -> None:
    """A JSON-lines file that two runs were appended to, a list, a strategy run twice."""
    data = importers.objects(FOREIGN / name)[:1]
    if "benchmarks" in data[0]:
        data[0]["benchmarks"] *= 2
    else:
        data *= 2
    path = tmp_path / "twice.jsonl"
    path.write_text("\n".join(map(json.dumps, data)))
    found, problems = folder.read([path])
    assert len(found) == len(folder.repeats(found)) and "shown apart (twice#1, twice#2)" in problems[0]


def test_bad_files_of_a_folder_cost_only_themselves(tmp_path: Path) -> None:
    fleet(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    shutil.copy(FOREIGN / "sglang-0.5.23.jsonl", tmp_path / "sgl-16-8-run1.jsonl")
    found, problems = folder.read([tmp_path])
    assert len(found) == 7 and "notes.json" in problems[0]
    remarks = folder.remarks(found)
    assert any("those requested" in line for line in remarks)
    with pytest.raises(InputError, match="Nothing in"):
        folder.read([tmp_path / "notes.json"])


def test_different_models_are_said(tmp_path: Path) -> None:
    fleet(tmp_path)
    path = tmp_path / "sgl-1000-2000-run1.json"
    path.write_text(path.read_text().replace("deepseek-r1", "llama"))
    assert "different models (deepseek-r1, llama)" in folder.remarks(folder.read([tmp_path])[0])[0]


def test_import_makes_a_run_that_is_unproven_and_unverified(tmp_path: Path) -> None:
    run = tmp_path / "20261121-000000-import"
    comparison = adoption.adopt([FOREIGN], run)
    assert store.read(run / "comparison.json", Comparison) == comparison
    assert all(not row.attested and row.agreement is None for row in comparison.rows)
    assert sum(bool(row.invalid) for row in comparison.rows) == 2
    kept = msgspec.json.decode((run / "imported.json").read_bytes(), type=list[Imported])
    assert len(kept) == len(comparison.rows) == 11


def test_export_can_be_imported_again(tmp_path: Path) -> None:
    trial = Trial(variant="v", workload=WorkloadSpec(name="sharegpt"), load=Load(max_concurrency=2))
    records = [
        RequestRecord(
            request_id=str(i),
            sent_at_s=i,
            content_at_s=(i + 0.5, i + 0.7),
            input_len=9,
            output_len=2,
            text="x",
        )
        for i in range(3)
    ] + [RequestRecord(request_id="bad", sent_at_s=1.0, error="gone", error_kind="reset")]
    kept = store.trial_folder(tmp_path / "run", trial)
    store.write(kept / "trial.json", TrialResult(trial=trial, status="done"))
    with store.RecordWriter(kept / "requests.jsonl") as write:
        for record in records:
            write(record)
    (path,) = export(tmp_path / "run", tmp_path / "out")
    assert path.name == "v-sharegpt-sample-c2-r1.json"
    again = importers.read(path)[0]
    assert (again.variant, again.metrics.completed, again.metrics.failed) == ("v", 3, 1)
    assert again.metrics.output_throughput == pytest.approx(6 / 2.7)
    assert again.metrics.tpot_s is not None and again.metrics.tpot_s.p50 == pytest.approx(0.2)
    with pytest.raises(InputError, match="vllm-bench"):
        export(tmp_path / "run", tmp_path / "out", "csv")
    with pytest.raises(InputError, match="no finished trial"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        {"metadata": {"request_start_ns": 1}, "metrics": {"request_latency": 3}},
        {"metadata": {}, "benchmarks": [{"config": {}, "metrics": []}]},
        {"aiperf_version": "0.13", "input_config": {"models": {"items": [3]}}},
    ],
)
def test_a_damaged_foreign_file_is_a_sentence(content: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="lacks what its format promises"):
        importers.read(path)
