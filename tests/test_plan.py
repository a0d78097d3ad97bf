"""What is chosen and refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import plan, run
from harness.errors import InputError
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
    """A Hugging Face cache that holds DeepSeek-R1's config."""
    snapshot = tmp_path / "hub" / "models--deepseek-ai--DeepSeek-R1" / "snapshots" / R1.revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"n_routed_experts": 256, "num_hidden_layers": 61}')
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


def test_variants_of_different_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_LOG", str(tmp_path / "log.md"))
    recipe = Recipe(question="?", variants=("vllm-cpu", "transformers"))
    here = Machine(accelerator="cpu", environments=("vllm-cpu", "transformers"))
    one, other = plan.plan(recipe, here)
    other = replace(other, model=replace(other.model, alias="another"))
    with pytest.raises(InputError, match="different models"):
        run.begin(tmp_path / "run", recipe, (one, other))
