"""Whether a variant can run on a machine, and if not, why: nothing is launched, imported or asked."""

from __future__ import annotations

from harness import launchers
from harness.model_facts import fetch_weights
from harness.schema import Machine, Model, Variant

_BYTES_BEYOND_WEIGHTS = 1.1
"""Weights x this must fit into the GPUs' memory: KV cache and activations want room too."""


def feasible(variant: Variant, machine: Machine, model: Model, launcher: str = "") -> str:
    """Why the variant cannot run here with this model; "" when it can. Nothing is launched or imported."""
    chosen = launchers.named(launcher or launchers.usual(variant, machine))
    here = not chosen.ELSEWHERE
    return (
        (here and _accelerator(variant, machine))
        or _experts(variant, model)
        or (here and _memory(variant, machine, model))
        or "; ".join(filter(None, (chosen.missing(variant, machine), _weights(model))))
    )


def _accelerator(variant: Variant, machine: Machine) -> str:
    if variant.accelerator == "cpu":
        return ""
    if variant.accelerator != machine.accelerator:
        return f"needs {variant.accelerator} GPUs, this machine has {_kind(machine)}"
    if len(machine.gpus) < variant.parallel.num_gpus:
        return f"needs {variant.parallel.num_gpus} GPUs, this machine has {len(machine.gpus)}"
    return ""


def _kind(machine: Machine) -> str:
    return "none" if machine.accelerator == "cpu" else f"{len(machine.gpus)} of {machine.accelerator}"


def _experts(variant: Variant, model: Model) -> str:
    size = variant.parallel.expert
    if size == 1 or not (model.path or model.moe):
        return ""
    if model.moe is None:
        return f"{model.alias} has no experts, so the label's expert parallelism {size} could not hold"
    if model.moe.num_experts % size:
        return f"{model.alias} has {model.moe.num_experts} experts, which {size} ranks cannot share evenly"
    return ""


def _memory(variant: Variant, machine: Machine, model: Model) -> str:
    if variant.accelerator == "cpu" or not machine.gpus or not model.weights_gb:
        return ""
    needed_gb = weights_per_gpu_gb(variant, model) * _BYTES_BEYOND_WEIGHTS
    smallest_gb = min(gpu.memory_gb for gpu in machine.gpus[: variant.parallel.num_gpus])
    if needed_gb > smallest_gb:
        return (
            f"{model.alias} needs about {needed_gb:.0f} GB on each GPU in this layout, "
            f"the smallest here has {smallest_gb:.0f} GB"
        )
    return ""


def weights_per_gpu_gb(variant: Variant, model: Model) -> float:
    """Memory of the weights on one GPU, GB.

    Under data-parallel attention with expert parallelism each rank holds its share of the routed experts
    and all of the rest. The experts' share is what the checkpoint's config says; where that is not here,
    DeepSeek-R1's (653.9 of 671 billion: 58 layers x 256 experts x 44.0 million), as for every large MoE.
    """
    sizes = variant.parallel
    attention_is_replicated = sizes.data > 1 or sizes.attention_data > 1
    if model.moe is None or sizes.expert == 1 or not attention_is_replicated:
        return model.weights_gb / (sizes.tensor * sizes.pipeline)
    experts_gb = model.weights_gb * (model.experts_share or 653.9 / 671)
    return experts_gb / sizes.expert + model.weights_gb - experts_gb


def _weights(model: Model) -> str:
    if model.path:
        return ""
    return f"the weights of {model.alias} are not on this machine; {fetch_weights(model)}"
