"""Options of production as switches of a variant's name: what they set, need, claim and refuse."""

import json

import pytest

from harness import models, plan, registry
from harness.errors import InputError, ModelError
from harness.label import forced, switches
from harness.planned import Planned
from harness.schema import Deployment, Effective, Launch, Machine, Model, Variant

LAPTOP = Machine(environments=("vllm-cpu", "sglang-cpu", "llamacpp", "transformers"), num_cpus=2)
PLAIN = Variant(name="v", engine="vllm", source="", accelerator="cuda", version="0.32.0")


def planned(name: str) -> Planned:
    (found,) = plan.plan(plan.recipe_of([name], LAPTOP)[0], LAPTOP)
    return found


@pytest.mark.parametrize(
    ("name", "words", "claims"),
    [
        ("vllm-cpu+prefix", ["--enable-prefix-caching"], {"prefix_cache": True}),
        ("vllm-cpu+ngram", ["--speculative-config"], {"speculative": "ngram", "prefix_cache": False}),
        ("vllm-mori+prefix+mtp", ['"mtp"'], {"prefix_cache": True, "speculative": "mtp", "all2all": "mori"}),
        ("vllm-cuda-tp-x2+kvfp8", ["--kv-cache-dtype"], {"kv_cache_dtype": "fp8_e4m3"}),
        ("sglang-tp+prefix", ["--enable-cache-report"], {"prefix_cache": True}),
        ("sglang-tp+mtp", ["--speculative-algorithm"], {"speculative": "eagle"}),
        ("sglang-tp+offload", ["--hicache-size"], {"kv_offload": "cpu", "prefix_cache": True}),
        ("llamacpp+prefix", ["--cache-prompt"], {"prefix_cache": True}),
        ("llamacpp+kvq8", ["q8_0"], {"kv_cache_dtype": "q8_0", "dtype": "bfloat16"}),
    ],
)
def test_a_switch_is_rendered_and_claimed(name: str, words: list[str], claims: dict[str, object]) -> None:
    found = planned(name)
    line = " ".join(found.launch.argv)
    assert all(word in line for word in words)
    assert {field: found.variant.expect[field] for field in claims} == claims
    assert found.variant.name == name and found.launch.variant == name


def test_settings_of_trtllm_switches_go_into_its_file() -> None:
    (content,) = planned("trtllm-ep+prefix+mtp").launch.files.values()
    assert json.loads(content)["kv_cache_config"]["enable_block_reuse"] is True
    assert json.loads(content)["speculative_config"]["decoding_type"] == "MTP"
    assert json.loads(content)["kv_cache_config"]["free_gpu_memory_fraction"] == 0.8


def test_without_a_switch_nothing_changes() -> None:
    words = planned("vllm-cpu").launch.argv
    assert "--no-enable-prefix-caching" in words and "--speculative-config" not in words


def test_a_draft_is_the_models_own_or_the_one_that_is_named() -> None:
    own = render_with("vllm-cpu+draft", Model(alias="m", draft="tiny-moe"))
    assert '"model": "models/small"' in own
    assert planned("vllm-cpu+draft=tiny-moe").deployment.draft_path == "models/tiny-moe"


def render_with(name: str, model: Model) -> str:
    variant = registry.variant(name)
    deployment = Deployment(
        model=model,
        launcher="process",
        model_path="/m",
        served_model_name="m",
        draft=Model(alias="small"),
        draft_path="models/small",
    )
    return " ".join(registry.engine(variant.engine).launch(deployment, variant).argv)


