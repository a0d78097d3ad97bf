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
# The header and the round as tests/python/ops/bench_dispatch_combine.py prints them (ROCm/mori 624002c,
# lines 1711 and 626): f"Running {args.cmd} with max_tokens_per_rank: {args.max_tokens}, "
# f"dispatch_dtype: {args.dtype}, "
# f"combine_dtype: {combine_dtype_str}, hidden_dim: ..., " and f"Round {i} duration(us) {duration_us} "
# f"bandwidth(GB/s) {...} avg bytes(MB) {...} lat {avg_lat:.1f} bw {algo_bw:.2f} / ...".
TEXT = """\
Running bench with max_tokens_per_rank: 4096, dispatch_dtype: fp8_e4m3_fnuz, combine_dtype: bf16, \
hidden_dim: 7168, world_size(EP): 8, num_experts_per_rank: 32, num_experts_per_token: 8, zero_copy: true, \
quant_type: none, scale_dim: 32, input_dist: normal, input_scale: 1.0, input_shift: 0.0, \
force_scale_active: False, report_scale_stats: False, dispatch_block_num: None, \
dispatch_warp_per_block: None, combine_block_num: None, combine_warp_per_block: None, graph_replay_iters: 1
------------------------------------------------------------

============================================================
Benchmarking with dispatch 80x16, combine 80x4
============================================================
Dispatch result:
Round 0 duration(us) [510.1, 512.0, 509.9, 511.0] bandwidth(GB/s) [300.0, 299.0, 301.0, 300.5] \
avg bytes(MB) 155.2 lat 510.8 bw 300.12 / 262.31
Round 1 duration(us) [505.1, 505.0, 505.9, 505.0] bandwidth(GB/s) [307.0, 307.0, 307.0, 307.5] \
avg bytes(MB) 155.2 lat 505.2 bw 307.12 / 268.40

Combine result:
Round 0 duration(us) [951.0, 950.0, 955.0, 949.0] bandwidth(GB/s) [325.0, 326.0, 324.0, 325.5] \
avg bytes(MB) 310.4 lat 951.2 bw 325.12 / 284.40

End-to-end result:
Note: e2e is one full-graph replay; separate results use two graph replays, so sep total is usually higher.
Round 0 e2e(us) [1500.0, 1501.0]
Resolved launch geometry: dispatch 80x16, combine 80x4
"""
# vllm-project/vllm pull request 36559 (2026), description: output of benchmarks/kernels/benchmark_moe.py.
BENCHMARK_MOE = """\
Batch size: 1, config: {'BLOCK_SIZE_M': 16, 'BLOCK_SIZE_N': 128, 'BLOCK_SIZE_K': 128, 'GROUP_SIZE_M': 1, \
'SPLIT_K': 1, 'num_warps': 4, 'num_stages': 3}
Kernel time: 26.72 us
Batch size: 2, config: {'BLOCK_SIZE_M': 16, 'BLOCK_SIZE_N': 128, 'BLOCK_SIZE_K': 128, 'GROUP_SIZE_M': 1, \
'SPLIT_K': 1, 'num_warps': 4, 'num_stages': 3}
Kernel time: 30.78 us
"""
# vllm-project/vllm pull request 24700 (2025), description: the same bench, both on one line.
BENCHMARK_MOE_SHORT = "Batch size: 1, Kernel time: 44.54 us\nBatch size: 2, Kernel time: 59.94 us\n"
INTERNODE = Path(__file__).parent / "golden" / "moe" / "mori-internode-624002c.txt"
OLDER = Path(__file__).parent / "golden" / "moe" / "mori-internode-94a0a76b.txt"


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
    assert found[1].note == "best round, mean of ranks; zero-copy" and found[1].dtype == "bf16"
    assert found[0].note == "best round, mean of ranks"


def test_records_of_several_nodes_say_what_is_best_and_what_is_mean() -> None:
    """ROCm/mori 624002c, _emit_internode_perf: bandwidths are _best_bw, latencies _avg_lat."""
    params = {"world_size": 16, "max_tokens": 4096, "kernel_type": "v1", "dtype": "float8_e4m3fnuz"}
    params |= {"combine_dtype": "bfloat16", "quant_type": "fp8_direct_cast", "num_qp": 2, "hidden_dim": 7168}
    metrics = {"dispatch_rdma_bw_gbps": 52.8, "dispatch_xgmi_bw_gbps": 173.3, "dispatch_lat_us": 1120.4}
    metrics |= {"combine_rdma_bw_gbps": 67.4, "combine_xgmi_bw_gbps": 220.8, "combine_lat_us": 1749.6}
    record = {"category": "internode_ep", "params": params, "metrics": metrics}
    dispatch, combine = bench_output.parse(json.dumps(record))
    assert (dispatch.gbps, dispatch.rdma_gbps, dispatch.latency_us) == (173.3, 52.8, 1120.4)
    assert dispatch.note == "v1; GB/s of the best rank and round, latency the mean"
    assert combine.dtype == "bfloat16" and combine.note.endswith("; fp8_direct_cast")


def test_printed_rounds_on_one_node() -> None:
    first, second, combine = bench_output.parse(TEXT)
    assert (first.kernel, first.latency_us, first.gbps, first.note) == ("dispatch", 510.8, 300.12, "round 0")
    assert (second.latency_us, second.gbps, second.note) == (505.2, 307.12, "round 1")
    assert (combine.kernel, combine.tokens, combine.world_size, combine.hidden) == ("combine", 4096, 4, 7168)
    assert combine.note == "round 0; zero-copy"


