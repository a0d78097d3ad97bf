"""llama.cpp: its own HTTP server from the wheel `xllamacpp`, on a GGUF file made from the checkpoint.

The lower half runs inside the engine's own environment: `python -m engines.llamacpp MODEL --port N`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from engines.llamacpp_gguf import FILE_TYPES, converted
from harness.label.dialect import refuse_unknown_options
from harness.label.known import Warnings
from harness.schema import Arithmetic, Deployment, Effective, Evidence, Launch, Sampler, Variant

EXTRAS: dict[str, Any] = {"logprobs": 1}
"""Token ids come only with logprobs."""

SAMPLER = Sampler(
    fields={"repetition_penalty": "repeat_penalty"},
    every_token=0,
    extras={
        "repeat_last_n": 1 << 17,
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
    },
    presence_of="all",
    bans_eos=True,
)
"""By itself it takes top_k 40, top_p 0.95, min_p 0.05 and the temperature last, and looks back 64 tokens; the
documented -1, all of them, is refused by this version."""

HOST = "127.0.0.1"
PACKAGE = "xllamacpp"
ARCHITECTURES = ("Qwen3MoeForCausalLM",)
"""What engines/llamacpp_gguf.py converts."""
KEEPS_NOTHING = True
"""Its prompt cache is off unless a switch says otherwise, so no scenario needs a new start."""

OPTIONS = ("prefix_cache", "speculative", "draft")
"""speculative: ngram or draft_model."""
FORCED_KEYS = {"synth_len": "", "synth_rates": ""}
"""xllamacpp 2026.10.11549, CommonParamsSpeculative: "synthetic speculative acceptance length; -1 disables
it"."""


WARNINGS: Warnings = (
    (
        lambda case: case.is_release_before("2026.4.8929"),
        "ignore_eos is taken and has no effect before llama.cpp b8929 (llama.cpp#21203; seen in xllamacpp "
        "0.2.14 to 2026.4.8672.1): outputs that end early make the row INVALID; take a newer version",
    ),
)


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """This very file in the engine's own environment."""
    return Launch(
        argv=(
            *(deployment.python or "python3", "-m", "engines.llamacpp", deployment.model_path),
            *("--name", deployment.served_model_name, "--port", str(deployment.port)),
            *(("--host", deployment.host) if deployment.host != HOST else ()),
            *_switched(variant, deployment.draft_path),
            *variant.args,
            *deployment.extra_args,
        ),
        env={**variant.env, **deployment.extra_env, "PYTHONPATH": deployment.root},
    )


def _switched(variant: Variant, draft_path: str) -> tuple[str, ...]:
    refuse_unknown_options(variant, OPTIONS)
    words = ["--cache-prompt"] if variant.options.get("prefix_cache") else []
    if method := variant.options.get("speculative"):
        words += ["--speculative", str(method), *(("--draft", draft_path) if draft_path else ())]
    return tuple(words)


def effective(evidence: Evidence) -> Effective:
    """From the line `serving {json}` that this file prints, and the sizes that /v1/models states."""
    said = next((line for line in evidence.log if line.startswith("serving {")), "")
    facts: dict[str, Any] = json.loads(said.removeprefix("serving ")) if said else {}
    dtype, why = _dtype(evidence, facts)
    return Effective(
        engine_version=facts.get("version"),
        tensor_parallel_size=1,
        data_parallel_size=1,
        expert_parallel_size=1,
        all2all="none",
        dtype=dtype,
        quantization=_QUANTISED.get(_ftype(evidence)),
        kv_cache_dtype=_KV.get(facts.get("kv", "")),
        max_model_len=facts.get("max_model_len"),
        max_num_seqs=facts.get("slots"),
        prefix_cache=facts.get("cache_prompt", False),
        load_format="gguf" if facts else None,
        cuda_graphs=False,
        speculative=facts.get("speculative", "none"),
        stream_interval=1,
        device="cpu",
        proof={
            "engine_version": said,
            "dtype": why,
            "prefix_cache": f"cache_prompt={facts.get('cache_prompt', False)} as served",
            "speculative": f"speculative={facts.get('speculative', 'none')} as served",
        },
    )


_FLASH = "; flash attention"
_QUANTISED = {"Q8_0": "q8_0", "Q4_0": "q4_0"}
"""What /v1/models calls quantised tensors: the sums between them are no finer than bfloat16's."""
_KV = {"f32": "float32", "f16": "float16", "q8_0": "q8_0", "q4_0": "q4_0"}


def _dtype(evidence: Evidence, facts: dict[str, Any]) -> tuple[str | None, str]:
    """The coarsest type that takes part: of the loaded tensors, of keys and values, of attention's scores."""
    said = _ftype(evidence)
    names = {"all F32": "float32", "F16": "float16", "BF16": "bfloat16"} | dict.fromkeys(
        _QUANTISED, "bfloat16"
    )
    coarse = {"f16": "float16", "q8_0": "bfloat16", "q4_0": "bfloat16"}
    others = [coarse.get(facts.get("kv", "f32"), "float32"), "float16" if facts.get("flash") else "float32"]
    known = [name for name in (names.get(said), *others) if name]
    if said not in names:
        return None, f"/v1/models: ftype {said}" if said else ""
    order = ("bfloat16", "float16", "float32")
    why = f"/v1/models: ftype {said}; keys and values {facts.get('kv', 'f32')}"
    return min(known, key=order.index), why + (_FLASH if facts.get("flash") else "")


