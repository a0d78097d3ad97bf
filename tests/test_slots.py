"""Default, vendor and tuned in one comparison."""

from __future__ import annotations

import msgspec

from harness.label import slots
from harness.schema import Agreement, Interval, Launch, Row


def row(variant: str, rate: float, verdict: str = "PASS") -> Row:
    """A done row."""
    return Row(
        variant=variant,
        scenario="s@c1",
        status="done",
        output_throughput=Interval(mean=rate, low=rate, high=rate, num=1),
        agreement=msgspec.convert({"verdict": verdict}, Agreement),
    )


def launch(engine: str, *argv: str, **env: str) -> Launch:
    """What a variant was started with."""
    return Launch(engine=engine, argv=("serve", *argv, "--port", "8000"), env=env)


ROWS = (row("llamacpp~default", 100), row("llamacpp~slots=8", 150), row("vllm-cpu~default", 120))
LAUNCHES = {
    "llamacpp~default": launch("llamacpp", "--slots", "4", "--flash"),
    "llamacpp~slots=8": launch("llamacpp", "--slots", "8", A="1"),
    "vllm-cpu~default": launch("vllm", "--dtype=bfloat16"),
}


def test_every_engine_s_slots_stand_in_one_line_and_the_best_of_each_is_ranked() -> None:
    said = slots.remarks(ROWS, LAUNCHES, "proof")
    assert said == (
        "slots of llamacpp at s@c1: default: llamacpp~default 100 tok/s; vendor: none was given; "
        "tuned: llamacpp~slots=8 150 tok/s",
        "slots of vllm at s@c1: default: vllm-cpu~default 120 tok/s; vendor: none was given; "
        "tuned: none was given",
        "best of each engine at s@c1, output tok/s: 1. llamacpp~slots=8 150, 2. vllm-cpu~default 120",
        "llamacpp~slots=8 differs from llamacpp~default in --slots 8 (default: --slots 4), "
        "no --flash (default: --flash), A 1 (default: no A)",
    )


def test_what_is_wrong_is_in_its_slot_and_is_no_best() -> None:
    rows = (ROWS[0], row("llamacpp~slots=8", 900, "FAIL"), ROWS[2])
    said = slots.remarks(rows, LAUNCHES, "proof")
    assert "tuned: llamacpp~slots=8 not ranked" in said[0]
    assert said[2].endswith("1. vllm-cpu~default 120, 2. llamacpp~default 100")


def test_a_comparison_of_one_slot_claims_nothing_of_slots() -> None:
    assert slots.remarks(ROWS, LAUNCHES) == ()
    assert slots.remarks((row("llamacpp", 1), row("vllm-cpu", 2)), {"llamacpp": launch("llamacpp")}) == ()
