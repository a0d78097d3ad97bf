"""Refusals of dummy weights and fake routing in every spelling, warnings, and shapes."""

import json
from pathlib import Path

import msgspec
import pytest

from harness import models, registry
from harness.errors import ModelError
from harness.label import guards
from harness.schema import Launch, Model, Variant
from tests.launching import render

MOE = models.models()["deepseek-r1"]
DENSE = models.models()["llama-8b"]
PLAIN = Variant(name="v", engine="vllm", source="", accelerator="cuda", version="0.32.0")


def _launch(*argv: str, files: dict[str, str] | None = None, **env: str) -> Launch:
    return Launch(variant="v", engine="vllm", launcher="docker", argv=argv, env=env, files=files or {})


FAKES = {
    "two words": _launch("serve", "--load-format", "dummy"),
    "one word": _launch("serve", "--load-format=dummy"),
    "underscores": _launch("serve", "--load_format", "dummy"),
    "beginning of a flag": _launch("serve", "--load-form", "dummy"),
    "beginning, one word": _launch("serve", "--load_f=dummy"),
    "beginning of the dispatch": _launch("--ep-dispatch-alg", "fake"),
    "capitals": _launch("serve", "--load-format", "DUMMY"),
    "json file": _launch("trtllm-serve", files={"/o.yaml": json.dumps({"load_format": "dummy"})}),
    "yaml file": _launch("trtllm-serve", files={"/o.yaml": "max_batch_size: 4\nload_format: dummy\n"}),
    "quoted yaml": _launch("trtllm-serve", files={"/o.yaml": "load_format: 'dummy'\n"}),
    "vllm routing": _launch(VLLM_MOE_ROUTING_SIMULATION_STRATEGY="uniform_random"),
    "sglang uniform": _launch(SGLANG_SIMULATE_UNIFORM_EXPERTS="1"),
    "sglang round robin": _launch(SGLANG_SIMULATE_ROUND_ROBIN_EXPERTS="true"),
    "sglang acceptance": _launch(SGLANG_SIMULATE_ACC_LEN="2"),
    "fake dispatch": _launch("--ep-dispatch-algorithm", "fake"),
    "fake dispatch, one word": _launch("--ep-dispatch-algorithm=fake"),
}
HONEST = {
    "nothing": _launch("serve", "--load-format", "auto"),
    "switched off": _launch(SGLANG_SIMULATE_UNIFORM_EXPERTS="0", VLLM_MOE_ROUTING_SIMULATION_STRATEGY=""),
    "a model called dummy": _launch("serve", "/models/dummy", "--served-model-name", "dummy"),
    "real dispatch": _launch("--ep-dispatch-algorithm", "dynamic"),
    "speculation as it is": _launch(SGLANG_SIMULATE_ACC_LEN="-1"),
    "real file": _launch("trtllm-serve", files={"/o.yaml": json.dumps({"load_format": "auto"})}),
}


@pytest.mark.parametrize("launch", FAKES.values(), ids=FAKES)
def test_fake_experts_are_refused(launch: Launch) -> None:
    with pytest.raises(ModelError, match="mixture of experts"):
        guards.check(PLAIN, launch, MOE)


@pytest.mark.parametrize("launch", FAKES.values(), ids=FAKES)
def test_fakes_are_labelled_where_allowed(launch: Launch) -> None:
    assert guards.check(PLAIN, launch, MOE, allow_dummy=True)[1] == ("dummy-weights",)
    assert guards.check(PLAIN, launch, DENSE)[1] == ("dummy-weights",)


@pytest.mark.parametrize("launch", HONEST.values(), ids=HONEST)
def test_honest_launches_pass_unlabelled(launch: Launch) -> None:
    assert guards.check(PLAIN, launch, MOE) == ((), ())


@pytest.mark.parametrize(
    "line", ["load-format: dummy", 'load_format: "dummy"', "ep-dispatch-algorithm: fake"]
)
def test_fakes_of_a_configuration_file_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(f"max-num-seqs: 4\n{line}\n")
    launch = _launch("serve", "--config", str(path))
    with pytest.raises(ModelError, match=r"in .*serve.yaml"):
        guards.check(PLAIN, msgspec.structs.replace(launch, launcher="process"), MOE)
    mounted = _launch("serve", "--config=/etc/engine/serve.yaml")
    mounted = msgspec.structs.replace(mounted, mounts={str(tmp_path): "/etc/engine"})
    with pytest.raises(ModelError, match=r"in /etc/engine/serve.yaml"):
        guards.check(PLAIN, mounted, MOE)
    path.write_text("max-num-seqs: 4\nload-format: auto\n")
    assert guards.check(PLAIN, mounted, MOE) == ((), ())


def test_a_configuration_file_that_cannot_be_read_is_said() -> None:
    (warning,) = guards.warnings(PLAIN, _launch("serve", "--config", "/in/the/image.yaml"), MOE)
    assert "cannot be read here" in warning


