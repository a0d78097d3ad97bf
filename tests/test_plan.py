"""What is chosen and refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import bench, plan, plan_text
from harness.errors import InputError, ModelError
from harness.models import models
from harness.registry import variants
from harness.schema import Gpu, Machine, Recipe

R1 = models()["deepseek-r1"]
NODE = Machine(
    accelerator="cuda",
    gpus=tuple(Gpu(index=i, name="H200", memory_gb=140) for i in range(8)),
    docker="29.0",
    images=tuple(sorted({v.image for v in variants().values() if v.image})),
    environments=("transformers-cuda", "vllm-cuda", "sglang-cuda"),
)


@pytest.fixture
def r1_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hugging Face cache that holds DeepSeek-R1's config, and what is named like weights."""
    snapshot = tmp_path / "hub" / "models--deepseek-ai--DeepSeek-R1" / "snapshots" / R1.revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"n_routed_experts": 256, "num_hidden_layers": 61}')
    (snapshot / "model.safetensors").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_launcher_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"no launcher 'podman'. There are: attach, docker, process"):
        plan.plan(Recipe(question="?", variants=("vllm-cpu",), launcher="podman"), Machine())


@pytest.mark.usefixtures("r1_is_here")
def test_all_of_a_node_runs_one_model_and_has_a_reference() -> None:
    names = plan.select("all", NODE)
    assert {variants()[name].model for name in names} == {"deepseek-r1"}
    recipe = Recipe(question="?", variants=names)
    oracle = plan.reference(recipe, NODE)
    assert oracle is not None and oracle.variant.name == "vllm-tp"


LAPTOP = Machine(accelerator="cpu", environments=("vllm-cpu",))
"""A machine without accelerators and without a Docker Engine."""


def test_a_plan_off_the_node_is_what_the_node_runs() -> None:
    """Shapes, loads, skips and the container are the variant's, whatever this machine is."""
    (here,) = plan.plan(plan.recipe_of(["trtllm-ep"], LAPTOP)[0], LAPTOP)
    (there,) = plan.plan(plan.recipe_of(["trtllm-ep"], NODE)[0], NODE)
    assert here.trials == there.trials and here.launch == there.launch
    assert [t.workload.params.get("input_len") for t in here.trials if t.skip] == [30000]
    assert here.trials[0].load.request_rate == 10.0
    assert "no Docker Engine answers" in here.skip or "needs cuda" in here.skip
    assert "docker run" in plan_text.as_text((here,))


def test_where_the_engine_itself_is_and_no_docker_it_runs_as_a_process() -> None:
    """As in a container of the engine's own image, on the node."""
    inside = replace(NODE, docker="", images=(), importable=("vllm",))
    (planned,) = plan.plan(Recipe(question="?", variants=("vllm-ep",)), inside)
    assert planned.deployment.launcher == "process"
    (other,) = plan.plan(Recipe(question="?", variants=("sglang-tp",)), inside)
    assert other.deployment.launcher == "docker"


def test_a_plan_of_all_has_every_variants_own_shapes() -> None:
    planned = {p.variant.name: p for p in plan.everything([], LAPTOP)}
    assert set(planned) == set(variants()) - {"attach"}
    longest = {
        name: max(int(str(t.workload.params.get("input_len", 0))) for t in planned[name].trials)
        for name in ("vllm-cpu", "vllm-mori")
    }
    assert longest == {"vllm-cpu": 1000, "vllm-mori": 30000}


def test_small_weights_are_not_printed_as_none() -> None:
    (planned,) = plan.plan(plan.recipe_of(["vllm-cuda-tp", "model=deepseek-r1"], LAPTOP)[0], LAPTOP)
    told = {
        size: plan_text.as_text((replace(planned, model=replace(planned.model, weights_gb=size)),))
        for size in (0.01, 3.09, 26.0, 640.0)
    }
    for size, words in {0.01: "0.001 GB", 3.09: "0.4 GB", 26.0: "3.2 GB", 640.0: "80 GB"}.items():
        assert f"# memory: {words} of weights on each of 8 GPUs" in told[size]