@pytest.mark.parametrize(
    ("name", "model", "told"),
    [
        ("vllm-cpu+kvfp8", "tiny-moe", "dies at the first request"),
        ("sglang-cpu+ngram", "tiny-moe", "has no CPU build"),
        ("vllm-cpu+mtp", "tiny-moe", "no layers for multi-token prediction"),
        ("vllm-tp+draft", "deepseek-r1", "needs a model that drafts for deepseek-r1"),
        ("vllm-cuda-tp+offload", "moe-gpu", "has it since 0.32, this is 0.24.0"),
        ("trtllm-2e669133+mtp", "deepseek-r1", "has it since 1.0"),
    ],
)
def test_where_a_switch_cannot_run_a_sentence_says_why(name: str, model: str, told: str) -> None:
    variant = registry.variant(name)
    assert told in switches.cannot(variant, models.resolve(model), registry.switches_of(variant.engine))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vllm-cpu+prefx", r"Did you mean \+prefix\?"),
        ("vllm-cpu+ngram+draft", "both set speculative"),
        ("vllm-cpu+prefix+prefix", "both set prefix_cache"),
        ("vllm-mori+kvfp8", "already runs with kv_cache_dtype"),
        ("vllm-cpu+prefix=yes", "takes a value"),
        ("vllm-cpu+draft=../x", "takes a value"),
        ("attach+prefix", "There are: none"),
        ("nobody+prefix", "There is no variant 'nobody'"),
    ],
)
def test_a_switch_that_cannot_be_meant_is_a_sentence(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        registry.variant(name)
    assert registry.known_variant(name) is None


def test_the_partner_of_a_switched_variant_has_most_of_its_switches_and_no_other() -> None:
    there = ["a", "a+prefix", "b", "a+ngram"]
    assert switches.partner("a+prefix", there) == "a"
    assert switches.partner("a+prefix+mtp", there) == "a+prefix"
    assert switches.partner("b+prefix", there) == "b"
    assert switches.partner("a", there) == "" == switches.partner("c+prefix", there)


def test_a_blind_twin_of_a_switched_variant_keeps_its_switches() -> None:
    assert registry.variant("vllm-cpu+prefix-blind1").expect["prefix_cache"] is True
    assert registry.variant("vllm-cpu+prefix-blind1").name == "vllm-cpu+prefix-blind1"


def test_every_switch_claims_what_an_engine_can_show() -> None:
    fields = set(Effective.__struct_fields__)
    for engine in registry.engines():
        for switch in registry.switches_of(engine).values():
            assert switch.expect and set(switch.expect) <= fields, switch.name
            assert switch.lossless or not switch.affects


# --- acceptance by decree ------------------------------------------------------------------------


def _launch(*argv: str, files: dict[str, str] | None = None, **env: str) -> Launch:
    return Launch(variant="v", engine="vllm", launcher="docker", argv=argv, env=env, files=files or {})


FORCED = {
    "vllm, whole": _launch(
        "--speculative-config",
        '{"method":"draft_model","rejection_sample_method":"synthetic","synthetic_acceptance_length":3.0}',
    ),
    "vllm, rates": _launch('--speculative-config={"synthetic_acceptance_rates": [0.7, 0.5]}'),
    "vllm, dotted": _launch("--speculative-config.rejection_sample_method", "synthetic"),
    "vllm, dotted with dashes": _launch("--speculative-config.synthetic-acceptance-length=3"),
    "vllm, short": _launch("-sc", '{"rejection_sample_method": "Synthetic"}'),
    "vllm, file": _launch(files={"/c.yaml": "speculative-config:\n  rejection_sample_method: synthetic\n"}),
    "json file": _launch(files={"/c.json": '{"a": [{"synthetic_acceptance_rate": 0.5}]}'}),
    "sglang": _launch(SGLANG_SIMULATE_ACC_LEN="3.61"),
    "sglang, tokens": _launch(SGLANG_SIMULATE_ACC_TOKEN_MODE="real-draft-token"),
    "sglang, folded": _launch(SGLANG_DSPARK_SIMULATE_FOLD="1"),
    "trtllm": _launch(TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS="1.6"),
    "llama.cpp": _launch("--synth-len", "3"),
}
MEASURED = {
    "block": _launch("--speculative-config", '{"method":"ngram","rejection_sample_method":"block"}'),
    "nothing given": _launch("--speculative-config", '{"synthetic_acceptance_length": null}'),
    "off": _launch(SGLANG_SIMULATE_ACC_LEN="-1", TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS="0"),
    "a sentence": _launch("--chat-template", "{% synthetic_acceptance_rate %}"),
}


@pytest.mark.parametrize("launch", FORCED.values(), ids=FORCED)
def test_acceptance_by_decree_is_refused(launch: Launch) -> None:
    with pytest.raises(ModelError, match="would accept drafts by decree"):
        forced.check(PLAIN, launch)


@pytest.mark.parametrize("launch", MEASURED.values(), ids=MEASURED)
def test_real_acceptance_is_not(launch: Launch) -> None:
    forced.check(PLAIN, launch)


def test_no_option_allows_it() -> None:
    words = ["vllm-cpu+ngram", "env.SGLANG_SIMULATE_ACC_LEN=3", "allow_dummy_moe=true"]
    with pytest.raises(ModelError, match="SGLANG_SIMULATE_ACC_LEN=3"):
        plan.plan(plan.recipe_of(words, LAPTOP)[0], LAPTOP)
