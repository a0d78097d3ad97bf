"""Sampled output judged: an oracle of known distributions is drawn from truly and with faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from harness.correctness import agreement, replay, retokenise
from harness.schema import Drawn, Request, RequestRecord, Sampler, Sampling, Score

Floats = npt.NDArray[np.float64]
SIZE, TOKENS, REQUESTS, END = 64, 200, 16, 0
Draw = Callable[[Floats, np.random.Generator, int], int]


def plain(p: Floats, random: np.random.Generator, step: int) -> int:
    return int(random.choice(SIZE, p=p))


def flatter(p: Floats, random: np.random.Generator, step: int) -> int:
    hot = p ** (1 / 0.8)
    return plain(hot / hot.sum(), random, step)


def shared(p: Floats, random: np.random.Generator, step: int) -> int:
    noise = np.random.default_rng(step).gumbel(size=SIZE)
    with np.errstate(divide="ignore"):
        return int((np.log(p) + noise).argmax())


def mirrored(p: Floats, random: np.random.Generator, step: int) -> int:
    uniform = np.random.default_rng(step).random()
    return int(min(np.searchsorted(p.cumsum(), uniform), SIZE - 1))


def bent(p: Floats, random: np.random.Generator, step: int) -> int:
    return int(min(np.searchsorted(p.cumsum(), random.random() ** 1.2), SIZE - 1))


def late(p: Floats, random: np.random.Generator, step: int) -> int:
    return flatter(p, random, step) if step >= 128 else plain(p, random, step)


def score(number: int, draw: Draw, beside: list[set[int]], *, may_end: bool = False) -> Score:
    """An output of TOKENS draws from peaked distributions, with what an oracle says of it."""
    random = np.random.default_rng(number)
    columns: dict[str, list[float]] = {name: [] for name in Drawn.__struct_fields__[:12]}
    ids: list[int] = []
    for step in range(TOKENS):
        p = random.dirichlet(np.full(SIZE, 0.1))
        p[END] = 0.01
        p /= p.sum()
        token = draw(p, random, step)
        ids.append(token)
        surprise = -np.log(np.maximum(p, 1e-300))
        entropy = float((p * surprise).sum())
        higher, by_id = float(p[p > p[token]].sum()), p.cumsum()
        values = {
            "logprob": -surprise[token],
            "entropy": entropy,
            "variance": float((p * surprise**2).sum()) - entropy**2,
            "beyond": float(p[token] < 1e-12),
            "cubes": float((p**3).sum()),
            "low": higher,
            "high": higher + p[token],
            "low_by_id": by_id[token] - p[token],
            "high_by_id": by_id[token],
            "end": p[END],
            "met": sum(p[i] for i in beside[step]),
            "meets": float(token in beside[step]),
        }
        for name, value in values.items():
            columns[name].append(float(value))
        if token == END and may_end:
            break
    for step, token in enumerate(ids):
        beside[step].add(token)
    told: dict[str, Any] = {name: tuple(values) for name, values in columns.items()}
    return Score(
        request_id=f"r{number}",
        reference="oracle",
        token_ids=tuple(ids),
        logprob=told["logprob"],
        rank=(1,) * len(ids),
        margin=(3.0,) * len(ids),
        drawn=Drawn(**told, ended=ids[-1] == END if may_end else None),
        sampled=True,
    )


def judged(draw: Draw, first: int = 0, *, may_end: bool = False) -> agreement.Agreement:
    beside: list[set[int]] = [set() for _ in range(TOKENS)]
    scores = [score(first + n, draw, beside, may_end=may_end) for n in range(REQUESTS)]
    return agreement.judge(scores, ())


@pytest.mark.parametrize("first", range(0, 160, 16))
def test_a_true_sampler_passes_whatever_its_margins(first: int) -> None:
    found = judged(plain, first, may_end=first % 32 == 0)
    assert (found.verdict, found.reason) == ("PASS", "")
    assert found.token_match is None and found.mean_margin is None


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (flatter, "surprise: tokens are likelier than drawn ones"),
        (shared, "they share their randomness"),
        (mirrored, "places, by id, of requests at the same position go together"),
        (bent, "uniformity, by id"),
        (bent, "as if the random generator were bent to low numbers (by id)"),
        (late, "surprise at 128-255"),
    ],
)
def test_a_fault_is_found_and_told(draw: Draw, told: str) -> None:
    found = judged(draw)
    assert found.verdict == "FAIL" and told in found.reason


def test_an_output_that_never_ends_is_found_by_its_end_tokens_probabilities() -> None:
    def endless(p: Floats, random: np.random.Generator, step: int) -> int:
        return plain(np.where(np.arange(SIZE) == END, 0, p) / (1 - p[END]), random, step)

    found = judged(endless, may_end=True)
    assert found.verdict == "FAIL" and "0 of 16 outputs ended by themselves" in found.reason


def test_restarts_that_repeat_their_seed_are_no_further_evidence() -> None:
    beside: list[set[int]] = [set() for _ in range(TOKENS)]
    scores = [score(n, plain, beside) for n in range(REQUESTS)]
    again = [_with(s, token_ids=(*s.token_ids[:-1], 63)) for s in scores]
    assert agreement.judge([*scores, *again], ()).sampler == agreement.judge(scores, ()).sampler


def test_tokens_that_nothing_leaves_are_counted_and_a_reference_without_distributions_says_so() -> None:
    beside: list[set[int]] = [set() for _ in range(TOKENS)]
    scores = [score(n, plain, beside) for n in range(REQUESTS)]
    assert agreement.judge(scores, ()).sampler["beyond"] == 0
    ruled_out = np.zeros(TOKENS)
    ruled_out[:4] = 1
    told = [_with(s, beyond=tuple(ruled_out)) for s in scores]
    found = agreement.judge(told, ())
    assert found.verdict == "FAIL" and "64 of 3200 tokens are none that" in found.reason
    unknown = [_with(s, drawn=None) for s in scores]
    blind = agreement.judge(unknown, ())
    assert blind.verdict == "CANNOT TELL" and "nothing could be compared" in blind.reason
    assert "could not say what the tokens were drawn from" in blind.power


def _with(score: Score, **changes: Any) -> Score:
    if "beyond" in changes and score.drawn:
        changes = {"drawn": msgspec.structs.replace(score.drawn, **changes)}
    return msgspec.structs.replace(score, **changes)


def test_each_sample_is_told_what_those_before_it_said_and_reshaped_logprobs_are_not_compared() -> None:
    def sample(ids: tuple[int, ...], sampling: Sampling) -> replay.Sample:
        return replay.Sample(
            request_id="r",
            prompt_token_ids=(1,),
            output_token_ids=ids,
            sampling=sampling,
            emitted_logprobs=(-1.0,) * len(ids),
        )

    after = Sampler(raw_logprobs=False, bans_eos=True)
    first, second = replay.drawn([sample((5, 6), Sampling(top_p=0.9)), sample((7, 6, 8), Sampling())], after)
    assert first.beside == ((), ()) and second.beside == ((5,), (6,), ())
    assert first.no_end and first.emitted_logprobs
    (hot,) = replay.drawn([sample((5,), Sampling(temperature=0.5))], after)
    assert hot.emitted_logprobs is None
    question = replay.question_drawn(second)
    assert question["choice"]["no_end"] and question["beside"] == ((5,), (6,), ())


def test_ids_with_a_gap_are_not_judged_for_what_stands_behind_it_has_another_context() -> None:
    request = Request(request_id="r", prompt_token_ids=(1,), max_tokens=4)
    record = RequestRecord(request_id="r", usage=True, output_len=4, output_token_ids=(5, 6, 7, 8))
    nobody: Any = None
    assert retokenise.sample(request, record, nobody).output_token_ids == (5, 6, 7, 8)
    gap = msgspec.structs.replace(record, output_token_ids=(5, 7, 8))
    assert "gave 3 ids for 4 tokens" in retokenise.sample(request, gap, nobody).problem
