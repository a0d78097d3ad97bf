"""vLLM: how its OpenAI server is launched, and what it shows of itself."""

from __future__ import annotations

from harness.dialect import Spellings, spell
from harness.errors import InputError
from harness.schema import Deployment, Launch, Variant

OPTIONS = ("all2all",)
"""Keys of a variant's `options`; every other setting is a literal argument."""

ALL2ALL: dict[str, Spellings] = {
    # The fork's single name, upstream's first name (PR #28664), then one name per kernel (PR #41751).
    "mori": (("", "mori_ep"), ("0.13", "mori"), ("0.20", "mori_high_throughput")),
    "mori_low_latency": (("0.20", "mori_low_latency"),),
}
"""Meaning -> spelling by version, where the name ever changed; any other name is passed through."""

STREAM_INTERVAL: Spellings = (("0.11", "--stream-interval"),)

ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # /server_info and /reset_prefix_cache exist in development mode only; the port is on loopback.
    "VLLM_SERVER_DEV_MODE": "1",
}


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Render the command for the flag dialect of `variant.version`.

    Raises InputError for an option this engine file does not know.
    """
    inside_docker = deployment.launcher == "docker"
    program = ("vllm", "serve") if inside_docker else (deployment.python, "-m", MODULE, "serve")
    return Launch(
        variant=variant.name,
        engine="vllm",
        launcher=deployment.launcher,
        argv=(
            *program,
            deployment.model_path,
            *_serving(deployment),
            *_settings(variant),
            *deployment.extra_args,
        ),
        env={**ENV, **_offline(deployment), **variant.env, **deployment.extra_env},
        image=variant.image,
        accelerator=variant.accelerator,
        num_gpus=0 if variant.accelerator == "cpu" else variant.parallel.num_gpus,
        host=deployment.host,
        port=deployment.port,
        url=deployment.url,
        served_model_name=deployment.served_model_name,
    )


MODULE = "vllm.entrypoints.cli.main"


def _serving(deployment: Deployment) -> tuple[str, ...]:
    return (
        *("--served-model-name", deployment.served_model_name),
        *("--host", "0.0.0.0" if deployment.launcher == "docker" else deployment.host),
        *("--port", str(deployment.port)),
    )


def _settings(variant: Variant) -> tuple[str, ...]:
    stream_interval = spell(variant.version, STREAM_INTERVAL)
    return (
        *_parallel(variant),
        *(("--max-model-len", str(variant.max_model_len)) if variant.max_model_len else ()),
        "--no-enable-prefix-caching",
        *((stream_interval, "1") if stream_interval else ()),
        *variant.args,
    )


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tensor-parallel-size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pipeline-parallel-size", str(sizes.pipeline)]
    if sizes.data > 1:
        flags += ["--data-parallel-size", str(sizes.data)]
    if sizes.expert > 1:
        flags += ["--enable-expert-parallel"]
    return (*flags, *_all2all(variant))


def _all2all(variant: Variant) -> tuple[str, ...]:
    if unknown := sorted(set(variant.options) - set(OPTIONS)):
        raise InputError(
            f"Variant {variant.name} has options {', '.join(unknown)} that engines/vllm.py does not render; "
            f"known are {', '.join(OPTIONS)}; write anything else as args."
        )
    meaning = str(variant.options.get("all2all", ""))
    spelling = spell(variant.version, ALL2ALL[meaning]) if meaning in ALL2ALL else meaning
    return ("--all2all-backend", spelling) if spelling else ()


def _offline(deployment: Deployment) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1"} if deployment.model.path else {}
