"""Wheels are known by name and content: another content under a known name is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.host import wheels
from harness.registry import ROOT

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
