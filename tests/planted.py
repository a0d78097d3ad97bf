"""A folder of tiny wheels, the releases of tests/engines/planted.py: as fast and right as said."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

MAIN = """
import math, os, random, sys
print("planted={version}", flush=True)
if {broken}:
    sys.exit("RuntimeError: this release does not start")
token_s = {token_s} * math.exp(random.gauss(0, {noise}))
os.environ |= {{"MOCK_TOKEN_S": str(token_s), **({{"MOCK_WRONG": "1"}} if {wrong} else {{}})}}
os.execv(sys.argv[1], sys.argv[1:])
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Release(NamedTuple):
    """How one release behaves."""

    token_s: float = 0.002
    wrong: bool = False
    broken: bool = False
    noise: float = 0.0
    """Standard deviation of the logarithm of token_s from start to start."""


def write(folder: Path, releases: dict[str, Release]) -> None:
    """One wheel each."""
    folder.mkdir(parents=True, exist_ok=True)
    for version, release in releases.items():
        with zipfile.ZipFile(folder / f"planted-{version}-py3-none-any.whl", "w") as wheel:
            info = f"planted-{version}.dist-info"
            wheel.writestr("planted/__init__.py", "")
            wheel.writestr("planted/__main__.py", MAIN.format(version=version, **release._asdict()))
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: planted\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", WHEEL)
            wheel.writestr(f"{info}/RECORD", "")
