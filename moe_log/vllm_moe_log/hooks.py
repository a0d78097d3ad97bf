"""Where the log is tied into vLLM 0.32: three methods wrapped, and one router method per logged layer.

MoERunner.__init__            a MoE layer is built: its number, its router
<router>._compute_routing     logical expert ids and weights, before any EPLB mapping
GPUModelRunner.execute_model  a step over real requests (both model runners; the CPU's inherits)
GPUModelRunner.prepare_inputs batch order of the second model runner
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

from vllm_moe_log import step as steps
from vllm_moe_log.flags import Flags
from vllm_moe_log.recorder import Recorder

RUNNERS = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner")
logger = logging.getLogger("vllm.moe_log")
_installed: list[Recorder] = []


def install(flags: Flags) -> None:
    """Wrap MoERunner.__init__; vLLM may load plugins more than once per process, the first call counts."""
    if _installed:
        return
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    from vllm_moe_log.placement import Placement

    recorder = Recorder(flags, Placement())
    _installed.append(recorder)
    build = MoERunner.__init__

    @functools.wraps(build)
    def build_and_tag(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        _wrap_runners(recorder)
        if flags.wants(self.layer_id):
            _tap(self.router, self.layer_id, recorder)

    MoERunner.__init__ = build_and_tag
    logger.info("moe_log: logging layers %s to %s", sorted(flags.layers or ()) or "all", flags.path)


def _tap(router: Any, layer: int, recorder: Recorder) -> None:
    """Pass every result of this router on to the recorder; other layers' routers stay as they are."""
    compute = getattr(router, "_compute_routing", None)
    if compute is None:
        logger.warning(
            "moe_log: layer %d has a router of its own (%s): not logged", layer, type(router).__name__
        )
        return

    @functools.wraps(compute)
    def compute_and_log(*args: Any, **kwargs: Any) -> Any:
        topk_weights, topk_ids = compute(*args, **kwargs)
        recorder.routed(layer, topk_ids, topk_weights)
        return topk_weights, topk_ids

    router._compute_routing = compute_and_log
    recorder.add_layer(layer, router)


def _wrap_runners(recorder: Recorder) -> None:
    """By the time a layer is built the process has imported the model runner it uses."""
    for name in RUNNERS:
        runner = getattr(sys.modules.get(name), "GPUModelRunner", None)
        if runner is not None and not hasattr(runner.execute_model, "_moe_log"):
            _wrap_execute(runner, recorder)


def _wrap_execute(runner: Any, recorder: Recorder) -> None:
    execute = runner.execute_model
    prepare = getattr(runner, "prepare_inputs", None)

    @functools.wraps(execute)
    def execute_and_log(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dummy_run") or not scheduler_output.total_num_scheduled_tokens:
            return execute(self, scheduler_output, *args, **kwargs)
        if prepare is None:
            recorder.begin(lambda: steps.spans_of_runner(self, scheduler_output))
        else:
            recorder.begin(lambda: steps.spans_of_batch(self._moe_log_batch))
        try:
            return execute(self, scheduler_output, *args, **kwargs)
        finally:
            recorder.end(scheduler_output.total_num_scheduled_tokens)

    execute_and_log._moe_log = True  # type: ignore[attr-defined]
    runner.execute_model = execute_and_log
    if prepare is None:
        return

    @functools.wraps(prepare)
    def prepare_and_keep(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._moe_log_batch = prepare(self, *args, **kwargs)
        return self._moe_log_batch

    runner.prepare_inputs = prepare_and_keep
