"""What a campaign is asked, and the recipes it makes."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.tune import campaign, outcomes


def test_words_make_a_campaign_whose_three_runs_differ_in_length_and_prompts_only() -> None:
    asked = campaign.from_words(["llamacpp,vllm-cpu", "100/200", "budget_s=600", "concurrency=8"])
    search, shortlist, proof = (
        campaign.stage(asked, which, ["llamacpp~default"]) for which in campaign.STAGES
    )
    sizes = [recipe.workloads[0].num_prompts for recipe in (search, shortlist, proof)]
    assert sizes == [8, 24, 24]
    assert [recipe.workloads[0].seed for recipe in (search, shortlist)] == [0, 0]
    assert proof.workloads[0].seed not in (0, shortlist.workloads[0].seed)
    assert (search.repeats, proof.repeats) == (1, 3)
    assert {recipe.options.tuning for recipe in (search, shortlist, proof)} == set(campaign.STAGES)
    assert search.scenarios == proof.scenarios == (asked.scenario,)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "tune needs variants"),
        (["llamacpp"], "give seconds of engine time for each variant"),
        (["llamacpp", "100/200,500/100", "budget_s=60"], "one workload at one load, not of 2"),
        (["llamacpp", "100/200", "budget_s=60", "concurrency=2,4"], "one workload at one load, not of 2"),
        (["llamacpp", "100/200", "budget_s=60", "reference=none"], "a fast wrong answer would win"),
        (["llamacpp", "100/200", "budget_s=60", "objective=goodput"], "needs limits"),
        (["llamacpp", "100/200", "budget_s=60", "objective=speed"], "objective=speed is not known"),
        (["llamacpp", "100/200", "budget_s=60", "only=slts"], "there are slots, weights, kv, flash"),
        (["llamacpp", "100/200", "budget_s=60", "repeats=1"], "2 restarts or more"),
        (["llamacpp", "100/200", "budget_s=60", "vendor=nobody"], "no variant 'nobody'"),
        (["transformers", "100/200", "budget_s=60"], "has nothing to tune"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_what_to_do(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        campaign.from_words(words)


def test_a_point_is_named_by_what_differs_from_its_variant_and_read_back_whole() -> None:
    asked = campaign.from_words(["llamacpp", "100/200", "budget_s=60"])
    whole = campaign.whole_point(asked, "llamacpp", "llamacpp~slots=8")
    assert whole == {"slots": "8", "weights": "f32", "kv": "f32", "flash": "false"}
    assert campaign.named(asked, "llamacpp", whole) == "llamacpp~slots=8"
    default = campaign.whole_point(asked, "llamacpp", "llamacpp~default")
    assert default == {"slots": "4", "weights": "bf16", "kv": "f16", "flash": "true"}
    assert campaign.named(asked, "llamacpp", default) == "llamacpp~weights=bf16~kv=f16~flash=true"


def test_a_point_belongs_to_its_variant_and_a_vendor_s_to_nobody_s_search() -> None:
    assert outcomes.base_of("vllm-cpu~seqs=8~batch=512") == "vllm-cpu"
    assert outcomes.base_of("qwen3-30b-a3b-vendor") == "qwen3-30b-a3b-vendor"
