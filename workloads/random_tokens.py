"""Exact-length prompts of ids drawn uniformly from the vocabulary, special tokens left out.

Params: input_len (1000), output_len (2000), both in tokens.
"""

from __future__ import annotations

import random

from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts requests; prompt i depends on seed and i only, so a longer run begins with the same."""
    input_len, output_len = longest(spec)
    pool = vocabulary.plain_ids
    return tuple(
        Request(
            request_id=f"random-{i}",
            prompt_token_ids=tuple(random.Random(f"{spec.seed}:{i}").choices(pool, k=input_len)),
            max_tokens=output_len,
            seed=spec.seed,
        )
        for i in range(spec.num_prompts)
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """(input_len, output_len)."""
    return positive(spec, "input_len", 1000), positive(spec, "output_len", 2000)
