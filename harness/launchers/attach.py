"""A server that somebody else runs: nothing is started, nothing is stopped."""

from __future__ import annotations

import time
from pathlib import Path

import requests

from harness.errors import InputError, LaunchError, MachineError
from harness.schema import Deployment, Launch, Machine, Variant

OWNS_SERVER = False
ELSEWHERE = True

_ASK_EVERY_S = 5.0
"""Questions in between are answered from memory: they would load the server that is measured."""
TIMEOUT_S = 10.0
"""Silence on a connection after which the endpoint counts as gone."""


class AttachedServer:
    """An endpoint. Any HTTP answer counts as running; only silence does not."""

    url = ""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._answered_at = float("-inf")
        self._silence = ""

    def poll(self) -> int | None:
        """None while the endpoint answers, 1 when it does not."""
        if time.monotonic() - self._answered_at < _ASK_EVERY_S:
            return None
        try:
            requests.get(self._url, timeout=self._timeout_s).close()
        except requests.Timeout:
            self._silence = f"no answer within {self._timeout_s:g} s"
            return 1
        except requests.RequestException as error:
            self._silence = type(error).__name__
            return 1
        self._answered_at = time.monotonic()
        return None

    @property
    def silence(self) -> str:
        """What happened instead of an answer; "" while there is one."""
        return self._silence

    def stop(self, grace_s: float) -> None:
        """Nothing: it is not ours."""

    def describe_exit(self) -> str:
        """Why it counts as gone."""
        return f"{self._url} no longer answers ({self._silence})" if self._silence else "still running"

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Nothing is known of a process on another machine."""
        return (), {}


def missing(variant: Variant, machine: Machine) -> str:
    """Nothing of this machine is needed."""
    return ""


def deployed(deployment: Deployment, variant: Variant) -> Deployment:
    """Where it runs is not known."""
    return deployment


def fitted(launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
    """Nobody needs a command, files or variables."""
    return launch


def inside(launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
    """A server elsewhere sees no folder of ours."""
    return launch, name


def environment(launch: Launch) -> dict[str, str]:
    """What was said of it."""
    return launch.env


def by_hand(launch: Launch) -> str:
    """Nothing to type."""
    return f"# nothing is launched; {launch.base_url} is used as it is"


def python(launch: Launch, script: Path, *words: str) -> str:
    """Raises MachineError."""
    raise MachineError("the engine and its torch live elsewhere")


def answering(launch: Launch) -> None:
    """The endpoint answers now.

    Raises InputError without a url, LaunchError when nothing answers there.
    """
    _attached(launch)


def _attached(launch: Launch) -> AttachedServer:
    if not launch.url:
        raise InputError("attach needs the server's address; give it as url=http://host:port.")
    if not launch.url.startswith(("http://", "https://")):
        raise InputError(f"{launch.url!r} is not an address; write it as url=http://host:port.")
    server = AttachedServer(launch.base_url + launch.ready_path)
    if server.poll() is not None:
        raise LaunchError(
            f"Nothing answers at {launch.base_url} ({server.silence}); start the server there, or correct "
            "url=."
        )
    return server


def start(launch: Launch, log_path: Path, run_id: str) -> AttachedServer:
    """Check that the endpoint answers, and say in its log where its log is. Raises as answering() does."""
    server = _attached(launch)
    log_path.write_text(
        f"attached to {launch.base_url} for {run_id}; its log is where it was started\n", encoding="utf-8"
    )
    return server
