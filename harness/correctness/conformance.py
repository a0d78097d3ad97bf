"""Pre-flight: does this endpoint keep the promises that the measurement rests on?

A dozen small requests before the timed part. A promise that is not kept does not stop the run: it is a point
with its consequence, shown beside the numbers. The list follows what vendor verifiers check (exact prompt
counts, parameters honoured, bad ones refused) and the faults that engines have really shown.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec
import requests

from harness import client
from harness.client import acceptance
from harness.client.acceptance import PROMPT_IDS
from harness.client.body import Target, authorization, body, path, patience, url_parts
from harness.correctness.promises import Point
from harness.errors import LaunchError
from harness.schema import Load, Prompts, Request, RequestRecord

NUM_TOKENS = 16
TIMEOUT_S = 120.0
_ERROR_EVENT = "an error event"
_REFUSING = frozenset({_ERROR_EVENT, *(f"HTTP {status}" for status in range(400, 500))})
_FIRST_BYTES = 200


def preflight(target: Target, *, harsh: bool = False, way: Prompts = "ids") -> tuple[Point, ...]:
    """All points, in a fixed order. A request that fails is found in the points that needed it.

    Raises LaunchError of a server that leaves two questions in a row without an end: it would every other.
    `harsh`: send also a token id beyond the vocabulary, of which a GPU engine may die. Of prompts that go as
    text or messages no length is known, and only a completion is stopped by a string that its text has.
    """
    probe = _Probe(target, way)
    streamed, again = _twice(probe)
    whole = probe.record(msgspec.structs.replace(target, stream=False))
    with_logprobs = probe.record(logprobs=True)
    exact = (_prompt_len(streamed),) if way == "ids" else ()
    return (
        _completes(streamed, way),
        *exact,
        _output_len(streamed),
        _usage(streamed),
        _token_ids(streamed),
        _logprobs(with_logprobs),
        _chunks(streamed),
        _same("stream equals whole answer", streamed, whole, "the streamed text is not what the model said"),
        _same("greedy output repeats", streamed, again, "agreement must allow for run-to-run noise"),
        probe.done_marker(),
        *(() if way == "chat" else (probe.stop_string(streamed),)),
        *probe.bad_parameters(harsh),
        probe.alive_afterwards(),
    )


def answering(target: Target, way: Prompts) -> None:
    """Raises LaunchError of a server that leaves two questions in a row without an end."""
    _twice(_Probe(target, way))


def _twice(probe: _Probe) -> tuple[RequestRecord, RequestRecord]:
    records, target = (probe.record(), probe.record()), probe.target
    if 0 < target.ends_at_s < monotonic():  # whoever set that end says so
        return records
    if all(record.error_kind in ("timeout", "stall") for record in records):
        raise LaunchError(
            f"{target.base_url} ended none of {len(records)} answers of {NUM_TOKENS} tokens within "
            f"{target.timeout_s:g} s each ({records[0].error}): it stalls, or trickles; mend it, or measure "
            "one that answers."
        )
    return records


# --- points of a record --------------------------------------------------------------------------


def _completes(record: RequestRecord, way: Prompts) -> Point:
    kinds = {"ids": "token-id prompts", "text": "prompts of text", "chat": "chat messages"}
    return Point(
        name=f"completions with {kinds[way]}",
        held=not record.error,
        found=record.error or "answered",
        consequence="prompts of exact length cannot be sent, so work is not identical between engines",
    )


def _prompt_len(record: RequestRecord) -> Point:
    return Point(
        name="usage.prompt_tokens is exact",
        held=record.input_len == len(PROMPT_IDS),
        found=f"{record.input_len} for {len(PROMPT_IDS)} ids",
        consequence="the engine reads another prompt than was sent (tokens added, dropped or re-tokenised)",
    )


def _output_len(record: RequestRecord) -> Point:
    return Point(
        name="max_tokens and ignore_eos are honoured",
        held=record.output_len == NUM_TOKENS,
        found=f"{record.output_len} of {NUM_TOKENS} tokens, finish reason {record.finish_reason!r}",
        consequence="engines generate different amounts of work, and throughput compares unlike things",
    )


def _usage(record: RequestRecord) -> Point:
    return Point(
        name="usage chunk in the stream",
        held=record.usage,
        found="present" if record.usage else "absent",
        consequence="output tokens are counted by re-tokenising the text, which is off by some per cent",
    )


def _token_ids(record: RequestRecord) -> Point:
    num = len(record.output_token_ids or ())
    return Point(
        name="output token ids",
        held=num > 0 and num == record.output_len,
        found=f"{num} ids for {record.output_len} tokens",
        consequence="verified outputs are re-tokenised from text, so a FAIL on them is only CANNOT TELL",
    )


def _logprobs(record: RequestRecord) -> Point:
    num = len(record.output_logprobs or ())
    return Point(
        name="logprobs of emitted tokens",
        held=num > 0 and num == record.output_len,
        found=record.error or f"{num} logprobs for {record.output_len} tokens",
        consequence="correctness is judged by margins alone, which takes more tokens to see a subtle fault",
    )


def _chunks(record: RequestRecord) -> Point:
    return Point(
        name="one token per chunk",
        held=len(record.content_at_s) == record.output_len,
        found=f"{len(record.content_at_s)} chunks for {record.output_len} tokens",
        consequence="gaps between chunks are not inter-token latencies",
    )


def _same(name: str, one: RequestRecord, other: RequestRecord, consequence: str) -> Point:
    same = one.text == other.text and not one.error and not other.error
    at = next((i for i, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b), None)
    place = f"differ from character {at}" if at is not None else "differ in length"
    found = other.error or one.error or ("same text" if same else place)
    return Point(name=name, held=same, found=found, consequence=consequence)


# --- points that need requests of their own ------------------------------------------------------


class _Probe:
    """Sends small requests to one target."""

    def __init__(self, target: Target, way: Prompts) -> None:
        self.timeout_s = min(TIMEOUT_S, target.timeout_s)
        self.target = msgspec.structs.replace(target, timeout_s=self.timeout_s, num_workers=1)
        plain = Request(request_id="preflight", max_tokens=NUM_TOKENS, ignore_eos=True)
        self.request = acceptance.asked(plain, PROMPT_IDS, way)

    def record(self, target: Target | None = None, *, logprobs: bool = False) -> RequestRecord:
        """One request through the very client that measures."""
        request = msgspec.structs.replace(self.request, logprobs=logprobs)
        chosen = msgspec.structs.replace(target or self.target, timeout_s=self.timeout_s)
        found: list[RequestRecord] = []
        client.fire(chosen, (request,), Load(max_concurrency=1), found.append)
        return found[0]

    def post(self, **fields: Any) -> requests.Response:
        """The same request with body fields changed, whole or streamed as they say."""
        whole = msgspec.structs.replace(self.target, stream=bool(fields.get("stream")))
        content = {**msgspec.json.decode(body(self.request, whole)), **fields}
        where = url_parts(self.target)
        url = f"{where.scheme}://{where.netloc}{path(self.request, self.target)}"
        return requests.post(
            url,
            json=content,
            headers=authorization(self.target.api_key_env),
            timeout=patience(self.target, self.timeout_s),
            stream=bool(fields.get("stream")),
        )

    def done_marker(self) -> Point:
        """Whether the stream says that it ended."""
        found = _try(lambda: self.post(stream=True).text.rstrip().endswith("data: [DONE]"))
        return Point(
            name="[DONE] ends the stream",
            held=found is True,
            found=found if isinstance(found, str) else "present" if found else "absent",
            consequence="a stream cut off in the middle cannot be told from a whole one by its end",
        )

    def stop_string(self, record: RequestRecord) -> Point:
        """A stop string taken from the middle of the greedy text must end it there."""
        middle = record.text[len(record.text) // 2 :][:6]
        expected = record.text.split(middle)[0] if middle else ""
        choice = (
            _try(lambda: self.post(stop=[middle]).json()["choices"][0]) if middle else "no text to stop in"
        )
        text, reason = (
            (choice.get("text"), choice.get("finish_reason")) if isinstance(choice, dict) else ("", "")
        )
        return Point(
            name="stop strings",
            held=bool(middle) and text == expected and reason == "stop",
            found=f"finish reason {reason!r} after {len(text or '')} of {len(expected)} characters"
            if isinstance(choice, dict)
            else str(choice),
            consequence="workloads that end at a stop string run on to max_tokens on this engine",
        )

    def bad_parameters(self, harsh: bool) -> list[Point]:
        """Impossible values must be refused with a 4xx, not served or crash the engine."""
        bad: dict[str, dict[str, Any]] = {
            "max_tokens -1": {"max_tokens": -1},
            "temperature 'hot'": {"temperature": "hot"},
        }
        if harsh:
            bad["a token id beyond the vocabulary"] = {"prompt": [100, 2**31 - 1]}
        return [self._refused(name, fields) for name, fields in bad.items()]

    def _refused(self, name: str, fields: dict[str, Any]) -> Point:
        found = _try(lambda: self._reply(fields))
        return Point(
            name=f"{name} is refused",
            held=found in _REFUSING,
            found=found,
            consequence="a mistake in a request is measured as if it were meant, or takes the engine down",
        )

    def _reply(self, fields: dict[str, Any]) -> str:
        """How it begins to answer. Some servers take -1 for "without end": it is left at its first event."""
        with self.post(stream=True, **fields) as answer:
            if answer.status_code != requests.codes.ok:
                return f"HTTP {answer.status_code}"
            first = answer.raw.read1(_FIRST_BYTES)
        return _ERROR_EVENT if b'"error"' in first else "HTTP 200"

    def alive_afterwards(self) -> Point:
        """The engine must have survived all that."""
        record = self.record()
        return Point(
            name="still answers after bad requests",
            held=not record.error,
            found=record.error or "answered",
            consequence="one bad request ends the service for everybody",
        )


def _try(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or a sentence about how it failed."""
    try:
        return ask()
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
        return f"{type(error).__name__} instead of an answer"
