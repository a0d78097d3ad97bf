"""Items of next_word and which_word: cuts of the licence texts of the running environment's packages.

Imported by lm-evaluation-harness in its own environment; the same there for every variant of a run.
"""

from __future__ import annotations

import random
import re
import sysconfig
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

NUM_ITEMS = 200
NUM_WORDS = 48
"""Words before the one that is asked for."""


def dataset(**options: Any) -> DatasetDict:
    """test: NUM_ITEMS of {text, word, others}, no two texts alike; `others`: three that do not follow."""
    draw = random.Random("next_word")
    packages = Path(sysconfig.get_paths()["purelib"])
    items: dict[str, str] = {}
    for path in sorted(packages.glob("*.dist-info/**/LICENSE*")):
        words = re.split(r"(?<=\s)(?=\S)", path.read_text("utf-8", "replace")) if path.is_file() else []
        for start in range(0, len(words) - NUM_WORDS - 1, NUM_WORDS):
            text, word = "".join(words[start : start + NUM_WORDS]), words[start + NUM_WORDS].strip()
            if word.isalpha() and text.isascii():
                items.setdefault(text.rstrip(), word)
    chosen = draw.sample(sorted(items), min(NUM_ITEMS, len(items)))
    words = sorted(set(items.values()))
    rows = [
        {"text": t, "word": items[t], "others": [w for w in draw.sample(words, 4) if w != items[t]][:3]}
        for t in chosen
    ]
    return DatasetDict({"test": Dataset.from_list(rows)})
