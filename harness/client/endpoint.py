"""Which models a running server says it serves, and how it counts their tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import requests

from harness.client.body import authorization
from harness.errors import InputError

ASK_S = 10.0
COUNT_S = 60.0
"""Of a completion of one token, the first of a server that may still be compiling."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and nobody asks why.",
    "def total(rows):\n    return sum(row['price'] * row.get('count', 1) for row in rows)\n",
    "In 1987, 3.14159 * 271828 = 853972.2, or was it 00:17:04 on 2026-11-26?",
    "Übergrößenträger müssen naïve façades – ελληνικά, русский, 日本語, עברית – and 🦊 too.",
    "antidisestablishmentarianism,,,;;;   \t\t{}[]()<>||&&!=<=>=  XxXxXx_snake_case-kebab-case",
)
"""Texts that tokenizers divide differently."""


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


def counts(url: str, model: str, api_key_env: str = "") -> tuple[int, ...]:
    """Prompt tokens that the server states for each of TEXTS, each asked for one token of output.

    () where it takes no text, or states no usage.
    """
    base, key = url.rstrip("/").removesuffix("/v1"), authorization(api_key_env)
    stated = []
    try:
        for text in TEXTS:
            body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
            answer = requests.post(f"{base}/v1/completions", json=body, headers=key, timeout=COUNT_S)
            stated.append(int(answer.json()["usage"]["prompt_tokens"]))
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return ()
    return tuple(stated)
