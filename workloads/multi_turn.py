"""Conversations: each turn carries all before it, the engine's own answers included.

Params: turns (3), first_len (256) tokens of the first turn, turn_len (64) of each later one, output_len
(128). num_prompts counts requests, so there are num_prompts / turns conversations; a last one may be
shorter. Prompts are token ids, which needs an engine that returns the ids of its answers. Since the
answers are the engine's own, later turns are of equal length on every engine but not of equal content.
"""

from __future__ import annotations

import random

from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """All first turns, then all second turns, and so on; turns of one conversation share `session`."""
    turns = positive(spec, "turns", 3)
    conversations = -(-spec.num_prompts // turns)
    made = [
        _turn(spec, vocabulary, conversation, turn)
        for turn in range(turns)
        for conversation in range(conversations)
    ]
    return tuple(made[: spec.num_prompts])


def _turn(spec: WorkloadSpec, vocabulary: Vocabulary, conversation: int, turn: int) -> Request:
    length = positive(spec, "turn_len", 64) if turn else positive(spec, "first_len", 256)
    draw = random.Random(f"turn:{spec.seed}:{conversation}:{turn}")
    return Request(
        request_id=f"talk-{conversation}-{turn}",
        prompt_token_ids=tuple(draw.choices(vocabulary.plain_ids, k=length)),
        max_tokens=positive(spec, "output_len", 128),
        seed=spec.seed,
        session=f"talk-{conversation}",
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """Input and output of the last turn."""
    later = positive(spec, "turns", 3) - 1
    output_len = positive(spec, "output_len", 128)
    turn_len = positive(spec, "turn_len", 64)
    return positive(spec, "first_len", 256) + later * (turn_len + output_len), output_len


def expected_hit_share(spec: WorkloadSpec) -> float:
    """Share of prompt tokens an ideal cache has seen: of each later turn, all but its own new tokens."""
    turn_len, output_len = positive(spec, "turn_len", 64), positive(spec, "output_len", 128)
    first_len, turns = positive(spec, "first_len", 256), positive(spec, "turns", 3)
    conversations = -(-spec.num_prompts // turns)
    read = seen = 0
    for number in range(spec.num_prompts):
        turn = number // conversations
        length = first_len + turn * (turn_len + output_len)
        read += length
        seen += length - turn_len if turn else 0
    return seen / read
