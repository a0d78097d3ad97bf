"""What must not be measured, and what is known to go wrong: checked on the rendered launch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

from harness import launchers
from harness.errors import ModelError
from harness.label.dialect import is_branch, since
from harness.schema import Launch, Model, Variant

DUMMY_LABEL = "dummy-weights"

_DUMMY_FLAGS = {"--load-format": "dummy", "--ep-dispatch-algorithm": "fake"}
_SIMULATION_ENV = re.compile(r"VLLM_MOE_ROUTING_SIMULATION_STRATEGY|SGLANG_SIMULATE_\w+")
_OFF = ("", "0", "-1", "false", "no", "off", "none")


def check(
    variant: Variant, launch: Launch, model: Model, *, allow_dummy: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(warnings, labels) for a rendered launch.

    Raises ModelError when a mixture-of-experts model would run on dummy weights or simulated routing:
    random gates spread tokens as no trained router does, so its speed says nothing.
    """
    fakes = tuple(_fakes(launch, launchers.of(launch).environment(launch)))
    if fakes and model.moe is not None and not allow_dummy:
        raise ModelError(
            f"{variant.name} would run {model.alias} with {', '.join(fakes)}, but it is a mixture of "
            "experts: without its trained router tokens spread over experts as they never do, and the "
            "numbers mean nothing; use the real weights, or set allow_dummy_moe=true to measure anyway, "
            f"labelled {DUMMY_LABEL}."
        )
    return warnings(variant, launch, model), (DUMMY_LABEL,) if fakes else ()


def _fakes(launch: Launch, environment: Mapping[str, str]) -> Iterator[str]:
    """Every spelling of dummy weights or simulated routing in arguments, environment and option files."""
    for flag, value in _flags(launch.argv):
        if flag in _DUMMY_FLAGS and value.lower() == _DUMMY_FLAGS[flag]:
            yield f"{flag} {value}"
        if flag in ("--set", "-O") and re.fullmatch(r"load_format\s*[=:]\s*dummy", value):
            yield f"{flag} {value}"
    for name, value in environment.items():
        if _SIMULATION_ENV.fullmatch(name) and value.lower() not in _OFF:
            yield f"{name}={value}"
    for path, content in launch.files.items():
        if _load_format(content).lower() == "dummy":
            yield f"load_format: dummy (in {path})"


