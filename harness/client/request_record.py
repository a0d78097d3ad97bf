"""From an answer and its stamps to the RequestRecord that is kept."""

from __future__ import annotations

from typing import NamedTuple

from harness.client.response import Response
from harness.schema import Request, RequestRecord

_NS_PER_S = 1e9


class Times(NamedTuple):
    """Nanoseconds since the trial's start; `start_ns` is that start on the monotonic clock."""

    due_ns: int
    sent_ns: int
    done_ns: int
    start_ns: int


def build_record(request: Request, response: Response, times: Times) -> RequestRecord:
    """All of it, failed or not. Without usage output_len is the number of token ids given, else 0."""
    answer, start = response.answer, times.start_ns
    tokens = tuple(token for token in answer.tokens if token is not None)
    return RequestRecord(
        request_id=request.request_id,
        due_at_s=times.due_ns / _NS_PER_S,
        sent_at_s=times.sent_ns / _NS_PER_S,
        content_at_s=tuple([(stamp - start) / _NS_PER_S for stamp in answer.content_ns]),
        done_at_s=times.done_ns / _NS_PER_S,
        prompt_len=len(request.prompt_token_ids or ()) or request.prompt_len,
        input_len=answer.input_len,
        output_len=answer.output_len if answer.usage else len(answer.ids),
        usage=answer.usage,
        cached_len=answer.cached_len,
        output_token_ids=tuple(answer.ids) if answer.ids else None,
        output_logprobs=tuple(answer.logprobs) if answer.logprobs else None,
        output_tokens=tokens if tokens and not answer.ids and len(tokens) == len(answer.tokens) else None,
        top_logprobs=tuple(answer.top) if request.top_logprobs and answer.top else None,
        text="".join(answer.texts),
        finish_reason=answer.finish_reason,
        http_status=response.head.status if response.head is not None else 0,
        error_kind=response.error_kind,
        error=response.error,
    )
