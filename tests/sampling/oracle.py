"""What samplers with a fault say, drawn from the oracle's distributions, and what the reference says of it.

    python -m tests.sampling.oracle FOLDER [NAME ...] [--requests N] [--tokens N]

Runs where torch, transformers and the harness's requirements are: .engines/transformers/bin/python with both
`.` and the site-packages of .venv in PYTHONPATH. FOLDER/<asked>/<fault>.scores.jsonl, as a trial's
scores.jsonl; what is there is kept. NAME: only those of SHOWN. `healthy bfloat16` is drawn from
the model in that precision and read with it, the others from fp32. tests/sampling/power.py makes the table of
docs/SAMPLING.md of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from engines.transformers_oracle import Oracle
from engines.transformers_played import Parts, Precision
from engines.transformers_reading import logits
from engines.transformers_sampling import Before, Choice, Drawn, before, faults, processed
from engines.transformers_views import Asked, View, Viewer
from harness import models, registry
from harness.correctness import replay
from harness.schema import Drawn as Told
from harness.schema import Played, Sampler, Sampling, Scalar, Score, WorkloadSpec
from harness.tokens import Vocabulary
from tests.sabotage.campaign import keep
from tests.sampling.asked import ASKED

_ALWAYS = ("healthy", "healthy bfloat16", "temperature x 0.9")
SHOWN = {
    "t1": (
        *_ALWAYS,
        "top_k 20 slipped in",
        "never ends",
        "same seed for all, gumbel",
        "same seed for all, inverse",
        "generator bent, u^1.1",
        "generator bent, u^1.2",
        "generator of 4 bits",
        "noise of a table of 256",
    ),
    "t0.7-p0.9-k50": (
        *_ALWAYS,
        "temperature x 1.1",
        "top_p ignored",
        "temperature last",
        "same seed for all, gumbel",
        "generator bent, u^1.1",
        "generator bent, u^1.2",
    ),
    "t0.8-rp1.1-pp0.5": (
        *_ALWAYS,
        "repetition penalty twice",
        "penalties ignored",
        "penalties of other tokens",
    ),
}
"""Of each way of sampling, what the power table shows."""
GROUP = 16
"""Requests whose tokens are compared with each other's: a trial's verified sample."""
AT_ONCE = 16
Draw = Callable[[torch.Tensor, int], torch.Tensor]
"""(log p [requests, vocabulary], step) -> a token per request."""


def plain(seed: int) -> Draw:
    """A true sampler."""
    generator = torch.Generator().manual_seed(seed)
    return lambda p, step: torch.multinomial(p.exp(), 1, generator=generator)[:, 0]


def inverse(seed: int, bend: Callable[[torch.Tensor], torch.Tensor]) -> Draw:
    """By the distribution function in the order of ids, of a uniform number that is bent."""
    generator = torch.Generator().manual_seed(seed)

    def draw(p: torch.Tensor, step: int) -> torch.Tensor:
        uniform = bend(torch.rand(len(p), 1, dtype=torch.float64, generator=generator))
        found = torch.searchsorted(p.exp().cumsum(-1), uniform.clamp(max=1 - 1e-12))
        return found[:, 0].clamp(max=p.shape[-1] - 1)

    return draw


def gumbel(seed: int, same: bool, table: int = 0) -> Draw:
    """The largest of log p + Gumbel noise: the same noise for all requests, or a window of a small table."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(table, dtype=torch.float64, generator=generator) if table else torch.zeros(0)

    def draw(p: torch.Tensor, step: int) -> torch.Tensor:
        if table:
            starts = torch.randint(0, table, (len(p), 1), generator=generator)
            uniform = kept[(starts + torch.arange(p.shape[-1])) % table]
        else:
            uniform = torch.rand(1 if same else len(p), p.shape[-1], dtype=torch.float64, generator=generator)
        return (p - torch.log(-torch.log(uniform))).argmax(-1)

    return draw


DRAWS: dict[str, Callable[[int], Draw]] = {
    "same seed for all, gumbel": lambda seed: gumbel(seed, same=True),
    "same seed for all, inverse": lambda seed: inverse(seed, lambda u: u[:1].expand_as(u)),
    "generator bent, u^1.1": lambda seed: inverse(seed, lambda u: u**1.1),
    "generator bent, u^1.2": lambda seed: inverse(seed, lambda u: u**1.2),
    "generator of 4 bits": lambda seed: inverse(seed, lambda u: (u * 16).floor() / 16),
    "noise of a table of 256": lambda seed: gumbel(seed, same=False, table=256),
}


class Scenario(NamedTuple):
    """What is drawn from, how, and in which precision."""

    choice: Choice
    draw: Callable[[int], Draw] = plain
    precision: Precision | None = None


def scenarios(asked: Choice) -> dict[str, Scenario]:
    """By name; each draws from another distribution, or with another generator, than was asked."""
    found = {
        "healthy": Scenario(asked),
        "healthy bfloat16": Scenario(asked, precision=Precision("bfloat16")),
        "never ends": Scenario(msgspec.structs.replace(asked, no_end=True)),
    }
    found |= {name: Scenario(other) for name, other in faults(asked).items()}
    return found | {name: Scenario(asked, draw) for name, draw in DRAWS.items()}


class Work(NamedTuple):
    """Prompts of one length, how long outputs are, and what ends one."""

    prompts: Sequence[Sequence[int]]
    num_tokens: int
    ends: Sequence[int]


