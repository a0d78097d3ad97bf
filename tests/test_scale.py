"""A layout on another number of GPUs claims, and expects, that number everywhere."""

from __future__ import annotations

import pytest

from harness import registry
from harness.errors import InputError
from harness.label import scale


def test_every_eight_becomes_two() -> None:
    variant = registry.variant("vllm-cuda-dp-ep-x2")
    assert (variant.parallel.tensor, variant.parallel.data, variant.parallel.expert) == (1, 2, 2)
    assert variant.parallel.num_gpus == 2
    assert variant.expect["data_parallel_size"] == variant.expect["expert_parallel_size"] == 2
    assert variant.expect["tensor_parallel_size"] == 1
    assert variant.expect["all2all"] == "allgather_reducescatter"
    assert variant.name == "vllm-cuda-dp-ep-x2"


def test_on_one_gpu_nothing_is_parallel() -> None:
    variant = registry.variant("vllm-cuda-tp-x1")
    assert variant.parallel.num_gpus == 1 and variant.parallel.expert == 1
    assert variant.expect["tensor_parallel_size"] == variant.expect["expert_parallel_size"] == 1


@pytest.mark.parametrize("name", ["vllm-cuda-tp-x0", "nosuch-x2", "vllm-cuda-tp-x"])
def test_other_names_are_no_scaled_ones(name: str) -> None:
    with pytest.raises(InputError, match="There is no variant"):
        registry.variant(name)


def test_parse() -> None:
    assert scale.parse("a-b-x16") == ("a-b", 16)
    assert scale.parse("a-b") is None
