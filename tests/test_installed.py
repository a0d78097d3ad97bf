"""Installed packages against their RECORD: a real package, copied and then tampered with."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import planned
from harness.schema import Deployment, Launch, Model, Variant
from harness.sealing import engine_files, installed
from harness.sealing.nouns import ENGINE_FILES, PATCHED, EngineFiles

PACKAGE = "tomlkit"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages folder with one real package in it."""
    folder = tmp_path / "site-packages"
    for file in importlib.metadata.distribution(PACKAGE).files or ():
        if "__pycache__" not in str(file):
            target = folder / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)
    return folder


def look(site: Path) -> dict[str, list[str]]:
    words = [sys.executable, "-S", installed.__file__, PACKAGE]
    done = subprocess.run(words, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_a_package_as_published_differs_in_nothing(site: Path) -> None:
    found = look(site)
    assert len(found["packages"]) == 1 and found["num_files"] > 10  # type: ignore[operator]
    assert found["changed"] == found["missing"] == found["added"] == found["unheld"] == []


def test_one_changed_byte_a_missing_file_and_an_added_one_are_named(site: Path) -> None:
    source = site / PACKAGE / "api.py"
    source.write_bytes(source.read_bytes().replace(b"a", b"b", 1))
    (site / PACKAGE / "items.py").unlink()
    (site / PACKAGE / "fast_path.py").write_text("")
    (site / "sitecustomize.py").write_text("")
    found = look(site)
    assert found["changed"] == ["tomlkit/api.py"] and found["missing"] == ["tomlkit/items.py"]
    assert [name for name, _ in found["added"]] == ["sitecustomize.py", "tomlkit/fast_path.py"]


def test_a_folder_of_packages_with_another_name_shortens_paths_as_well(site: Path) -> None:
    wheels = site.rename(site.parent / "wheels")
    (wheels / PACKAGE / "items.py").unlink()
    assert look(wheels)["missing"] == ["tomlkit/items.py"]


def test_a_package_that_lies_earlier_on_the_path_is_named(site: Path, tmp_path: Path) -> None:
    before = tmp_path / "before" / PACKAGE
    before.mkdir(parents=True)
    (before / "__init__.py").write_text("")
    words = [sys.executable, "-S", installed.__file__, PACKAGE]
    path = f"{before.parent}:{site}"
    done = subprocess.run(words, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert [name for name, _ in json.loads(done.stdout)["added"]] == ["__init__.py"]


def test_a_package_without_hashes_is_not_called_unpatched(site: Path) -> None:
    record = next(site.glob("*.dist-info/RECORD"))
    record.write_text("".join(f"{line.split(',')[0]},,\n" for line in record.read_text().splitlines()))
    found = look(site)
    assert found["packages"] == {} and len(found["unheld"]) == 1


def a_plan(python: str, environment: str = "any") -> planned.Planned:
    variant = Variant(
        name="v", engine=PACKAGE, source="", accelerator="cpu", version="1", environment=environment
    )
    deployment = Deployment(model=Model(alias="m"), launcher="process", model_path="", served_model_name="m")
    launch = Launch(variant="v", engine=PACKAGE, launcher="process", argv=(python, "-m", PACKAGE))
    return planned.Planned(
        variant=variant, model=Model(alias="m"), deployment=deployment, trials=(), launch=launch
    )


def test_a_patched_engine_is_labelled_before_it_is_launched(site: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    assert engine_files.held(a_plan(str(python)), tmp_path).launch.labels == ()
    (site / PACKAGE / "api.py").write_text("")
    assert engine_files.held(a_plan(str(python)), tmp_path).launch.labels == (PATCHED,)
    kept = msgspec.json.decode((tmp_path / ENGINE_FILES).read_bytes(), type=EngineFiles)
    assert kept.changed == ("tomlkit/api.py",) and kept.packages
    unnamed = engine_files.of(a_plan(str(python), environment=""))
    assert "neither an environment nor an image" in unnamed.skipped
