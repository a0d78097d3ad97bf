"""The precision floors' script on the real tiny MoE: fp32 agrees with itself, coarser dtypes move it."""

import json
import subprocess

import pytest

from harness import registry
from harness.host import engine_env


@pytest.mark.engine
def test_each_precision_moves_the_model_by_its_own_noise() -> None:
    python = engine_env.ensure("transformers", registry.ROOT, print)
    argv = [str(python), "-m", "benchmarks.precision_noise", "models/tiny-moe", "--device", "cpu"]
    sizes = ["--prompts", "8", "--prompt-len", "48", "--output-len", "24"]
    done = subprocess.run(
        argv + sizes, capture_output=True, text=True, check=True, cwd=registry.ROOT, timeout=250
    )
    found = json.loads(done.stdout)
    moved = {name: case["mean_abs_dlogprob"] for name, case in found["cases"].items()}
    assert found["tokens"] == 8 * 24 and "tensorfloat32" not in moved
    assert moved["float32"] == moved["float32 again"] == 0
    assert moved["float32 one by one"] < 1e-5 < moved["float16"] < moved["bfloat16"] < 0.05
