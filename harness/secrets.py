"""What may not be read: secrets are named in commands and files, never shown, and blotted out of logs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from harness import registry
from harness.schema import Launch, Recipe

_SECRET = re.compile(r"(TOKEN(?!S|IZ)|API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--(api-key|hf-token|.*password.*)")
_BLOTTED = b"***"
_SHORTEST = 4
"""A shorter value would blot out words that are no secret."""


def is_secret(name: str) -> bool:
    """True for environment variables whose value must never be written: HF_TOKEN, *_API_KEY ..."""
    return bool(_SECRET.search(name)) and name not in ("TOKENIZERS_PARALLELISM",)


def redacted_env(env: dict[str, str]) -> dict[str, str]:
    """The same variables, secret values replaced by a reference to the caller's own; references stay."""
    return {k: f"${{{k}}}" if is_secret(k) and not v.startswith("${") else v for k, v in env.items()}


def redacted_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The same words, values of secret flags replaced by ***, in both spellings (--k v, --k=v).

    A value that is the name of a variable, ${NAME}, stays.
    """
    hidden = {value for value in secret_words(argv) if not value.startswith("${")}
    return tuple(_hidden(word, hidden) for word in argv)


def _hidden(word: str, hidden: set[str]) -> str:
    flag, equals, value = word.partition("=")
    if word in hidden:
        return "***"
    return f"{flag}=***" if equals and value in hidden and _SECRET_FLAG.fullmatch(flag) else word


def secret_words(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Values of secret flags."""
    values: list[str] = []
    after_secret = False
    for word in argv:
        flag, equals, value = word.partition("=")
        secret = bool(_SECRET_FLAG.fullmatch(flag))
        if after_secret or (secret and equals):
            values.append(word if after_secret else value)
        after_secret = secret and not equals and not after_secret
    return tuple(values)


def redacted_launch(launch: Launch) -> Launch:
    """The launch as it may be shown or written to a file: no secret, no folder above the repository."""
    return msgspec.structs.replace(
        launch,
        argv=tuple(map(registry.relative, redacted_argv(launch.argv))),
        env={name: registry.relative(value) for name, value in redacted_env(launch.env).items()},
        others=tuple(
            msgspec.structs.replace(
                rank, argv=tuple(map(registry.relative, redacted_argv(rank.argv))), env=redacted_env(rank.env)
            )
            for rank in launch.others
        ),
        mounts={registry.relative(host): inside for host, inside in launch.mounts.items()},
    )


def redacted_recipe(recipe: Recipe) -> Recipe:
    """The recipe as it may be written to a file; from there, secrets refer to the caller's own."""
    return msgspec.structs.replace(recipe, env=redacted_env(recipe.env), args=redacted_argv(recipe.args))


def secrets_of(launch: Launch) -> tuple[str, ...]:
    """What of a launch may not be read in its log: values of secret variables and flags, the API key."""
    named = {value for name, value in launch.env.items() if is_secret(name)}
    key = os.environ.get(launch.api_key_env, "") if launch.api_key_env else ""
    return tuple(sorted(s for s in {*named, *secret_words(launch.argv), key} if len(s) >= _SHORTEST))


def blotted(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """The same with every secret replaced, longest first: one may be the beginning of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        data = data.replace(secret, _BLOTTED)
    return data
