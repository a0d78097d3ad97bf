"""The routing log's device buffers and recorder; running this module prints {case: traceback}.

On a machine with a GPU the replay of a captured CUDA graph is a case too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PLUGIN = Path(__file__).resolve().parents[2] / "moe_log"
sys.path.insert(0, str(PLUGIN))

from vllm_moe_log import device, step  # noqa: E402
from vllm_moe_log.flags import Flags  # noqa: E402
from vllm_moe_log.recorder import Limits, Recorder  # noqa: E402
from vllm_moe_log.step import Layout, Span  # noqa: E402


class Alone:
    """The one rank of a group of `tp_size`, or rank `tp` of it."""

    def __init__(self, tp: int = 0, tp_size: int = 1) -> None:
        self.ranks = {"tp": tp, "pp": 0, "dp": 0, "tp_size": tp_size, "pp_size": 1, "dp_size": 1}
        self.rank = tp

    def layout(self) -> Layout:
        return Layout()

    def path_of_rank(self, path: Path) -> Path:
        return path

    def describe(self) -> dict[str, Any]:
        return {"engine": "test", "rank": self.rank, "ranks": self.ranks}


class Router:
    top_k = 2
    global_num_experts = 8


def routing(rows: int, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = (torch.arange(first, first + rows)[:, None] + torch.arange(2)) % 8
    return ids, torch.full((rows, 2), 0.5)


def test_rows_are_stored_where_a_replay_would_write_them_and_fetched_at_the_end() -> None:
    with torch.inference_mode():
        ids, weights = routing(5)
        buffers = device.allocate((0, 3), 8, ids)
        buffers.store(3, ids, weights)
    buffers.clear()  # outside inference mode, as between two steps
    buffers.store(0, *routing(6, first=1))
    got_ids, got_weights, num_written = buffers.fetch(4)()
    assert num_written == [6, 0], "layer 3 has not run since clear()"
    assert got_ids[0].tolist() == [[1, 2], [2, 3], [3, 4], [4, 5]]
    assert got_weights.shape == (2, 4, 2)


def test_a_fetch_is_not_changed_by_the_next_step() -> None:
    buffers = device.allocate((0,), 4, routing(1)[0])
    buffers.store(0, *routing(2))
    arrays = buffers.fetch(2)
    buffers.store(0, *routing(2, first=5))
    assert arrays()[0].tolist() == [[[0, 1], [1, 2]]]


def test_more_rows_than_the_buffers_hold_are_cut() -> None:
    buffers = device.allocate((0,), 4, routing(1)[0])
    buffers.store(0, *routing(9))
    ids, _, num_written = buffers.fetch(9)()
    assert ids.shape == (1, 4, 2) and num_written == [4]


def recorder(tmp_path: Path, environment: Alone, limits: Limits) -> Recorder:
    found = Recorder(Flags(tmp_path / "log.jsonl", None, None, 4096), environment)
    found.add_layer(0, Router(), limits)
    return found


def lines(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    return [record for record in found if record["type"] == kind]


SPANS = (Span("a", 0, 3, 3), Span("b", 7, 1, 5))


SHARDS = (
    (Alone(), False, 8, 0, 4),  # padded for a CUDA graph
    (Alone(0, 2), True, 2, 0, 2),
    (Alone(1, 2), True, 2, 2, 2),
    (Alone(1, 2), True, 3, 3, 1),
    (Alone(0, 2), True, 4, 0, 4),
)
"""Rank, sequence parallelism, rows written, token of the first row, tokens to be logged."""


def test_what_the_device_holds_after_a_step_is_logged(tmp_path: Path) -> None:
    """The buffers are filled by kernels alone, as in a replay: Python sees only begin() and end()."""
    for number, (environment, shards, rows, token, num) in enumerate(SHARDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        log = recorder(folder, environment, Limits(8, shards))
        log._buffers = device.allocate((0,), 8, routing(1)[0])
        log.begin(lambda: SPANS)
        log._buffers.store(0, *routing(rows, first=token))
        log.end(4)
        log._open().close()
        (block,) = lines(folder, "block")
        assert sum(span[2] for span in block["requests"]) == num
        assert [row[0] for row in block["experts"]] == list(range(token, token + num))


def test_padding_shards_and_steps_nobody_saw(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(8))
    log._buffers = device.allocate((0,), 8, routing(1)[0])
    for rows in (0, 3):  # a kernel that routes inside itself; half a batch (two microbatches)
        log.begin(lambda: SPANS)
        if rows:
            log._buffers.store(0, *routing(rows))
        log.end(4)
    log._open().close()
    assert not lines(tmp_path, "block")
    counts = lines(tmp_path, "count")[-1]
    assert (counts["unseen_steps"], counts["unseen_tokens"], counts["unattributed_rows"]) == (1, 4, 3)


def test_a_second_tensor_parallel_rank_is_silent(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(1, 2), Limits(8))
    log.begin(lambda: SPANS)
    log.routed(0, *routing(4))
    log.end(4)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_layer_the_model_does_not_have_is_named(tmp_path: Path) -> None:
    log = Recorder(Flags(tmp_path / "log.jsonl", frozenset({99}), None, 64), Alone())
    for layer in range(3):
        log.pass_over(layer, "")
    log.begin(lambda: SPANS)
    log.end(4)
    log._open().close()
    (problem,) = lines(tmp_path, "problem")
    assert "asks for layer 99" in problem["reason"] and "0, 1, 2" in problem["reason"]


def test_a_wrong_number_of_moe_layers_is_named_and_the_engines_own_is_used(tmp_path: Path) -> None:
    log = Recorder(Flags(tmp_path / "log.jsonl", None, 24, 64), Alone())
    log.add_layer(0, Router(), Limits(8))
    log.begin(lambda: SPANS)
    log.routed(0, *routing(4))
    log.end(4)
    log._open().close()
    (problem,) = lines(tmp_path, "problem")
    assert "VLLM_NUM_MOE_LAYERS=24, the model has 1" in problem["reason"] and lines(tmp_path, "block")


def test_a_log_that_fails_ends_and_says_why_and_the_engine_goes_on(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(8))

    def no_batch() -> tuple[Span, ...]:
        raise AttributeError("no req_ids")

    log.begin(no_batch)
    log.routed(0, *routing(4))
    log.end(4)
    log.begin(lambda: SPANS)
    log.routed(0, *routing(4))
    log.end(4)
    log._open().close()
    (problem,) = lines(tmp_path, "problem")
    assert "no req_ids" in problem["reason"] and not lines(tmp_path, "block")


def test_a_step_that_ended_before_it_had_a_batch_is_no_step(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(8))
    log._buffers = device.allocate((0,), 8, routing(1)[0])
    log.begin(lambda: step.spans_of_batch(None))
    log.end(4)
    assert not (tmp_path / "log.jsonl").exists()


def test_ids_of_a_kernel_that_wants_them_unsigned(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(8))
    log.begin(lambda: SPANS)
    log.routed(0, routing(4)[0].to(torch.int32).view(torch.uint32), routing(4)[1])
    log.end(4)
    log._open().close()
    (block,) = lines(tmp_path, "block")
    assert block["experts"] == routing(4)[0].tolist()


def test_a_vllm_without_the_hook_points_is_named_in_the_log(tmp_path: Path) -> None:
    """An older vLLM as the plugin sees it: a package of that name, with a version and no MoERunner."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    (tmp_path / "vllm-0.9.0.dist-info").mkdir()
    (tmp_path / "vllm-0.9.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.9.0\n")
    flags = {"VLLM_LOG_MOE": str(tmp_path / "log.jsonl"), "VLLM_LOG_LAYER": "all"}
    path = os.pathsep.join([str(tmp_path), str(PLUGIN)])
    done = subprocess.run(
        [sys.executable, "-c", "import vllm_moe_log; vllm_moe_log.register()"],
        env={**os.environ, **flags, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing will be logged" in done.stderr
    (problem,) = lines(tmp_path, "problem")
    assert "vLLM 0.9.0 has no" in problem["reason"] and "MoERunner" in problem["reason"]


def on_gpu(rows: int, gpu: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(rows, 2, dtype=torch.int32, device=gpu), torch.full((rows, 2), 0.5, device=gpu)


def captured(log: Recorder, ids: torch.Tensor, weights: torch.Tensor) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        log.routed(0, ids, weights)
    return graph


def gpu_a_replayed_graph_logs_what_it_routed(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(8))
    ids, weights = on_gpu(4)
    log.routed(0, ids, weights)  # profiling: the buffers are made
    graph = captured(log, ids, weights)
    for number in (1, 2):
        log.begin(lambda: (Span("a", 0, 3, 3),))
        ids.fill_(number)
        graph.replay()
        log.end(3)
    log._open().close()
    assert [b["experts"] for b in lines(tmp_path, "block")] == [[[1, 1]] * 3, [[2, 2]] * 3]
    assert not lines(tmp_path, "problem")


def gpu_graphs_of_several_sizes_and_eager_steps_take_turns(tmp_path: Path) -> None:
    log = recorder(tmp_path, Alone(), Limits(64))
    log.routed(0, *on_gpu(64))
    tensors = {size: on_gpu(size) for size in (16, 8, 4)}
    graphs = {size: captured(log, *tensors[size]) for size in (16, 8, 4)}
    expected = []
    for number in range(1, 200):
        size, num = ((16, 9), (4, 4), (8, 5), (0, 33))[number % 4]
        log.begin(lambda num=num: (Span("a", 0, num, num),))
        if size:
            tensors[size][0].fill_(number % 8)
            graphs[size].replay()
        else:
            ids, weights = on_gpu(num)
            log.routed(0, ids.fill_(number % 8), weights)
        log.end(num)
        expected.append([[number % 8] * 2] * num)
    log._open().close()
    assert [b["experts"] for b in lines(tmp_path, "block")] == expected
    counts = lines(tmp_path, "count")[-1]
    assert counts["tokens"] == sum(map(len, expected)) and "dropped_tokens" not in counts


def gpu_graphs_are_captured_while_warm_up_is_logged(tmp_path: Path) -> None:
    log = Recorder(Flags(tmp_path / "log.jsonl", None, None, 64, warmup=True), Alone())
    log.add_layer(0, Router(), Limits(8))
    ids, weights = on_gpu(4)
    for number in range(50):
        log.routed(0, ids.fill_(number % 8), weights)
        graph = captured(log, ids, weights)
        graph.replay()
    torch.cuda.synchronize()
    log._open().close()
    assert [b["experts"] for b in lines(tmp_path, "block")] == [[[n % 8] * 2] * 4 for n in range(50)]
    assert all(b["warmup"] for b in lines(tmp_path, "block")) and not lines(tmp_path, "problem")


def gpu_the_last_of_several_gpus_is_waited_for_from_its_own(tmp_path: Path) -> None:
    last = f"cuda:{torch.cuda.device_count() - 1}"
    with torch.cuda.device(last):
        log = recorder(tmp_path, Alone(), Limits(8))
        log.routed(0, *on_gpu(4, last))
        log.begin(lambda: SPANS)
        ids, weights = on_gpu(4, last)
        log.routed(0, ids.fill_(5), weights)
        log.end(4)
        log._open().close()
    (block,) = lines(tmp_path, "block")
    assert block["experts"] == [[5, 5]] * 4


def main() -> None:
    """Run every case in a folder of its own."""
    prefixes = ("test_", "gpu_") if torch.cuda.is_available() else ("test_",)
    cases: dict[str, Callable[..., None]] = {k: v for k, v in globals().items() if k.startswith(prefixes)}
    outcome = {}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(*[Path(folder)][: case.__code__.co_argcount])
                outcome[name] = ""
            except Exception:
                outcome[name] = traceback.format_exc()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
