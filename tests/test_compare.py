"""Which rows a comparison holds against which."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from harness import compare, store
from harness.registry import ROOT
from harness.schema import Attestation, Effective, Recipe, TrialResult
from tests import runs


def with_a_third(run: Path, recipe: Recipe = runs.RECIPE) -> Path:
    """The run of tests/runs.py with a twin of "fast", under the recipe."""
    runs.write_run(run)
    shutil.copytree(run / "fast", run / "third")
    for path in run.glob("third/r*/*/trial.json"):
        result = store.read(path, TrialResult)
        trial = msgspec.structs.replace(result.trial, variant="third")
        store.write(path, msgspec.structs.replace(result, trial=trial))
    store.write_recipe(run, msgspec.structs.replace(recipe, variants=("slow", "fast", "third", "broken")))
    return run


def mark_invalid(run: Path, variant: str) -> None:
    for path in run.glob(f"{variant}/r*/*/trial.json"):
        store.write(path, msgspec.structs.replace(store.read(path, TrialResult), invalid="planted"))


def test_ratios_are_against_the_first_variant(tmp_path: Path) -> None:
    found = compare.compare(with_a_third(tmp_path / "run"))
    assert {(c.variant, c.baseline) for c in found.contrasts} == {("fast", "slow"), ("third", "slow")}


def test_a_baseline_that_is_not_ranked_gives_way_to_the_next_variant(tmp_path: Path) -> None:
    run = with_a_third(tmp_path / "run")
    mark_invalid(run, "slow")
    found = compare.compare(run)
    assert not any(row.rankable for row in found.rows if row.variant == "slow")
    assert {(c.variant, c.baseline) for c in found.contrasts} == {("third", "fast")}


def test_a_baseline_that_the_recipe_names_stays_the_baseline(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(runs.RECIPE, baseline="slow")
    run = with_a_third(tmp_path / "run", recipe)
    mark_invalid(run, "slow")
    assert compare.compare(run).contrasts == ()


def test_a_scaled_variant_has_the_reasons_of_its_layout(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    name = "sglang-tp-x2"
    shutil.move(run / "slow", run / name)
    for path in run.glob(f"{name}/r*/*/trial.json"):
        result = store.read(path, TrialResult)
        trial = msgspec.structs.replace(result.trial, variant=name)
        store.write(path, msgspec.structs.replace(result, trial=trial))
    for variant, compiles in ((name, True), ("fast", False)):
        for visit in run.glob(f"{variant}/r*"):
            shown = Attestation(effective=Effective(torch_compile=compiles))
            store.write(visit / "attestation.json", shown)
    (difference,) = compare.compare(run).differences
    assert difference.field == "torch_compile"
    assert "as in the documents" in difference.reason, difference.reason


def test_a_damaged_extra_file_costs_a_note_only(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    folder = next(iter(sorted(run.glob("fast/r1/*/trial.json")))).parent
    store.write_text(folder / "search.json", "{cut off")
    store.write_text(folder / "opinions" / "aiperf.json", "{cut off")
    found = compare.compare(run)
    assert len([row for row in found.rows if row.status == "done"]) == 4
    for name in ("search.json", "aiperf.json"):
        assert any(name in note for note in found.notes), name


def test_the_stored_run_of_256_streams_says_what_it_said_and_shows_the_silences() -> None:
    found = compare.compare(ROOT / "results" / "20261121-h200-256-streams")
    primary = {c.metric: c for c in found.contrasts if c.primary}
    assert set(primary) == {"output_throughput", "speed_per_user"}
    assert primary["output_throughput"].words.startswith(
        "vllm-cuda-tp-x1 is 1.44x sglang-cuda-tp-x1 (1.38-1.51)"
    )
    rows = {row.variant: row for row in found.rows}
    assert all(row.plateau is False for row in rows.values()), "two turns have no plateau"
    sglang, vllm = rows["sglang-cuda-tp-x1"].silences, rows["vllm-cuda-tp-x1"].silences
    assert sglang is not None and vllm is not None and vllm.found == ()
    assert 0.14 < sglang.share < 0.18 and 0.34 < sglang.median_s < 0.40
    assert sglang.period_tokens is not None and 45_000 < sglang.period_tokens < 48_000
    ttft = next(tail for tail in rows["vllm-cuda-tp-x1"].tails if tail.metric == "ttft")
    assert ttft.num == 1536 and ttft.num_effective < 100, "a wave of 256 is slow together"
    assert ttft.share < 0.99 and ttft.needed > 0
