"""Drives SGLang's own expert-distribution recorder over HTTP: start, load, stop, dump.

The server must have been started with --expert-distribution-recorder-mode per_token (and, for long runs,
--expert-distribution-recorder-buffer-size -1); it writes to SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import requests

from harness.errors import AttestationError

_TIMEOUT_S = 60.0
FOLDER = "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"


@contextlib.contextmanager
def recording(base_url: str, folder: Path) -> Iterator[list[Path]]:
    """Record while the block runs; the list then holds the files the server dumped into `folder`.

    Raises AttestationError when the server has no recorder.
    """
    before = set(folder.glob("expert_distribution_recorder_*.pt"))
    _post(base_url, "start_expert_distribution_record")
    dumped: list[Path] = []
    try:
        yield dumped
    finally:
        _post(base_url, "stop_expert_distribution_record")
        _post(base_url, "dump_expert_distribution_record")
        dumped += sorted(set(folder.glob("expert_distribution_recorder_*.pt")) - before)


def arguments() -> tuple[str, ...]:
    """Server arguments that switch the recorder on."""
    return (
        "--expert-distribution-recorder-mode",
        "per_token",
        "--expert-distribution-recorder-buffer-size",
        "-1",
    )


def environment(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Where the server shall write."""
    return {FOLDER: os.fspath(folder)}


def _post(base_url: str, verb: str) -> None:
    try:
        answer = requests.post(f"{base_url}/{verb}", timeout=_TIMEOUT_S)
    except requests.RequestException as reason:
        raise AttestationError(f"The server at {base_url} does not answer /{verb}: {reason}.") from None
    if not answer.ok:
        raise AttestationError(
            f"The server at {base_url} refused /{verb} with HTTP {answer.status_code}: start SGLang with "
            f"{' '.join(arguments())}.",
            details=answer.text[:500],
        )
