"""Environments are really built here, by pip, from a wheel that the test writes and no package index."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.errors import InputError, MachineError
from harness.host import engine_env

REQUIREMENTS = "# shim: engines/shims/tiny\n--no-index\n./tiny-1.0-py3-none-any.whl\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_wheel(tmp_path, "tiny", "1.0", "ANSWER = 42\n")
    shim = tmp_path / "engines" / "shims" / "tiny" / "stand_in" / "__init__.py"
    shim.parent.mkdir(parents=True)
    shim.write_text("PLACE = 'shim'\n")
    describe(tmp_path, REQUIREMENTS)
    return tmp_path


def write_wheel(root: Path, name: str, release: str, code: str) -> None:
    with zipfile.ZipFile(root / f"{name}-{release}-py3-none-any.whl", "w") as wheel:
        info = f"{name}-{release}.dist-info"
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")


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
        [python, "-c", "import tiny, stand_in; print(tiny.ANSWER, stand_in.PLACE)"],
        text=True,
    )
    assert said.split() == ["42", "shim"]
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


def test_what_the_harness_has_is_installed_too(root: Path) -> None:
    """An engine's environment stands alone: nothing counts as installed because this Python has it."""
    write_wheel(root, "msgspec", version("msgspec"), "ANSWER = 43\n")
    describe(root, f"--no-index\n./msgspec-{version('msgspec')}-py3-none-any.whl\n")
    python = engine_env.ensure("tiny", root, print)
    assert (
        subprocess.check_output([python, "-c", "import msgspec; print(msgspec.ANSWER)"], text=True) == "43\n"
    )


def test_adopting_replaces_a_built_environment(root: Path) -> None:
    build(root)
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "engine.py").write_text("ANSWER = 44\n")
    interpreter = Path(sys.executable).resolve()
    size = interpreter.stat().st_size
    python = engine_env.adopt("tiny", root, str(interpreter), str(root / "elsewhere"))
    assert interpreter.stat().st_size == size, "the environment's python was a link to this one"
    assert subprocess.check_output([python, "-c", "import engine; print(engine.ANSWER)"], text=True) == "44\n"
    assert build(root) == []


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


def test_the_adopting_script_runs_as_it_is_called() -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / "adopt_environment.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--path" in done.stdout, done.stderr
