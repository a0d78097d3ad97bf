"""A dense model and a mixture of experts given by id, from a cache that holds them: nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import models, plan, plan_text
from harness.schema import Machine
from tests import hub_cache
from tests.test_plan import NODE

LAPTOP = Machine(accelerator="cpu", environments=("vllm-cpu",))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return hub_cache.write(tmp_path)


def test_facts_of_both_come_from_their_files(cache: dict[str, Path]) -> None:
    dense, moe = models.resolve(hub_cache.DENSE), models.resolve(hub_cache.MOE)
    assert (dense.moe, dense.architecture) == (None, "Qwen3ForCausalLM")
    assert moe.moe is not None and (moe.moe.num_experts, moe.moe.num_experts_per_tok) == (16, 4)
    assert dense.path == str(cache[hub_cache.DENSE]) and dense.max_model_len == 4096
    assert dense.loaded_revision == cache[hub_cache.DENSE].name
    assert 0.003 < dense.num_params_b < 0.005
    for model in (dense, moe):
        models.check_weights(model)


def test_a_revision_that_is_not_there_is_a_sentence(cache: dict[str, Path]) -> None:
    known = cache[hub_cache.DENSE].name
    assert models.resolve(f"{hub_cache.DENSE}@{known}").path
    with pytest.raises(
        models.InputError, match=r"made-here/other is not in the Hub's cache .* HF_HUB_OFFLINE"
    ):
        models.resolve("made-here/other")


@pytest.mark.usefixtures("cache")
def test_both_are_planned_by_their_ids() -> None:
    for hf_id in (hub_cache.DENSE, hub_cache.MOE):
        (planned,) = plan.plan(plan.recipe_of(["vllm-cpu", "32/16", f"model={hf_id}"], LAPTOP)[0], LAPTOP)
        assert planned.launch.model == hf_id
        assert f"# weights: {hf_id}, revision" in plan_text.as_text((planned,))


@pytest.mark.usefixtures("cache")
def test_an_engine_that_reads_no_such_model_is_skipped_by_the_plan() -> None:
    for hf_id in (hub_cache.DENSE, hub_cache.MOE):
        (planned,) = plan.plan(plan.recipe_of(["llamacpp", "32/16", f"model={hf_id}"], LAPTOP)[0], LAPTOP)
        assert ("tiny-dense is Qwen3ForCausalLM" in planned.skip) == (hf_id == hub_cache.DENSE)


@pytest.mark.usefixtures("cache")
def test_experts_cannot_be_spread_of_a_model_that_has_none() -> None:
    words = ["vllm-ep", "32/16", f"model={hub_cache.DENSE}"]
    (planned,) = plan.plan(plan.recipe_of(words, NODE)[0], NODE)
    assert "tiny-dense has no experts" in planned.skip
