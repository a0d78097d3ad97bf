"""Teacher-forced replay: the reference scores, in one pass per request, the very tokens that were timed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import requests

from harness.client.body import authorization
from harness.correctness.scoring_dialects import Dialect, dialect_of
from harness.errors import AttestationError
from harness.schema import MAX_TOP, Arithmetic, Drawn, Noun, Played, Sampler, Sampling, Score

CONCURRENCY = 4
"""Requests in flight at a reference that does not say how many it likes."""


class Part(Noun):
    """What the reference is to play beside itself: the precision of the engine that said the tokens."""

    dtype: str
    kv_cache_dtype: str = ""
    """"" = that of the activations."""
    arithmetic: Arithmetic = Arithmetic()

    def __str__(self) -> str:
        """In words."""
        own = self.arithmetic
        where = " of what goes into products" if own.products else ""
        kept = f", keys and values {self.kv_cache_dtype}" if self.kv_cache_dtype else ""
        return f"{self.dtype}{where}{kept}" + (f" rounded {own.kv_rounding}" if own.kv_rounding else "")


class Sample(Noun):
    """One timed request's token ids, and the engine's own logprobs of its output where it gave them."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    output_token_ids: tuple[int, ...]
    emitted_logprobs: tuple[float, ...] | None = None
    emitted_top: tuple[dict[int, float], ...] = ()
    """Per token, the engine's best token ids with their logprobs; () when it was not asked for them."""
    retokenised: bool = False
    """The ids were made from text by us, because the engine gave none."""
    problem: str = ""
    """Why it cannot be replayed, "" when it can."""
    part: Part | None = None
    """None where nothing is known to play, or enough has been played."""
    sampling: Sampling | None = None
    """How the tokens were to be chosen; None = greedily."""
    sampler: Sampler = Sampler()
    """What is known of the sampler that chose them."""
    no_end: bool = False
    """End tokens were made impossible."""
    ended: bool | None = None
    """Whether the output ended by itself; None where it was not to."""
    beside: tuple[tuple[int, ...], ...] = ()
    """Per output token, what samples before this one said at the same position."""


class ReplayOptions(Noun):
    """How the reference is asked. `top_k` = 1 alternative per position gives rank 1 and the margin."""

    reference: str = ""
    """Name written into every Score: the reference variant."""
    top_k: int = 1
    concurrency: int = CONCURRENCY
    timeout_s: float = 600.0
    api_key_env: str = ""
    """Name of the variable that holds the reference's API key."""


_DEFAULTS = ReplayOptions()


def score(
    base_url: str,
    engine_module: Any,
    model: str,
    samples: Sequence[Sample],
    options: ReplayOptions = _DEFAULTS,
) -> list[Score]:
    """One Score per sample, in order; base_url is the running reference, `model` its served name.

    A request the reference does not answer (unreachable, out of memory, too long) is a Score with `error`;
    once the reference is gone the remaining ones are not tried. Raises AttestationError when it answers but
    without logprobs, and InputError when its engine cannot score: both mean the reference is the wrong one.
    """
    asker = _Asker(base_url.rstrip("/"), model, dialect_of(engine_module), options)
    first: dict[object, Sample] = {}
    for sample in samples:
        first.setdefault(_question(sample), sample)
    with ThreadPoolExecutor(max_workers=max(options.concurrency, 1)) as pool:
        answers = dict(zip(first, pool.map(asker.score, first.values()), strict=True))
    return [_shared(answers[_question(sample)], sample) for sample in samples]


def _question(sample: Sample) -> object:
    """What the answer depends on: restarts that said the same tokens ask the same."""
    tops = tuple(len(row) for row in sample.emitted_top)
    drawn = (sample.sampling, sample.sampler.order, sample.no_end, sample.beside) if sample.sampling else ()
    return sample.prompt_token_ids, sample.output_token_ids, tops, sample.part, sample.problem, str(drawn)


def _shared(answer: Score, sample: Sample) -> Score:
    """An answer to the same question, beside the sample's own logprobs."""
    return msgspec.structs.replace(
        answer,
        request_id=sample.request_id,
        emitted_logprob=sample.emitted_logprobs,
        emitted_top_logprobs=sample.emitted_top,
        retokenised=sample.retokenised,
    )


def unscored(samples: Sequence[Sample], cause: str, reference: str = "") -> list[Score]:
    """Scores that say why there are none; they keep the ids, so a later `verify` can replay them."""
    return [_score(s, reference, error=cause) for s in samples]


def samples_of(scores: Sequence[Score]) -> list[Sample]:
    """The samples that stored scores were made from, to replay them through another reference."""
    return [
        Sample(
            request_id=s.request_id,
            prompt_token_ids=s.prompt_token_ids,
            output_token_ids=s.token_ids,
            emitted_logprobs=s.emitted_logprob,
            emitted_top=s.emitted_top_logprobs,
            retokenised=s.retokenised,
        )
        for s in scores
    ]


