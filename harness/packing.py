"""How a line of requests.jsonl or scores.jsonl is written in the packed form of a finished trial. Pure.

Times are kept to a microsecond (the client's own error is tens of them) as whole gaps, log-probabilities to
1e-6 (the noise of bf16 is 1e-2), and what a score repeats of its record and of its prompt is left out. The
rest is kept to the letter; a line that cannot be read stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import msgspec

PER_S = 1_000_000
"""Microseconds in a second."""
DECIMALS = 6
GAPS, REPEATED = "content_gaps_us", "repeated"
_MOMENTS = ("due_at_s", "sent_at_s", "done_at_s")
_LOGPROBS = ("output_logprobs", "logprob", "emitted_logprob", "margin")

Known = Mapping[str, Mapping[str, Any]]
"""Request id -> field of a score -> what the trial's other files say of it."""


def packed(line: bytes, known: Known) -> bytes:
    """A line in the packed form, with its line end."""
    return _mapped(line, lambda fields: _pack(fields, known))


def plain(line: bytes, known: Known) -> bytes:
    """The line of a packed one, with its line end; a plain line is returned as it is."""
    if GAPS.encode() not in line and REPEATED.encode() not in line:
        return line
    return _mapped(line, lambda fields: _unpack(fields, known))


def rounded(values: Any) -> Any:
    """Log-probabilities as the packed form keeps them."""
    return None if values is None else [round(value, DECIMALS) for value in values]


def _mapped(line: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    try:
        return msgspec.json.encode(change(msgspec.json.decode(line))) + b"\n"
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError, AttributeError):
        return line


def _pack(fields: dict[str, Any], known: Known) -> dict[str, Any]:
    shared = known.get(fields["request_id"], {})
    repeated = [name for name, value in shared.items() if value and fields.get(name) == value]
    made = {name: value for name, value in fields.items() if name not in repeated}
    made |= {name: rounded(made[name]) for name in _LOGPROBS if name in made}
    if made.get("played"):
        made["played"] = _played(made["played"])
    made |= {name: round(made[name], DECIMALS) for name in _MOMENTS if name in made}
    if "content_at_s" in made:
        times = [round(at * PER_S) for at in made.pop("content_at_s")]
        made[GAPS] = times[:1] + [b - a for a, b in pairwise(times)]
    return {REPEATED: repeated, **made} if repeated else made


def _played(fields: dict[str, Any]) -> dict[str, Any]:
    """schema.Played with rounded numbers."""
    faults = {name: rounded(values) for name, values in fields["faults"].items()}
    return {
        **fields,
        "logprob": rounded(fields["logprob"]),
        "margin": rounded(fields["margin"]),
        "faults": faults,
    }


def _unpack(fields: dict[str, Any], known: Known) -> dict[str, Any]:
    made = dict(fields)
    for name in made.pop(REPEATED, ()):
        value = known[fields["request_id"]][name]
        made[name] = rounded(value) if name in _LOGPROBS else value
    if GAPS in made:
        made["content_at_s"] = [at / PER_S for at in accumulate(made.pop(GAPS))]
    return made
