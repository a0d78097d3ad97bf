"""SGLang's recorder around a visit: its dumps become the visit's log, and what fails is said there."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import sglang_recorder
from harness import client, models, plan, registry, server
from harness.errors import InputError
from harness.extras import moe_log, visit_recorder
from harness.host import engine_env
from harness.moe import routing_log
from harness.planned import render
from harness.schema import Deployment, Launch, Load, Options, Request, RequestRecord
from tests.test_moe_convert import recorder


def launch(folder: Path) -> Launch:
    return Launch(
        variant="s", engine="sglang", launcher="process", env=sglang_recorder.environment(str(folder))
    )


def test_an_engine_without_the_recorder_is_left_alone(tmp_path: Path) -> None:
    other = Launch(variant="v", engine="vllm", launcher="process")
    with visit_recorder.recording(other, "http://127.0.0.1:1", "0", tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_that_refuses_never_fails_the_trials(tmp_path: Path) -> None:
    measured = []
    with (
        recorder(tmp_path, 404) as (url, _),
        visit_recorder.recording(launch(tmp_path), url, "0", tmp_path),
    ):
        measured.append("trial")
    assert measured == ["trial"]
    with pytest.raises(InputError, match=r"refused /start_expert_distribution_record with HTTP 404"):
        routing_log.read([str(tmp_path / visit_recorder.LOG)])
    assert "routing is not logged" in moe_log.remark(tmp_path)


def test_on_a_cpu_it_is_never_stopped_and_a_damaged_dump_is_named(tmp_path: Path) -> None:
    with (
        recorder(tmp_path, 200) as (url, asked),
        visit_recorder.recording(launch(tmp_path), url, "all", tmp_path),
    ):
        pass
    assert asked == ["/start_expert_distribution_record", "/dump_expert_distribution_record"]
    assert "Cannot read" in moe_log.remark(tmp_path)


def test_trials_that_fail_still_fail(tmp_path: Path) -> None:
    with (
        recorder(tmp_path, 200) as (url, _),
        pytest.raises(RuntimeError, match="the trial's own"),
        visit_recorder.recording(launch(tmp_path), url, "0", tmp_path),
    ):
        raise RuntimeError("the trial's own")


@pytest.mark.engine
def test_real_sglang_records_every_token_once(tmp_path: Path) -> None:
    """Rows of the layer asked for: each prompt and all but the last output token of each request."""
    variant, model = registry.variant("sglang-cpu"), models.with_config(models.resolve("tiny-moe"))
    deployment = Deployment(
        model=model,
        launcher="process",
        model_path=model.path,
        served_model_name=model.alias,
        port=server.free_port(),
        python=str(engine_env.ensure(variant.environment, registry.ROOT, lambda _: None)),
        root=str(registry.ROOT),
    )
    started = render(variant, deployment)
    planned = plan.Planned(
        variant=variant,
        model=model,
        deployment=deployment,
        launch=started,
        trials=(),
        options=Options(moe_log=2),
    )
    made = moe_log.launching(planned, tmp_path)
    requests = [
        Request(request_id=f"q{i}", prompt_token_ids=tuple(range(10 + i, 30 + 2 * i)), max_tokens=4)
        for i in range(6)
    ]
    records: list[RequestRecord] = []
    with server.serving(made.launch, tmp_path / "server.log", "test") as running:
        target = client.Target(base_url=running.launch.base_url, model=model.alias)
        with visit_recorder.recording(made.launch, running.launch.base_url, "2", tmp_path):
            client.fire(target, requests, Load(max_concurrency=4), records.append)
    log = routing_log.read([str(tmp_path / visit_recorder.LOG)])
    assert log.layers == (2,) and log.num_experts == 16 and log.top_k == 4
    assert int(log.prefill.sum()) == sum(r.prompt_len for r in records)
    assert len(log.step) == sum(r.prompt_len + r.output_len - 1 for r in records)
    assert all(len(set(row)) == 4 for row in log.experts.tolist())
    assert list(tmp_path.glob(sglang_recorder.DUMPS)) == [], "kept as moe.jsonl, not twice"
