"""Tasks of lm-evaluation-harness: what it is asked, what its answers become; the tool itself where it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from harness.correctness import task_accuracy
from harness.errors import InputError, MachineError
from harness.extras import tasks
from harness.extras.tasks import TaskJob
from harness.host import engine_env
from harness.registry import ROOT
from harness.schema import Options, Recipe
from tests.completions_server import Flaws, serving
from tests.test_run import Desk

GOLDEN = Path(__file__).parent / "golden" / "lm_eval"
NEXT_WORD = ROOT / "models" / "tiny-moe" / "tasks" / "next_word.yaml"
JOB = TaskJob(
    base_url="http://127.0.0.1:1",
    model="m",
    tasks=("next_word", "gsm8k"),
    folders=(str(NEXT_WORD.parent),),
    tokenizer="/t",
    concurrency=8,
    limit=9,
)
installed = pytest.mark.skipif(
    not engine_env.exists(tasks.ENVIRONMENT, ROOT) and not os.environ.get("CI"),
    reason="the environment lm-eval is not installed; a bench with tasks=NAME installs it",
)


def recipe(tasks: str = "", task_limit: int = 0) -> Recipe:
    return Recipe(question="", variants=("mock",), options=Options(tasks=tasks, task_limit=task_limit))


def test_the_command_names_server_load_tasks_and_where_they_lie(tmp_path: Path) -> None:
    line = " ".join(tasks.command(JOB, tmp_path))
    assert "base_url=http://127.0.0.1:1/v1/completions model=m num_concurrent=8" in line
    assert "tokenizer=/t" in line and "--tasks next_word,gsm8k" in line
    assert f"--include_path {NEXT_WORD.parent} --limit 9 --log_samples" in line
    bare = msgspec.structs.replace(JOB, tokenizer="", folders=(), limit=0)
    assert "tokenizer_backend=none" in " ".join(tasks.command(bare, tmp_path))
    assert "--limit" not in tasks.command(bare, tmp_path)


def test_tasks_are_names_or_files_that_exist() -> None:
    assert tasks.named(recipe()) == ()
    assert tasks.named(recipe(tasks=f"gsm8k,{NEXT_WORD}")) == ("gsm8k", str(NEXT_WORD))
    with pytest.raises(InputError, match="is no file"):
        tasks.named(recipe(tasks="absent.yaml"))
    with pytest.raises(InputError, match="task_limit=-1"):
        tasks.named(recipe(tasks="gsm8k", task_limit=-1))


def test_a_task_file_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = Desk(tmp_path).run("bench", "mock", "32/8", "num_prompts=2", "tasks=absent.yaml")
    assert done.returncode == 2
    assert "tasks=absent.yaml is no file" in done.stderr


def test_variants_are_paired_with_the_baseline_and_failures_told(tmp_path: Path) -> None:
    for variant, source in (("a", "honest"), ("b", "unstable")):
        folder = tmp_path / variant / "r1" / tasks.FOLDER
        folder.mkdir(parents=True)
        shutil.copy(GOLDEN / f"samples_{source}.jsonl", folder / "samples_follows_2026.jsonl")
    (tmp_path / "c" / "r1" / tasks.FOLDER).mkdir(parents=True)
    (tmp_path / "c" / "r1" / tasks.FOLDER / tasks.PROBLEM).write_text("out of memory\n")
    failed, alone, paired = task_accuracy.remarks(tmp_path, "a")
    assert failed == "tasks of c not answered: out of memory"
    assert alone == "a, follows: 70.0% of 20 items (exact_match)"
    assert paired.startswith("b against a, follows: ") and "a difference beyond luck (McNemar p = " in paired
    assert task_accuracy.remarks(tmp_path, "absent")[1:] == (
        alone,
        paired.split(" against a")[0] + _alone(paired),
    )
    assert task_accuracy.remarks(tmp_path / "absent", "a") == ()


def _alone(paired: str) -> str:
    return f", follows: {paired.split('follows: ')[1].split(' against')[0]} of 20 items (exact_match)"


def test_a_tool_that_fails_is_one_sentence_with_its_last_words(tmp_path: Path) -> None:
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho 'Tasks not found: gsm9k'; exit 1\n")
    fails.chmod(0o755)
    with pytest.raises(MachineError, match="exit code 1") as caught:
        tasks.run(JOB, fails, tmp_path / "out")
    assert "Tasks not found: gsm9k" in caught.value.details
    fails.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(MachineError, match="without a sample file"):
        tasks.run(JOB, fails, tmp_path / "out")


@pytest.mark.engine
@installed
def test_the_tool_itself_asks_a_server_and_two_servers_are_paired(tmp_path: Path) -> None:
    python = engine_env.ensure(tasks.ENVIRONMENT, ROOT, lambda line: None)
    for variant, flaws in (("a", Flaws()), ("b", Flaws(unstable=True))):
        with serving(flaws) as url:
            job = msgspec.structs.replace(
                JOB, base_url=url, tasks=("next_word",), tokenizer="", concurrency=4, limit=12
            )
            (file,) = tasks.run(job, python, tmp_path / variant / "r1" / tasks.FOLDER)
        assert task_accuracy.task_of(file) == "next_word"
    alone, paired = task_accuracy.remarks(tmp_path, "a")
    assert alone == "a, next_word: 0.0% of 12 items (exact_match)"
    assert paired.startswith(
        "b against a, next_word: 0.0% against 0.0% of 12 items (exact_match); 0 items only"
    )


@pytest.mark.engine
@installed
def test_a_bench_asks_its_tasks_once_and_tells_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    words = ("32/8", "concurrency=2", "num_prompts=2", "reference=none", "tasks=next_word", "task_limit=6")
    done = desk.run("bench", "mock,mock-slow", *words, "repeats=1")
    assert done.returncode == 0, done.stderr
    notes = desk.comparison().notes
    assert "mock, next_word: 0.0% of 6 items (exact_match)" in notes
    assert any(n.startswith("mock-slow against mock, next_word: 0.0% against 0.0% of 6 items") for n in notes)
    assert "mock-slow against mock, next\\_word" in (desk.runs[0] / "report.md").read_text()