def test_an_image_of_ones_own_takes_the_place_of_the_variants() -> None:
    words = ["vllm-mori", "image=vllm-mori:v0.32.0"]
    (planned,) = plan.plan(plan.recipe_of(words, LAPTOP)[0], LAPTOP)
    assert planned.launch.image == "vllm-mori:v0.32.0"
    assert "\n  vllm-mori:v0.32.0 \\\n" in plan_text.as_text((planned,))
    cpu = ["vllm-cpu", "image=vllm-cpu:mine"]
    (planned,) = plan.plan(plan.recipe_of(cpu, LAPTOP)[0], LAPTOP)
    assert planned.deployment.launcher == "docker" and planned.launch.image == "vllm-cpu:mine"
    assert planned.launch.argv[:3] == ("vllm", "serve", "/models/tiny-moe")
    oracle = plan.reference(plan.recipe_of(cpu, LAPTOP)[0], LAPTOP)
    assert oracle is None or oracle.launch.image == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vllm-ep,sglang-tp", "image=x:1"], "holds one engine, but the variants are of sglang and vllm"),
        (["vllm-cpu", "image=x:1", "launcher=process"], "would be ignored: launcher=process"),
    ],
)
def test_an_image_that_cannot_be_meant_is_a_sentence(words: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan.plan(plan.recipe_of(words, LAPTOP)[0], LAPTOP)


def argv(*words: str) -> str:
    (planned,) = plan.plan(plan.recipe_of(words, LAPTOP)[0], LAPTOP)
    return " ".join(planned.launch.argv)


def test_the_prefix_cache_is_a_setting_of_every_engine_that_has_one() -> None:
    """SGLang has no flag that switches its radix cache on; the label then claims what was set."""
    on = "settings.prefix_cache=true"
    assert "--disable-radix-cache" in argv("sglang-cpu")
    assert "--disable-radix-cache" not in argv("sglang-cpu", on)
    assert "--no-enable-prefix-caching" in argv("vllm-cpu")
    assert "--enable-prefix-caching" in argv("vllm-cpu", on).split()
    (planned,) = plan.plan(plan.recipe_of(["sglang-cpu", on], LAPTOP)[0], LAPTOP)
    assert planned.variant.expect["prefix_cache"] is True
    (planned,) = plan.plan(plan.recipe_of(["trtllm-ep", on], LAPTOP)[0], LAPTOP)
    assert '"enable_block_reuse": true' in next(iter(planned.launch.files.values()))
    oracle = plan.reference(plan.recipe_of(["vllm-cpu", on, "reference=vllm-cpu-fp32"], LAPTOP)[0], LAPTOP)
    assert oracle is not None and oracle.variant.expect["prefix_cache"] is False


@pytest.mark.parametrize(
    "words", [["vllm-cpu", "settings.a2a=x"], ["transformers", "settings.prefix_cache=true"]]
)
def test_a_setting_that_an_engine_does_not_know_is_a_sentence(words: list[str]) -> None:
    with pytest.raises(InputError, match=r"means nothing to (vllm|transformers)"):
        plan.plan(plan.recipe_of(words, LAPTOP)[0], LAPTOP)


def test_a_variant_made_for_other_shapes_is_planned_with_them() -> None:
    """NVIDIA's recommendation holds 2000 tokens: none of the documents' shapes."""
    (planned,) = plan.plan(plan.recipe_of(["trtllm-nvidia"], NODE)[0], NODE)
    assert [t.skip for t in planned.trials] == [""] * len(planned.trials)
    assert planned.trials[0].workload.params["input_len"] == 1000
    beside = plan.plan(plan.recipe_of(["trtllm-nvidia,trtllm-ep"], NODE)[0], NODE)[0]
    assert all("it is made for 1000/1000" in t.skip for t in beside.trials if t.skip)
    (asked,) = plan.plan(plan.recipe_of(["trtllm-nvidia", "500/200"], NODE)[0], NODE)
    assert asked.trials[0].workload.params["input_len"] == 500


def test_the_hubs_id_is_a_served_name_too() -> None:
    words = argv("vllm-mori")
    assert "--served-model-name deepseek-r1 deepseek-ai/DeepSeek-R1 --host" in words
    assert "--served-model-name tiny-moe --host" in argv("vllm-cpu")


def test_variants_of_different_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_LOG", str(tmp_path / "log.md"))
    recipe = Recipe(question="?", variants=("vllm-cpu", "transformers"))
    here = Machine(accelerator="cpu", environments=("vllm-cpu", "transformers"))
    one, other = plan.plan(recipe, here)
    other = replace(other, model=replace(other.model, alias="another"))
    with pytest.raises(InputError, match="different models"):
        bench.begin(tmp_path / "run", recipe, (one, other))


def test_engines_on_cpu_leave_a_core_to_their_server_and_the_client_by_one_rule() -> None:
    names = ("vllm-cpu", "sglang-cpu", "llamacpp", "transformers")
    for cores, threads in ((1, "1"), (2, "1"), (8, "7")):
        planned = plan.plan(Recipe(question="", variants=names), Machine(num_cpus=cores))
        assert {p.launch.env["OMP_NUM_THREADS"] for p in planned} == {threads}
    own = Recipe(question="", variants=names, env={"OMP_NUM_THREADS": "5"})
    assert {p.launch.env["OMP_NUM_THREADS"] for p in plan.plan(own, Machine(num_cpus=8))} == {"5"}
    reference = plan.reference(own, Machine(num_cpus=8))
    assert reference is not None and reference.launch.env["OMP_NUM_THREADS"] == "7"
    on_gpus = plan.plan(Recipe(question="", variants=("vllm-tp",)), Machine(num_cpus=8))
    assert "OMP_NUM_THREADS" not in on_gpus[0].launch.env


def test_a_plan_of_all_shows_what_is_refused_and_goes_on() -> None:
    """Dummy weights of a mixture of experts: alone refused, among all told."""
    every = {p.variant.name: p for p in plan.everything(["all", "model=qwen3-30b-a3b"], NODE)}
    refused = every["vllm-cuda-tp-dummy"]
    assert refused.skip.startswith("refused: vllm-cuda-tp-dummy would run") and refused.launch.argv
    assert len(every) > 20 and not every["vllm-cuda-tp"].skip.startswith("refused")
    with pytest.raises(ModelError, match="mixture of experts"):
        plan.everything(["vllm-cuda-tp-dummy", "model=qwen3-30b-a3b"], NODE)
