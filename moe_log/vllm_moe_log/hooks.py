"""Where the log is tied into vLLM (0.24 to 0.32): methods wrapped, and one router method per logged layer.

MoERunner.__init__            a MoE layer is built: its number, its router
<router>._compute_routing     logical expert ids and weights, before any EPLB mapping
GPUModelRunner.execute_model  a step over real requests (both model runners; the CPU's inherits)
GPUModelRunner.prepare_inputs batch order of the second model runner

On GPUs the router's method is called inside the custom op vllm::moe_forward, which torch.compile does not
look into; it runs once per CUDA graph, at capture, and the kernels it launches there run at every replay
(device.py).
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import sys
from typing import Any

import torch

from vllm_moe_log import step as steps
from vllm_moe_log.block import encode
from vllm_moe_log.flags import Flags
from vllm_moe_log.recorder import Limits, Recorder

RUNNERS = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner")
POINTS = (
    ("vllm.model_executor.layers.fused_moe.runner.moe_runner", "MoERunner", ("__init__", "layer_id")),
    ("vllm.model_executor.layers.fused_moe.router.base_router", "BaseRouter", ("_compute_routing",)),
)
"""Module, class and attributes without which nothing can be logged."""
logger = logging.getLogger("vllm.moe_log")
_installed: list[Recorder] = []


def install(flags: Flags) -> None:
    """Wrap MoERunner.__init__; vLLM may load plugins more than once per process, the first call counts."""
    if _installed:
        return
    reason = missing()
    if reason:
        logger.error("moe_log: nothing will be logged: %s", reason)
        with flags.path.open("ab") as file:
            file.write(encode({"type": "problem", "reason": reason}))
        return
    from vllm_moe_log.placement import Placement

    recorder = Recorder(flags, Placement())
    _installed.append(recorder)
    runner = importlib.import_module(POINTS[0][0]).MoERunner
    build = runner.__init__

    @functools.wraps(build)
    def build_and_tag(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if recorder.broken:
            return
        try:
            _wrap_runners(recorder)
            _add(self)
        except Exception as error:
            recorder.give_up(error)

    def _add(self: Any) -> None:
        if flags.wants(self.layer_id):
            _tap(self, recorder)
        else:
            recorder.pass_over(self.layer_id, "")

    runner.__init__ = build_and_tag
    logger.info("moe_log: logging layers %s to %s", sorted(flags.layers or ()) or "all", flags.path)


def missing() -> str:
    """Why this vLLM cannot be logged, in one sentence; "" when it has every hook point."""
    for module, name, attributes in POINTS:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            return _unsupported(f"{module}.{name}")
        for attribute in attributes:
            if not hasattr(found, attribute):
                return _unsupported(f"{name}.{attribute}")
    return ""


def _unsupported(point: str) -> str:
    return (
        f"vLLM {importlib.metadata.version('vllm')} has no {point}, which the routing log is tied to: "
        "it works with vLLM 0.24 to 0.32; use such a version"
    )


def _tap(layer: Any, recorder: Recorder) -> None:
    """Pass every result of this layer's router on to the recorder; other layers' stay as they are."""
    router, number = layer.router, layer.layer_id
    compute = getattr(router, "_compute_routing", None)
    if compute is None:
        recorder.pass_over(number, f"its router, {type(router).__name__}, has no _compute_routing")
        return

    @functools.wraps(compute)
    def compute_and_log(*args: Any, **kwargs: Any) -> Any:
        topk_weights, topk_ids = compute(*args, **kwargs)
        if not torch.compiler.is_compiling():
            recorder.routed(number, topk_ids, topk_weights)
        return topk_weights, topk_ids

    router._compute_routing = compute_and_log
    recorder.add_layer(number, router, _limits(layer))


def _limits(layer: Any) -> Limits:
    from vllm.config import get_current_vllm_config

    config = get_current_vllm_config()
    return Limits(
        max_tokens=int(config.scheduler_config.max_num_batched_tokens),
        sequence_parallel=bool(getattr(layer.moe_config, "is_sequence_parallel", False)),
    )


def _wrap_runners(recorder: Recorder) -> None:
    """By the time a layer is built the process has imported the model runner it uses."""
    found = [getattr(sys.modules.get(name), "GPUModelRunner", None) for name in RUNNERS]
    if not any(found):
        raise LookupError(_unsupported(" or ".join(RUNNERS)))
    for runner in found:
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
            self._moe_log_batch = None
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
