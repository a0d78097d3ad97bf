"""Do two models read and write the same token ids? If not, one cannot score what the other said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from harness.schema import Model
from harness.tokens import TOKENIZER_FILE, Vocabulary

_PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer")
"""What decides which ids a text becomes; padding, truncation and templates do not."""
_MOST_AROUND = 2
"""Tokens that a server puts around a text: begin, end."""


def difference(variant: Model, reference: Model) -> str:
    """Why the reference cannot score the variant's ids, "" when it can or when either has no files here."""
    ours, theirs = (digest(m.path) for m in (variant, reference))
    if not ours or not theirs or ours == theirs:
        return ""
    return (
        f"the tokenizers differ: {variant.alias} has sha256 {ours[:12]}, the reference's {reference.alias} "
        f"{theirs[:12]}; choose a reference that runs the same model"
    )


def counts_alike(stated: Sequence[int], texts: Sequence[str], folder: str) -> bool:
    """Whether a server counts these texts as the tokenizer of `folder` does.

    The same number more of each may be tokens that it puts before or behind every prompt. Raises ModelError
    where that tokenizer cannot be read.
    """
    vocabulary = Vocabulary(folder)
    more = {there - vocabulary.count(text) for there, text in zip(stated, texts, strict=False)}
    return len(stated) == len(texts) and len(more) == 1 and more <= set(range(_MOST_AROUND + 1))


@lru_cache(maxsize=32)
def digest(model_path: str) -> str:
    """sha256 over the parts of tokenizer.json that decide ids; "" without a readable one."""
    try:
        content = json.loads((Path(model_path) / TOKENIZER_FILE).read_bytes())
    except (OSError, ValueError):
        return ""
    parts = {name: content.get(name) for name in _PARTS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
