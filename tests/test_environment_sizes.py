"""What environments weigh, with shared files counted where they are freed, and what is removed when asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.host import environment_sizes as sizes

MB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two versions that share a file with the downloads, each with one of its own."""
    engines = tmp_path / ".engines"
    for name in ("downloads", "env@1.0", "env@2.0", "env@1.0.shims"):
        (engines / name).mkdir(parents=True)
    (engines / "downloads" / "big").write_bytes(os.urandom(3 * MB))
    for version in ("1.0", "2.0"):
        os.link(engines / "downloads" / "big", engines / f"env@{version}" / "big")
        (engines / f"env@{version}" / "own").write_bytes(os.urandom(MB))
        (engines / f"env@{version}.requirements.txt").write_text("")
    return tmp_path


def test_a_shared_file_is_weighed_everywhere_and_freed_nowhere(root: Path) -> None:
    found = {one.name: one for one in sizes.weigh(root)}
    assert set(found) == {"downloads", "env@1.0", "env@2.0"}
    assert found["env@1.0"].total == 4 * MB and found["env@1.0"].own == MB
    assert found["downloads"].total == 3 * MB and found["downloads"].own == 0
    told = list(sizes.lines(tuple(found.values())))
    assert any(line.startswith("env@1.0 ") and "frees 0.00 GB" in line for line in told)


def test_only_what_is_named_is_removed(root: Path) -> None:
    said: list[str] = []
    sizes.remove(["env@1.0"], root, said.append)
    left = sorted(path.name for path in (root / ".engines").iterdir())
    assert left == ["downloads", "env@2.0", "env@2.0.requirements.txt"]
    assert said[0].startswith("removed env@1.0")
    with pytest.raises(InputError, match=r"There is no environment .*; there are: downloads, env@2"):
        sizes.remove(["env@2.0", "env@1.0"], root, said.append)
    assert (root / ".engines" / "env@2.0").exists()
