"""Which models a running server says it serves."""

from __future__ import annotations

from typing import Any, NamedTuple

import requests

from harness.client.body import authorization
from harness.errors import InputError

ASK_S = 10.0


class Served(NamedTuple):
    """What a server lists, and which of it the user named."""

    url: str = ""
    names: tuple[str, ...] = ()
    given: str = ""

    def name(self, *wanted: str) -> str:
        """The name to ask for: the user's, the first of `wanted` that is served, else the only one that is.

        "" where the server lists none. Raises InputError where it lists several and none is wanted.
        """
        known = next((name for name in (self.given, *wanted) if name and name in self.names), self.given)
        if not known and len(self.names) > 1:
            raise InputError(
                f"{self.url} serves {', '.join(self.names)}; say which is meant with served_name=NAME."
            )
        return known or (self.names[0] if self.names else "")


def served(url: str, api_key_env: str = "") -> tuple[str, ...]:
    """The ids that /v1/models lists, in its order; () when it lists none, or nothing answers."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        key = authorization(api_key_env)
        listed: Any = requests.get(f"{base}/v1/models", headers=key, timeout=ASK_S).json()
        return tuple(str(model["id"]) for model in listed["data"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return ()
