"""Your own requests, one JSON object a line.

Each line holds exactly one of "prompt" (text), "messages" (chat) or "prompt_token_ids", and may hold
"max_tokens" and "id". Params: path (required), output_len (128) where a line names no max_tokens. Text is
encoded here, so that every engine gets the same token ids; messages go to each engine's chat template.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, text


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the file."""

    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    max_tokens: int | None = None
    id: str = ""


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """The first num_prompts lines, in file order."""
    default = positive(spec, "output_len", 128)
    return tuple(
        Request(
            request_id=_id(number, line),
            prompt_token_ids=line.prompt_token_ids if line.prompt is None else vocabulary.encode(line.prompt),
            messages=line.messages,
            max_tokens=line.max_tokens or default,
            seed=spec.seed,
        )
        for number, line in _read(spec)
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """What is known before text is encoded: the longest list of ids, the largest max_tokens."""
    default = positive(spec, "output_len", 128)
    lines = [line for _, line in _read(spec)]
    return (
        max((len(line.prompt_token_ids or ()) for line in lines), default=0),
        max((line.max_tokens or default for line in lines), default=default),
    )


def _read(spec: WorkloadSpec) -> list[tuple[int, Line]]:
    path = Path(text(spec, "path"))
    if not text(spec, "path"):
        raise InputError(
            "workload custom_jsonl needs path=FILE: one JSON object a line, with a prompt in each"
        )
    decode = msgspec.json.Decoder(Line).decode
    lines: list[tuple[int, Line]] = []
    try:
        with path.open("rb") as file:
            numbered = ((n, raw) for n, raw in enumerate(file, 1) if raw.strip())
            for number, raw in islice(numbered, spec.num_prompts):
                lines.append((number, _checked(decode(raw), f"{path}:{number}")))
    except OSError as error:
        raise InputError(
            f"workload custom_jsonl: {path} cannot be read ({error.strerror}): check path="
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}:{number}: {error}: correct the line, see workloads/custom_jsonl.py"
        ) from error
    _refuse_twins(lines, path)
    return lines


def _id(number: int, line: Line) -> str:
    return line.id or f"line-{number}"


def _refuse_twins(lines: list[tuple[int, Line]], path: Path) -> None:
    """Records are told apart by their request's id."""
    seen: set[str] = set()
    for number, line in lines:
        if _id(number, line) in seen:
            raise InputError(f"{path}:{number}: id {_id(number, line)!r} is there twice; give another")
        seen.add(_id(number, line))


def _checked(line: Line, where: str) -> Line:
    kinds = (line.prompt, line.messages, line.prompt_token_ids)
    if sum(bool(kind) for kind in kinds) != 1:
        raise InputError(f"{where}: give exactly one of prompt, messages, prompt_token_ids, and not empty")
    if line.max_tokens is not None and line.max_tokens < 1:
        raise InputError(f"{where}: max_tokens={line.max_tokens} must be at least 1")
    return line
