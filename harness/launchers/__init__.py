"""Launchers: the three ways an engine comes to run, behind one seam."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.schema import Launch


class Server(Protocol):
    """A started engine. Owns what it started and nothing else."""

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""

    def stop(self, grace_s: float) -> None:
        """Ask it to end, then force it; idempotent. Afterwards nothing of the engine is left."""

    def describe_exit(self) -> str:
        """How it ended, in words: "exit code 137, killed for memory"."""

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Command line and environment of the running engine as the system shows them."""


def start(launch: Launch, log_path: Path, run_id: str) -> Server:
    """Start what `launch` says; its output goes to log_path.

    Raises LaunchError when it cannot even be started.
    """
    if launch.launcher == "docker":
        from harness.launchers import docker

        return docker.start(launch, log_path, run_id)
    if launch.launcher == "attach":
        from harness.launchers import attach

        return attach.start(launch, log_path, run_id)
    from harness.launchers import process

    return process.start(launch, log_path, run_id)
