"""Prompts that share prefixes, with a controlled share of cache hits.

Params: prefix_len (512), suffix_len (128), output_len (128), num_prefixes (4), hit_share (1.0): the share
of requests that begin with one of the shared prefixes; the others begin with a prefix of their own. An
engine with an ideal prefix cache then hits on expected_hit_share() of all prompt tokens.
"""

from __future__ import annotations

import random

from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, share


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """Seeded; which requests share, and which prefix, is drawn without replacement, so shares are exact."""
    prefix_len, suffix_len = positive(spec, "prefix_len", 512), positive(spec, "suffix_len", 128)
    draw = random.Random(f"shared:{spec.seed}")
    pool = vocabulary.plain_ids
    prefixes = [tuple(draw.choices(pool, k=prefix_len)) for _ in range(_num_prefixes(spec))]
    return tuple(
        Request(
            request_id=f"shared-{i}",
            prompt_token_ids=(
                *(tuple(draw.choices(pool, k=prefix_len)) if which is None else prefixes[which]),
                *draw.choices(pool, k=suffix_len),
            ),
            max_tokens=positive(spec, "output_len", 128),
            seed=spec.seed,
        )
        for i, which in enumerate(assignment(spec))
    )


def assignment(spec: WorkloadSpec) -> list[int | None]:
    """Which shared prefix each request begins with; None = its own."""
    num_sharing = round(share(spec, "hit_share", 1.0) * spec.num_prompts)
    chosen: list[int | None] = [i % _num_prefixes(spec) for i in range(num_sharing)]
    chosen += [None] * (spec.num_prompts - num_sharing)
    random.Random(f"shared-order:{spec.seed}").shuffle(chosen)
    return chosen


def expected_hit_share(spec: WorkloadSpec) -> float:
    """Share of prompt tokens an ideal cache has seen: every use of a shared prefix but its first."""
    used = [which for which in assignment(spec) if which is not None]
    prefix_len, suffix_len = positive(spec, "prefix_len", 512), positive(spec, "suffix_len", 128)
    return (len(used) - len(set(used))) * prefix_len / (spec.num_prompts * (prefix_len + suffix_len))


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """(prefix + suffix, output_len)."""
    input_len = positive(spec, "prefix_len", 512) + positive(spec, "suffix_len", 128)
    return input_len, positive(spec, "output_len", 128)


def _num_prefixes(spec: WorkloadSpec) -> int:
    return positive(spec, "num_prefixes", 4)
