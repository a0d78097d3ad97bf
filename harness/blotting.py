"""The filter between an engine and its log. Engines print their arguments, API keys among them.

`python -m harness.blotting` copies its input to its output with every secret replaced by ***; it is a process
of its own, since a thread beside the client would show as latency.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from harness import registry
from harness.secrets import blotted

VARIABLE = "HARNESS_BLOT"
"""Holds the secrets, a JSON list, in the filter's own environment."""


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
        words = [sys.executable, "-m", "harness.blotting"]
        try:
            yield writer, subprocess.Popen(words, stdin=reader, stdout=log, env=env, start_new_session=True)
        finally:
            os.close(reader)
            os.close(writer)


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
