"""What ran, read from kept runs: versions, images with digests, weights, commands to type."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from harness import compare, registry, store
from harness.label import provenance
from harness.schema import Environment, Launch

RESULTS = registry.ROOT / "results"
CONTAINER = RESULTS / "20261121-031457-vllm-cpu-100-50-docker"


def test_a_container_is_named_by_image_and_digest_and_shown_as_its_docker_run() -> None:
    (ran,) = provenance.ran(CONTAINER)
    assert (ran.variant, ran.engine, ran.engine_version) == ("vllm-cpu", "vllm", "0.32.0")
    assert (ran.image, ran.image_digest[:15]) == ("vllm-cpu:0.32.0", "sha256:bbc63984")
    assert ran.weights == "tiny-moe, model.safetensors sha256 74f8ec39d1eafe73"
    (command,) = ran.commands
    assert "docker run" in command and "-v $PWD/models/tiny-moe:/models/tiny-moe:ro" in command
    assert "--no-enable-prefix-caching" in command and str(registry.ROOT) not in command


def test_a_process_has_no_image_and_launches_that_differ_by_their_port_are_shown_once() -> None:
    sglang, vllm = provenance.ran(RESULTS / "20261121-h200-one-gpu")
    assert (sglang.engine_version, vllm.engine_version) == ("0.5.15", "0.24.0")
    assert sglang.image == vllm.image == "" and vllm.num_launches == 3
    (command,) = vllm.commands
    assert ".engines/vllm-cuda/bin/python -m vllm.entrypoints.cli.main serve models/moe-gpu" in command
    assert "VLLM_USE_FLASHINFER_SAMPLER=0" in command


def test_an_engine_that_never_answered_showed_no_version() -> None:
    (ran,) = provenance.ran(RESULTS / "20261121-h200-kv-too-small-vllm")
    assert ran.engine_version == "" and ran.num_launches == 1 and ran.commands


def test_other_flags_in_a_later_launch_are_another_command_and_many_weight_files_one_digest(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(CONTAINER, run)
    first = store.read(run / "vllm-cpu" / "r1" / "launch.json", Launch)
    for restart, argv, port in ((2, first.argv, 40001), (3, (*first.argv, "--seed", "1"), 40002)):
        argv = tuple(str(port) if word == str(first.port) else word for word in argv)
        again = msgspec.structs.replace(first, argv=argv, port=port, revision="abc")
        store.write(run / "vllm-cpu" / f"r{restart}" / "launch.json", again)
    environment = store.read(run / "environment.json", Environment)
    weights = {f"tiny-moe/model-{i}.safetensors": "ab" * 32 for i in range(3)}
    store.write(run / "environment.json", msgspec.structs.replace(environment, weights=weights))
    (ran,) = provenance.ran(run)
    assert (ran.num_launches, len(ran.commands)) == (3, 2)
    assert ran.weights.startswith("tiny-moe, 3 files sha256 ")


def test_every_comparison_says_what_ran() -> None:
    assert compare.compare(CONTAINER).ran == provenance.ran(CONTAINER)


def test_rows_of_our_own_dialogues_are_called_so_in_runs_that_called_them_sharegpt() -> None:
    """The folder keeps its name, the verified sample is found in it, and a note says why."""
    comparison = compare.compare(RESULTS / "20261121-030948-all")
    rows = [row for row in comparison.rows if row.scenario.startswith("sharegpt")]
    assert {row.scenario for row in rows} == {"sharegpt-sample@c4"} and len(rows) == 3
    assert all(row.agreement and row.agreement.verdict == "PASS" for row in rows)
    assert any("called sharegpt when this was measured" in note for note in comparison.notes)
