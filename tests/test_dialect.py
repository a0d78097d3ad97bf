"""Versions are ordered, and a meaning is spelt as each version knows it."""

import pytest

from harness.label.dialect import longest, since, spell, version_key
from harness.schema import Model, Variant

OLD_AND_NEW = (("", "--old"), ("0.5.20", "--new"), ("0.9", ""))


def test_versions_sort_as_released() -> None:
    ordered = [
        "a-branch",
        "0.5.15",
        "0.5.15.post1",
        "0.5.15.1",
        "0.5.20",
        "0.24.0",
        "0.32.0",
        "1.3.0rc9",
        "1.3.0rc14",
        "1.3.0",
    ]
    assert sorted(reversed(ordered), key=version_key) == ordered


@pytest.mark.parametrize(
    ("version", "flag"), [("0.5.15", "--old"), ("0.5.20", "--new"), ("0.5.23", "--new"), ("0.9.1", "")]
)
def test_newest_spelling_a_version_has(version: str, flag: str) -> None:
    assert spell(version, OLD_AND_NEW) == flag


def test_branch_builds_get_the_oldest_spelling() -> None:
    assert spell("mori-ep-aiter-fix", OLD_AND_NEW) == "--old"
    assert not since("mori-ep-aiter-fix", "0.1")


def test_local_version_suffix_does_not_matter() -> None:
    assert version_key("0.32.0+cpu") == version_key("0.32.0")


@pytest.mark.parametrize(
    ("of_variant", "of_model", "length"),
    [(72000, 40960, 40960), (2000, 40960, 2000), (0, 4096, 0), (512, 0, 512)],
)
def test_length_never_exceeds_the_model(of_variant: int, of_model: int, length: int) -> None:
    variant = Variant(
        name="v", engine="vllm", source="", accelerator="cpu", version="1", max_model_len=of_variant
    )
    assert longest(variant, Model(alias="m", max_model_len=of_model)) == length
