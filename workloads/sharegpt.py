"""ShareGPT as its users run it: a conversation's first message as prompt, its answer's length as output.

Params: path (required; [{"conversations": [{"from", "value"}, ...]}, ...]), filter (vllm), output_len (0 =
the recorded answer's length), max_input_len, max_total_len, in tokens. Conversations of fewer than two
messages are left out, and as each tool has it in its own bench:
vllm: prompt and answer of 4 tokens or more, prompt up to 1024, both up to 2048, entries in the order of its
seed (vllm/benchmarks/datasets.py, ShareGPTDataset and is_valid_sequence, at 0056b87f);
sglang: 2 tokens or more each, both up to max_total_len, its --sharegpt-context-len, which must be given
(python/sglang/benchmark/datasets/sharegpt.py, at 09716a6e).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, text

SHORTEST = 4
HUB_FILE = "anon8231489123/ShareGPT_Vicuna_unfiltered ShareGPT_V3_unfiltered_cleaned_split.json"
HOW_TO_GET = f"`.venv/bin/hf download --repo-type dataset {HUB_FILE}` fetches it and prints where it lies"
_FILTERS = ("vllm", "sglang")


class Turn(msgspec.Struct):
    """One message."""

    value: str = ""
    from_: str = msgspec.field(default="", name="from")


class Conversation(msgspec.Struct):
    """One entry of the file."""

    conversations: list[Turn] = msgspec.field(default_factory=list)
    conversation: list[Turn] = msgspec.field(default_factory=list)
    id: str | int = ""

    @property
    def turns(self) -> list[Turn]:
        """Its messages, under whichever of the two names the file has them."""
        return self.conversations or self.conversation


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts entries in seeded order, repeated in that order when the file holds fewer that fit."""
    max_input, left = longest(spec)
    shortest = 2 if _filter(spec) == "sglang" else SHORTEST
    fixed = fixed_output(spec)

    def fits(input_len: int, output_len: int) -> bool:
        long_enough = input_len >= shortest and (output_len >= shortest or bool(fixed))
        return long_enough and input_len <= max_input and input_len + output_len <= max_input + left

    entries = read(spec, _path(spec))
    random.Random(spec.seed).shuffle(entries)
    return chosen(spec, vocabulary, entries, fits)


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """(max_input_len, what max_total_len leaves beside it): no request is longer than both together."""
    _path(spec)
    if _filter(spec) == "vllm":
        max_total = positive(spec, "max_total_len", 2048)
        max_input = positive(spec, "max_input_len", min(1024, max_total))
    elif "max_total_len" in spec.params:
        max_total = positive(spec, "max_total_len", 1)
        max_input = positive(spec, "max_input_len", max_total)
    else:
        raise InputError(
            "workload sharegpt: filter=sglang leaves conversations of any length in: give w.max_total_len=, "
            "what its --sharegpt-context-len would be"
        )
    return min(max_input, max_total), max(0, max_total - max_input)


def chosen(
    spec: WorkloadSpec,
    vocabulary: Vocabulary,
    entries: list[Conversation],
    fits: Callable[[int, int], bool],
) -> tuple[Request, ...]:
    """The first num_prompts entries whose input and output length fit. Raises InputError for none."""
    fixed = fixed_output(spec)
    found: list[tuple[tuple[int, ...], int]] = []
    for entry in entries:
        if len(found) == spec.num_prompts:
            break
        prompt = vocabulary.encode(entry.turns[0].value)
        output_len = fixed or vocabulary.count(entry.turns[1].value)
        if fits(len(prompt), output_len):
            found.append((prompt, output_len))
    if not found:
        raise InputError(
            f"workload {spec.label}: no conversation fits its limits: raise max_input_len, max_output_len or "
            "max_total_len"
        )
    return tuple(
        Request(
            request_id=f"{spec.name.replace('_', '-')}-{i}",
            prompt_token_ids=found[i % len(found)][0],
            max_tokens=found[i % len(found)][1],
            seed=spec.seed,
        )
        for i in range(spec.num_prompts)
    )


def read(spec: WorkloadSpec, path: Path) -> list[Conversation]:
    """The file's conversations of two messages and more. Raises InputError."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[Conversation])
    except OSError as error:
        raise InputError(
            f"workload {spec.label}: {path} cannot be read ({error.strerror}): check path="
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"workload {spec.label}: {path} is not ShareGPT JSON ({error}): a list of "
            '{"conversations": [{"from": "human", "value": "..."}, ...]} is expected'
        ) from error
    return [entry for entry in entries if len(entry.turns) >= 2]


def fixed_output(spec: WorkloadSpec) -> int:
    """output_len, where it is given; 0 = the recorded answer's length."""
    return positive(spec, "output_len", 1) if spec.params.get("output_len") else 0


def _filter(spec: WorkloadSpec) -> str:
    word = text(spec, "filter", "vllm")
    if word not in _FILTERS:
        raise InputError(f"workload sharegpt: there is no filter {word!r}; there are: {', '.join(_FILTERS)}")
    return word


def _path(spec: WorkloadSpec) -> Path:
    if not text(spec, "path"):
        raise InputError(
            f"workload sharegpt needs the file: w.path=FILE ({HOW_TO_GET}); without it, sharegpt-lengths has "
            "text of ShareGPT's lengths, sharegpt-sample 18 dialogues of this project's own"
        )
    return Path(text(spec, "path")).expanduser()
