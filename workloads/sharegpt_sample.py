"""18 short dialogues of this project's own writing, in ShareGPT's form, for machines without the file.

They are no benchmark: use `sharegpt` with the real file, or `sharegpt-lengths`. Params: max_input_len (1024),
max_output_len (1024), output_len (0 = the recorded answer's length), in tokens. Runs that call it "sharegpt"
and name no file are of the time when this was its name.
"""

from __future__ import annotations

import random
from pathlib import Path

from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive
from workloads import sharegpt

FILE = Path(__file__).parent / "sharegpt_sample.json"


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts seeded entries, repeated in the same order when more are asked for than fit the limits."""
    max_input, max_output = longest(spec)
    fixed = sharegpt.fixed_output(spec)
    entries = sharegpt.read(spec, FILE)
    random.Random(f"sharegpt:{spec.seed}").shuffle(entries)

    def fits(input_len: int, output_len: int) -> bool:
        shortest = min(sharegpt.SHORTEST, fixed or sharegpt.SHORTEST)
        return sharegpt.SHORTEST <= input_len <= max_input and shortest <= output_len <= max_output

    return sharegpt.chosen(spec, vocabulary, entries, fits)


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """The limits: (max_input_len, max_output_len)."""
    max_output = positive(spec, "max_output_len", 1024)
    return positive(spec, "max_input_len", 1024), sharegpt.fixed_output(spec) or max_output
