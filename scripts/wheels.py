"""Keeps wheels.lock, and says what the harness's own environment is made of.

python -m scripts.wheels write [FILE ...]   ask this machine's package index, by pip's report, add what is new
python -m scripts.wheels sbom   CycloneDX of the harness's own environment, on standard output
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.host.wheels import LOCK, locked, reported

ROOT = LOCK.parent


def write(files: list[Path]) -> int:
    """Adds what this machine's index has for every requirements file, for this Python and platform."""
    known = locked() if LOCK.exists() else {}
    every = sorted([*ROOT.glob("requirements*.txt"), *(ROOT / "engines").glob("*.requirements.txt")])
    for file in files or every:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            words = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--report", str(report)]
            alone = ["--no-deps"] if file.parent.name == "engines" else []
            pip = [sys.executable, "-m", "pip", "install", "-q", *words, *alone, "-r", str(file)]
            if subprocess.run(pip, capture_output=True, check=False).returncode:
                print(
                    f"{file.name}: this machine's index does not have it all; left as it was", file=sys.stderr
                )
                continue
            for name, digest in reported(report):
                known.setdefault(name, set()).add(digest)
    save(known)
    return 0


def save(known: dict[str, set[str]]) -> None:
    """wheels.lock, in order of file names."""
    rows = sorted((name, digest) for name, digests in known.items() for digest in digests if digest)
    LOCK.write_text("".join(f"{digest}  {name}\n" for name, digest in rows), "utf-8")


def sbom() -> str:
    """CycloneDX 1.5: every installed package with its licence."""
    parts = [
        {
            "type": "library",
            "name": dist.metadata["Name"],
            "version": dist.version,
            "purl": f"pkg:pypi/{dist.metadata['Name'].lower().replace('_', '-')}@{dist.version}",
            **licence(dist),
        }
        for dist in sorted(importlib.metadata.distributions(), key=lambda one: one.metadata["Name"].lower())
    ]
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return json.dumps({**head, "components": parts}, indent=1)


def licence(dist: importlib.metadata.Distribution) -> dict[str, object]:
    """Its licence as it says itself; {} where it says nothing short."""
    said = dist.metadata.get("License-Expression") or dist.metadata.get("License") or ""
    return {"licenses": [{"license": {"name": said}}]} if said and len(said) < 80 else {}


def main() -> int:
    """Exit status."""
    what, *rest = sys.argv[1:] or [""]
    if what == "write":
        return write([Path(word) for word in rest])
    if what == "sbom":
        print(sbom())
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main())
