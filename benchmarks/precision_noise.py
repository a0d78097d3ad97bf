"""How far a healthy model moves when only the precision of its arithmetic does: the floors of the verdicts.

usage: python -m benchmarks.precision_noise MODEL [--device cuda] [--prompts 64] [--prompt-len 128]
           [--output-len 64] [--store FILE]

Runs where torch, transformers, numpy and msgspec are. Greedy outputs of the fp32 model (kept in FILE, taken
from there when it exists) are read by the model in fp32, in fp32 again, in fp32 one sequence at a time, in
TF32 (a CUDA device), bf16 and fp16. At every position each precision chooses its own best token under the
same context; that choice is judged by the first fp32, by the statistics of harness/correctness/divergence.py.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from engines.transformers_oracle import Oracle
from harness.correctness import divergence

NUM_TOP = 5
BATCH = 8
"""Sequences read at once, but for "float32 one by one": other shapes of the same sums."""


class Case(NamedTuple):
    """One way of computing the same model."""

    name: str
    dtype: str
    tf32: bool = False
    batch: int = BATCH


CASES = (
    Case("float32", "float32"),
    Case("float32 again", "float32"),
    Case("float32 one by one", "float32", batch=1),
    Case("tensorfloat32", "float32", tf32=True),
    Case("float16", "float16"),
    Case("bfloat16", "bfloat16"),
)


class Sequences(NamedTuple):
    """Prompts and outputs, token ids, each of one length."""

    prompts: list[list[int]]
    outputs: list[list[int]]


def main() -> None:
    """Measure every precision that the device has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--store", type=Path, help="file of prompts and outputs, made when it is not there")
    given = parser.parse_args()
    began = time.monotonic()
    cases = [c for c in CASES if not c.tf32 or given.device.startswith("cuda")]
    measured: dict[str, dict[str, float]] = {}
    sequences, truth = None, None
    for case, oracle in _loaded(given, cases):
        sequences = sequences or _stored(given, oracle)
        logprobs = _read(oracle, sequences, case.batch)
        truth = logprobs if truth is None else truth
        measured[case.name] = _statistics(logprobs, truth)
        print(f"{case.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    facts = {"model": given.model.name, **_facts(given.device), "tokens": given.prompts * given.output_len}
    print(json.dumps(facts | {"seconds": round(time.monotonic() - began, 1), "cases": measured}, indent=1))


def _loaded(given: argparse.Namespace, cases: list[Case]) -> Iterator[tuple[Case, Oracle]]:
    """Each case with its model; one model of a dtype serves the cases that follow each other."""
    oracle, dtype = None, ""
    for case in cases:
        if case.dtype != dtype:
            oracle = None
            gc.collect()
            oracle, dtype = Oracle(str(given.model), case.dtype, given.device), case.dtype
        assert oracle is not None
        torch.backends.cuda.matmul.allow_tf32 = case.tf32
        yield case, oracle


def _stored(given: argparse.Namespace, oracle: Oracle) -> Sequences:
    """The prompts of the model's held-out text with its own greedy outputs."""
    if given.store and given.store.exists():
        return Sequences(**json.loads(given.store.read_text()))
    text = [token for row in json.loads((given.model / "heldout.json").read_text()) for token in row]
    apart = max((len(text) - given.prompt_len) // given.prompts, 1)
    prompts = [text[i * apart : i * apart + given.prompt_len] for i in range(given.prompts)]
    if len(prompts[-1]) < given.prompt_len:
        sys.exit(
            f"precision_noise: {len(text)} held-out tokens are too few for --prompt-len {given.prompt_len}."
        )
    made = Sequences(prompts, _generated(oracle, prompts, given.output_len))
    if given.store:
        given.store.write_text(json.dumps(made._asdict()))
    return made


@torch.inference_mode()
def _generated(oracle: Oracle, prompts: list[list[int]], output_len: int) -> list[list[int]]:
    """Greedy outputs, all prompts in one batch; an end of text is a token like any other."""
    ids, past, steps = torch.tensor(prompts, device=oracle.device), None, []
    for _ in range(output_len):
        out = oracle.model.model(input_ids=ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        ids = oracle.model.lm_head(out.last_hidden_state[:, -1:]).argmax(-1)
        steps.append(ids)
    outputs: list[list[int]] = torch.cat(steps, 1).tolist()
    return outputs


@torch.inference_mode()
def _read(oracle: Oracle, sequences: Sequences, batch: int) -> torch.Tensor:
    """Logprobs [requests, output positions, vocabulary], `batch` sequences at a time, each in one pass."""
    both = zip(sequences.prompts, sequences.outputs, strict=True)
    ids = torch.tensor([[*prompt, *output][:-1] for prompt, output in both], device=oracle.device)
    length, rows = len(sequences.outputs[0]), []
    for part in ids.split(batch):
        hidden = oracle.model.model(input_ids=part, use_cache=False).last_hidden_state[:, -length:]
        rows.append(torch.log_softmax(oracle.model.lm_head(hidden).float(), -1).cpu())
    return torch.cat(rows)


def _statistics(engine: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """The verdict's statistics of what `engine` would say, under `reference`; means and p99 in nats."""
    num, length, _ = engine.shape
    chosen = engine.argmax(-1, keepdim=True)
    own, judged = engine.gather(-1, chosen).double(), reference.gather(-1, chosen).double()
    pairs = zip(_tops(reference), _tops(engine), strict=True)
    kl, outside = np.array([divergence.shared_kl(theirs, ours) for theirs, ours in pairs]).T
    nothing = np.full(num * length, np.nan)
    tokens = divergence.Tokens(
        request=np.repeat(np.arange(num), length),
        position=np.tile(np.arange(length), num),
        margin=np.minimum(
            (reference.amax(-1).double() - judged[..., 0]).flatten().numpy(), divergence.CAP_NATS
        ),
        abs_dlogprob=(own - judged).abs().flatten().numpy(),
        kl=kl,
        outside=outside,
        rounding=nothing,
        rounding_margin=nothing,
        doubt=-np.expm1(judged.flatten().numpy()),
    )
    noise = divergence.noise(tokens) or 0.0
    sums = divergence.sums(tokens, divergence.outlier_nats(noise))
    return {
        "median_abs_dlogprob": noise,
        "p99_abs_dlogprob": float(np.quantile(tokens.abs_dlogprob, 0.99)),
        "p99_margin": float(np.quantile(tokens.margin, 0.99)),
        **{name: divergence.pooled(values) for name, values in sums.items()},
    }


def _tops(logprobs: torch.Tensor) -> list[dict[int, float]]:
    """Per position the best token ids with their logprobs."""
    values, ids = logprobs.flatten(0, 1).topk(NUM_TOP, dim=-1)
    return [dict(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def _facts(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
    main()
