"""The model itself reads a whole campaign, many sequences at once, in float32 and in what engines compute in.

    python -m tests.sabotage.reading FOLDER MODEL [--device cuda] [--until FILE]

Runs where torch, transformers and the harness's requirements are. Beside each <part>.requests.jsonl or
<part>.forced.jsonl: <part>.scores.jsonl (float32, what a reference server would have said) and
<part>.views.jsonl. With --until it goes on looking for new parts until FILE exists.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engines.transformers_oracle import Oracle
from harness import store
from harness.correctness import replay
from harness.schema import Noun, Score
from tests.sabotage.campaign import asked, keep

REFERENCE = "transformers fp32"
TOKENS_AT_ONCE = 24576
NUM_TOP = 5
KV8 = "sdpa_kv8"
Rows = list[list[float]]


class View(Noun):
    """How one precision sees an output: one entry per token, nats."""

    logprob: tuple[float, ...]
    margin: tuple[float, ...]
    """float32's best logprob - float32's logprob of what this precision would have chosen."""
    kl: tuple[float, ...]
    """Kullback-Leibler divergence of this precision from float32, whole vocabulary."""


class Views(Noun):
    """One request in every precision."""

    request_id: str
    entropy: tuple[float, ...]
    """Of float32's distribution, nats."""
    views: dict[str, View]


class Case(NamedTuple):
    """A precision: the model's dtype, and whether keys and values are rounded to 8 bits (e4m3)."""

    name: str
    dtype: str
    attention: str = "sdpa"


CASES = (
    Case("float32", "float32"),
    Case("bfloat16", "bfloat16"),
    Case("bfloat16 kv fp8_e4m3", "bfloat16", KV8),
    Case("float16", "float16"),
)


def _rounded(module: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
    """Attention over keys and values as an FP8 cache without scales holds them."""
    key, value = (x.to(torch.float8_e4m3fn).to(x.dtype) for x in (key, value))
    return sdpa_attention_forward(module, query, key, value, *rest, **named)


AttentionInterface.register(KV8, _rounded)
AttentionMaskInterface.register(KV8, sdpa_mask)


class Reader:
    """The model in every dtype of CASES on one device."""

    def __init__(self, model: str, device: str) -> None:
        self.oracles = {
            dtype: Oracle(model, dtype, device) for dtype in dict.fromkeys(c.dtype for c in CASES)
        }

    @torch.inference_mode()
    def logprobs(self, case: Case, batch: Sequence[replay.Sample]) -> torch.Tensor:
        """[output tokens of all samples, vocabulary], float32.

        Rows are padded behind their end, which nothing before it sees.
        """
        oracle = self.oracles[case.dtype]
        rows = [[*s.prompt_token_ids, *s.output_token_ids][:-1] for s in batch]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=oracle.device)
        with _attention(oracle.model, case.attention):
            hidden = oracle.model.model(input_ids=ids, use_cache=False).last_hidden_state
        said = [
            h[len(s.prompt_token_ids) - 1 : len(row)] for h, s, row in zip(hidden, batch, rows, strict=True)
        ]
        return torch.log_softmax(oracle.model.lm_head(torch.cat(said)).float(), -1)


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    before, model.config._attn_implementation = model.config._attn_implementation, name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def read(reader: Reader, samples: Sequence[replay.Sample]) -> Iterator[tuple[Score, Views]]:
    """Every sample that has an output, in order."""
    known = [s for s in samples if s.output_token_ids and not s.problem]
    for batch in batches(known):
        truth = reader.logprobs(CASES[0], batch)
        targets = torch.tensor([i for s in batch for i in s.output_token_ids], device=truth.device)[:, None]
        own, best = truth.gather(1, targets)[:, 0], truth.topk(NUM_TOP, 1)
        probabilities = truth.exp()
        columns = {
            "logprob": own,
            "rank": (truth > own[:, None]).sum(1) + 1,
            "margin": best.values[:, 0] - own,
            "entropy": -(probabilities * truth).nan_to_num().sum(1),
            "top": best.values,
            "ids": best.indices,
        }
        for case in CASES[1:]:
            seen = reader.logprobs(case, batch)
            chosen = truth.gather(1, seen.argmax(1, keepdim=True))[:, 0]
            columns[f"logprob {case.name}"] = seen.gather(1, targets)[:, 0]
            columns[f"margin {case.name}"] = best.values[:, 0] - chosen
            columns[f"kl {case.name}"] = (probabilities * (truth - seen)).nan_to_num().sum(1)
        yield from _nouns(batch, {name: _listed(column) for name, column in columns.items()})


def batches(samples: Sequence[replay.Sample]) -> Iterator[list[replay.Sample]]:
    """Neighbours, TOKENS_AT_ONCE together with their padding."""
    batch: list[replay.Sample] = []
    for sample in samples:
        longest = max(len(s.prompt_token_ids) + len(s.output_token_ids) for s in (*batch, sample))
        if batch and longest * (len(batch) + 1) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _listed(column: torch.Tensor) -> list[Any]:
    """Numbers to a millionth of a nat: finer is another batch's noise, and does not compress."""
    return column.double().round(decimals=6).tolist() if column.is_floating_point() else column.tolist()


def _nouns(batch: Sequence[replay.Sample], columns: dict[str, list[Any]]) -> Iterator[tuple[Score, Views]]:
    first = 0
    for sample in batch:
        last = first + len(sample.output_token_ids)
        cut = {name: tuple(column[first:last]) for name, column in columns.items()}
        yield _score(sample, cut), _views(sample, cut)
        first = last


def _score(sample: replay.Sample, cut: dict[str, tuple[Any, ...]]) -> Score:
    emitted = sample.emitted_logprobs
    own = zip(sample.output_token_ids, cut["logprob"], cut["ids"], cut["top"], strict=True)
    return Score(
        request_id=sample.request_id,
        reference=REFERENCE,
        prompt_token_ids=sample.prompt_token_ids,
        token_ids=sample.output_token_ids,
        logprob=cut["logprob"],
        rank=cut["rank"],
        margin=cut["margin"],
        emitted_logprob=tuple(round(x, 6) for x in emitted) if emitted else None,
        top_logprobs=tuple(dict(zip(ids, top, strict=True)) | {i: x} for i, x, ids, top in own)
        if sample.emitted_top
        else (),
        emitted_top_logprobs=tuple({i: round(x, 6) for i, x in row.items()} for row in sample.emitted_top),
        retokenised=sample.retokenised,
    )


def _views(sample: replay.Sample, cut: dict[str, tuple[Any, ...]]) -> Views:
    return Views(
        request_id=sample.request_id,
        entropy=cut["entropy"],
        views={
            c.name: View(
                logprob=cut[f"logprob {c.name}"], margin=cut[f"margin {c.name}"], kl=cut[f"kl {c.name}"]
            )
            for c in CASES[1:]
        },
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
    return [p for p in parts if not _beside(p, "views").exists()]


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
    reader = Reader(options.model, options.device)
    while True:
        last = not options.until or options.until.exists()
        for part in unread(options.folder):
            began = time.monotonic()
            both = list(read(reader, given(part)))
            keep(_beside(part, "scores"), [score for score, _ in both])
            keep(_beside(part, "views"), [views for _, views in both])
            print(f"{part.parent.name} {part.name}: {time.monotonic() - began:.1f} s", flush=True)
        if last:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
