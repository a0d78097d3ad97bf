"""Kernel benches' output: MORI JSON lines and text, vLLM's benchmark_moe, ep-check's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.ep import bench_output, reference_tables, verbs
from harness.errors import InputError

JSONL = {
    "category": "intra_ep",
    "params": {
        "world_size": 8,
        "max_tokens": 4096,
        "hidden_dim": 7168,
        "dtype": "fp8_e4m3_fnuz",
        "combine_dtype": "bf16",
        "quant_type": "none",
        "zero_copy": True,
        "num_experts_per_rank": 32,
        "num_experts_per_token": 8,
    },
    "metrics": {
        "dispatch_bw_gbps": 301.5,
        "combine_bw_gbps": 325.0,
        "dispatch_lat_us": 510.0,
        "combine_lat_us": 951.0,
    },
    "commit": "624002c",
}
TEXT = """\
Running bench with max_tokens_per_rank: 4096, dispatch_dtype: torch.bfloat16
Benchmarking with dispatch 80x16, combine 80x4
Dispatch result:
Round 0 duration(us) [510.1, 512.0, 509.9, 511.0] bandwidth(GB/s) [300.0, 299.0, 301.0, 300.5] avg bytes(MB) 155.2 lat 510.75 bw 300.1 / 262.3
Combine result:
Round 0 duration(us) [951.0, 950.0, 955.0, 949.0] bandwidth(GB/s) [325.0, 326.0, 324.0, 325.5] avg bytes(MB) 310.4 lat 951.25 bw 325.1 / 284.4
End-to-end result:
Round 0 e2e(us) [1500.0, 1501.0]
Resolved launch geometry: dispatch 80x16, combine 80x4
"""  # noqa: E501
INTERNODE = """\
  dispatch duration [76, 77] avg 76.5 µs
  dispatch rdma bandwidth [51, 53] avg 52.0 GB/s
  dispatch xgmi bandwidth [170, 172] avg 171.0 GB/s
  combine duration [120, 124] avg 122.0 µs
"""
BENCHMARK_MOE = """\
Batch size: 8192, config: {'BLOCK_SIZE_M': 64}
Kernel time: 1234.56 us
Dispatch: 0.5 ms, 300.0 GB/s
"""


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "perf.jsonl"
    path.write_text(json.dumps(JSONL) + "\n" + json.dumps(JSONL) + '\n{"category":"intra')
    found = bench_output.read(path)
    assert [timing.kernel for timing in found] == ["dispatch", "combine"] * 2
    assert (found[0].gbps, found[0].latency_us, found[0].tokens, found[0].dtype) == (
        301.5,
        510.0,
        4096,
        "fp8_e4m3_fnuz",
    )
    assert found[1].note == "zero-copy" and found[1].dtype == "bf16"


def test_printed_rounds() -> None:
    dispatch, combine = bench_output.parse(TEXT)
    assert (dispatch.kernel, dispatch.latency_us, dispatch.gbps) == ("dispatch", 510.75, 300.1)
    assert (combine.kernel, combine.tokens, combine.world_size) == ("combine", 4096, 4)


def test_internode_averages() -> None:
    dispatch, combine = bench_output.parse(INTERNODE)
    assert (dispatch.latency_us, dispatch.gbps, dispatch.rdma_gbps) == (76.5, 171.0, 52.0)
    assert combine.latency_us == 122.0 and combine.gbps is None


def test_vllm_benches() -> None:
    moe, dispatch = bench_output.parse(BENCHMARK_MOE)
    assert (moe.kernel, moe.tokens, moe.latency_us) == ("moe", 8192, 1234.56)
    assert (dispatch.source, dispatch.latency_us, dispatch.gbps) == ("ep-kernel-test", 500.0, 300.0)


def test_a_measured_line_stands_beside_the_published_ones(tmp_path: Path) -> None:
    path = tmp_path / "perf.jsonl"
    path.write_text(json.dumps(JSONL) + "\n")
    text, status = verbs.ep_check([str(path)])
    assert status == 0
    assert "301.50 GB/s" in text and "307 GB/s" in text and "MI300X" in text and "624002c" in text


def test_files_without_timings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("hello\n")
    with pytest.raises(InputError, match="no timing"):
        bench_output.read(path)
    with pytest.raises(InputError, match="Cannot read"):
        bench_output.read(tmp_path / "none")


def test_references_are_consistent() -> None:
    """307 GB/s at 4096 FP8 tokens means 505 us and 155 MB, not the documents' 180 us."""
    ranks = reference_tables.expected_ranks(256, 8, 8)
    assert ranks == pytest.approx(5.29, abs=0.01)
    bytes_per_rank = 4096 * ranks * 7168
    assert bytes_per_rank / 1e6 == pytest.approx(155, abs=1)
    assert bytes_per_rank / 307e9 * 1e6 == pytest.approx(505, abs=3)
    assert 2 * bytes_per_rank / 330e9 * 1e6 == pytest.approx(940, abs=5)
    small = [row for row in reference_tables.TABLE if (row.world_size, row.tokens) == (8, 128)]
    assert {(row.kernel, row.latency_us, row.gbps) for row in small} >= {("dispatch", 35.0, 134.0)}
    stale = [row for row in reference_tables.TABLE if "stale" in row.note]
    assert {row.world_size for row in stale} == {32}
