"""Routed experts that engines return with each response, in the project's own form.

vLLM (--enable-return-routed-experts): `routed_experts` of a choice, base64 of a .npy [tokens - 1, layers, K].
SGLang (--enable-return-routed-experts, return_routed_experts in the request): base64 of raw int32 of the same
shape, in `meta_info` of /generate or `sglext` of the OpenAI routes; its shape is the model's to know.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.moe import routing_log
from harness.moe.routing_log import RoutingLog
from harness.schema import MoeFacts

_FIELD = "routed_experts"


def are_in(path: Path) -> bool:
    """Whether the first line of a file is a response that carries routed experts."""
    try:
        with path.open("rb") as file:
            first = msgspec.json.decode(file.readline())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(first, dict) and next(_returned(first), None) is not None


def read(path: Path, moe: MoeFacts | None) -> RoutingLog:
    """One response a line. Raises InputError where a field does not decode, or the model is needed.

    moe: the model's routing shape; None = the number of experts is taken to be the largest id seen, plus one.
    """
    blocks: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        response = _response(line, f"{path} line {number}")
        for text in _returned(response):
            name = str(response.get("id") or response.get("meta_info", {}).get("id") or len(blocks))
            blocks += _blocks(_decode(text, name, moe), (name, _prompt_len(response)), len(blocks))
    num_experts = moe.num_experts if moe else 1 + max((int(b["experts"].max()) for b in blocks), default=0)
    note = "returned routing has no weights"
    guess = () if moe else (f"{num_experts} experts by the largest id: name the model with model=ALIAS",)
    log = routing_log.assemble(blocks, num_experts, str(path))
    return replace(log, engine="responses", notes=(note, *guess))


def _response(line: bytes, where: str) -> dict[str, Any]:
    try:
        response = msgspec.json.decode(line)
    except msgspec.DecodeError as reason:
        raise InputError(f"{where} is no JSON ({reason}): give one response a line.") from None
    if not isinstance(response, dict) or any(not isinstance(text, str) for text in _returned(response)):
        raise InputError(f"{where} is no response that carries {_FIELD}: give one response a line.")
    return response


def _returned(response: Mapping[str, Any]) -> Iterator[str]:
    places = [*(response.get("choices") or ()), response.get("meta_info"), response.get("sglext")]
    yield from (place[_FIELD] for place in places if isinstance(place, dict) and place.get(_FIELD))


def _prompt_len(response: Mapping[str, Any]) -> int:
    usage = response.get("usage") or {}
    return int(usage.get("prompt_tokens") or response.get("meta_info", {}).get("prompt_tokens") or 0)


def _decode(text: str, name: str, moe: MoeFacts | None) -> NDArray[Any]:
    try:
        data = base64.b64decode(text, validate=True)
        if data.startswith(b"\x93NUMPY"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
        elif moe is None:
            raise InputError(
                "SGLang's routed_experts name no shape: say which model it was with model=ALIAS."
            )
        else:
            array = np.frombuffer(data, "<i4").reshape(-1, moe.num_moe_layers, moe.num_experts_per_tok)
        if array.ndim != 3:
            raise ValueError(f"{array.ndim} dimensions instead of 3")
    except ValueError as reason:
        raise InputError(f"routed_experts of {name} does not decode: {reason}.") from None
    return np.asarray(array)


def _blocks(array: NDArray[Any], request: tuple[str, int], step: int) -> Iterator[dict[str, Any]]:
    tokens, layers, top_k = array.shape
    for layer in range(layers):
        yield {
            "step": step + 1,
            "layer": layer,
            "requests": [[request[0], 0, tokens, request[1]]],
            "experts": array[:, layer],
            "weights": np.full((tokens, top_k), np.nan),
        }
