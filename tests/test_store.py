"""Results on disk: nothing half written, nothing lost, every refusal a sentence."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.compare import comparable
from harness.errors import InputError, StoreError
from harness.registry import ROOT
from harness.schema import Launch, Load, Recipe, RequestRecord, Trial, TrialResult, WorkloadSpec


def record(index: int) -> RequestRecord:
    return RequestRecord(request_id=f"r{index}", content_at_s=(0.1, 0.2), output_len=2, text="é\u2028")


def test_lines_come_back_and_a_cut_last_line_is_dropped(tmp_path: Path) -> None:
    with store.RecordWriter(tmp_path / "requests.jsonl") as write:
        for index in range(5):
            write(record(index))
    path = tmp_path / "requests.jsonl"
    assert [r.request_id for r in store.records(tmp_path)] == ["r0", "r1", "r2", "r3", "r4"]
    path.write_bytes(path.read_bytes()[:-20])
    assert [r.request_id for r in store.records(tmp_path)] == ["r0", "r1", "r2", "r3"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_bytes(b'{"request_id":"a"}\n{"request_id":1}\n{"request_id":"c"}\n')
    with pytest.raises(StoreError, match="line 2 is damaged"):
        list(store.records(tmp_path))


def test_records_are_in_the_file_before_the_writer_is_closed(tmp_path: Path) -> None:
    write = store.RecordWriter(tmp_path / "requests.jsonl")
    write(record(1))
    assert len(list(store.records(tmp_path))) == 1


def test_a_future_schema_version_is_named(tmp_path: Path) -> None:
    trial = Trial(variant="v", workload=WorkloadSpec(name="sharegpt"), load=Load(max_concurrency=1))
    store.write(tmp_path / "trial.json", TrialResult(trial=trial, status="done"))
    text = (
        (tmp_path / "trial.json").read_text().replace('"schema_version": 1', '"schema_version": 9, "new": 2')
    )
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(StoreError, match="schema version 9, this harness reads 1"):
        store.read(tmp_path / "trial.json", TrialResult)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_run_ids_stay_inside_the_folder(name: str) -> None:
    with pytest.raises(StoreError, match="not a run id"):
        store.run_folder(name)


def test_a_missing_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    with pytest.raises(InputError, match="holds no run yet"):
        store.find_run("")
    with pytest.raises(InputError, match="There is no run 'x'"):
        store.find_run("x")
    (tmp_path / "20260101-000000-a").mkdir()
    (tmp_path / "20260101-000000-a" / "recipe.toml").write_text("")
    assert store.find_run("last").name == "20260101-000000-a"


def test_a_folder_that_cannot_be_written_gets_a_sentence() -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        store.write_text(Path("/proc/harness/x.json"), "x")


def test_a_full_disk_gets_a_sentence() -> None:
    with pytest.raises(StoreError, match="is full; free some space"), store.writing(Path("/dev/full")):
        fd = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(fd, b"x")
        finally:
            os.close(fd)


def test_a_file_size_limit_loses_only_the_line_that_did_not_fit(tmp_path: Path) -> None:
    """A real limit of the operating system, in a process of its own."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from harness import store\n"
        "from harness.errors import StoreError\n"
        "from harness.schema import RequestRecord\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"write = store.RecordWriter(Path({str(tmp_path / 'requests.jsonl')!r}))\n"
        "try:\n"
        "    for i in range(1000): write(RequestRecord(request_id=f'r{i}'))\n"
        "except StoreError as error: print(error); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert len(list(store.records(tmp_path))) >= 2
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_trial_is_found_under_the_name_that_its_load_had_when_it_was_measured(tmp_path: Path) -> None:
    load = Load(max_concurrency=8, duration_s=30.0)
    trial = Trial(variant="a", workload=WorkloadSpec(name="agentic"), load=load)
    assert store.trial_folder(tmp_path, trial).name == "agentic@c8-30s"
    (tmp_path / "a" / "r1" / "agentic@c8").mkdir(parents=True)
    assert store.trial_folder(tmp_path, trial).name == "agentic@c8"


def test_a_run_id_in_use_takes_no_other_settings(tmp_path: Path) -> None:
    recipe = Recipe(question="q", variants=("a",), model="m", env={"HF_TOKEN": "secret"})
    store.write_recipe(tmp_path, recipe)
    store.refuse_another(tmp_path, msgspec.structs.replace(recipe, model="other"))  # nothing measured yet
    trial = Trial(variant="a", workload=WorkloadSpec(name="sharegpt"), load=Load(max_concurrency=1))
    store.write(store.trial_folder(tmp_path, trial) / "trial.json", TrialResult(trial=trial, status="done"))
    store.refuse_another(tmp_path, recipe)
    store.refuse_another(tmp_path, msgspec.structs.replace(recipe, variants=("a", "b"), repeats=5))
    with pytest.raises(InputError, match=r"another model and another seed; give another run_id="):
        store.refuse_another(tmp_path, msgspec.structs.replace(recipe, model="other", seed=3))
    for changed in ({"image": "vllm:mine"}, {"settings": {"prefix_cache": True}}):
        with pytest.raises(InputError, match=f"another {next(iter(changed))}"):
            store.refuse_another(tmp_path, msgspec.structs.replace(recipe, **changed))
    lines = (tmp_path / "recipe.toml").read_text().splitlines()
    (tmp_path / "recipe.toml").write_text("\n".join(line for line in lines if not line.startswith("image")))
    store.refuse_another(tmp_path, recipe)  # a run of before images could be chosen


def test_runs_that_do_not_compare_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    runs = []
    for place, name, model in (("x", "a", "m"), ("x", "b", "m"), ("x", "c", "other"), ("y", "a", "m")):
        launch = Launch(variant="v", engine="e", launcher="attach", served_model_name=model)
        store.write(tmp_path / place / name / "v" / "r1" / "launch.json", launch)
        runs.append(tmp_path / place / name)
    kept, left_out = comparable([*runs, runs[0]])
    assert kept == runs[:2]
    assert left_out[0].startswith("c is left out: it ran other, a ran m")
    assert "has the run id of another folder" in left_out[1] and "named twice" in left_out[2]
