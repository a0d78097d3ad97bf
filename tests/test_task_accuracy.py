"""Paired accuracy on sample files that lm-evaluation-harness 0.4.13 wrote of two small servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.correctness import task_accuracy
from harness.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "lm_eval"
HONEST, UNSTABLE = (GOLDEN / f"samples_{name}.jsonl" for name in ("honest", "unstable"))


def test_items_are_paired_and_mcnemar_decides() -> None:
    found = task_accuracy.paired(HONEST, UNSTABLE)
    assert (found.metric, found.num_items, found.baseline) == ("exact_match", 20, 0.7)
    assert found.variant < 0.2
    assert found.only_baseline >= 10
    assert found.p_value < 0.01
    assert "a difference beyond luck" in task_accuracy.words(found)


def test_a_run_against_itself_is_no_difference() -> None:
    found = task_accuracy.paired(HONEST, HONEST)
    assert (found.only_baseline, found.only_variant, found.p_value) == (0, 0, 1.0)
    assert "no difference beyond luck" in task_accuracy.words(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no metric"),
        ('{"doc_id": "x"}\n', "is not a sample file"),
        (json.dumps({"doc_id": 0, "metrics": ["bleu"]}), "has no metric"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "samples_x_1.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        task_accuracy.paired(path, HONEST)


def test_different_items_are_refused(tmp_path: Path) -> None:
    fewer = tmp_path / "samples_x_1.jsonl"
    fewer.write_text("".join(HONEST.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(InputError, match="5 in common"):
        task_accuracy.paired(HONEST, fewer)
    with pytest.raises(InputError, match="cannot be read"):
        task_accuracy.paired(HONEST, tmp_path / "absent.jsonl")
