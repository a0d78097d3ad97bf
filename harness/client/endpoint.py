"""Which models a running server says it serves."""

from __future__ import annotations

from typing import Any

import requests

from harness.client.body import authorization
from harness.errors import InputError

ASK_S = 10.0


def served(url: str, api_key_env: str = "") -> tuple[str, ...]:
    """The ids that /v1/models lists, in its order; () when it lists none, or nothing answers."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        key = authorization(api_key_env)
        listed: Any = requests.get(f"{base}/v1/models", headers=key, timeout=ASK_S).json()
        return tuple(str(model["id"]) for model in listed["data"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return ()


def chosen(url: str, names: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """The served name to ask for: the first of `wanted` that is served, else the only one that is.

    "" where the server lists none. Raises InputError where it lists several and none is wanted.
    """
    for name in wanted:
        if name and name in names:
            return name
    if len(names) > 1:
        raise InputError(
            f"{url} serves {', '.join(names)}; say which of them is meant with served_name=NAME."
        )
    return names[0] if names else ""
