"""Optional features: what asks for one, and that the functions it offers are those that are called."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from harness import extras
from harness.registry import ROOT, variant
from harness.schema import Load, Options

NAMES = sorted(path.stem for path in Path(extras.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize(
    ("options", "loads", "names"),
    [
        (Options(), (Load(),), ()),
        (Options(moe_log=0), (), ("moe_log",)),
        (Options(moe_log=False, stream=False, workers=2), (), ()),
        (Options(tasks="next_word", second_opinion="aiperf"), (), ("second_opinion", "tasks")),
        (Options(), (Load(), Load(search="goodput")), ("goodput",)),
    ],
)
def test_an_option_or_a_search_loads_the_extra_of_its_name(
    options: Options, loads: tuple[Load, ...], names: tuple[str, ...]
) -> None:
    assert extras.asked(options, loads) == names


def test_a_variant_that_takes_traces_asks_for_them() -> None:
    assert extras.asked(Options(), variant=variant("vllm-cpu-trace")) == ("traces",)
    assert extras.asked(Options(), variant=variant("vllm-cpu")) == ()


@pytest.mark.parametrize("name", NAMES)
def test_what_an_extra_offers_is_called_as_it_expects(name: str) -> None:
    module = extras.named(name)
    for hook, signature in extras.HOOKS.items():
        if hasattr(module, hook):
            assert str(inspect.signature(getattr(module, hook))).replace("'", "") == signature


def test_a_bench_without_them_loads_none() -> None:
    code = "import sys, harness.bench; print([m for m in sys.modules if m.startswith('harness.extras.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
