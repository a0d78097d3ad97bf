"""Combinations of vLLM's settings that are known to go wrong, each with what to do."""

from __future__ import annotations

from harness.label.dialect import is_branch, since
from harness.label.known import Case, Warnings


def _mori_before_032(case: Case) -> bool:
    mori = case.flags.get("--all2all-backend", "").startswith("mori")
    return mori and not since(case.variant.version, "0.32")


def _all2all_without_data_parallelism(case: Case) -> bool:
    upstream = not is_branch(case.variant.version)
    return upstream and "--all2all-backend" in case.flags and case.size("--data-parallel-size", "-dp") < 2


def _removed_all2all(case: Case) -> bool:
    removed = case.flags.get("--all2all-backend", "") in ("pplx", "naive")
    return removed and since(case.variant.version, "0.32")


def _aiter_mask_before_028(case: Case) -> bool:
    aiter = case.launch.env.get("VLLM_ROCM_USE_AITER") == "1" and case.variant.parallel.expert > 1
    return aiter and case.is_release_before("0.28")


def _fp8_kv_on_old_rocm(case: Case) -> bool:
    fp8 = case.flags.get("--kv-cache-dtype", "").startswith("fp8")
    return fp8 and case.variant.accelerator == "rocm" and case.is_release_before("0.32")


def _routed_experts_without_prefix_cache(case: Case) -> bool:
    asked = "--enable-return-routed-experts" in case.flags and "--no-enable-prefix-caching" in case.flags
    return asked and since(case.variant.version, "0.31")


WARNINGS: Warnings = (
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
        _removed_all2all,
        "vLLM has taken the all2all backends pplx and naive out and runs allgather_reducescatter instead "
        "(config/parallel.py of 0.32.0); use variant sglang-pplx, or deepep_low_latency",
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
        _routed_experts_without_prefix_cache,
        "--enable-return-routed-experts needs prefix caching since vLLM 0.31 and is refused without; capture "
        "routing in a launch of its own",
    ),
)
