"""Do two models read and write the same token ids? If not, one cannot score what the other said."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from harness.schema import Model
from harness.tokens import TOKENIZER_FILE

_PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer")
"""What decides which ids a text becomes; padding, truncation and templates do not."""


def difference(variant: Model, reference: Model) -> str:
    """Why the reference cannot score the variant's ids, "" when it can or when either has no files here."""
    ours, theirs = (digest(m.path) for m in (variant, reference))
    if not ours or not theirs or ours == theirs:
        return ""
    return (
        f"the tokenizers differ: {variant.alias} has sha256 {ours[:12]}, the reference's {reference.alias} "
        f"{theirs[:12]}; choose a reference that runs the same model"
    )


@lru_cache(maxsize=32)
def digest(model_path: str) -> str:
    """sha256 over the parts of tokenizer.json that decide ids; "" without a readable one."""
    try:
        content = json.loads((Path(model_path) / TOKENIZER_FILE).read_bytes())
    except (OSError, ValueError):
        return ""
    parts = {name: content.get(name) for name in _PARTS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
