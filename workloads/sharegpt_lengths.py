"""Text with ShareGPT's lengths, for machines without the file: prompts cut from the text of text_tokens.

Lengths are drawn, input and output independently (their correlation there is 0.01), from the first turns of
openchat_sharegpt4 as published with Sarathi-Serve (OSDI '24; microsoft/sarathi-serve at 72339db5,
data/processed_traces/sharegpt_8k_filtered_stats_llama2_tokenizer.csv, Llama 2's tokenizer), after vLLM's
filter (4 tokens or more, prompt up to 1024, both up to 2048): 5,316 conversations, 136 tokens in and 472 out
on average. A row whose prompt is shorter than the conversation before it begins a conversation. These are
answers of GPT-4: longer than those of the ShareGPT file that benches download. Params: max_input_len (1024)
and max_output_len (1024), which cut the distribution off.
"""

from __future__ import annotations

import random
from itertools import accumulate

import numpy as np

from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive
from workloads import text_tokens

PERCENTS = (0, 1, 2.5, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 97.5, 99, 100)
INPUT_LENS = (
    4, 7, 9, 11, 15, 19, 22, 26, 31, 42, 58, 84, 121, 154, 201, 262, 381, 574, 763, 901, 1024,
)  # fmt: skip
OUTPUT_LENS = (
    4, 12, 24, 41, 70, 109, 178, 250, 311, 394, 473, 556, 633, 682, 739, 806, 868, 935, 967, 1002, 1024,
)  # fmt: skip


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts requests with seeded lengths, each a cut of the text of its own."""
    max_input, max_output = longest(spec)
    draw = random.Random(f"sharegpt-lengths:{spec.seed}")
    lengths = [
        (_drawn(draw, INPUT_LENS, max_input), _drawn(draw, OUTPUT_LENS, max_output))
        for _ in range(spec.num_prompts)
    ]
    pool = text_tokens.pool(spec, vocabulary, sum(input_len for input_len, _ in lengths))
    starts = accumulate((input_len for input_len, _ in lengths), initial=0)
    return tuple(
        Request(
            request_id=f"sharegpt-lengths-{i}",
            prompt_token_ids=tuple(pool[(start + j) % len(pool)] for j in range(input_len)),
            max_tokens=output_len,
            seed=spec.seed,
        )
        for i, (start, (input_len, output_len)) in enumerate(zip(starts, lengths, strict=False))
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """The limits: (max_input_len, max_output_len)."""
    return positive(spec, "max_input_len", INPUT_LENS[-1]), positive(spec, "max_output_len", OUTPUT_LENS[-1])


def _drawn(draw: random.Random, knots: tuple[int, ...], limit: int) -> int:
    """A length by the inverse of the distribution, linear between its percentiles, none above `limit`."""
    most = float(np.interp(limit, knots, PERCENTS))
    return max(1, min(limit, round(float(np.interp(draw.uniform(0, most), PERCENTS, knots)))))
