"""Which rounding the reference plays, by what an engine attests and what its file says of its kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import store
from harness.correctness.replay import Part
from harness.correctness.verification import part_of
from harness.schema import Arithmetic, Attestation, Effective, Launch

CUT = Arithmetic(kv_rounding="toward zero")
PRODUCTS = Arithmetic(products=True)
NEAREST = Part(dtype="bfloat16", kv_cache_dtype="fp8_e4m3")
F16_FILE = {"dtype": "/v1/models: ftype F16; keys and values f32"}


def played(visit: Path, engine: str, shown: Effective) -> Part | None:
    store.write(visit / "launch.json", Launch(argv=(), engine=engine))
    store.write(visit / "attestation.json", Attestation(effective=shown))
    return part_of(visit)


@pytest.mark.parametrize(
    ("where", "kept", "part", "words"),
    [
        ("vllm cpu", "bfloat16", Part(dtype="bfloat16"), "bfloat16"),
        (
            "vllm cpu",
            "fp8_e4m3",
            Part(dtype="bfloat16", kv_cache_dtype="fp8_e4m3", arithmetic=CUT),
            "bfloat16, keys and values fp8_e4m3 rounded toward zero",
        ),
        ("vllm cuda", "fp8_e4m3", NEAREST, "bfloat16, keys and values fp8_e4m3"),
        ("sglang cpu", "fp8_e4m3", NEAREST, "bfloat16, keys and values fp8_e4m3"),
        ("vllm cpu", "fp8_e5m2", None, "None"),
        (
            "llamacpp cpu",
            "float32",
            Part(dtype="bfloat16", arithmetic=PRODUCTS),
            "bfloat16 of what goes into products",
        ),
        ("llamacpp cpu", "float16", None, "None"),
    ],
)
def test_the_part_is_what_the_kernels_of_that_device_do(
    tmp_path: Path, where: str, kept: str, part: Part | None, words: str
) -> None:
    engine, device = where.split()
    shown = Effective(dtype="bfloat16", device=device, kv_cache_dtype=kept)
    assert played(tmp_path, engine, shown) == part and str(part) == words


def test_flash_attention_rounds_more_than_products_and_is_not_played(tmp_path: Path) -> None:
    shown = Effective(dtype="float16", kv_cache_dtype="float32", proof=F16_FILE)
    assert played(tmp_path, "llamacpp", shown) == Part(dtype="float16", arithmetic=PRODUCTS)
    flash = Effective(
        dtype="float16", kv_cache_dtype="float32", proof={"dtype": F16_FILE["dtype"] + "; flash attention"}
    )
    assert played(tmp_path, "llamacpp", flash) is None