def choice_of(sampling: Sampling) -> Choice:
    """As the reference is asked."""
    question = replay.Sample(
        request_id="", prompt_token_ids=(), output_token_ids=(), sampling=sampling, sampler=Sampler()
    )
    return msgspec.convert(replay.question_drawn(question)["choice"], Choice)


@torch.inference_mode()
def said(model: Any, work: Work, choice: Choice, draw: Draw) -> list[list[int]]:
    """An output per prompt, all in step; end tokens end none of them."""
    num_prompt = len(work.prompts[0])
    ids = torch.tensor([list(p) for p in work.prompts])
    out = model.model(input_ids=ids, use_cache=True)
    for step in range(work.num_tokens):
        rows = logits(model, out.last_hidden_state[:, -1])
        earlier = _earlier(ids, num_prompt, rows.shape[-1], choice)
        token = draw(processed(rows, choice, earlier, work.ends), step)[:, None]
        ids = torch.cat([ids, token], 1)
        out = model.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return [row[num_prompt:] for row in ids.tolist()]


def _earlier(ids: torch.Tensor, num_prompt: int, size: int, choice: Choice) -> Before | None:
    if not choice.penalises:
        return None
    rows = [before(row, num_prompt, range(len(row), len(row) + 1), size) for row in ids.tolist()]
    return Before(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def cut(output: list[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The output up to its first end token, and whether it has one."""
    first = next((i for i, token in enumerate(output) if token in ends), None)
    return (output, False) if first is None else (output[: first + 1], True)


def scored(viewer: Viewer, samples: Sequence[replay.Sample], precision: Precision | None) -> list[Score]:
    """What the reference says of each."""
    scores: list[Score] = []
    for first in range(0, len(samples), AT_ONCE):
        batch = samples[first : first + AT_ONCE]
        asked = [
            Asked(
                [*s.prompt_token_ids, *s.output_token_ids],
                len(s.prompt_token_ids),
                1,
                precision,
                drawn=msgspec.convert(replay.question_drawn(s), Drawn),
            )
            for s in batch
        ]
        scores += [_score(s, view) for s, view in zip(batch, viewer.views(asked), strict=True)]
    return scores


def _score(sample: replay.Sample, view: View) -> Score:
    told = msgspec.convert({**view.drawn, "faults": view.drawn_faults}, Told)
    pairs = zip(sample.output_token_ids, sample.beside, strict=True)
    meets = tuple(float(token in others) for token, others in pairs)
    return Score(
        request_id=sample.request_id,
        reference="transformers fp32",
        prompt_token_ids=sample.prompt_token_ids,
        token_ids=sample.output_token_ids,
        logprob=tuple(t.logprob for t in view.tops),
        rank=tuple(t.rank for t in view.tops),
        margin=tuple(0.0 for _ in view.tops),
        emitted_logprob=sample.emitted_logprobs,
        drawn=msgspec.structs.replace(told, meets=meets, ended=sample.ended),
        played=Played(
            precision=str(sample.part),
            logprob=tuple(view.twin_logprob),
            margin=tuple(view.twin_margin),
        )
        if sample.part
        else None,
        retokenised=sample.retokenised,
        sampled=True,
    )


def samples(outputs: Sequence[list[int]], work: Work, sampling: Sampling) -> list[replay.Sample]:
    """As a trial has them, in groups of as many requests as it verifies."""
    found: list[replay.Sample] = []
    for number, (prompt, output) in enumerate(zip(work.prompts, outputs, strict=True)):
        ids, ended = cut(output, work.ends)
        one = replay.Sample(
            request_id=f"r{number}",
            prompt_token_ids=tuple(prompt),
            output_token_ids=tuple(ids),
            sampling=sampling,
            ended=ended,
        )
        found.append(one)
    groups = [found[i : i + GROUP] for i in range(0, len(found), GROUP)]
    return [s for group in groups for s in replay.drawn(group, Sampler())]


def workload(num: int, num_tokens: int, ends: Sequence[int]) -> Work:
    """Cuts of text, 100 tokens each."""
    params: dict[str, Scalar] = {"input_len": 100, "output_len": num_tokens}
    spec = WorkloadSpec(name="text_tokens", num_prompts=num, seed=3, params=params)
    made = registry.workload("text_tokens").requests(spec, Vocabulary(models.resolve("tiny-moe").path))
    return Work([r.prompt_token_ids for r in made], num_tokens, ends)


def main() -> None:
    """Every scenario that FOLDER does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=200)
    given = parser.parse_args()
    oracle = Oracle(str(registry.ROOT / models.resolve("tiny-moe").path), "float32", "cpu")
    viewer, parts = Viewer(oracle), Parts(oracle.model, oracle.path)
    work = workload(given.requests, given.tokens, sorted(oracle.eos))
    for label, sampling in ASKED.items():
        for number, (name, one) in enumerate(scenarios(choice_of(sampling)).items()):
            path = given.folder / label / f"{name}.scores.jsonl"
            if path.exists() or name not in (given.name or SHOWN[label]):
                continue
            began = time.monotonic()
            model = parts.twin(one.precision).model if one.precision else oracle.model
            outputs = said(model, work, one.choice, one.draw(number + 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            keep(path, scored(viewer, samples(outputs, work, sampling), one.precision))
            print(f"{label} {name}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
