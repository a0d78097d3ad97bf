"""Environments are really built here, by pip, from a wheel that the test writes and no package index."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import engine_env
from harness.errors import InputError, MachineError

REQUIREMENTS = "# shim: engines/shims/tiny\n--no-index\n./tiny-1.0-py3-none-any.whl\n"
METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "ANSWER = 42\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    shim = tmp_path / "engines" / "shims" / "tiny" / "stand_in" / "__init__.py"
    shim.parent.mkdir(parents=True)
    shim.write_text("PLACE = 'shim'\n")
    describe(tmp_path, REQUIREMENTS)
    return tmp_path


def describe(root: Path, requirements: str) -> None:
    (root / "engines" / "tiny.requirements.txt").write_text(requirements)


def build(root: Path) -> list[str]:
    """The installer's lines; none if the environment was there already."""
    lines: list[str] = []
    engine_env.ensure("tiny", root, lines.append)
    return lines


def failure(root: Path) -> MachineError:
    with pytest.raises(MachineError) as caught:
        build(root)
    assert not engine_env.exists("tiny", root)
    return caught.value


def test_builds_once(root: Path) -> None:
    assert not engine_env.exists("tiny", root)
    lines: list[str] = []
    python = engine_env.ensure("tiny", root, lines.append)
    assert python == root / ".engines" / "tiny" / "bin" / "python"
    assert any("Successfully installed tiny-1.0" in line for line in lines)
    assert (root / ".engines" / "tiny.log").read_text().splitlines() == lines
    said = subprocess.check_output(
        [python, "-c", "import tiny, stand_in; print(tiny.ANSWER, stand_in.PLACE, tiny.__cached__)"],
        text=True,
    )
    answer, place, cached = said.split()
    assert (answer, place) == ("42", "shim")
    assert Path(cached).exists(), "imports were not compiled at installation"
    assert engine_env.exists("tiny", root)
    assert build(root) == []


def test_rebuilds_when_the_requirements_change(root: Path) -> None:
    build(root)
    describe(root, REQUIREMENTS + "# another pin\n")
    assert not engine_env.exists("tiny", root)
    assert build(root) != []


def test_rebuilds_when_a_shim_changes(root: Path) -> None:
    build(root)
    (root / "engines/shims/tiny/stand_in/__init__.py").write_text("PLACE = 'elsewhere'\n")
    assert not engine_env.exists("tiny", root)
    assert build(root) != []


def test_an_interrupted_build_is_built_again(root: Path) -> None:
    def interrupt(line: str) -> None:
        if "Installing collected packages" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_env.ensure("tiny", root, interrupt)
    assert (root / ".engines" / "tiny" / "bin" / "python").exists()
    assert not engine_env.exists("tiny", root)
    assert any("Successfully installed" in line for line in build(root))


def test_two_at_once_build_once(root: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda _: build(root), range(2)))
    lines = [line for output in outputs for line in output]
    assert sum("Successfully installed" in line for line in lines) == 1


def test_unknown_environment_names_the_known_ones(root: Path) -> None:
    with pytest.raises(InputError, match=r"no engine environment 'tinny'.*use one of tiny"):
        engine_env.ensure("tinny", root, print)
    with pytest.raises(InputError):
        engine_env.exists("tinny", root)


def test_a_package_that_is_nowhere(root: Path) -> None:
    describe(root, "--no-index\nno-such-package==1.0\n")
    error = failure(root)
    assert "tiny could not be installed" in error.message
    assert "a pinned package has no wheel for this machine's Python" in error.message
    assert "No matching distribution found for no-such-package==1.0" in error.details
    assert f"whole log: {root}/.engines/tiny.log" in error.details
    assert f"{sys.executable} -m venv" in error.details
    assert not (root / ".engines" / "tiny").exists(), "a failed build must not hold disk"


def test_torch_for_the_cpu_needs_another_index(root: Path) -> None:
    describe(root, "--no-index\ntorch==0.0.1+cpu\n")
    assert "set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheel index and run again" in failure(root).message


def test_no_network(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    closed_port = "http://127.0.0.1:9/simple"
    describe(root, f"--index-url {closed_port}\nno-such-package==1.0\n")
    error = failure(root)
    assert "because the package index could not be reached" in error.message
    assert "check the network" in error.message


def test_full_disk(root: Path) -> None:
    (root / ".engines").mkdir()
    (root / ".engines" / "tiny.log").symlink_to("/dev/full")  # every write fails as on a full disk
    error = failure(root)
    assert "because the disk is full; free some space and run again" in error.message
    assert "by hand" in error.details
