"""Installed packages against their own RECORD: run by an engine's Python, imports nothing of the harness.

`installed.py PACKAGE [all]` prints a JSON object: packages (name and version -> sha256 of RECORD), num_files,
changed, missing, added ([path, sha256]), unheld. PACKAGE is the name under which Python imports the engine;
with `all`, every package on its path is looked at. RECORD: one line a file, path, algorithm=urlsafe base64
digest without padding, size (PyPA, "Recording installed projects"). Byte code is left out.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata as metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

CODE = (".py", ".so", ".pth", ".pyd")
STARTED = ("sitecustomize.py", "usercustomize.py")


def main() -> None:
    """One line of JSON."""
    print(json.dumps(look(sys.argv[1], "all" in sys.argv[2:])))


def look(package: str, whole: bool = False) -> dict[str, object]:
    """What main() prints."""
    known = list(metadata.distributions())
    held = [dist for dist in known if whole or _provides(dist, package)]
    packages: dict[str, str] = {}
    expected: dict[str, str] = {}
    unheld, listed = [], set()
    for dist in held:
        name, lines = f"{dist.metadata['Name']} {dist.version}", list(_lines(dist))
        hashed = {path: digest for path, digest in lines if digest and "__pycache__" not in path}
        listed |= {path for path, _ in lines}
        if not hashed:
            unheld.append(name)
            continue
        packages[name] = hashlib.sha256((dist.read_text("RECORD") or "").encode()).hexdigest()
        expected |= hashed
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(expected, pool.map(_digest, expected, expected.values()), strict=True))
    sites = {os.path.normpath(str(dist.locate_file(""))) for dist in held}
    added = _added(sites, package, whole)
    spec = importlib.util.find_spec(package) if held else None
    if spec and spec.origin:  # a folder earlier on the path may take the package's place
        added.add(os.path.normpath(spec.origin))
    added -= listed
    if added and not whole:
        added -= {path for dist in known for path, _ in _lines(dist)}
    return {
        "packages": dict(sorted(packages.items())),
        "num_files": len(expected),
        "changed": sorted(_short(p, sites) for p, digest in found.items() if digest not in ("", expected[p])),
        "missing": sorted(_short(p, sites) for p, digest in found.items() if not digest),
        "added": sorted((_short(path, sites), _sha256(path)) for path in added),
        "unheld": sorted(unheld),
    }


def _lines(dist: metadata.Distribution) -> Iterator[tuple[str, str]]:
    """(path, algorithm=digest) of every line of its RECORD."""
    site = str(dist.locate_file(""))
    for row in csv.reader((dist.read_text("RECORD") or "").splitlines()):
        yield os.path.normpath(os.path.join(site, row[0])), row[1]


def _provides(dist: metadata.Distribution, package: str) -> bool:
    """Whether the distribution holds the package: a folder, or a module, of that name."""
    record = dist.read_text("RECORD") or ""
    holds = f"\n{package}/" in f"\n{record}" or f"\n{package}." in f"\n{record}"
    return holds or dist.metadata["Name"].replace("-", "_").lower() == package.lower()


def _digest(path: str, expected: str) -> str:
    """algorithm=digest of a file as RECORD writes it; "" when it is not there."""
    algorithm = expected.partition("=")[0]
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, algorithm).digest()
    except OSError:
        return ""
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _added(sites: set[str], package: str, whole: bool) -> set[str]:
    """Code below the engine's own folders (`whole`: below all), and what Python runs when it starts."""
    found = set()
    for site in sites:
        started = [name for name in os.listdir(site) if name.endswith(".pth") or name in STARTED]
        found |= {os.path.join(site, name) for name in started}
        for folder, inside, names in os.walk(site if whole else os.path.join(site, package)):
            inside[:] = [name for name in inside if name != "__pycache__"]
            found |= {os.path.join(folder, name) for name in names if name.endswith(CODE)}
    return found


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(path: str, sites: set[str]) -> str:
    """The path below the folder of packages, whatever that is called."""
    above = [site + os.sep for site in sites if path.startswith(site + os.sep)]
    _, found, rest = path.rpartition("-packages/")
    return path.removeprefix(max(above, key=len)) if above else rest if found else os.path.basename(path)


if __name__ == "__main__":
    main()
