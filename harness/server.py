"""An engine's life: start, wait until a real completion answers, show what runs, stop, gone."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import requests

from harness import launchers, registry
from harness.client.acceptance import Acceptance
from harness.client.body import authorization
from harness.errors import LaunchError
from harness.label import signatures
from harness.launchers import Server
from harness.ranks.lines import by_rank
from harness.registry import ROOT
from harness.schema import Evidence, Launch
from harness.secrets import is_secret, redacted_argv

_ANNOUNCING_LINES = 8
"""A long step is announced by one rank of eight, in one of the last lines."""
_TAIL_LINES = 25
_PORTS = range(20000, 22500)
"""SGLang derives more ports from this one, up to 10,000 above it. All lie below 32768, where Linux begins to
hand out ports to outgoing connections: from there its DP attention failed to start three times of three."""
_VARIABLES = (
    *("NCCL_", "RCCL_", "MORI_", "AITER_", "DEEPEP_", "NVSHMEM_", "CUDA_", "HIP_", "HSA_", "ROCM_", "TORCH_"),
    *("OMP_", "HF_HUB_"),
)
"""Beginnings of variables that say how an engine runs, beside those that are its own (VARIABLES)."""


_LOCKED = (401, 403)
_SAID = 160
_ANSWER_S = 600.0
"""Longest the first completion may take: engines compile for it."""
_NOT_THERE = (404, 405)
"""Of a path: some endpoints have chat completions only."""
_QUESTIONS: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "1 + 1 ="},
    "chat/completions": {"messages": [{"role": "user", "content": "1 + 1 ="}]},
}


class Running:
    """A server that answered a real completion."""

    def __init__(self, launch: Launch, server: Server, log_path: Path, ready_s: float) -> None:
        self.launch = launch
        self.server = server
        self.log_path = log_path
        self.ready_s = ready_s
        self.accepted = Acceptance()
        """What it takes of a request; known once the pre-flight has asked."""
        self._log_read = 0

    def new_log_lines(self) -> list[str]:
        """Lines the engine wrote since this was last asked."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(self._log_read)
                text = file.read()
        except OSError:
            return []
        self._log_read += len(text)
        return text.decode("utf-8", "replace").splitlines()

    def dead(self) -> str:
        """ "" while it runs, else how it ended."""
        return "" if self.server.poll() is None else self.server.describe_exit()

    def evidence(self) -> Evidence:
        """What it shows of itself: its log, its endpoints, its command line and environment."""
        launch = self.launch
        cmdline, environ = self.server.process_evidence()
        first, *others = by_rank(log_lines(self.log_path), len(launch.ranks))
        info = _shown(launch, "/get_server_info") or _shown(launch, "/server_info?config_format=json")
        return Evidence(
            log=first,
            other_logs=tuple(others),
            server_info=info,
            version=_shown(launch, "/version"),
            models=_shown(launch, "/v1/models"),
            metrics=_answer(launch, launch.metrics_path).decode("utf-8", "replace")
            if launch.metrics_path
            else "",
            cmdline=cmdline,
            environ=environ,
        )


def storable(evidence: Evidence) -> Evidence:
    """The evidence as it may be kept: the log is a file of its own, secrets and foreign variables are out."""
    named = (*_VARIABLES, *(v for e in registry.engines() for v in registry.fact(e, "VARIABLES", ())))
    ours = {k: v for k, v in evidence.environ.items() if k.startswith(named) and not is_secret(k)}
    return msgspec.structs.replace(
        evidence,
        log=(),
        other_logs=(),
        environ=_public(ours),
        cmdline=tuple(_public(redacted_argv(evidence.cmdline))),
        server_info=_public(evidence.server_info),
    )