def _ftype(evidence: Evidence) -> str:
    listed = (evidence.models.get("data") or [{}])[0].get("meta") or {}
    return str(listed.get("ftype", ""))


def arithmetic(shown: Effective) -> Arithmetic:
    """What goes into a product is converted to the type of its weights; all else is float32.

    ggml/src/ggml-cpu/ggml-cpu.c, `type_traits_cpu`: `.vec_dot_type` of BF16 is BF16, of F16 F16. Vectors and
    routers are float32 in the files that this file converts; so is attention over float32 keys and values,
    unless it is flash attention.
    """
    flash = _FLASH in shown.proof.get("dtype", "")
    return Arithmetic(products=shown.kv_cache_dtype == "float32" and not flash)


_PER_POSITION = re.compile(r'llamacpp:spec_decode_num_accepted_tokens_per_pos_total\{position="(\d+)"\}')


def counters(metrics: str) -> dict[str, float]:
    """llama.cpp's counters by their canonical names."""
    names = {
        "llamacpp:prompt_tokens_total": "prompt_tokens",
        "llamacpp:tokens_predicted_total": "generation_tokens",
        "llamacpp:spec_decode_num_drafts_total": "drafts",
        "llamacpp:spec_decode_num_draft_tokens_total": "draft_tokens",
        "llamacpp:spec_decode_num_accepted_tokens_total": "accepted_tokens",
    }
    rows = [line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#")]
    positions = ((_PER_POSITION.fullmatch(name), value) for name, value in rows)
    at = {f"accepted_at_{match[1]}": float(value) for match, value in positions if match}
    return {names[name]: float(value) for name, value in rows if name in names} | at


# --- inside the engine's environment ---------------------------------------------------------------


def main() -> None:
    """Convert the checkpoint unless that was done, then serve until the process is ended."""
    import importlib.metadata

    import xllamacpp

    given = arguments().parse_args()
    params = configured(given)
    server = xllamacpp.Server(params)
    facts = {
        "version": importlib.metadata.version("xllamacpp"),
        "max_model_len": given.max_model_len,
        "slots": given.slots,
        "kv": given.kv,
        "flash": given.flash_attention,
        "cache_prompt": given.cache_prompt,
        "speculative": given.speculative,
        "at": getattr(server, "listening_address", f"http://{given.host}:{given.port}"),
    }
    print(f"serving {json.dumps(facts)}", flush=True)
    while True:
        time.sleep(3600)


def arguments() -> argparse.ArgumentParser:
    """What this file is told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--slots", type=int, default=4, help="requests at a time")
    parser.add_argument("--max-model-len", type=int, default=4096, help="tokens per slot")
    parser.add_argument("--weights", choices=FILE_TYPES, default="f32", help="type of the file's tensors")
    parser.add_argument("--kv", choices=_KV, default="f32", help="type of keys and values")
    parser.add_argument("--ubatch", type=int, help="tokens computed at once")
    # On CPU it rounds scores to 16 bits.
    parser.add_argument("--flash-attention", action="store_true")
    parser.add_argument("--cache-prompt", action="store_true", help="prefixes seen before are reused")
    parser.add_argument("--speculative", choices=("none", "ngram", "draft_model"), default="none")
    parser.add_argument("--draft", type=Path, help="checkpoint of the draft model")
    return parser


def configured(given: argparse.Namespace) -> Any:
    """llama.cpp's parameters for the arguments given, the checkpoint converted."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(converted(given.model, given.weights))
    # One name and one address until 2026; several since.
    params.model_alias = given.name if isinstance(params.model_alias, str) else {given.name}
    if hasattr(params, "hostnames"):
        params.hostnames = [given.host]
    else:
        params.hostname = given.host
    params.port = given.port
    params.n_parallel = given.slots
    params.n_ctx = given.slots * given.max_model_len
    params.n_gpu_layers = 0
    if threads := os.environ.get("OMP_NUM_THREADS"):
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.endpoint_metrics = True
    params.ctx_shift = False
    if hasattr(params, "cache_prompt"):
        params.cache_prompt = given.cache_prompt
    speculate(params, given)
    if hasattr(params, "flash_attn_type"):
        kinds = xllamacpp.llama_flash_attn_type
        on, off = kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED, kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = on if given.flash_attention else off
    else:
        params.flash_attn = given.flash_attention
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{given.kv.upper()}")
    if given.ubatch:
        params.n_ubatch = given.ubatch
    return params


def speculate(params: Any, given: argparse.Namespace) -> None:
    """Drafts of up to three tokens by a model, or up to four of what followed the last two before."""
    import xllamacpp

    own = params.speculative
    kinds = xllamacpp.common_speculative_type
    if given.speculative == "draft_model":
        own.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        own.draft.mparams.path = str(converted(given.draft))
        own.draft.n_max, own.draft.n_min, own.draft.p_min = 3, 0, 0.0
        own.draft.n_gpu_layers = 0
        own.draft.cache_type_k = own.draft.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    elif given.speculative == "ngram":
        own.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        own.ngram_simple.size_n, own.ngram_simple.size_m, own.ngram_simple.min_hits = 2, 4, 1


if __name__ == "__main__":
    main()
