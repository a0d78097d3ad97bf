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


def test_every_configuration_of_the_documents_is_a_variant_with_all_its_parts() -> None:
    wanted = {
        *("vllm-mori", "vllm-mori-debug", "vllm-mori-trace", "vllm-mori-fork", "vllm-mori-fork-fp8"),
        *("vllm-mori-ll", "vllm-noep", "vllm-allgather", "vllm-ep", "vllm-deepep-ht", "vllm-deepep-ll"),
        *(
            "sglang-tp",
            "sglang-dp",
            "sglang-deepep",
            "sglang-deepep-normal",
            "sglang-mori",
            "sglang-mori-fp8",
        ),
        *("trtllm-nvidia", "trtllm-ep", "trtllm-30k"),
    }
    assert wanted <= set(NAMES)
    recipes = (registry.ROOT / "engines" / "serve.just").read_text()
    for variant in (registry.variant(name) for name in NAMES):
        assert f"\nserve-{variant.name} " in recipes
        assert variant.source and variant.model and variant.version
        assert variant.image or variant.environment
        assert "tensor_parallel_size" in variant.expect
        # A build of April 2025 shows its command line only, so its label claims no more.
        assert "prefix_cache" in variant.expect or variant.version == "main-2e669133"
        sizes = (variant.parallel.tensor, variant.parallel.expert)
        claimed = (variant.expect["tensor_parallel_size"], variant.expect.get("expert_parallel_size", 1))
        assert claimed == sizes, variant.name


def test_no_golden_launch_is_left_over() -> None:
    assert sorted(_golden()) == NAMES
