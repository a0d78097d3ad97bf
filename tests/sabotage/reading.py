"""The reference reads a whole campaign in its own process, many sequences at once, in the engines' parts too.

    python -m tests.sabotage.reading FOLDER MODEL [--device cuda] [--until FILE] [--faults NUM]

Runs where torch, transformers and the harness's requirements are. Beside each <part>.requests.jsonl or
<part>.forced.jsonl: <part>.scores.jsonl, what a reference server would have said; where keys and values were
kept in 8 bits, <part>.undeclared.jsonl too, as if nobody had said so. With --until it goes on looking for new
parts until FILE exists. --faults plays the named faults on so many requests of a part only: they take four of
the six passes. Text that several engines were given is read once.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
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
PARTS = {c.name: c.part for c in CONFIGURATIONS}


class Reading:
    """What the reference thinks of samples; of text that was given, it is remembered."""

    def __init__(self, viewer: Viewer, num_faults: int) -> None:
        self._viewer, self._num_faults = viewer, num_faults
        self._given: dict[tuple[object, ...], View] = {}

    def scores(self, samples: Sequence[replay.Sample], part: replay.Part | None) -> list[Score]:
        """Every sample with an output, in order; with the part's rounding, the first with named faults."""
        known = [s for s in samples if s.output_token_ids and not s.problem]
        scores: list[Score] = []
        for first in range(0, len(known), AT_ONCE):
            batch = known[first : first + AT_ONCE]
            asked = [self._asked(s, part, first + i < self._num_faults) for i, s in enumerate(batch)]
            scores += [_score(s, view, part) for s, view in zip(batch, self._views(asked), strict=True)]
        return scores

    def _asked(self, sample: replay.Sample, part: replay.Part | None, faults: bool) -> Asked:
        return Asked(
            [*sample.prompt_token_ids, *sample.output_token_ids],
            len(sample.prompt_token_ids),
            NUM_TOP if sample.emitted_top else 1,
            precision(part) if part else None,
            part is not None and faults,
        )

    def _views(self, asked: list[Asked]) -> list[View]:
        keys = [(tuple(a.ids), *a[1:]) for a in asked]
        new = [i for i, key in enumerate(keys) if key not in self._given]
        found = dict(zip(new, self._viewer.views([asked[i] for i in new]), strict=True)) if new else {}
        self._given |= {keys[i]: view for i, view in found.items() if asked[i].first == 1}
        return [found[i] if i in found else self._given[key] for i, key in enumerate(keys)]


def precision(part: replay.Part) -> Precision:
    """As the reference's server takes it from a request."""
    own = part.arithmetic
    return Precision(part.dtype, part.kv_cache_dtype, own.kv_rounding, own.products)


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


def keep_scores(reading: Reading, path: Path) -> None:
    """Read one part and write what came of it beside it."""
    part, samples = PARTS[path.parent.name], given(path)
    if part and part.kv_cache_dtype:
        silent = replay.Part(dtype=part.dtype)
        keep(_beside(path, "undeclared"), reading.scores(samples, silent))
    keep(_beside(path, "scores"), reading.scores(samples, part))


def main() -> None:
    """Read every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--until", type=Path)
    parser.add_argument("--faults", type=int, default=sys.maxsize)
    options = parser.parse_args()
    reading = Reading(Viewer(Oracle(options.model, "float32", options.device)), options.faults)
    failed: set[Path] = set()
    while True:
        last = not options.until or options.until.exists()
        for path in (p for p in unread(options.folder) if p not in failed):
            began = time.monotonic()
            try:
                keep_scores(reading, path)
            except Exception:  # one part's fault is not the campaign's
                failed.add(path)
                traceback.print_exc()
            print(f"{path.parent.name} {path.name}: {time.monotonic() - began:.1f} s", flush=True)
        if last:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
