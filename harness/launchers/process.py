"""Engines as plain processes: bare metal, laptops, Slurm allocations, hosts without Docker."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import psutil
from msgspec.structs import replace

from harness import registry
from harness.blotting import blotting
from harness.errors import LaunchError, MachineError
from harness.label import release
from harness.registry import ROOT
from harness.schema import Deployment, Launch, Machine, Variant
from harness.secrets import redacted_argv, redacted_env, secrets_of

OWNS_SERVER = True
ELSEWHERE = False
MARK = "SERVING_HARNESS_LAUNCH"
"""Environment variable that every process of a launch inherits: finds children in sessions of their own."""

_OURS = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
"""Over this shell's variables. With the second set, as images set it, every process of an engine compiles all
that it imports at every start: 14 s of a core for vLLM, 16 for SGLang."""
_COPY_S = 5.0
_SCRIPT_S = 60.0
"""Importing torch from a cold disk takes most of it; the work itself is under a second."""


def missing(variant: Variant, machine: Machine) -> str:
    """An environment that is described, or the engine itself among the packages of python3."""
    if variant.environment:
        described = release.base(variant.environment)
        if described in machine.environments:
            return ""
        return f"its environment is not described: engines/{described}.requirements.txt is missing"
    package = registry.package(variant.engine)
    if variant.accelerator == "cpu" or package in machine.importable:
        return ""
    return f"this machine's python3 cannot import {package}"


def deployed(deployment: Deployment, variant: Variant) -> Deployment:
    """Everything lies where it lies; the interpreter is that of the variant's own environment."""
    own = f".engines/{variant.environment}/bin/python" if variant.environment else "python3"
    return replace(deployment, python=deployment.python or own, files=f".engines/files/{variant.name}")


def fitted(launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
    """Nothing is needed beyond the command."""
    return launch


def inside(launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
    """The engine sees what we see, but from the repository's root."""
    return launch, str(folder.resolve())


def environment(launch: Launch) -> dict[str, str]:
    """A process inherits this shell's variables."""
    return {**os.environ, **launch.env}


def answering(launch: Launch) -> None:
    """The start is the check."""


def python(launch: Launch, script: Path, *words: str) -> str:
    """Run by the program that the launch starts with, which must be a Python. Raises MachineError."""
    program = shutil.which(launch.argv[0]) if launch.argv else None
    if program is None or not Path(program).name.startswith("python"):
        raise MachineError("the engine is no Python program")
    command = [program, str(script), *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_OURS, **launch.env},
            capture_output=True,
            text=True,
            timeout=_SCRIPT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"{program} did not run it ({type(error).__name__})") from error
    return done.stdout


class ProcessServer:
    """One engine and all its descendants."""

    url = ""

    def __init__(
        self, process: subprocess.Popen[bytes], mark: str, copier: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._process = process
        self._mark = mark
        self._copier = copier
        """What stands between the engine and its log; it ends when the last of the engine has."""
        self._stopped_by_us = False

    @property
    def pid(self) -> int:
        """Process id of the engine's first process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code, or None while it runs. Once it has one, the log is whole."""
        code = self._process.poll()
        if code is not None:
            self._copied()
        return code

    def _copied(self) -> None:
        if self._copier is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._copier.wait(_COPY_S)
            self._copier = None

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the engine, SIGKILL to whatever is left of it after grace_s."""
        if self._process.poll() is None:
            self._stopped_by_us = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
        left = survivors(self._mark)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self._copied()
        stuck = survivors(self._mark)
        if stuck:
            raise MachineError(
                f"The engine's processes {[p.pid for p in stuck]} survived SIGKILL (stuck in the driver?); "
                "look at them with ps before the next run."
            )

    def describe_exit(self) -> str:
        """How it ended, in words."""
        code = self._process.poll()
        if code is None:
            return "still running"
        if code < 0:
            name = signal.Signals(-code).name
            by = " (by this harness)" if self._stopped_by_us else ""
            hint = "; the kernel's out-of-memory killer sends it" if name == "SIGKILL" and not by else ""
            return f"killed by {name}{by}{hint}"
        return f"exit code {code}"

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Command line and environment of the engine's first process."""
        try:
            process = psutil.Process(self.pid)
            return tuple(process.cmdline()), process.environ()
        except psutil.Error:
            return (), {}


def survivors(mark: str) -> list[psutil.Process]:
    """Live processes whose environment carries `mark`; "" = any launch of any harness."""
    found = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK)
            if value and mark in ("", value) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def start(launch: Launch, log_path: Path, run_id: str) -> ProcessServer:
    """Start launch.argv in the repository's root with launch.env on top of this process's environment.

    Raises LaunchError when the program does not exist or may not be run, or its files cannot be written.
    """
    mark = f"{run_id}/{launch.variant}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
    _write_files(launch)
    env = {**os.environ, **_OURS, **launch.env, MARK: mark}
    with blotting(log_path, secrets_of(launch)) as (log, copier):
        try:
            process = subprocess.Popen(
                launch.argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(
                f"{launch.variant}: {launch.argv[0]} cannot be started ({error.strerror}); "
                "check the engine's environment with `just doctor`."
            ) from error
    return ProcessServer(process, mark, copier)


def by_hand(launch: Launch) -> str:
    """The files, then the command with its variables."""
    lines = []
    for path, content in launch.files.items():
        lines += [f"mkdir -p {shlex.quote(str(Path(path).parent))}"]
        lines += [f"cat > {shlex.quote(path)} <<'END'\n{content.rstrip()}\nEND"]
    env = [f"{k}={v if v.startswith('${') else shlex.quote(v)}" for k, v in redacted_env(launch.env).items()]
    return "\n".join([*lines, " \\\n  ".join([*env, shlex.join(redacted_argv(launch.argv))])])


def _write_files(launch: Launch) -> None:
    """Where the engine, which runs in the repository's root, looks for them."""
    for name, content in launch.files.items():
        path = ROOT / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise LaunchError(
                f"{launch.variant}: {path} cannot be written ({error.strerror}); make its folder writable."
            ) from error
