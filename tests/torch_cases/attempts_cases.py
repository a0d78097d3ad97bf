"""Each attempt of the debug notes: what it computes, why it is wrong or right. Prints {case: failure}."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from functools import partial

import torch

from ep_check import attempts
from ep_check.attempts import Sizes, World

EXACT = 1e-5
WRONG = 0.1


def world(*, replicated: bool, num_sets: int = 0) -> World:
    """Eight ranks, 64 tokens each."""
    return attempts.build(Sizes(), replicated=replicated, num_sets=num_sets)


def off(made: World, experts: attempts.Experts, *, all_reduce: bool = False) -> float:
    """Error against the dense answer."""
    return attempts.error(attempts.run(made, experts, all_reduce=all_reduce), attempts.dense(made))


def upstream_is_right() -> None:
    """AITER with a 0/1 mask, Triton with a map, no deduplication: both exact, replicas or not."""
    for replicated in (False, True):
        for experts in (attempts.aiter, attempts.triton):
            assert off(world(replicated=replicated), experts) < EXACT


def mask_slot_is_a_prefix_sum() -> None:
    """Rank 1 owns experts 4..7: AITER's slots for them are 0..3, though the mask says 1 for each."""
    made = world(replicated=False)
    mask = made.mask(1)
    assert (mask.cumsum(0) - mask)[4:8].tolist() == [0, 1, 2, 3]
    assert made.map(1)[4:8].tolist() == [0, 1, 2, 3]
    assert mask[4:8].tolist() == [1, 1, 1, 1]


def value_one_as_index_reads_w1_1() -> None:
    """Every local expert is served by local expert 1: only tokens that chose it alone come out right."""
    made = world(replicated=False)
    assert off(made, attempts.mask_value_as_index) > WRONG
    rows = attempts.dispatch(made, 1)
    got = attempts.mask_value_as_index(rows, made, 1)
    local = rows.ids // made.experts_per_rank == 1
    share = torch.where(local, rows.weights, 0.0).sum(dim=1, keepdim=True)
    torch.testing.assert_close(got, share * made.experts[5] * rows.x)


def attempt_1_topk_ids_merges_different_tokens() -> None:
    """Tokens with equal experts are not equal tokens."""
    made = world(replicated=False, num_sets=16)
    assert off(made, partial(attempts.deduplicated, key=attempts.by_topk_ids)) > WRONG
    rows = attempts.dispatch(made, 0)
    first, _ = attempts.first_rows(attempts.by_topk_ids(rows, made))
    assert len(first) <= 16 < len(rows.x)


def attempt_2_source_removes_no_replica() -> None:
    """Replicas differ in source rank: nothing is removed, and a TP layer's all-reduce adds all eight."""
    made = world(replicated=True)
    rows = attempts.dispatch(made, 0)
    first, _ = attempts.first_rows(attempts.by_source(rows, made))
    assert len(first) == len(rows.x)
    experts = partial(attempts.deduplicated, key=attempts.by_source)
    assert abs(off(made, experts, all_reduce=True) - 7.0) < 1e-3  # eight times too large
    assert off(made, experts) < EXACT  # deduplication was never needed for the result


def attempt_3_local_index_is_right_for_replicas_only() -> None:
    """Merges replicas as meant, but different tokens as soon as ranks hold different ones (DP + EP)."""
    experts = partial(attempts.deduplicated, key=attempts.by_local_index)
    assert off(world(replicated=True), experts) < EXACT
    assert off(world(replicated=True), experts, all_reduce=True) > WRONG
    assert off(world(replicated=False), experts) > WRONG


def attempt_3_stays_garbage_with_the_wrong_index() -> None:
    """Why deduplication could not help: the experts behind it were still the wrong ones."""
    experts = partial(
        attempts.deduplicated, key=attempts.by_local_index, experts=attempts.mask_value_as_index
    )
    assert off(world(replicated=True), experts) > WRONG


def attempt_4_map_faults_in_aiter() -> None:
    """-1 is Triton's word for "not here"; AITER uses it as an address."""
    try:
        off(world(replicated=False), attempts.map_given_to_aiter)
    except attempts.MemoryFaultError:
        return
    raise AssertionError("a map with -1 was accepted")


def attempt_5_local_ids_zero_weights_is_right_but_wasteful() -> None:
    """v6 gives the exact answer where results are not all-reduced; it computes top-k experts per row."""
    assert off(world(replicated=False), attempts.local_ids_zero_weights) < EXACT
    assert abs(off(world(replicated=True), attempts.local_ids_zero_weights, all_reduce=True) - 7.0) < 1e-3
    made = world(replicated=False)
    rows = attempts.dispatch(made, 0)
    needed = int((rows.ids // made.experts_per_rank == 0).sum())
    assert rows.ids.numel() > 2 * needed


def attempt_5_zero_times_infinity() -> None:
    """An expert that overflows on a foreign token turns its zero weight into NaN."""
    made = world(replicated=False)
    made.experts[0] = float("inf")
    rows = attempts.dispatch(made, 0)
    foreign = ~(rows.ids == 0).any(dim=1)
    assert bool(foreign.any())
    assert not bool(torch.isfinite(attempts.local_ids_zero_weights(rows, made, 0)[foreign]).all())
    assert bool(torch.isfinite(attempts.aiter(rows, made, 0)[foreign]).all())


def combine_needs_the_ids_from_before_dispatch() -> None:
    """vLLM 0.24 to 0.31 passed the received ids: tokens fetch from ranks they never visited."""
    made = world(replicated=False)
    assert attempts.error(attempts.combined_with_dispatched_ids(made), attempts.dense(made)) > WRONG


def receive_limit_is_ranks_times_tokens() -> None:
    """The notes' 65536 = 8 x 8192 is ranks x tokens; real arrivals are fewer."""
    made = world(replicated=True)
    arrived = len(attempts.dispatch(made, 0).x)
    assert arrived <= made.size * made.x.shape[1]
    assert arrived % made.size == 0  # eight replicas of each


CASES: tuple[Callable[[], None], ...] = (
    upstream_is_right,
    mask_slot_is_a_prefix_sum,
    value_one_as_index_reads_w1_1,
    attempt_1_topk_ids_merges_different_tokens,
    attempt_2_source_removes_no_replica,
    attempt_3_local_index_is_right_for_replicas_only,
    attempt_3_stays_garbage_with_the_wrong_index,
    attempt_4_map_faults_in_aiter,
    attempt_5_local_ids_zero_weights_is_right_but_wasteful,
    attempt_5_zero_times_infinity,
    combine_needs_the_ids_from_before_dispatch,
    receive_limit_is_ranks_times_tokens,
)


def main() -> None:
    """Run every case."""
    outcome = {}
    for case in CASES:
        try:
            case()
            outcome[case.__name__] = ""
        except Exception:
            outcome[case.__name__] = traceback.format_exc()
    print(json.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
