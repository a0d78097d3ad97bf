"""Exact-length prompts cut from real text: the source of Python's own library, encoded by the model.

Random ids put a small trained model far from anything it has seen; text keeps its logits peaked, so
agreement between engines means something. Params: input_len (128), output_len (64), in tokens.
"""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive

_READ_BYTES = 60_000


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """Request i is a cut at a seeded place of a seeded module; none repeats unless the text runs out."""
    input_len, output_len = longest(spec)
    draw = random.Random(f"text:{spec.seed}")
    text = _drawn(draw, vocabulary, spec.num_prompts * input_len)
    if len(text) <= input_len:
        raise InputError(
            f"workload {spec.name}: input_len={input_len} exceeds the {len(text)} tokens of text at hand: "
            "use workload random_tokens for prompts this long"
        )
    cuts = len(text) // input_len
    places = draw.sample(range(cuts), min(cuts, spec.num_prompts))
    places += draw.choices(range(cuts), k=spec.num_prompts - len(places))
    return tuple(
        Request(
            request_id=f"text-{i}",
            prompt_token_ids=tuple(text[place * input_len : (place + 1) * input_len]),
            max_tokens=output_len,
            seed=spec.seed,
        )
        for i, place in enumerate(places)
    )


def pool(spec: WorkloadSpec, vocabulary: Vocabulary, num_tokens: int) -> list[int]:
    """Token ids of seeded text, four times as many as asked for where there are."""
    return _drawn(random.Random(f"text:{spec.seed}"), vocabulary, num_tokens)


def _drawn(draw: random.Random, vocabulary: Vocabulary, num_tokens: int) -> list[int]:
    modules = list(_sources())
    draw.shuffle(modules)
    text: list[int] = []
    for module in modules:
        if len(text) >= 4 * num_tokens:
            break
        text.extend(vocabulary.encode(module.read_text("utf-8", "replace")[:_READ_BYTES]))
    return text


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """(input_len, output_len)."""
    return positive(spec, "input_len", 128), positive(spec, "output_len", 64)


def _sources() -> tuple[Path, ...]:
    """The library's top-level modules: present, and the same, wherever this Python version is installed."""
    return tuple(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))