def test_fake_routing_of_the_shell_reaches_processes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_SIMULATE_UNIFORM_EXPERTS", "1")
    assert guards.check(PLAIN, HONEST["nothing"], MOE)[1] == ()
    with pytest.raises(ModelError, match="SGLANG_SIMULATE_UNIFORM_EXPERTS=1"):
        guards.check(PLAIN, msgspec.structs.replace(HONEST["nothing"], launcher="process"), MOE)


@pytest.mark.parametrize("name", [v.name for v in registry.variants().values() if v.image])
def test_no_variant_ships_with_fakes(name: str) -> None:
    variant = registry.variant(name)
    assert guards.check(variant, render(name), models.models()[variant.model])[1] == ()


def _warn(name: str, model: Model = MOE, version: str = "", **changes: object) -> str:
    variant = registry.variant(name)
    if version:
        variant = msgspec.structs.replace(variant, version=version)
    return " ".join(guards.warnings(variant, render(name, **changes), model))


@pytest.mark.parametrize(
    ("warned", "words"),
    [
        (
            lambda: _warn("vllm-mori", version="0.31.0"),
            "before 0.32.0 combines with the wrong routing tensor",
        ),
        (lambda: _warn("vllm-mori", version="0.27.1"), "expert mask"),
        (lambda: _warn("vllm-mori", version="0.31.0"), "about 64 GiB"),
        (lambda: _warn("vllm-ep", extra_args=("--all2all-backend=mori_high_throughput",)), "flag is inert"),
        (
            lambda: _warn("vllm-ep", extra_args=("--all2all-backend", "pplx", "--data-parallel-size", "8")),
            "use variant sglang-pplx",
        ),
        (lambda: _warn("vllm-mori-fork"), "combines with the wrong routing tensor"),
        (
            lambda: _warn("sglang-dp", extra_args=("--enable-torch-compile",)),
            "torch compile and DP attention",
        ),
        (
            lambda: _warn("sglang-mori", version="0.5.18", extra_args=("--enable-torch-compile",)),
            "fail together",
        ),
        (lambda: _warn("vllm-ep", extra_args=("--enable-return-routed-experts",)), "needs prefix caching"),
        (lambda: _warn("vllm-ep", extra_args=("--stream-interval", "10")), "several tokens a chunk"),
        (lambda: _warn("sglang-mori", models.models()["qwen1.5-moe"]), "only right for model files"),
    ],
)
def test_known_broken_combinations_warn(warned: object, words: str) -> None:
    assert callable(warned)
    assert words in warned()


@pytest.mark.parametrize(
    "name", ["vllm-mori", "vllm-allgather", "vllm-ep", "sglang-tp", "sglang-dp", "trtllm-ep"]
)
def test_variants_as_shipped_do_not_warn(name: str) -> None:
    assert _warn(name) == ""


def test_weights_of_another_revision_warn() -> None:
    other = msgspec.structs.replace(MOE, loaded_revision="a" * 40)
    assert "another revision" in guards.warnings(PLAIN, _launch(), other)[0]
    same = msgspec.structs.replace(MOE, loaded_revision=MOE.revision)
    assert guards.warnings(PLAIN, _launch(), same) == guards.warnings(PLAIN, _launch(), MOE) == ()


def test_tied_qwen3_moe_warns_on_sglang_only() -> None:
    tied = msgspec.structs.replace(MOE, architecture="Qwen3MoeForCausalLM", tied_embeddings=True)
    assert "uniform logits" in _warn("sglang-cpu", tied)
    assert _warn("vllm-cpu", tied) == ""


@pytest.mark.parametrize(
    ("name", "model", "shape", "words"),
    [
        ("trtllm-nvidia", "deepseek-r1", (1000, 900), ""),
        ("trtllm-nvidia", "deepseek-r1", (1000, 2000), "exceed trtllm-nvidia's max_model_len 2000"),
        ("trtllm-nvidia", "deepseek-r1", (1700, 100), "max_num_tokens 1664 in one pass"),
        ("trtllm-ep", "deepseek-r1", (10000, 500), ""),
        ("trtllm-ep", "deepseek-r1", (30000, 100), "max_num_tokens 11000 in one pass"),
        ("trtllm-30k", "deepseek-r1", (30000, 100), ""),
        ("vllm-mori", "deepseek-r1", (30000, 100), ""),
        ("vllm-mori", "qwq-32b", (40000, 1000), "exceed qwq-32b's 40960"),
    ],
)
def test_shapes_a_variant_can_hold(name: str, model: str, shape: tuple[int, int], words: str) -> None:
    reason = guards.holds(registry.variant(name), models.models()[model], *shape)
    assert (words in reason) if words else reason == ""


def test_chunked_prefill_takes_longer_prompts() -> None:
    chunked = msgspec.structs.replace(
        registry.variant("trtllm-ep"), options={"max_num_tokens": 8192, "enable_chunked_prefill": True}
    )
    assert guards.holds(chunked, MOE, 30000, 100) == ""
