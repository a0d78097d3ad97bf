"""The Python environments that CPU engines run in: `.engines/<env>/`, from `engines/<env>.requirements.txt`.

A requirements file is a complete freeze, so pip resolves nothing. Its comments may hold two directives:
`# shim: DIR` copies the content of DIR into site-packages after pip has finished; `# pip: resolve` lets pip
find the dependencies (the file then pins only what defines the engine).

<env>@<version> is described by a file beside it (harness/host/engine_versions.py) and installed by uv:
versions share their files by hard links, so that ten of them weigh little more than what differs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import registry
from harness.errors import InputError, MachineError
from harness.host import package_index, wheels
from harness.label import release

OnLine = Callable[[str], None]
Command = list[str]

STAMP = "complete.sha256"
UV = "uv"
"""The environment of the program that resolves and installs other versions."""
LOG_TAIL_LINES = 15

# Words in the installer's output -> why it failed, what to do next. The first that matches is reported.
CAUSES = (
    (("No space left on device", "Disk quota exceeded"), "the disk is full", "free some space"),
    (("CERTIFICATE_VERIFY_FAILED",), "a TLS certificate was refused", "set PIP_CERT to your CA bundle"),
    (
        ("Retry(total=0", "ReadTimeoutError: "),
        "the package index could not be reached",
        "check the network, or set PIP_INDEX_URL to a mirror",
    ),
    (
        ("No matching distribution found for torch==",),
        "the package index in use does not hold PyTorch's CPU build",
        "set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index",
    ),
    (
        ("No matching distribution found for", "is not a supported wheel on this platform"),
        "a pinned package has no wheel for this machine's Python",
        "use Python 3.11 on Linux x86-64",
    ),
    (("Permission denied", "Read-only file system"), "the folder cannot be written", "make it writable"),
)


def exists(env_name: str, root: Path) -> bool:
    """Whether the environment is complete and made from the requirements and shims as they are now.

    Raises InputError if no such environment is described.
    """
    return _is_current(_env_dir(env_name, root), _fingerprint(env_name, root))


def ensure(env_name: str, root: Path, on_line: OnLine) -> Path:
    """Return the environment's Python, first building the environment if it is missing or out of date.

    `on_line` gets the installer's output line by line; `.engines/<env_name>.log` keeps it.
    Raises InputError if no such environment is described, MachineError if it cannot be installed.
    """
    env, fingerprint = _env_dir(env_name, root), _fingerprint(env_name, root)
    if not _is_current(env, fingerprint):
        try:
            with _lock(env, on_line) as lock_fd:
                if not _is_current(env, fingerprint):
                    _build(env, root, on_line, lock_fd)
                    (env / STAMP).write_text(fingerprint, encoding="utf-8")
        except OSError as error:
            raise _failure(env, root, str(error)) from error
    return _python(env)


def adopt(env_name: str, root: Path, python: str, python_path: str) -> Path:
    """Make the environment a name for a Python that already holds the engine: a host without network.

    `python_path` is put before PYTHONPATH. From then on ensure() takes it as built, until the requirements
    change. Raises InputError if no such environment is described.
    """
    env, fingerprint = _env_dir(env_name, root), _fingerprint(env_name, root)
    script = _python(env)
    _remove(env)  # bin/python may be a link: writing through it would overwrite the system's Python
    script.parent.mkdir(parents=True, exist_ok=True)
    path = f"{python_path}${{PYTHONPATH:+:$PYTHONPATH}}"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {shlex.quote(python)} "$@"\n')
    script.chmod(0o755)
    (env / STAMP).write_text(fingerprint, encoding="utf-8")
    return script


def _build(env: Path, root: Path, on_line: OnLine, lock_fd: int) -> None:
    _remove(env)
    with _log(env).open("w", encoding="utf-8", buffering=1) as log:

        def tell(line: str) -> None:
            log.write(line)
            on_line(line.rstrip())

        for command in _install_commands(env, root):
            if _run(command, root, tell, lock_fd) != 0:
                shutil.rmtree(env, ignore_errors=True)
                raise _failure(env, root, _log(env).read_text(encoding="utf-8"))
        # Nothing is compiled here: the first start writes what it imports, a fifth of what is installed.
        _hold(env)


def _hold(env: Path) -> None:
    """Raises MachineError, and removes the environment, for a wheel that is not what its name says."""
    fetched = wheels.reported(_report(env)) if _report(env).exists() else ()
    if wrong := wheels.differing(fetched, wheels.locked()):
        shutil.rmtree(env, ignore_errors=True)
        raise MachineError(
            f"The environment {env.name} was removed: {wrong[0]}.", details="\n".join(wrong[1:])
        )


def _report(env: Path) -> Path:
    """What pip fetched for it, with hashes."""
    return env.with_name(f"{env.name}.wheels.json")


def _remove(env: Path) -> None:
    (env / STAMP).unlink(missing_ok=True)  # first: a half-deleted environment must not pass for a whole one
    shutil.rmtree(env, ignore_errors=True)
    _report(env).unlink(missing_ok=True)


def _install_commands(env: Path, root: Path) -> list[Command]:
    described = requirements(env.name, root)
    installer = _linking(env, root) if release.AT in env.name else _copying(env, described)
    return [
        [sys.executable, "-m", "venv", "--without-pip", str(env)],
        [*installer, "-r", str(described)],
        *(["cp", "-R", f"{shim}/.", str(_site_packages(env))] for shim in shims(described, root)),
    ]


def _copying(env: Path, described: Path) -> Command:
    """pip, every file a copy of the environment's own."""
    pip = [str(_python(env)), str(_pip()), "install"]
    resolve = "# pip: resolve" in described.read_text(encoding="utf-8").splitlines()
    flags = [*([] if resolve else ["--no-deps"]), "--no-compile", "--only-binary=:all:"]
    return [
        *pip,
        *flags,
        "--report",
        str(_report(env)),
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ]


