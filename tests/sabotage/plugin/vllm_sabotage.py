"""Test only: breaks the mixture-of-experts path of a running vLLM 0.32 the ways real faults did.

Off unless SABOTAGE names a fault; needs --enforce-eager. Hooks: BaseRouter._select_experts gives the expert
weights and ids of every token of a step, RoutedExperts.forward_modular the combined output, the model's
forward the positions of the step's tokens, the runner's execute_model the number of requests in the step.

    a  expert slot looked up by mask value: on every EP rank, local expert 1 answers for all local experts
    b  only the experts of one EP rank contribute to a token: 7 of 8 contributions are lost
    c  combine returns a share of the tokens (SABOTAGE_SHARE) in permuted order
    d  b, but only in steps of more than SABOTAGE_REQUESTS requests
    e  a, but only from position SABOTAGE_POSITION of a sequence on
    f  one expert of one layer counts SABOTAGE_SCALE x
    h  one layer's router sends SABOTAGE_TOKENS of the tokens to the experts beside the chosen ones
    g  keys and values are rounded to 8 bits (e4m3), as an fp8 KV cache does: not a fault, must pass
"""

from __future__ import annotations

import os
import sys

EP_SIZE = int(os.environ.get("SABOTAGE_EP", "8"))
SHARE = float(os.environ.get("SABOTAGE_SHARE", "0.25"))
REQUESTS = int(os.environ.get("SABOTAGE_REQUESTS", "4"))
POSITION = int(os.environ.get("SABOTAGE_POSITION", "200"))
SCALE = float(os.environ.get("SABOTAGE_SCALE", "1.5"))
LAYER = int(os.environ.get("SABOTAGE_LAYER", "1"))
TOKENS = float(os.environ.get("SABOTAGE_TOKENS", "0.01"))
EXPERT = int(os.environ.get("SABOTAGE_EXPERT", "3"))


class Step:
    """What the engine computes right now."""

    num_requests = 0
    positions = None


def by_mask_value(weights, ids, num_experts):
    """Fault a. [tokens, top_k] each, as below."""
    local = max(num_experts // EP_SIZE, 1)
    return weights, (ids // local) * local + min(1, local - 1)


def one_rank(weights, ids, num_experts):
    """Fault b: token n sits on rank n mod EP_SIZE and gets only that rank's experts."""
    import torch

    local = max(num_experts // EP_SIZE, 1)
    rank = torch.arange(len(ids)).unsqueeze(1) % EP_SIZE
    return weights * (ids // local == rank), ids


def when_crowded(weights, ids, num_experts):
    """Fault d."""
    return one_rank(weights, ids, num_experts) if Step.num_requests > REQUESTS else (weights, ids)


def when_late(weights, ids, num_experts):
    """Fault e."""
    if Step.positions is None or len(Step.positions) != len(ids):
        return weights, ids
    late = (Step.positions >= POSITION).unsqueeze(1)
    _, wrong = by_mask_value(weights, ids, num_experts)
    return weights, wrong.where(late, ids)


def scaled_expert(weights, ids, num_experts):
    """Fault f, in the layer it is called for."""
    return weights.where(ids != EXPERT, weights * SCALE), ids


def some_astray(weights, ids, num_experts):
    """Fault h, in the layer it is called for."""
    import torch

    astray = (torch.rand(len(ids), device=ids.device) < TOKENS).unsqueeze(1)
    return weights, ((ids + 1) % num_experts).where(astray, ids)


ROUTING_FAULTS = {
    "a": by_mask_value,
    "b": one_rank,
    "d": when_crowded,
    "e": when_late,
    "f": scaled_expert,
    "h": some_astray,
}


def permuted(output):
    """Fault c: [tokens, hidden] with a share of the rows in another order."""
    import torch

    picked = torch.nonzero(torch.rand(len(output)) < SHARE).flatten()
    if len(picked) > 1:
        output = output.clone()
        output[picked] = output[picked.roll(1)]
    return output


def register() -> None:
    """Entry point of vllm.general_plugins; called in every process of the engine, maybe twice."""
    fault = os.environ.get("SABOTAGE", "")
    if not fault or getattr(Step, "installed", False):
        return
    Step.installed = True
    print(f"SABOTAGE {fault} is installed in process {os.getpid()}", file=sys.stderr, flush=True)
    if fault == "reuse":
        import vllm_sabotage_reuse

        vllm_sabotage_reuse.install()
    elif fault in ROUTING_FAULTS:
        _patch_routing(ROUTING_FAULTS[fault], only_layer=LAYER if fault in "fh" else None)
        _patch_step()
    elif fault == "c":
        _patch_combine()
    elif fault == "g":
        _patch_kv()
    else:
        raise ValueError(f"SABOTAGE={fault}: there are a to h, and reuse")


def _patch_routing(fault, only_layer) -> None:
    from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    init, select = MoERunner.__init__, BaseRouter._select_experts

    def tagged_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.router._sabotage_layer = self.layer_id

    def broken_select(self, hidden_states, router_logits, *args, **kwargs):
        weights, ids = select(self, hidden_states, router_logits, *args, **kwargs)
        if only_layer is not None and getattr(self, "_sabotage_layer", None) != only_layer:
            return weights, ids
        broken, chosen = fault(weights, ids, router_logits.shape[-1])
        return broken.to(weights.dtype), chosen.to(ids.dtype)

    MoERunner.__init__, BaseRouter._select_experts = tagged_init, broken_select


def _patch_step() -> None:
    from vllm.model_executor.models.qwen3_moe import Qwen3MoeModel
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    forward, execute = Qwen3MoeModel.forward, GPUModelRunner.execute_model

    def noting_forward(self, input_ids, positions, *args, **kwargs):
        Step.positions = positions
        return forward(self, input_ids, positions, *args, **kwargs)

    def noting_execute(self, scheduler_output, *args, **kwargs):
        Step.num_requests = len(scheduler_output.num_scheduled_tokens)
        return execute(self, scheduler_output, *args, **kwargs)

    Qwen3MoeModel.forward, GPUModelRunner.execute_model = noting_forward, noting_execute


def _patch_combine() -> None:
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

    forward = RoutedExperts.forward_modular

    def broken_forward(self, *args, **kwargs):
        return permuted(forward(self, *args, **kwargs))

    RoutedExperts.forward_modular = broken_forward


def _patch_kv() -> None:
    import torch
    from vllm.model_executor.layers.attention.attention import Attention

    forward = Attention.forward

    def rounded_forward(self, query, key, value, *args, **kwargs):
        key, value = (t.to(torch.float8_e4m3fn).to(t.dtype) for t in (key, value))
        return forward(self, query, key, value, *args, **kwargs)

    Attention.forward = rounded_forward