def _score(sample: Sample, reference: str, error: str = "", **forced: Any) -> Score:
    return Score(
        request_id=sample.request_id,
        reference=reference,
        prompt_token_ids=sample.prompt_token_ids,
        token_ids=sample.output_token_ids,
        logprob=forced.get("logprob", ()),
        rank=forced.get("rank", ()),
        margin=forced.get("margin", ()),
        emitted_logprob=sample.emitted_logprobs,
        top_logprobs=forced.get("top", ()) if sample.emitted_top else (),
        played=_named(forced.get("played"), sample.part),
        drawn=_met(forced.get("drawn"), sample),
        sampled=sample.sampling is not None,
        emitted_top_logprobs=sample.emitted_top,
        retokenised=sample.retokenised,
        error=error,
    )


def _named(played: Played | None, part: Part | None) -> Played | None:
    return msgspec.structs.replace(played, precision=str(part)) if played and part else None


def _met(drawn: Drawn | None, sample: Sample) -> Drawn | None:
    """With what the request itself knows: whether its tokens are others' too, and whether it ended."""
    if drawn is None:
        return None
    pairs = zip(sample.output_token_ids, sample.beside, strict=bool(sample.beside))
    meets = tuple(float(token in others) for token, others in pairs)
    return msgspec.structs.replace(drawn, meets=meets, ended=sample.ended)


def drawn(samples: Sequence[Sample], sampler: Sampler) -> list[Sample]:
    """The samples of a trial with what is known of its engine's sampler, and beside each what came before."""
    said: list[set[int]] = []
    found = []
    for sample in samples:
        ids = sample.output_token_ids
        said += [set() for _ in range(len(ids) - len(said))]
        raw = sampler.raw_logprobs or not _reshaped(sample.sampling)
        found.append(
            msgspec.structs.replace(
                sample,
                sampler=sampler,
                no_end=sampler.bans_eos and sample.ended is None,
                beside=tuple(tuple(sorted(before)) for before in said[: len(ids)]),
                emitted_logprobs=sample.emitted_logprobs if raw else None,
                emitted_top=sample.emitted_top if raw else (),
            )
        )
        for before, token in zip(said, ids, strict=False):
            before.add(token)
    return found


def _reshaped(sampling: Sampling | None) -> bool:
    """Whether logprobs after penalties and temperature are others than the model's."""
    return sampling is not None and sampling != Sampling(
        top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p, seed=sampling.seed
    )


def question_drawn(sample: Sample) -> dict[str, Any]:
    """prompt_logprobs_drawn of a sampled sample: what its tokens were to be drawn from."""
    assert sample.sampling is not None
    asked, sampler = msgspec.to_builtins(sample.sampling), sample.sampler
    seed = asked.pop("seed", None)
    choice = {
        **asked,
        "order": sampler.order,
        "joint": sampler.joint,
        "repetition_of": sampler.repetition_of,
        "presence_of": sampler.presence_of,
        "no_end": sample.no_end,
    }
    return {"choice": choice, "beside": sample.beside, "seed": seed, "noise": sampler.noise}


class _Asker:
    """Asks one reference; remembers that it is gone: a dead one costs one timeout, not one per request."""

    def __init__(self, base_url: str, model: str, dialect: Dialect, options: ReplayOptions) -> None:
        self.base_url, self.model, self.dialect, self.options = base_url, model, dialect, options
        self.gone = ""

    def score(self, sample: Sample) -> Score:
        """The reference's view of one sample, or a Score that says why there is none."""
        reference = self.options.reference
        if sample.problem or not sample.output_token_ids:
            return _score(sample, reference, error=sample.problem or "no output tokens")
        if self.gone:
            return _score(sample, reference, error=self.gone)
        try:
            response = self._post(sample)
        except requests.RequestException as e:
            self.gone = f"reference unreachable in mid-verification: {type(e).__name__}"
            return _score(sample, reference, error=self.gone)
        if isinstance(response, str):
            return _score(sample, reference, error=response)
        forced = self.dialect.scored(response, sample.prompt_token_ids, sample.output_token_ids)
        return _score(sample, reference, **forced._asdict())

    def _post(self, sample: Sample) -> dict[str, Any] | str:
        """The parsed answer, or a sentence about the error it answered with."""
        top_k = max([self.options.top_k, *(min(len(row), MAX_TOP) for row in sample.emitted_top)])
        path, body = self.dialect.scoring(sample.prompt_token_ids, sample.output_token_ids, self.model, top_k)
        if sample.part and self.dialect.plays:
            body["prompt_logprobs_played"] = {
                "dtype": sample.part.dtype,
                "kv_cache_dtype": sample.part.kv_cache_dtype,
                **msgspec.structs.asdict(sample.part.arithmetic),
                "faults": True,
            }
        if sample.sampling and self.dialect.plays:
            body["prompt_logprobs_drawn"] = question_drawn(sample)
        key = authorization(self.options.api_key_env)
        with requests.post(
            self.base_url + path, json=body, headers=key, timeout=self.options.timeout_s
        ) as answer:
            if answer.status_code != 200:
                return f"reference answered HTTP {answer.status_code}: {answer.text[:300]}"
            try:
                parsed: dict[str, Any] = answer.json()
            except requests.JSONDecodeError as e:
                raise AttestationError(f"the reference's answer to {path} is not JSON ({e})") from e
            return parsed
