"""Our own supply chain: the SBOM against CycloneDX's schema, every pin against known vulnerabilities.

    python -m scripts.audit     writes .cache/sbom.json; ends with 1 when that is not valid, or a pin known
                                to be vulnerable

pip-audit asks PyPI's JSON service for each pin. Where that does not answer, or has not heard of the package,
pip-audit ends as if all were well: so what it skipped is counted here, and said. The schema is the one that
CycloneDX's own library brings (cyclonedx-python-lib, bom-1.5.SNAPSHOT.schema.json).
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from scripts.wheels import ROOT, sbom

HERE = ROOT / ".cache" / "audit"
REQUIREMENTS = ROOT / "requirements-audit.txt"
_TIMEOUT_S = 120
_VALID = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
sys.exit(str(error)[:500] if error else 0)
"""


def environment() -> Path:
    """The Python of an environment that has both, held against wheels.lock.

    Raises CalledProcessError: pip, or that check, has said why.
    """
    python, report = HERE / "bin" / "python", HERE / "wheels.json"
    if not python.exists():
        venv.create(HERE, with_pip=True)
    words = ["-q", "--disable-pip-version-check", "--report", str(report), "-r", str(REQUIREMENTS)]
    subprocess.run([python, "-m", "pip", "install", *words], check=True)
    subprocess.run([sys.executable, "-m", "harness.host.wheels", str(report)], cwd=ROOT, check=True)
    return python


def invalid(python: Path, text: str) -> str:
    """What of an SBOM the schema does not allow; "" when nothing."""
    done = subprocess.run([python, "-c", _VALID], input=text, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def audited(python: Path, requirements: list[Path]) -> dict[str, Any]:
    """pip-audit's report; {} where it gives none."""
    files = [word for path in requirements for word in ("-r", str(path))]
    words = ["-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "-f", "json"]
    command = [python, *words, *files]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    return report


def told(report: dict[str, Any]) -> tuple[list[str], bool]:
    """(sentences, whether a pin is known to be vulnerable) of pip-audit's report."""
    pins = report.get("dependencies", [])
    asked = [pin for pin in pins if "skip_reason" not in pin]
    lines = [
        f"{pin['name']} {pin['version']}: {one['id']}, mended in {' or '.join(one['fix_versions']) or 'none'}"
        for pin in asked
        for one in pin["vulns"]
    ]
    known = bool(lines)
    lines.append(f"{len(asked)} of {len(pins)} pins were looked up, {len(lines)} vulnerabilities are known")
    if len(asked) < len(pins) or not pins:
        why = next((pin["skip_reason"] for pin in pins if "skip_reason" in pin), "no answer in time")
        lines.append(
            f"the others were NOT CHECKED for known vulnerabilities ({why}): run it where PyPI is reached"
        )
    return lines, known


def main() -> int:
    """Exit status."""
    text = sbom()
    HERE.parent.mkdir(exist_ok=True)
    (HERE.parent / "sbom.json").write_text(text, "utf-8")
    try:
        python = environment()
    except subprocess.CalledProcessError as error:
        print("NOT CHECKED: requirements-audit.txt is not installed, see the words above", file=sys.stderr)
        return int("harness.host.wheels" in error.cmd)  # a foreign file under a known name
    wrong = invalid(python, text)
    print(f"SBOM: not CycloneDX 1.5: {wrong}" if wrong else "SBOM: valid CycloneDX 1.5")
    lines, known = told(audited(python, sorted(ROOT.glob("requirements*.txt"))))
    print("\n".join(lines))
    return bool(wrong) or known


if __name__ == "__main__":
    sys.exit(main())
