"""Words of the command line and recipe files become the same strict noun."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from harness import plan, recipe, store
from harness.errors import InputError
from harness.recipe import Words
from harness.schema import Load, Machine, Options, Recipe, WorkloadSpec


def made(*words: str, accelerator: str = "cpu") -> Recipe:
    return recipe.from_words(Words(words), ("vllm-cpu",), accelerator)  # type: ignore[arg-type]


def test_defaults_are_small_on_cpu_and_the_origins_on_gpus() -> None:
    assert [w.label for w in made("vllm-cpu").workloads][:2] == ["text-100-100", "text-1000-50"]
    gpu = made("vllm-cpu", accelerator="cuda")
    assert [w.label for w in gpu.workloads] == [
        "1000-2000",
        "5000-1000",
        "10000-500",
        "30000-100",
        "sharegpt-lengths",
    ]
    assert made("vllm-cpu", "all").workloads[-1].label == "sharegpt-sample"
    theirs = made("vllm-cpu", "all", "w.path=mine.json", accelerator="cuda").workloads[-1]
    assert (theirs.label, theirs.params) == ("sharegpt", {"path": "mine.json"})
    assert gpu.loads == (Load(request_rate=10.0, arrival="poisson"),)
    assert gpu.workloads[0].num_prompts == 662


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["concurrency=8"], ["c8"]),
        (["concurrency=8,64"], ["c8", "c64"]),
        (["rate=10"], ["10rps"]),
        (["rate=10", "arrival=constant"], ["10rps-constant"]),
        (["rate=2,4", "concurrency=16"], ["2rps-c16", "4rps-c16"]),
        (["rate=10", "burstiness=0.5"], ["10rps-gamma0.5"]),
        (["stages=5:2,5:8"], ["stages-2rps5s-8rps5s"]),
        (["rate=2", "ramp_to=9"], ["2rps-ramp9"]),
        (["time_scale=2"], ["trace-x2"]),
        (["search=goodput"], ["goodput"]),
        (["search=goodput", "rate=3", "arrival=constant", "concurrency=8"], ["goodput-constant-c8"]),
        (["concurrency=8", "duration=5"], ["c8-5s"]),
    ],
)
def test_loads(words: list[str], labels: list[str]) -> None:
    assert [load.label for load in made("vllm-cpu", "all", *words).loads] == labels


def test_two_loads_that_differ_never_share_a_name_which_names_a_folder() -> None:
    made_of = [
        {"request_rate": 10.0, "arrival": "gamma"},
        *({"request_rate": 10.0, "arrival": "gamma", "burstiness": b} for b in (0.5, 4.0)),
        *({"request_rate": 10.0, "arrival": "ramp", "ramp_to": to} for to in (5.0, 50.0)),
        {"request_rate": 10.0, "arrival": "ramp", "ramp_to": 50.0, "burstiness": 0.5},
        *({"arrival": "stages", "stages": ((5.0, rate), (5.0, 8.0))} for rate in (1.0, 2.0)),
        *({"arrival": "stages", "stages": tuple((5.0, rate + i) for i in range(9))} for rate in (1.0, 2.0)),
        {"arrival": "stages", "stages": ((5.0, 1.0), (5.0, 8.0)), "burstiness": 0.5},
        *({"arrival": "trace", "time_scale": scale} for scale in (1.0, 2.0)),
        *({"max_concurrency": 8, "duration_s": seconds} for seconds in (None, 5.0, 10.0)),
        *({"request_rate": 10.0, "arrival": kind} for kind in ("poisson", "constant")),
        {"request_rate": 10.0, "arrival": "poisson", "duration_s": 5.0},
    ]
    labels = [Load(**fields).label for fields in made_of]
    assert len(set(labels)) == len(labels)
    assert all(re.fullmatch(r"[\w.@+-]{1,60}", label) for label in labels)


@pytest.mark.parametrize("asked", ["stages", "stages-2rps5s-8rps5s"])
def test_a_recipe_may_ask_for_a_load_by_its_kind(asked: str) -> None:
    load = Load(arrival="stages", stages=((5.0, 2.0), (5.0, 8.0)))
    spec = WorkloadSpec(name="trace", loads=(asked,))
    recipe = Recipe(question="?", variants=("vllm-cpu",), workloads=(spec,), loads=(load, Load()))
    assert recipe.offered == ((spec, load),)


@pytest.mark.parametrize(
    ("words", "num"),
    [
        ([], 12),
        (["search=goodput"], 100),
        (["rate=2,4", "duration=5"], 10),
        (["concurrency=8", "duration=5"], 250),
        (["duration=5", "num_prompts=7"], 7),
    ],
)
def test_there_are_requests_enough_for_the_load(words: list[str], num: int) -> None:
    made_ = made("vllm-cpu", "64/8", *words)
    assert made_.workloads[0].num_prompts == num
    if "duration=5" in words:
        assert {load.duration_s for load in made_.loads} == {5.0}


def test_trials_on_accelerators_reach_a_plateau_and_certify_what_is_asked() -> None:
    both = made("vllm-cpu", "1000/200", "concurrency=8,64", accelerator="cuda")
    assert [(w.num_prompts, w.loads) for w in both.workloads] == [(64, ("c8",)), (512, ("c64",))]
    assert both.scenarios == ("1000-200@c8", "1000-200@c64")
    p90 = made("vllm-cpu", "1000/200", "rate=10", "percentile=90", accelerator="cuda")
    assert p90.workloads[0].num_prompts == 64 and p90.options.percentile == 90
    with pytest.raises(InputError, match="percentile"):
        made("vllm-cpu", "1000/200", "percentile=100", accelerator="cuda")


def test_a_budget_restarts_until_intervals_are_tight(tmp_path: Path) -> None:
    assert made("vllm-cpu", "64/8", "budget_s=600").repeats == 0
    assert made("vllm-cpu", "64/8", "budget_s=600", "repeats=2").repeats == 2
    assert made("vllm-cpu", "64/8").repeats == 1
    two = recipe.from_words(Words(["vllm-cpu,sglang-cpu", "64/8"]), ("vllm-cpu", "sglang-cpu"), "cpu")
    assert two.repeats == 3
    path = tmp_path / "r.toml"
    path.write_text('question = "q"\nvariants = ["vllm-cpu"]\n[options]\nbudget_s = 60.0\n')
    assert recipe.load_recipe(path).repeats == 0


def test_sharegpt_needs_its_file() -> None:
    with pytest.raises(InputError, match=r"needs the file: w.path=FILE \(`.venv/bin/hf download"):
        made("vllm-cpu", "sharegpt")


def test_the_same_trial_twice_in_a_recipe_is_refused() -> None:
    twice = WorkloadSpec(name="sharegpt", num_prompts=2)
    recipe_ = Recipe(question="q", variants=("vllm-cpu",), workloads=(twice, twice), loads=(Load(),))
    with pytest.raises(InputError, match="has sharegpt-sample@c1 twice; give one of the two workloads"):
        plan.plan(recipe_, Machine())
    other = msgspec.structs.replace(twice, title="again")
    assert (
        len(plan.plan(msgspec.structs.replace(recipe_, workloads=(twice, other)), Machine())[0].trials) == 2
    )
    slash = msgspec.structs.replace(twice, title="../up")
    with pytest.raises(InputError, match="cannot name a folder"):
        plan.plan(msgspec.structs.replace(recipe_, workloads=(slash,)), Machine())


def test_keys_reach_their_fields() -> None:
    given = made(
        "vllm-cpu",
        "64/8",
        "args=--a 'b c' --d=e",
        "env.FOO=bar=baz",
        "slo.ttft_s=0.5",
        "repeats=3",
        "verify=4",
        "allow_dummy_moe=true",
        "w.text=corpus",
        "seed=7",
    )
    assert given.args == ("--a", "b c", "--d=e")
    assert given.env == {"FOO": "bar=baz"}
    assert given.slo == {"ttft_s": 0.5}
    assert (given.repeats, given.verify_requests, given.seed) == (3, 4, 7)
    assert given.options == Options(allow_dummy_moe=True)
    assert given.workloads[0].params == {"input_len": 64, "output_len": 8, "text": "corpus"}
    assert given.workloads[0].seed == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["modle=x"], "There is no key 'modle'"),
        (["shape_text=1"], "There is no key 'shape_text'"),
        (["nosuch"], "There is no workload 'nosuch'. There are: "),
        (["all", "extra"], "one word too many"),
        (["stages=5"], "give SECONDS:REQUESTS_PER_SECOND"),
        (["search=latency"], "search"),
        (["rate=fast"], "rate=fast is not a number"),
        (["rate=-1"], "above 0"),
        (["concurrency=0"], "concurrency=0 is below 1"),
        (["repeats=1.5"], "not a whole number"),
        (["arrival=sometimes", "rate=1"], "arrival"),
        (["workers=two"], "options.workers"),
        (["seed=1", "seed=2"], "seed= is given twice"),
        (["workers=0"], "options.workers"),
        (["stream=no"], "options.stream"),
        (["prompts=words"], "options.prompts"),
        (["price=cheap"], "options.price"),
        (["args=--seed '1"], "args=--seed '1 is no command line: No closing quotation"),
        (["place=srun 'x"], "place=srun 'x is no command line"),
        (
            ["w.input_len=64", "w.output_len=8"],
            "w.input_len= and w.output_len= hold for every workload and make 2 of them the same",
        ),
    ],
)
def test_bad_words_get_a_sentence(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        made("vllm-cpu", *words)


def test_old_keys_of_options_are_understood(tmp_path: Path) -> None:
    old, new = ("client=aiperf", "clients=srun -n4"), ("second_opinion=aiperf", "place=srun -n4")
    assert made("mock", *old) == made("mock", *new)
    path = tmp_path / "recipe.toml"
    for words in (old, new):
        options = "\n".join(f"{key} = '{value}'" for key, _, value in (w.partition("=") for w in words))
        path.write_text(f'question = "q"\nvariants = ["mock"]\n[options]\n{options}\n')
        assert recipe.load_recipe(path).options == made("mock", *new).options
    with pytest.raises(InputError, match="two names of one setting"):
        made("mock", "client=aiperf", "second_opinion=guidellm")


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    given = made("vllm-cpu", "64/8,128/4", "rate=3", "concurrency=2", "env.A=b", "slo.tpot_s=0.1")
    store.write_recipe(tmp_path, given)
    assert recipe.load_recipe(tmp_path / "recipe.toml") == given


def test_a_malformed_recipe_names_the_path_to_the_field(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('question = "q"\nvariants = ["a"]\n[[loads]]\nmax_concurrency = "eight"\n')
    with pytest.raises(InputError, match=r"\$\.loads\[0\]\.max_concurrency"):
        recipe.load_recipe(path)
    path.write_text('question = "q"\nvariants = ["a"]\n[options]\nalow_dummy_moe = true\n')
    with pytest.raises(InputError, match="alow_dummy_moe"):
        recipe.load_recipe(path)
    path.write_text("question = \n")
    with pytest.raises(InputError, match="line 1"):
        recipe.load_recipe(path)
    with pytest.raises(InputError, match="cannot be read"):
        recipe.load_recipe(tmp_path / "missing.toml")


def test_seed_and_time_round_trip_as_json() -> None:
    given = made("vllm-cpu", "64/8")
    assert msgspec.json.decode(msgspec.json.encode(given), type=Recipe) == given
