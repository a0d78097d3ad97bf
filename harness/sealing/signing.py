"""Signatures by the user's own SSH key, through ssh-keygen (OpenSSH 8.2 and newer: -Y sign)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.errors import InputError, MachineError
from harness.host.environment import git

NAMESPACE = "serving-harness-bundle"
NONE = "none"
"""key=none: a bundle that nobody vouches for."""


def key(given: str = "") -> str:
    """Path of the key to sign with: as given, else $HARNESS_SIGNING_KEY, else git's user.signingkey."""
    return given or os.environ.get("HARNESS_SIGNING_KEY", "") or git("config", "user.signingkey")


def fingerprint_of_key(path: str) -> str:
    """SHA256:... of a key; "" when there is none, or nothing here reads it."""
    if not path or path == NONE or not shutil.which("ssh-keygen"):
        return ""
    said = _ssh_keygen("-l", "-f", str(Path(path).expanduser()))
    return said.stdout.split()[1] if said.returncode == 0 and len(said.stdout.split()) > 1 else ""


def sign(content: bytes, path: str) -> bytes:
    """The armoured SSH signature of `content`. Asks on the terminal where the key has a passphrase.

    Raises InputError for a key that does not sign, MachineError without ssh-keygen.
    """
    if not shutil.which("ssh-keygen"):
        raise MachineError("ssh-keygen is not here; install openssh-client, or give key=none.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "content"
        file.write_bytes(content)
        done = _ssh_keygen("-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(Path(path).expanduser()), str(file))
        if done.returncode != 0:
            why = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise InputError(f"ssh-keygen did not sign with {path} ({why[0]}); give another key=.")
        return file.with_name("content.sig").read_bytes()


def _ssh_keygen(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ssh-keygen", *words], capture_output=True, text=True, check=False, timeout=120)
