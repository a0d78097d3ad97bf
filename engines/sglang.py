"""SGLang: how its OpenAI server is launched, and what it shows of itself."""

from __future__ import annotations

from harness.dialect import Spellings, longest, since, spell
from harness.errors import InputError
from harness.schema import Deployment, Launch, Model, Variant

OPTIONS = ("all2all", "cuda_graph_max_bs")
"""Keys of a variant's `options`; every other setting is a literal argument."""

CUDA_GRAPH_MAX_BS: Spellings = (("", "--cuda-graph-max-bs"), ("0.5.15", "--cuda-graph-max-bs-decode"))

ENV = {
    # Else every GET /health runs a one-token generation, in the middle of a measurement too.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
}


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Render the command for the flag dialect of `variant.version`.

    Raises InputError for an option this engine file does not know.
    """
    python = "python3" if deployment.launcher == "docker" else deployment.python
    return Launch(
        variant=variant.name,
        engine="sglang",
        launcher=deployment.launcher,
        argv=(
            *(python, "-m", "sglang.launch_server"),
            *_serving(deployment),
            *_settings(variant, deployment.model),
            *deployment.extra_args,
        ),
        env={**ENV, **_offline(deployment), **variant.env, **deployment.extra_env},
        image=variant.image,
        accelerator=variant.accelerator,
        num_gpus=0 if variant.accelerator == "cpu" else variant.parallel.num_gpus,
        host="127.0.0.1" if deployment.launcher == "docker" else deployment.host,
        port=deployment.port,
        url=deployment.url,
        served_model_name=deployment.served_model_name,
    )


def _serving(deployment: Deployment) -> tuple[str, ...]:
    return (
        *("--model-path", deployment.model_path),
        *("--served-model-name", deployment.served_model_name),
        *("--host", "0.0.0.0" if deployment.launcher == "docker" else deployment.host),
        *("--port", str(deployment.port)),
    )


def _settings(variant: Variant, model: Model) -> tuple[str, ...]:
    length = longest(variant, model)
    return (
        *_parallel(variant),
        *_options(variant),
        *(("--context-length", str(length)) if length else ()),
        "--disable-radix-cache",
        *("--stream-interval", "1"),
        "--enable-metrics",
        *variant.args,
    )


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tp-size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pp-size", str(sizes.pipeline)]
    if sizes.data > 1:
        flags += ["--dp-size", str(sizes.data)]
    if sizes.attention_data > 1 and since(variant.version, "0.5.22"):
        flags += ["--attn-dp-size", str(sizes.attention_data)]
    elif sizes.attention_data > 1:
        flags += ["--dp-size", str(sizes.attention_data), "--enable-dp-attention"]
    if sizes.expert > 1:
        flags += ["--ep-size", str(sizes.expert)]
    return tuple(flags)


def _options(variant: Variant) -> tuple[str, ...]:
    options = variant.options
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise InputError(
            f"Variant {variant.name} has options {', '.join(unknown)} that engines/sglang.py does not render;"
            f" known are {', '.join(OPTIONS)}; write anything else as args."
        )
    flags: list[str] = []
    if "all2all" in options:
        flags += ["--moe-a2a-backend", str(options["all2all"])]
    if "cuda_graph_max_bs" in options:
        flags += [spell(variant.version, CUDA_GRAPH_MAX_BS), str(options["cuda_graph_max_bs"])]
    return tuple(flags)


def _offline(deployment: Deployment) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1"} if deployment.model.path else {}
