"""Drives SGLang's own expert-distribution recorder over HTTP: start, load, dump.

The server must have been started with arguments() and writes to SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from harness.client.body import authorization
from harness.errors import AttestationError
from harness.schema import Launch

if TYPE_CHECKING:
    from harness.moe.routing_log import RoutingLog

_TIMEOUT_S = 600.0
"""A dump writes every token since the start."""
FOLDER = "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"
DUMPS = "expert_distribution_recorder_*.pt"


@contextlib.contextmanager
def recording(
    base_url: str, folder: Path, *, stop: bool = True, api_key_env: str = ""
) -> Iterator[list[Path]]:
    """Record while the block runs; the list then holds the files the server dumped into `folder`.

    stop=False leaves the recorder running: SGLang 0.5.23 on a CPU dies of the next request once it is off.
    Raises AttestationError when the server has no recorder.
    """
    key, before = authorization(api_key_env), set(folder.glob(DUMPS))
    _post(base_url, "start_expert_distribution_record", key)
    dumped: list[Path] = []
    try:
        yield dumped
    finally:
        if stop:
            _post(base_url, "stop_expert_distribution_record", key)
        _post(base_url, "dump_expert_distribution_record", key)
        dumped += sorted(set(folder.glob(DUMPS)) - before)


def arguments(accelerator: str) -> tuple[str, ...]:
    """Server arguments that switch the recorder on.

    On a CPU it must record from the start: while it does not, every routed batch asks torch.cpu whether a
    CUDA graph is being captured, which that module cannot say. The balance report starts it.
    """
    recorder = ("--expert-distribution-recorder-mode", "per_token")
    buffer = ("--expert-distribution-recorder-buffer-size", "-1")
    report = ("--expert-balancedness-report-mode", "server_log")
    return (*recorder, *buffer, *(report if accelerator == "cpu" else ()))


def environment(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Where the server shall write."""
    return {FOLDER: os.fspath(folder)}


def is_on(launch: Launch) -> bool:
    """Whether the server was started with it."""
    return FOLDER in launch.env


def read(dumps: Sequence[Path]) -> RoutingLog:
    """What the dumps of one engine life tell. Raises InputError."""
    from harness.moe import convert

    return convert.sglang_dumps(dumps)


def _post(base_url: str, verb: str, key: dict[str, str]) -> None:
    try:
        answer = requests.post(f"{base_url}/{verb}", headers=key, timeout=_TIMEOUT_S)
    except requests.RequestException as reason:
        raise AttestationError(f"The server at {base_url} does not answer /{verb}: {reason}.") from None
    if not answer.ok:
        raise AttestationError(
            f"The server at {base_url} refused /{verb} with HTTP {answer.status_code}: start SGLang with "
            f"{' '.join(arguments(''))}.",
            details=answer.text[:500],
        )
