"""Every variant's command, environment and files, as reviewed. UPDATE_GOLDEN=1 rewrites the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from tests.launching import render

GOLDEN = Path(__file__).parent / "golden" / "launches.json"
NAMES = sorted(v.name for v in registry.variants().values() if v.engine in ("vllm", "sglang", "trtllm"))


def _shown(name: str) -> dict[str, Any]:
    launch = render(name)
    shown = {"argv": " ".join(launch.argv), "env": dict(sorted(launch.env.items()))}
    if launch.files:
        shown |= {"files": {path: json.loads(text) for path, text in launch.files.items()}}
    return shown


def _golden() -> dict[str, Any]:
    if os.environ.get("UPDATE_GOLDEN"):
        text = json.dumps({name: _shown(name) for name in NAMES}, indent=1, sort_keys=True)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    golden: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return golden


@pytest.mark.parametrize("name", NAMES)
def test_launch_is_the_reviewed_one(name: str) -> None:
    assert _shown(name) == _golden().get(name)


def test_no_golden_launch_is_left_over() -> None:
    assert sorted(_golden()) == NAMES