def _public(value: Any) -> Any:
    """The same at any depth, without values of secret names and without this machine's own folders."""
    if isinstance(value, dict):
        return {k: "***" if is_secret(str(k)) and v else _public(v) for k, v in value.items()}
    if isinstance(value, str):
        return value.replace(str(ROOT), ".").replace(str(Path.home()), "~")
    return [_public(v) for v in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def serving(
    launch: Launch, log_path: Path, run_id: str, on_stage: Callable[[str], None] = lambda _: None
) -> Iterator[Running]:
    """Start the engine, yield once it answers, stop it whatever happens.

    Raises LaunchError with cause, log tail and the command to run by hand.
    """
    launcher = launchers.of(launch)
    if launcher.OWNS_SERVER:
        check_port(launch)
    set_aside(log_path)
    server = launcher.start(launch, log_path, run_id)
    launch = msgspec.structs.replace(launch, url=server.url or launch.url)
    try:
        on_stage(f"starting {launch.variant}")
        ready_s = wait_ready(launch, server, log_path, on_stage)
        yield Running(launch, server, log_path, ready_s)
    finally:
        on_stage(f"stopping {launch.variant}")
        server.stop(launch.stop_grace_s)


def set_aside(log_path: Path) -> None:
    """Rename the log of an earlier launch to server-1.log, server-2.log ...

    Each launch is proven, and its end explained, by its own lines only.
    """
    if log_path.exists() and log_path.stat().st_size:
        number = 1 + sum(1 for _ in log_path.parent.glob(f"{log_path.stem}-*{log_path.suffix}"))
        log_path.rename(log_path.with_stem(f"{log_path.stem}-{number}"))


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago. Raises LaunchError."""
    for port in random.sample(_PORTS, 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LaunchError(
        f"No free TCP port between {_PORTS.start} and {_PORTS.stop} on this machine; end what listens there."
    )


def port_for(launch: Launch) -> int:
    """A free port for an engine that is started here; the launch's own for one that is not."""
    return free_port() if launchers.of(launch).OWNS_SERVER else launch.port


def check_port(launch: Launch) -> None:
    """Raises LaunchError when something already listens where the engine would."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((launch.host, launch.port))
        except OSError as error:
            raise LaunchError(
                f"Port {launch.port} is in use ({error.strerror}); stop what listens there "
                f"(ss -ltnp 'sport = :{launch.port}') or choose another with port=."
            ) from error


def wait_ready(launch: Launch, server: Server, log_path: Path, on_stage: Callable[[str], None]) -> float:
    """Seconds until a completion answered. A log that goes on is progress, silence is not.

    Raises LaunchError when the engine exits, falls silent for too long or exceeds launch.ready_timeout_s.
    """
    began = time.monotonic()
    grown, size = began, -1
    while True:
        elapsed = time.monotonic() - began
        if server.poll() is not None:
            raise _failed(launch, log_path, f"ended while starting ({server.describe_exit()})")
        said = _refusal(launch)
        if not said:
            return time.monotonic() - began
        new_size = log_path.stat().st_size if log_path.exists() else 0
        if new_size != size:
            size, grown = new_size, time.monotonic()
            last = log_lines(log_path, last=1)
            on_stage(f"starting {launch.variant}: {last[0][:100] if last else '...'}")
        if elapsed > launch.ready_timeout_s:
            raise _failed(launch, log_path, f"did not answer a completion within {elapsed:.0f} s ({said})")
        quiet_s = time.monotonic() - grown
        if launchers.of(launch).OWNS_SERVER and quiet_s > _longest_silence_s(launch, log_path):
            raise _failed(launch, log_path, f"hangs: nothing new in its log for {quiet_s:.0f} s")
        time.sleep(0.25)


def _longest_silence_s(launch: Launch, log_path: Path) -> float:
    """Weight load, JIT and graph capture are silent for long: that is progress."""
    last = log_lines(log_path, last=_ANNOUNCING_LINES)
    return launch.step_timeout_s if any(map(signatures.is_progress, last)) else launch.quiet_timeout_s


def _refusal(launch: Launch) -> str:
    """What the server says instead of completing; "" when it completes."""
    base = launch.base_url
    try:
        key = authorization(launch.api_key_env)
        alive = requests.get(base + launch.ready_path, headers=key, timeout=5)
        if alive.status_code in _LOCKED:
            raise _locked(launch, alive.status_code)
        if alive.status_code != 200 and launchers.of(launch).OWNS_SERVER:
            return f"HTTP {alive.status_code} at {launch.ready_path}"
        wait_s = min(_ANSWER_S, launch.ready_timeout_s)
        model: dict[str, Any] = {"model": launch.served_model_name, "max_tokens": 2}
        for path, prompt in _QUESTIONS.items():
            answer = requests.post(f"{base}/v1/{path}", json=model | prompt, headers=key, timeout=wait_s)
            if answer.status_code in _LOCKED:
                raise _locked(launch, answer.status_code)
            if answer.status_code not in _NOT_THERE:
                break
        said = answer.json() if answer.status_code == 200 else None
    except requests.RequestException as error:
        return type(error).__name__
    if isinstance(said, dict) and said.get("choices"):
        return ""
    return f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:_SAID]}"


def _locked(launch: Launch, status: int) -> LaunchError:
    """An engine that answers only whoever has its key."""
    name = launch.api_key_env
    what = f"does not take the API key in {name}: correct it" if name else "asks for an API key"
    advice = "" if name else ": export it in a variable and give api_key_env=NAME_OF_THAT_VARIABLE"
    return LaunchError(f"{launch.variant} at {launch.base_url} {what}{advice} (HTTP {status}).")


def failure(launch: Launch, log_path: Path, what: str) -> tuple[str, str]:
    """Sentence with the matched cause, and details (log tail, by-hand command), for an engine that died."""
    lines = log_lines(log_path)
    cause = signatures.first_cause(lines)
    sentence = f"{launch.variant} {what}"
    if cause:
        sentence += f": {cause.cause}. {cause.fix}"
        evidence = f"evidence: {cause.line}\n"
    else:
        sentence += "; the log's end is below"
        evidence = ""
    tail = "\n".join(lines[-_TAIL_LINES:])
    by_hand = launchers.by_hand(launch)
    return sentence, f"{evidence}--- {log_path.name}, last lines\n{tail}\n--- by hand\n{by_hand}"


def _failed(launch: Launch, log_path: Path, what: str) -> LaunchError:
    sentence, details = failure(launch, log_path, what)
    return LaunchError(sentence, details=details)


def log_lines(path: Path, last: int = 0) -> list[str]:
    """Lines of a log, decoded leniently; only the last ones when `last` is given."""
    try:
        with path.open("rb") as file:
            if last:
                file.seek(max(0, path.stat().st_size - 4096 * last))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines[-last:] if last else lines


def _shown(launch: Launch, path: str) -> dict[str, Any]:
    """The JSON object at a path of the server; {} where it gives none."""
    try:
        value = msgspec.json.decode(_answer(launch, path))
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _answer(launch: Launch, path: str) -> bytes:
    """What the server answers to GET; b"" where that is no 200."""
    try:
        answer = requests.get(launch.base_url + path, headers=authorization(launch.api_key_env), timeout=10)
    except requests.RequestException:
        return b""
    return answer.content if answer.status_code == 200 else b""
