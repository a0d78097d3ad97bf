"""Wheels are known by name and content: another content under a known name is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.host import wheels
from harness.registry import ROOT
from scripts import audit

NAME = "psutil-7.2.2-cp36-abi3-manylinux2010_x86_64.manylinux_2_12_x86_64.manylinux_2_28_x86_64.whl"
PUBLISHED = "076a2d2f923fd4821644f5ba89f059523da90dc9014e85f8e45a5774ca5bc6f9"
"""Of that wheel on PyPI, as public lock files have it: homebrew-style resources and uv.lock files alike."""


def test_the_lock_has_the_content_that_was_published_wherever_it_was_fetched() -> None:
    assert wheels.locked()[NAME] == {PUBLISHED}


def test_another_content_under_a_known_name_is_named_and_an_unknown_build_is_not(tmp_path: Path) -> None:
    known = wheels.locked()
    assert wheels.differing([(NAME, PUBLISHED), ("new-1-cp399-none-any.whl", "0" * 64)], known) == []
    (line,) = wheels.differing([(NAME, "0" * 64)], known)
    assert line.startswith(f"{NAME} has sha256 000") and "do not use" in line


def test_a_report_of_pip_is_read_and_a_foreign_file_ends_the_setup(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    info = {
        "url": f"https://index.example/a%2Bb/{NAME}#sha256=x",
        "archive_info": {"hashes": {"sha256": "1" * 64}},
    }
    report.write_text(json.dumps({"install": [{"download_info": info}]}))
    assert list(wheels.reported(report)) == [(NAME, "1" * 64)]
    words = [sys.executable, "-S", "-m", "harness.host.wheels", str(report)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "index serves another file" in done.stderr


AUDITED = {
    "dependencies": [
        {
            "name": "flask",
            "version": "0.5",
            "vulns": [{"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "description": "..."}],
        },
        {"name": "jinja2", "version": "3.0.2", "vulns": []},
    ],
    "fixes": [],
}
"""As pypa/pip-audit's README shows `-f json`."""


def test_a_known_vulnerability_is_named_with_the_version_that_mends_it() -> None:
    lines, known = audit.told(AUDITED)
    assert known and lines == [
        "flask 0.5: PYSEC-2019-179, mended in 1.0",
        "2 of 2 pins were looked up, 1 vulnerabilities are known",
    ]


def test_what_could_not_be_looked_up_is_said_and_not_taken_for_healthy() -> None:
    """pip-audit itself says "No known vulnerabilities found" and ends with 0."""
    unheard = {
        "name": "ours",
        "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)",
    }
    for report in ({"dependencies": [unheard]}, {}):
        (counted, said), known = audit.told(report)
        assert not known and counted.startswith("0 of ")
        assert said.startswith("the others were NOT CHECKED for known vulnerabilities (")
