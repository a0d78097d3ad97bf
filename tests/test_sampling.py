"""How tokens are to be chosen: one noun, from the words of the command line to every engine's own fields."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import client, compare, recipe, registry, store, workload
from harness.errors import InputError
from harness.extras import second_opinion
from harness.recipe import Words
from harness.schema import Load, Recipe, Request, Sampler, Sampling, Trial, WorkloadSpec
from tests import runs
from tests.examples import ENVIRONMENT

ASKED = Sampling(temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.1, seed=5)


def made(*words: str) -> Recipe:
    return recipe.from_words(Words(["mock", "100/200", *words]), ("mock",), "cpu")


def body(engine: str, sampling: Sampling | None) -> dict[str, object]:
    sampler = getattr(registry.engine(engine), "SAMPLER", Sampler())
    target = client.Target(base_url="http://h:1", model="m", sampler=sampler)
    request = Request(request_id="r", prompt_token_ids=(1,), max_tokens=2, sampling=sampling)
    fields: dict[str, object] = msgspec.json.decode(client.body(request, target))
    return fields


def test_one_run_holds_a_greedy_and_a_sampled_row_of_the_same_prompts() -> None:
    greedy, sampled = made("sampling=greedy+temperature=0.7,top_p=0.9").workloads
    assert greedy.sampling is None and greedy.label == "text-100-200"
    assert sampled.sampling == Sampling(temperature=0.7, top_p=0.9)
    assert sampled.label == "text-100-200-t0.7-p0.9"
    (ending,) = made("ignore_eos=false").workloads
    assert not ending.ignore_eos and ending.label == "text-100-200-eos"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sampling=hot", "does not understand 'hot'"),
        ("sampling=temperature=0.7,temperature=1", "at most once"),
        ("sampling=temperature=0", "temperature"),
        ("sampling=top_p=1.5", "top_p"),
        ("sampling=top_k=2.5", "not a whole number"),
        ("ignore_eos=no", "neither true nor false"),
    ],
)
def test_what_is_no_sampling_is_refused_in_a_sentence(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(word)


def test_every_engine_is_sent_every_field_so_that_no_default_slips_in() -> None:
    neutral = {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
    for engine, every_token, repetition in (
        ("vllm", -1, "repetition_penalty"),
        ("sglang", -1, "repetition_penalty"),
        ("trtllm", 0, "repetition_penalty"),
        ("llamacpp", 0, "repeat_penalty"),
        ("transformers", -1, "repetition_penalty"),
    ):
        fields = body(engine, Sampling())
        assert neutral | {repetition} <= fields.keys() and "seed" not in fields
        assert (fields["top_k"], fields[repetition]) == (every_token, 1.0)
        asked = body(engine, ASKED)
        assert (asked["top_k"], asked["top_p"], asked[repetition], asked["seed"]) == (20, 0.9, 1.1, 5)
    assert body("llamacpp", ASKED)["repeat_last_n"] == 131072


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_greedy_request_asks_for_no_penalty_and_nothing_else(engine: str) -> None:
    """vLLM takes the penalties of a model's generation_config.json for temperature 0 too."""
    fields = body(engine, None)
    assert set(fields) & {"top_p", "top_k", "samplers", "repeat_last_n"} == set()
    repetition = "repeat_penalty" if engine == "llamacpp" else "repetition_penalty"
    assert (fields["presence_penalty"], fields["frequency_penalty"], fields[repetition]) == (0.0, 0.0, 1.0)


def test_other_clients_have_no_opinion_on_sampled_work() -> None:
    with pytest.raises(InputError, match="other work than text-100-200-t1"):
        second_opinion.check(made("sampling=temperature=1", "second_opinion=aiperf"))
    second_opinion.check(made("second_opinion=aiperf"))


def test_sampling_is_part_of_the_hashed_work_and_requests_have_seeds_of_their_own() -> None:
    class Letters:
        """Three ids for any text: the workload needs no more."""

        plain_ids = tuple(range(100))
        special_ids = frozenset[int]()

    spec = WorkloadSpec(name="random_tokens", num_prompts=3, params={"input_len": 4, "output_len": 2})
    hashes = set()
    for sampling in (None, Sampling(), ASKED):
        chosen = msgspec.structs.replace(spec, sampling=sampling)
        requests, proof = workload.build(chosen, Load(max_concurrency=1), Letters())  # type: ignore[arg-type]
        hashes.add(proof.sha256)
    assert len(hashes) == 3
    assert [r.sampling.seed for r in requests if r.sampling] == [5, 6, 7]
    ending = msgspec.structs.replace(spec, ignore_eos=False)
    requests, proof = workload.build(ending, Load(max_concurrency=1), Letters())  # type: ignore[arg-type]
    assert proof.sha256 not in hashes and not any(r.ignore_eos for r in requests)


def test_greedy_and_sampled_speed_of_a_variant_stand_as_a_pair_in_the_remarks(tmp_path: Path) -> None:
    sampled = msgspec.structs.replace(runs.WORKLOAD, sampling=Sampling())
    recipe = Recipe(
        question="", variants=("fast",), workloads=(runs.WORKLOAD, sampled), loads=runs.LOADS[:1], repeats=2
    )
    store.write_recipe(tmp_path, recipe)
    store.write(tmp_path / "environment.json", ENVIRONMENT)
    for restart in (1, 2):
        runs.write_visit(tmp_path, "fast", restart)
        for workload_, tpot in ((runs.WORKLOAD, 0.01), (sampled, 0.02)):
            trial = Trial(variant="fast", workload=workload_, load=runs.LOADS[0], restart=restart)
            runs.write_trial(tmp_path, trial, tpot, seed=restart)
    (told,) = [note for note in compare.compare(tmp_path).notes if "over greedy" in note]
    assert told.startswith("fast, sampled (t1) over greedy output tok/s at 100-20@c1: 0.5")