def _linking(env: Path, root: Path) -> Command:
    """uv, every file a link to the one that was downloaded."""
    command = [str(uv()), "pip", "install", "--python", str(_python(env)), "--no-deps", "--no-config"]
    shared = ["--only-binary=:all:", "--link-mode=hardlink", "--cache-dir", str(downloads(root))]
    return [*command, *shared, "--no-progress", *package_index.uv_flags()]


def uv() -> Path:
    """The program; ensure(UV) makes it."""
    return _env_dir(UV, registry.ROOT) / "bin" / "uv"


def downloads(root: Path) -> Path:
    """What uv has downloaded: on the disk of the environments, whose files are links to it."""
    return folder(root) / "downloads"


def _pip() -> Path:
    """The script by which another Python runs this Python's pip, seeing only its own packages.

    `pip --python` runs it too, but as a second process, which outlives a killed first one without the lock.
    """
    spec = importlib.util.find_spec("pip")
    if spec is None or spec.origin is None:
        raise MachineError(
            f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip` and then again."
        )
    return Path(spec.origin).with_name("__pip-runner__.py")


def _run(command: Command, cwd: Path, tell: OnLine, lock_fd: int) -> int:
    # The child inherits the lock: if this process is killed, nobody builds beside a child that still writes.
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=(lock_fd,)
    ) as child:
        try:
            for line in child.stdout or ():
                tell(line)
        except BaseException:
            child.kill()
            raise
    return child.returncode


@contextmanager
def _lock(env: Path, on_line: OnLine) -> Iterator[int]:
    env.parent.mkdir(parents=True, exist_ok=True)
    with env.with_name(f"{env.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_line(f"another process is building {env.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _failure(env: Path, root: Path, output: str) -> MachineError:
    why, advice = "the installer failed", "read its last lines below"
    for words, cause, remedy in reversed(CAUSES):
        if any(word in output for word in words):
            why, advice = cause, remedy
    tail = output.splitlines()[-LOG_TAIL_LINES:]
    by_hand = " && \\\n  ".join(shlex.join(command) for command in _install_commands(env, root))
    return MachineError(
        f"The environment {env.name} could not be installed in {env} because {why}; {advice} and run again.",
        details="\n".join([*tail, f"whole log: {_log(env)}", f"by hand, in {root}:", f"  {by_hand}"]),
    )


def _fingerprint(env_name: str, root: Path) -> str:
    described = requirements(env_name, root)
    if not described.is_file():
        known = sorted(path.name.split(".")[0] for path in described.parent.glob("*.requirements.txt"))
        raise InputError(
            f"There is no engine environment {env_name!r}: {described} does not exist; "
            f"use one of {', '.join(known) or '(none found)'}, or write that file."
        )
    digest = hashlib.sha256(described.read_bytes())
    for shim in shims(described, root):
        for file in sorted(path for path in shim.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            digest.update(f"\0{file.relative_to(shim)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def shims(described: Path, root: Path) -> list[Path]:
    """Folders that the `# shim: DIR` directives of a requirements file name."""
    lines = described.read_text(encoding="utf-8").splitlines()
    return [root / line.removeprefix("# shim:").strip() for line in lines if line.startswith("# shim:")]


def _is_current(env: Path, fingerprint: str) -> bool:
    stamp = env / STAMP
    return _python(env).exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == fingerprint


def requirements(env_name: str, root: Path) -> Path:
    """The file that describes an environment: beside its engine; another version's, beside it."""
    if release.AT in env_name:
        return folder(root) / f"{env_name}.requirements.txt"
    places = (root / "engines", *registry.engine_folders()[1:])
    files = [place / f"{env_name}.requirements.txt" for place in places]
    return next((file for file in files if file.is_file()), files[0])


def folder(root: Path) -> Path:
    """Where environments lie."""
    return root.absolute() / ".engines"


def _env_dir(env_name: str, root: Path) -> Path:
    return folder(root) / env_name


def _log(env: Path) -> Path:
    return env.with_name(f"{env.name}.log")


def _python(env: Path) -> Path:
    return env / "bin" / "python"


def _site_packages(env: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(env)}))
