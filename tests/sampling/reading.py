"""The reference reads what tests/sampling/engines.py collected.

    python -m tests.sampling.reading FOLDER

Runs where tests/sampling/oracle.py does. Beside each <part>.requests.jsonl: <part>.scores.jsonl.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from engines.transformers_oracle import Oracle
from engines.transformers_played import Precision
from engines.transformers_views import Viewer
from harness import models, registry, store
from harness.correctness import replay, retokenise
from harness.schema import Request, RequestRecord, Sampler
from harness.tokens import Vocabulary
from tests.sabotage.campaign import keep
from tests.sampling.oracle import scored


def samples(path: Path, vocabulary: Vocabulary) -> list[replay.Sample]:
    """Of FOLDER/<variant>/<part>.requests.jsonl, as a run has them."""
    variant = registry.variant(path.parent.name)
    prompts = store.read_lines(path.with_name(path.name.replace(".requests.", ".prompts.")), Request)
    records = store.read_lines(path, RequestRecord)
    pairs = [retokenise.sample(q, r, vocabulary) for q, r in zip(prompts, records, strict=True)]
    sampler = getattr(registry.engine(variant.engine), "SAMPLER", Sampler())
    return [s for s in replay.drawn(pairs, sampler) if not s.problem and s.output_token_ids]


def main(folder: str) -> None:
    """Every part without scores."""
    model = models.resolve("tiny-moe")
    viewer = Viewer(Oracle(str(registry.ROOT / model.path), "float32", "cpu"))
    for path in sorted(Path(folder).glob("*/*.requests.jsonl")):
        scores = path.with_name(path.name.replace(".requests.", ".scores."))
        if scores.exists():
            continue
        began = time.monotonic()
        dtype = str(registry.variant(path.parent.name).expect.get("dtype", "float32"))
        precision = None if dtype == "float32" else Precision(dtype)
        ready = samples(path, Vocabulary(model.path))
        part = replay.Part(dtype=dtype) if precision else None
        ready = [msgspec.structs.replace(s, part=part) for s in ready]
        keep(scores, scored(viewer, ready, precision))
        print(f"{path.parent.name} {path.name}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
