"""What llama.cpp shows of its arithmetic: the coarsest type that takes part decides what noise is healthy."""

from __future__ import annotations

import json

import pytest

from engines import llamacpp
from harness import registry
from harness.label import guards
from harness.schema import Evidence, Launch, Model


@pytest.mark.parametrize(
    "ftype, kv, flash, dtype, quantization",
    [
        ("all F32", "f32", False, "float32", None),
        ("all F32", "f16", False, "float16", None),
        ("all F32", "f32", True, "float16", None),
        ("all F32", "q8_0", True, "bfloat16", None),
        ("BF16", "f16", True, "bfloat16", None),
        ("Q8_0", "f32", False, "bfloat16", "q8_0"),
        ("something new", "f32", False, None, None),
    ],
)
def test_the_attested_dtype_is_the_coarsest_that_takes_part(
    ftype: str, kv: str, flash: bool, dtype: str | None, quantization: str | None
) -> None:
    said = json.dumps({"version": "1", "max_model_len": 64, "slots": 4, "kv": kv, "flash": flash})
    models = {"data": [{"meta": {"ftype": ftype}}]}
    shown = llamacpp.effective(Evidence(log=(f"serving {said}",), models=models))
    assert (shown.dtype, shown.quantization) == (dtype, quantization)
    assert shown.kv_cache_dtype == {"f32": "float32", "f16": "float16", "q8_0": "q8_0"}[kv]


@pytest.mark.parametrize(("version", "warned"), [("0.2.14", 1), ("2026.4.8672.1", 1), ("2026.4.8929", 0)])
def test_versions_that_end_where_they_should_not_are_warned_of(version: str, warned: int) -> None:
    variant = registry.variant(f"llamacpp@{version}")
    assert len(guards.warnings(variant, Launch(), Model(alias="m"))) == warned


def test_a_server_of_before_these_settings_is_read_as_it_was() -> None:
    said = json.dumps({"version": "1", "max_model_len": 64, "slots": 4})
    models = {"data": [{"meta": {"ftype": "all F32"}}]}
    shown = llamacpp.effective(Evidence(log=(f"serving {said}",), models=models))
    assert (shown.dtype, shown.kv_cache_dtype) == ("float32", None)