def _flags(argv: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(flag, value) of each word: `--flag value` and `--flag=value`, underscores read as dashes."""
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            yield re.sub(r"(?<!^)(?<!^-)_", "-", flag), value if equals else following


def _load_format(content: str) -> str:
    """The load_format of an options file; JSON, or any YAML that has it on a line of its own."""
    try:
        options = json.loads(content)
    except ValueError:
        match = re.search(r"^\s*[\"']?load_format[\"']?\s*:\s*[\"']?(\w+)", content, re.MULTILINE)
        return match[1] if match else ""
    return str(options.get("load_format", "")) if isinstance(options, dict) else ""


# --- known-broken combinations -----------------------------------------------------------------


def warnings(variant: Variant, launch: Launch, model: Model) -> tuple[str, ...]:
    """Known-broken combinations this launch is one of, each with what to do."""
    case = _Case(variant, dict(_flags(launch.argv)), launch, model)
    return tuple(text for broken, text in _KNOWN if broken(case))


class _Case(NamedTuple):
    """What a combination may depend on."""

    variant: Variant
    flags: dict[str, str]
    """Flag -> value of the command line."""
    launch: Launch
    model: Model

    def is_release_before(self, first: str) -> bool:
        """An upstream release older than `first`; of a fork's branch nothing is known."""
        return not is_branch(self.variant.version) and not since(self.variant.version, first)


def _mori_before_032(case: _Case) -> bool:
    mori = case.flags.get("--all2all-backend", "").startswith("mori")
    return case.variant.engine == "vllm" and mori and not since(case.variant.version, "0.32")


def _all2all_without_data_parallelism(case: _Case) -> bool:
    return (
        case.variant.engine == "vllm"
        and not is_branch(case.variant.version)
        and "--all2all-backend" in case.flags
        and _size(case.flags, "--data-parallel-size", "-dp") < 2
    )


def _size(flags: Mapping[str, str], *names: str) -> int:
    """A parallel size of the command line; 1 where it is not said, or is no number (parsers say so)."""
    said = next((flags[name] for name in names if name in flags), "1")
    return int(said) if said.isdigit() else 1


def _aiter_mask_before_028(case: _Case) -> bool:
    return (
        case.variant.engine == "vllm"
        and case.launch.env.get("VLLM_ROCM_USE_AITER") == "1"
        and case.variant.parallel.expert > 1
        and case.is_release_before("0.28")
    )


def _fp8_kv_on_old_rocm(case: _Case) -> bool:
    return (
        case.variant.engine == "vllm"
        and case.variant.accelerator == "rocm"
        and case.flags.get("--kv-cache-dtype", "").startswith("fp8")
        and case.is_release_before("0.32")
    )


def _compile_with_dp_attention(case: _Case) -> bool:
    attention_dp = "--enable-dp-attention" in case.flags or _size(case.flags, "--attn-dp-size") > 1
    return case.variant.engine == "sglang" and attention_dp and "--enable-torch-compile" in case.flags


def _routed_experts_without_prefix_cache(case: _Case) -> bool:
    return (
        case.variant.engine == "vllm"
        and "--enable-return-routed-experts" in case.flags
        and "--no-enable-prefix-caching" in case.flags
        and since(case.variant.version, "0.31")
    )


def _tied_qwen3_moe(case: _Case) -> bool:
    tied = case.model.tied_embeddings and case.model.architecture == "Qwen3MoeForCausalLM"
    return case.variant.engine == "sglang" and tied


def _sglang_mori_beyond_deepseek(case: _Case) -> bool:
    mori = case.variant.engine == "sglang" and case.flags.get("--moe-a2a-backend") == "mori"
    return mori and bool(case.model.architecture) and not case.model.architecture.startswith("Deepseek")


def _other_revision(case: _Case) -> bool:
    pinned, loaded = case.model.revision, case.model.loaded_revision
    return bool(pinned and loaded) and loaded != pinned


def _stream_interval(case: _Case) -> bool:
    return case.flags.get("--stream-interval", "1") != "1"


_KNOWN: tuple[tuple[Callable[[_Case], bool], str], ...] = (
    (
        _mori_before_032,
        "MORI on vLLM before 0.32.0 combines with the wrong routing tensor: text goes bad, worst at EP32 "
        "(vllm PR #52639); use 0.32.0 or newer",
    ),
    (
        _all2all_without_data_parallelism,
        "vLLM builds no all2all manager without data parallelism: the --all2all-backend flag is inert "
        "(TP8 with a MORI flag runs without MORI); use --tensor-parallel-size 1 --data-parallel-size 8",
    ),
    (
        _aiter_mask_before_028,
        "vLLM before 0.28.0 hands AITER's expert mask to other MoE kernels under expert parallelism: garbled "
        "text (vllm PR #49758); use 0.28.0 or newer",
    ),
    (
        _fp8_kv_on_old_rocm,
        "FP8 KV of DeepSeek on ROCm before vLLM 0.32.0 may allocate about 64 GiB at the start or fault "
        "during graph capture (vllm PR #57923, #47276); use 0.32.0, or --kv-cache-dtype auto",
    ),
    (
        _compile_with_dp_attention,
        "torch compile and DP attention fail together in SGLang (sglang #4747); drop --enable-torch-compile",
    ),
    (
        _routed_experts_without_prefix_cache,
        "--enable-return-routed-experts needs prefix caching since vLLM 0.31 and is refused without; capture "
        "routing in a launch of its own",
    ),
    (
        _tied_qwen3_moe,
        "SGLang 0.5.23 ignores tie_word_embeddings of qwen3_moe: it answers 200 with uniform logits; save "
        "the checkpoint untied",
    ),
    (
        _sglang_mori_beyond_deepseek,
        "MORI in SGLang is only right for model files that ask for it (DeepSeek); others lost their accuracy "
        "(sglang #32039); look at the agreement before the speed",
    ),
    (
        _other_revision,
        "the weights on this machine are of another revision than models.toml pins: the variants of one run "
        "share them, runs of the pinned revision are not comparable; `hf download ID --revision REVISION` "
        "gets those",
    ),
    (
        _stream_interval,
        "--stream-interval other than 1 sends several tokens a chunk: inter-token latencies are of chunks",
    ),
)


# --- shapes ------------------------------------------------------------------------------------


def holds(variant: Variant, model: Model, input_len: int, output_len: int) -> str:
    """Why a request of this shape does not fit the variant; "" when it does. Lengths in tokens."""
    total = input_len + output_len
    if variant.max_model_len and total > variant.max_model_len:
        return f"{total} tokens exceed {variant.name}'s max_model_len {variant.max_model_len}"
    if model.max_model_len and total > model.max_model_len:
        return f"{total} tokens exceed {model.alias}'s {model.max_model_len}"
    return _one_pass(variant, input_len)


def _one_pass(variant: Variant, input_len: int) -> str:
    """TensorRT-LLM takes a whole prompt in one pass unless prefill is chunked (#3058)."""
    limit = int(variant.options.get("max_num_tokens", 0)) if variant.engine == "trtllm" else 0
    chunked = bool(variant.options.get("enable_chunked_prefill"))
    if limit and input_len > limit and not chunked:
        return f"a prompt of {input_len} tokens exceeds {variant.name}'s max_num_tokens {limit} in one pass"
    return ""
