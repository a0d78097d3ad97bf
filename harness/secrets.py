"""What may not be read: secrets are named in commands and files, never shown, and blotted out of logs.

Engines print their arguments, API keys among them. `python -m harness.secrets` copies its input to its output
with every secret replaced by ***; it is a process of its own, since a thread beside the client would show as
latency.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from harness import registry
from harness.schema import Launch, Recipe

_SECRET = re.compile(r"(TOKEN(?!S|IZ)|API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--(api-key|hf-token|.*password.*)")
VARIABLE = "HARNESS_BLOT"
"""Holds the secrets, a JSON list, in the filter's own environment."""
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


@contextlib.contextmanager
def blotting(log_path: Path, secrets: Iterable[str]) -> Iterator[tuple[int, subprocess.Popen[bytes] | None]]:
    """(file descriptor that an engine may write to, the filter behind it); no filter for no secrets.

    The filter ends by itself when the last process that writes has gone.
    """
    with log_path.open("ab") as log:
        if not (hidden := tuple(secrets)):
            yield log.fileno(), None
            return
        reader, writer = os.pipe()
        env = {**os.environ, VARIABLE: msgspec.json.encode(hidden).decode(), "PYTHONPATH": str(registry.ROOT)}
        words = [sys.executable, "-m", "harness.secrets"]
        try:
            yield writer, subprocess.Popen(words, stdin=reader, stdout=log, env=env, start_new_session=True)
        finally:
            os.close(reader)
            os.close(writer)


def blotted(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """The same with every secret replaced, longest first: one may be the beginning of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        data = data.replace(secret, _BLOTTED)
    return data


class Blotter:
    """Replaces secrets in a stream, however it is cut into pieces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(s.encode() for s in secrets)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be told so far; the beginning of what may become a secret is held back."""
        data = blotted(self._held + data, self._secrets)
        held = max((_begun(data, secret) for secret in self._secrets), default=0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def end(self) -> bytes:
        """The rest."""
        return self._held


def _begun(data: bytes, secret: bytes) -> int:
    """Length of the longest end of `data` with which `secret` begins."""
    return next((n for n in range(min(len(secret) - 1, len(data)), 0, -1) if data.endswith(secret[:n])), 0)


def main() -> None:
    """Standard input to standard output."""
    blotter = Blotter(msgspec.json.decode(os.environ[VARIABLE], type=list[str]))
    while data := os.read(0, 1 << 16):
        _write(blotter.feed(data))
    _write(blotter.end())


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