def test_each_phase_has_its_own_type() -> None:
    first, _, combine = bench_output.parse(TEXT)
    assert (first.dtype, combine.dtype) == ("fp8_e4m3_fnuz", "bf16")
    fused = list(bench_output.parse(TEXT.replace("quant_type: none", "quant_type: fp8_blockwise")))
    assert fused[2].note == "round 0; zero-copy; fp8_blockwise" and fused[0].note == "round 0"


def test_the_best_of_a_tuning() -> None:
    """The same script, line 1321: f"Best Dispatch  ({disp_dtype_str}): {best_disp_bw:.2f} GB/s " ..."""
    text = (
        "Best Dispatch  (float8_e4m3fnuz): 307.10 GB/s latency=505.2 us at block_num=80, warp_per_block=16\n"
        "Best Combine   (bfloat16): 330.40 GB/s latency=940.1 us at block_num=80, warp_per_block=4\n"
    )
    dispatch, combine = bench_output.parse(TEXT.partition("-----")[0] + text)
    assert (dispatch.gbps, dispatch.latency_us, dispatch.world_size) == (307.1, 505.2, 8)
    assert combine.note == "best of the tuning at block_num=80, warp_per_block=4; zero-copy"


def test_rounds_of_several_nodes() -> None:
    """The golden file is what ROCm/mori 624002c's formats make of 16 ranks' figures.

    examples/ops/dispatch_combine/test_dispatch_combine_internode.py, line 1068: f"rank {self.rank} recv
    {total_recv_num_token} tokens {total_rdma_recv_num_token} rdma tokens" (the counts of rank 8 are those of
    docs/MORI-EP-BENCHMARK.md); line 1256: f"  {phase} {name} {rd[:, col].int().tolist()} avg
    {rd[:, col].mean():.2f} {unit}"; line 1318: the tables, laid out by PrettyTable.
    """
    timings = bench_output.read(INTERNODE)
    rounds = [timing for timing in timings if timing.note.startswith("round")]
    assert [(t.kernel, t.note.partition(";")[0]) for t in rounds] == [
        (kernel, f"round {i}") for kernel in ("dispatch", "combine") for i in range(10)
    ]
    assert (rounds[0].gbps, rounds[0].rdma_gbps, rounds[0].latency_us) == (114.21, 34.85, 1679.49)
    assert {t.world_size for t in timings} == {16}
    assert {(t.kernel, t.dtype) for t in timings} == {
        ("dispatch", "float8_e4m3fnuz"),
        ("combine", "bfloat16"),
    }
    assert "26759 tokens received, 8166 by RDMA (mean of 16 ranks)" in rounds[0].note


def test_tables_of_several_nodes() -> None:
    tables = [timing for timing in bench_output.read(INTERNODE) if timing.note.startswith("table")]
    assert [timing.kernel for timing in tables] == ["dispatch"] * 3 + ["combine"] * 3
    best, worst, mean = tables[:3]
    assert (best.gbps, best.rdma_gbps, best.latency_us) == (173.28, 52.83, 1108.17)
    assert "worst of any rank" in worst.note and (mean.gbps, mean.rdma_gbps) == (171.2, 52.24)
    assert "mean over rounds and ranks, without round 0" in mean.note


def test_tokens_per_rank_follow_from_the_tables_and_published_figures_stand_beside_them() -> None:
    """LL / XGMI bandwidth x (26727 + 1) / 8 = 4096: what the script never prints."""
    assert {timing.tokens for timing in bench_output.read(INTERNODE)} == {4096}
    text, _ = verbs.ep_check([str(INTERNODE)])
    assert "171.20 GB/s, RDMA 52.24 GB/s" in text and "EP16   4096 tokens dispatch" in text
    assert text.count("171 GB/s (RDMA 52)") == 1, "once, however many rounds there are"


def test_older_benches_name_the_phase_once() -> None:
    """ROCm/mori 94a0a76b, line 600: f"  rdma bandwidth {...} avg ..." and f"  bandwidth {...} avg ..."."""
    timings = bench_output.read(OLDER)
    assert [(t.kernel, t.gbps, t.rdma_gbps) for t in timings[:2]] == [
        ("dispatch", 114.21, 34.85),
        ("dispatch", pytest.approx(171.3, abs=0.5), pytest.approx(52.3, abs=0.3)),
    ]
    assert [t.kernel for t in timings] == ["dispatch", "dispatch", "combine", "combine"]
    assert {t.tokens for t in timings} == {0}, "without tables nothing says how many were sent"


def test_rdma_bandwidth_by_the_guides_formula_where_none_is_printed() -> None:
    """RDMA BW = total BW x RDMA tokens / total tokens, of each rank (MORI-EP guide, section 9)."""
    lines = [line for line in OLDER.read_text().splitlines() if not line.startswith("  rdma")]
    first = next(iter(bench_output.parse("\n".join(lines))))
    assert first.rdma_gbps == pytest.approx(34.85, abs=0.35), "ranks' totals are printed as whole numbers"
    assert "RDMA = total x RDMA tokens / tokens" in first.note
    lines = [line for line in lines if not line.startswith("rank 3 ")]
    assert next(iter(bench_output.parse("\n".join(lines)))).rdma_gbps is None, "one rank's counts are missing"


def test_vllms_bench() -> None:
    one, two = bench_output.parse(BENCHMARK_MOE)
    assert (one.kernel, one.tokens, one.latency_us) == ("moe", 1, 26.72) and two.latency_us == 30.78
    assert [(t.tokens, t.latency_us) for t in bench_output.parse(BENCHMARK_MOE_SHORT)] == [
        (1, 44.54),
        (2, 59.94),
    ]


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
