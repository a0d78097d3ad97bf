"""Hugging Face transformers in full precision: the oracle, exact logprobs for given token ids."""

from __future__ import annotations

from harness.label.findings import counters as find_counters
from harness.schema import Deployment, Effective, Evidence, Launch, Variant

SCORING = "prompt_logprobs_from"
ORACLE = True
"""Its variants are references before anything else."""
SCORES_AT_ONCE = 32
"""Requests that wait are read together."""
SHARES_PROMPTS = True
"""A prompt that several of them follow is read once."""

KEEPS_NOTHING = True
"""engines/transformers_server.py has no prefix cache."""

_COUNTERS = {
    "prompt_tokens": ("transformers:prompt_tokens_total",),
    "generation_tokens": ("transformers:generation_tokens_total",),
    "running": ("transformers:num_requests_running",),
    "waiting": ("transformers:num_requests_waiting",),
}


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """engines/transformers_server.py in the engine's own environment."""
    return Launch(
        argv=(
            *(deployment.python or "python3", "-m", "engines.transformers_server", deployment.model_path),
            *("--name", deployment.served_model_name),
            *("--host", deployment.host, "--port", str(deployment.port)),
            *variant.args,
            *deployment.extra_args,
        ),
        env={**variant.env, "PYTHONPATH": _path(variant, deployment), **deployment.extra_env},
    )


def _path(variant: Variant, deployment: Deployment) -> str:
    """The repository's root, so that `-m engines.transformers_server` is found."""
    given = deployment.extra_env.get("PYTHONPATH", variant.env.get("PYTHONPATH", ""))
    return ":".join(p for p in (deployment.root, given) if p)


def effective(evidence: Evidence) -> Effective:
    """/server_info says all there is."""
    info = evidence.server_info
    shown = [k for k in ("dtype", "device", "max_model_len", "load_format") if k in info]
    return Effective(
        engine_version=info.get("version"),
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        expert_parallel_size=1,
        all2all="none",
        dtype=info.get("dtype"),
        kv_cache_dtype=info.get("dtype"),
        quantization="none",
        device=info.get("device"),
        max_model_len=info.get("max_model_len"),
        load_format=info.get("load_format"),
        prefix_cache=False,
        chunked_prefill=False,
        cuda_graphs=False,
        torch_compile=False,
        speculative="none",
        stream_interval=1,
        proof={
            **{str(k): f"/server_info {k}" for k in shown},
            "prefix_cache": "engines/transformers_server.py has none",
        },
    )


def counters(metrics: str) -> dict[str, float]:
    """Canonical counters from the server's Prometheus text."""
    return find_counters(metrics, _COUNTERS)
