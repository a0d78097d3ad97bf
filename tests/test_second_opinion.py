"""second_opinion=...: another tool at the same server, shown beside our own figures, never mixed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.reporting import importers, opinions, report, report_html
from harness.schema import Comparison, Load, Opinion, Trial, WorkloadSpec
from tests.examples import COMPARISON, ENVIRONMENT, HOSTILE, metrics
from tests.test_run import Desk, desk

__all__ = ["desk"]

GOLDEN = Path(__file__).parent / "golden" / "foreign" / "guidellm-0.8.1.json"
TRIAL = Trial(variant="v", workload=WorkloadSpec(name="sharegpt"), load=Load(max_concurrency=4))


def told() -> Comparison:
    """A comparison with guidellm's opinion of a trial, and a tool that failed."""
    heard = (
        Opinion(client="guidellm", imported=importers.read(GOLDEN)[0]),
        Opinion(client="aiperf", problem=f"aiperf ended with exit code 1 {HOSTILE}"),
    )
    found = tuple(opinions.beside(one, metrics(100.0), TRIAL) for one in heard)
    return msgspec.structs.replace(COMPARISON, opinions=found)


def test_differences_are_percent_of_ours() -> None:
    half, ours = metrics(50.0), metrics(100.0)
    assert opinions.differences(ours, half)["output tok/s"] == pytest.approx(-50)
    assert opinions.differences(ours, ours)["TTFT p50 ms"] == 0
    assert opinions.differences(msgspec.structs.replace(ours, ttft_s=None), half).keys() == {
        "output tok/s",
        "TPOT p50 ms",
        "TPOT p99 ms",
        "E2EL p50 ms",
    }


def test_restarts_are_told_with_their_spread() -> None:
    heard = Opinion(client="guidellm", imported=importers.read(GOLDEN)[0])
    theirs = heard.imported.metrics.output_throughput if heard.imported else 0.0
    restarts = (msgspec.structs.replace(TRIAL, restart=n) for n in (1, 2, 3))
    found = [
        opinions.beside(heard, metrics(theirs * off), trial)
        for off, trial in zip((0.8, 1.0, 2.0), restarts, strict=True)
    ]
    rows = [dict(zip(opinions.HEADERS, row, strict=True)) for row in opinions.rows(found)]
    assert [(row["restart"], row["client"].split()[0]) for row in rows] == [
        *((number, who) for number in "123" for who in ("ours", "guidellm")),
        ("all 3", "guidellm"),
    ]
    assert rows[-1]["output tok/s"] == "+0.0 % (-50.0 .. +25.0)"
    (line,) = opinions.lines(found)
    assert "guidellm 0.8.1, 3 restarts, against ours: output tok/s +0.0 % (-50.0 .. +25.0)" in line
    assert "restarts" not in opinions.lines(found[:1])[0]


def test_it_stands_beside_the_table_and_not_in_it() -> None:
    comparison = told()
    page = report.markdown(comparison, ENVIRONMENT)
    table, _, rest = page.partition("## Second opinions")
    assert "guidellm" not in table and "guidellm 0.8.1" in rest and "%)" in rest
    assert report.markdown_table(comparison) == report.markdown_table(COMPARISON)
    footnotes = " ".join(" ".join(report.footnotes(comparison)).split())
    assert "second opinion of aiperf is missing: aiperf ended with exit code 1" in footnotes


def test_what_a_tool_wrote_is_escaped() -> None:
    comparison = told()
    assert "<script>alert" not in report_html.document(comparison, ENVIRONMENT, [])
    lines = report.markdown(comparison, ENVIRONMENT).splitlines()
    assert not any("<script>alert" in line for line in lines if not line.startswith("    "))
    assert "\x1b" not in "".join(report.footnotes(comparison))


def test_an_unknown_client_is_a_sentence_before_anything_starts(desk: Desk) -> None:
    done = desk.run("bench", "mock", "32/8", "second_opinion=wrk")
    assert done.returncode == 2
    assert (
        "there is no client 'wrk': second_opinion= takes vllm-bench, sglang-bench, aiperf, guidellm"
        in done.stderr
    )


RECIPE = """
question = "What do others measure?"
variants = ["mock"]
model = "tiny-moe"
reference = "none"
options = { client = "vllm-bench" }
[[workloads]]
name = "text_tokens"
num_prompts = 6
params = { input_len = 32, output_len = 8 }
[[loads]]
max_concurrency = 2
[[loads]]
arrival = "stages"
stages = [[1.0, 10.0]]
"""


@pytest.mark.engine
def test_vllms_own_client_speaks_after_our_trial_or_says_why_not(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = desk.run("bench", f"recipe={tmp_path / 'recipe.toml'}")
    assert done.returncode == 0, done.stderr
    spoken, silent = desk.comparison().opinions
    assert spoken.theirs is not None, spoken.problem
    assert (spoken.theirs.completed, spoken.theirs.total_output_tokens) == (6, 48)
    assert spoken.ours == desk.row("mock").metrics
    assert set(spoken.differences) >= {"output tok/s", "TTFT p50 ms", "TPOT p50 ms"}
    assert "## Second opinions" in (desk.runs[0] / "report.md").read_text()
    kept = desk.runs[0] / "mock" / "r1" / "text-32-8@c2" / "opinions"
    assert store.read(kept / "vllm-bench.json", Opinion).imported is not None
    assert (kept / "vllm-bench.log").exists()
    assert silent.theirs is None and "arrival=stages" in silent.problem
    assert desk.row("mock", "text-32-8@stages-10rps1s").status == "done"
    assert "our own trial stands" in done.stderr
