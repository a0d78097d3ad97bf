"""The reference reads a whole campaign in its own process, many sequences at once, and plays the engines' parts.

    python -m tests.sabotage.reading FOLDER MODEL [--device cuda] [--until FILE]

Runs where torch, transformers and the harness's requirements are. Beside each <part>.requests.jsonl or
<part>.forced.jsonl: <part>.scores.jsonl, what a reference server would have said; where keys and values were
kept in 8 bits, <part>.undeclared.jsonl too, as if nobody had said so. With --until it goes on looking for new
parts until FILE exists.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from engines.transformers_oracle import Oracle
from engines.transformers_played import Precision
from engines.transformers_views import Asked, View, Viewer
from harness import store
from harness.correctness import replay
from harness.schema import Played, Score
from tests.sabotage.campaign import asked, keep
from tests.sabotage.configurations import CONFIGURATIONS

REFERENCE = "transformers fp32"
AT_ONCE = 32
NUM_TOP = 5


def read(viewer: Viewer, samples: Sequence[replay.Sample], part: replay.Part | None) -> list[Score]:
    """Every sample that has an output, in order; with the part's rounding and all named faults."""
    known = [s for s in samples if s.output_token_ids and not s.problem]
    precision = Precision(part.dtype, part.kv_cache_dtype) if part else None
    scores: list[Score] = []
    for first in range(0, len(known), AT_ONCE):
        batch = known[first : first + AT_ONCE]
        questions = [
            Asked(
                [*s.prompt_token_ids, *s.output_token_ids],
                len(s.prompt_token_ids),
                NUM_TOP if s.emitted_top else 1,
                precision,
                part is not None,
            )
            for s in batch
        ]
        scores += [_score(s, view, part) for s, view in zip(batch, viewer.views(questions), strict=True)]
    return scores


def _score(sample: replay.Sample, view: View, part: replay.Part | None) -> Score:
    emitted = sample.emitted_logprobs
    tops = [dict(t.best) | {t.token_id: t.logprob} for t in view.tops]
    return Score(
        request_id=sample.request_id,
        reference=REFERENCE,
        prompt_token_ids=sample.prompt_token_ids,
        token_ids=sample.output_token_ids,
        logprob=tuple(round(t.logprob, 6) for t in view.tops),
        rank=tuple(t.rank for t in view.tops),
        margin=tuple(round(max(t.best[0][1] - t.logprob, 0.0), 6) for t in view.tops),
        emitted_logprob=tuple(round(x, 6) for x in emitted) if emitted else None,
        top_logprobs=tuple({i: round(x, 6) for i, x in row.items()} for row in tops)
        if sample.emitted_top
        else (),
        emitted_top_logprobs=tuple({i: round(x, 6) for i, x in row.items()} for row in sample.emitted_top),
        retokenised=sample.retokenised,
        played=_played(view, part) if part and view.twin_logprob else None,
    )


def _played(view: View, part: replay.Part) -> Played:
    return Played(
        precision=str(part),
        logprob=tuple(round(x, 6) for x in view.twin_logprob),
        margin=tuple(round(x, 6) for x in view.twin_margin),
        faults={name: tuple(round(x, 6) for x in values) for name, values in view.played.items()},
    )


def given(path: Path) -> list[replay.Sample]:
    """The samples of a part; of a forced one, the text with what the engine said of it."""
    if ".requests." in path.name:
        return asked(path)
    said = store.read_lines(path, Score)
    return [
        msgspec.structs.replace(s, emitted_logprobs=score.logprob, problem=score.error)
        for score in said
        for s in replay.samples_of([score])
    ]


def unread(folder: Path) -> list[Path]:
    """Parts without scores."""
    parts = sorted([*folder.glob("*/*.requests.jsonl"), *folder.glob("*/*.forced.jsonl")])
    return [p for p in parts if not _beside(p, "scores").exists()]


def _beside(part: Path, kind: str) -> Path:
    return part.with_name(f"{part.name.rsplit('.', 2)[0]}.{kind}.jsonl")


def main() -> None:
    """Read every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--until", type=Path)
    options = parser.parse_args()
    viewer = Viewer(Oracle(options.model, "float32", options.device))
    parts = {c.name: c.part for c in CONFIGURATIONS}
    while True:
        last = not options.until or options.until.exists()
        for path in unread(options.folder):
            began, samples, part = time.monotonic(), given(path), parts[path.parent.name]
            if part and part.kv_cache_dtype:
                silent = msgspec.structs.replace(part, kv_cache_dtype="")
                keep(_beside(path, "undeclared"), read(viewer, samples, silent))
            keep(_beside(path, "scores"), read(viewer, samples, part))
            print(f"{path.parent.name} {path.name}: {time.monotonic() - began:.1f} s", flush=True)
        if last:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
