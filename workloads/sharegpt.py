"""Conversations as people have them: first human turn as prompt, the recorded answer's length as output.

Reads the ShareGPT JSON that users have ([{id, conversations: [{from, value}, ...]}, ...]). Params: path
(default: a small sample of our own writing), max_input_len (1024), max_output_len (1024), output_len (0 =
the recorded answer's length), in tokens. Entries outside the limits are left out, as the field does.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, text

SAMPLE = Path(__file__).parent / "sharegpt_sample.json"
_SHORTEST = 4


class Turn(msgspec.Struct):
    """One message."""

    value: str = ""
    from_: str = msgspec.field(default="", name="from")


class Conversation(msgspec.Struct):
    """One entry of the file."""

    conversations: list[Turn] = msgspec.field(default_factory=list)
    id: str | int = ""


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts seeded entries, repeated in the same order when the file holds fewer."""
    max_input, max_output = longest(spec)
    entries = [c for c in _read(spec) if len(c.conversations) >= 2 and c.conversations[0].value]
    random.Random(f"sharegpt:{spec.seed}").shuffle(entries)
    fixed = positive(spec, "output_len", 1) if "output_len" in spec.params else 0
    chosen: list[tuple[tuple[int, ...], int]] = []
    for entry in entries:
        if len(chosen) == spec.num_prompts:
            break
        prompt = vocabulary.encode(entry.conversations[0].value)
        output_len = fixed or vocabulary.count(entry.conversations[1].value)
        if (
            _SHORTEST <= len(prompt) <= max_input
            and min(_SHORTEST, fixed or _SHORTEST) <= output_len <= max_output
        ):
            chosen.append((prompt, output_len))
    if not chosen:
        raise InputError(
            f"workload sharegpt: no conversation fits {max_input} + {max_output} tokens: raise max_input_len "
            "or max_output_len"
        )
    return tuple(
        Request(
            request_id=f"sharegpt-{i}",
            prompt_token_ids=chosen[i % len(chosen)][0],
            max_tokens=chosen[i % len(chosen)][1],
            seed=spec.seed,
        )
        for i in range(spec.num_prompts)
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """The limits: (max_input_len, max_output_len)."""
    max_output = positive(spec, "max_output_len", 1024)
    fixed = positive(spec, "output_len", 1) if "output_len" in spec.params else max_output
    return positive(spec, "max_input_len", 1024), max(fixed, 1)


def _read(spec: WorkloadSpec) -> list[Conversation]:
    path = Path(text(spec, "path") or SAMPLE)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Conversation])
    except OSError as error:
        raise InputError(
            f"workload sharegpt: {path} cannot be read ({error.strerror}): check path="
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"workload sharegpt: {path} is not ShareGPT JSON ({error}): a list of "
            '{"conversations": [{"from": "human", "value": "..."}, ...]} is expected'
        ) from error
