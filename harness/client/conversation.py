"""Conversations: requests of one session run in order, each carrying what was said before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.client.answer import Answer
from harness.errors import InputError
from harness.schema import Request


def chains(requests: Sequence[Request]) -> tuple[dict[int, int], list[int]]:
    """(turn -> following turn of its session, first turns and single requests), as indexes."""
    following: dict[int, int] = {}
    last: dict[str, int] = {}
    first: list[int] = []
    for index, request in enumerate(requests):
        if request.session and request.session in last:
            following[last[request.session]] = index
        else:
            first.append(index)
        if request.session:
            last[request.session] = index
    return following, first


def spoken(request: Request, answer: Answer) -> list[Any]:
    """What this turn adds to its conversation: messages, token ids, or text pieces."""
    text = "".join(answer.texts)
    if request.messages is not None:
        return [*request.messages, {"role": "assistant", "content": text}]
    if request.prompt_token_ids is not None:
        return [*request.prompt_token_ids, *answer.ids]
    return [request.prompt or "", text]


def check(request: Request) -> None:
    """Raises InputError unless the request holds exactly one kind of prompt."""
    kinds = (request.prompt_token_ids, request.prompt, request.messages)
    if sum(kind is not None for kind in kinds) != 1:
        raise InputError(
            f"request {request.request_id} must hold exactly one of prompt_token_ids, prompt, messages: "
            "correct the workload that made it"
        )
