"""The table and report.md: ranking, striking out, escaping, and what must be printed beside a number."""

from __future__ import annotations

import io
import re
from pathlib import Path

import msgspec
from rich.console import Console

from harness.escape import markdown, plain
from harness.reporting import answer, evidence, report, report_html
from harness.reporting.cells import COLUMNS, DEFINITIONS, standings
from harness.schema import (
    Agreement,
    Comparison,
    Contrast,
    Interval,
    Ranked,
    Row,
    Silence,
    Silences,
    Tail,
    Verdict,
)
from tests.examples import COMPARISON, ENVIRONMENT, HOSTILE, RECIPE, row

MARKDOWN = report.markdown(COMPARISON, ENVIRONMENT, RECIPE)


def rendered(width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    console.print(report.table(COMPARISON))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_wrong_and_mislabelled_rows_have_no_rank() -> None:
    assert [(s.rank, s.row.variant) for _, group in standings(COMPARISON.rows) for s in group] == [
        (1, "engine-a"),
        (2, "engine-b"),
        (None, "engine-wrong"),
        (None, "engine-mislabelled"),
        (None, "engine-c"),
        (1, "engine-a"),
    ]


def test_a_load_that_fixes_its_throughput_ranks_by_what_users_wait_for() -> None:
    def waits(variant: str, rate: float, seconds: float, goodput: float | None = None) -> Row:
        wait = Ranked(title="E2EL p50 from due", value=seconds, lower_is_better=True)
        good = (Ranked(title="requests within the SLO", value=goodput),) if goodput is not None else ()
        return row(variant, rate, scenario="100-50@10rps", ranked_by=(*good, wait))

    def order(*rows: Row) -> list[str]:
        return [s.row.variant for _, group in standings(rows) for s in group if s.rank]

    assert order(waits("offered-more", 510.0, 3.0), waits("quick", 500.0, 1.0)) == ["quick", "offered-more"]
    assert order(waits("a", 500.0, 1.0, 0.90), waits("b", 500.0, 2.0, 0.95)) == ["b", "a"]
    assert order(waits("a", 500.0, 2.0, 0.95), waits("b", 500.0, 1.0, 0.95)) == ["b", "a"]
    assert order(row("nothing-known", 900.0, scenario="100-50@10rps"), waits("a", 500.0, 2.0)) == [
        "a",
        "nothing-known",
    ]


def test_markdown_rows() -> None:
    table = MARKDOWN[MARKDOWN.index("## Comparison") :]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[0].count("|") == len(COLUMNS) + 1
    assert lines[2] == (
        "| 1 | 1000-2000@c8 | engine-a | 1180 (1121-1239, n=3) | 148 | 123, p99 247 | 12.3, p99 24.6 | 0/50 "
        "| PASS, match 98.5%, Δlogprob 0.012, margin 0.004 | proven |"
    )
    assert "| - | 1000-2000@c8 | engine-wrong | ~~5000 (4750-5250, n=3)~~ | ~~625~~ |" in lines[4]
    assert "INVALID: expert\\_parallel\\_size: label says 8, engine runs 1" in lines[5]
    assert "| failed |" in lines[6]
    assert "| 1 | 30000-100@c8 | engine-a | 200 | - |" in lines[7]
    assert lines[7].endswith("| 3/50 | not verified | unproven, dummy-weights |")


def test_every_column_is_on_every_surface_and_no_surface_knows_one_by_name() -> None:
    """What makes a new column one value in cells.py."""
    page = report_html.document(COMPARISON, ENVIRONMENT, [])
    wide = rendered(200)
    header = next(line for line in MARKDOWN.splitlines() if line.startswith("| # |"))
    for column in COLUMNS:
        assert column.title in header
        assert f"<th>{column.title}</th>" in page or column.grouped
        assert not column.short or column.short in wide
    for place in ("report.py", "report_html.py", "report.html.j2", "log.py"):
        text = (Path(report.__file__).parent / place).read_text()
        known = [
            column.header for column in COLUMNS if re.search(rf"[\"']{re.escape(column.header)}[\"']", text)
        ]
        assert set(known) <= {"variant", "scenario"}, place


def test_everything_that_must_stand_beside_the_numbers() -> None:
    for _, meaning in DEFINITIONS:
        assert markdown(meaning) in MARKDOWN
    for expected in (
        "engine-a is 1.18x engine-b (1.12-1.25)",
        "engine-c at 1000-2000@c8 failed: out of memory",
        "engine-wrong at 1000-2000@c8 answers wrongly: token match 41 %",
        "3 of 50 requests failed",
        "client used 91 % of its core",
        "| kv\\_cache\\_dtype | fp8 | not shown | only engine-a has it |",
        "git checkout 0123abcd",
        "just bench recipe=results/20261121-004000-example/recipe.toml",
        "uncommitted changes",
        f"| engine-a | vllm | 0.32.0 | example/image:1 sha256:{'cd' * 32} | tiny-moe, revision 976055f8, ",
        "    docker run example/image:1 serve \\\n      --note '<script>",
    ):
        assert expected in MARKDOWN, expected


def test_engine_text_is_inert_in_markdown() -> None:
    assert all("<script" not in line for line in MARKDOWN.splitlines() if not line.startswith("    "))
    assert "\x1b" not in MARKDOWN and "\u202e" not in MARKDOWN
    assert not re.search(r"^## heading", MARKDOWN, re.M)
    assert "~~~" not in MARKDOWN


def test_engine_text_is_inert_in_the_terminal() -> None:
    wide = rendered(400)
    shown = " ".join([*report.opening(COMPARISON), *report.footnotes(COMPARISON)])
    assert "[bold]rich[/bold]" in shown and "\\x1b[31m" in shown and "\x1b" not in shown
    struck = next(line for line in wide.splitlines() if "engine-wrong" in line)
    assert re.search(r"\x1b\[9;31m *5000", struck)
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 80 for line in rendered(80).splitlines())


def test_the_first_command_takes_25_lines_of_80_columns() -> None:
    """More than the first command ends with: five scenarios of three variants, whatever is decided."""
    scenarios = (
        "text-100-200@c4",
        "text-500-100@c4",
        "text-1000-50@c4",
        "text-3000-10@c4",
        "sharegpt-sample@c4",
    )
    variants = ("sglang-cpu", "transformers", "vllm-cpu")
    rows = tuple(row(v, 1234.0, scenario=s, num_gpus=0) for s in scenarios for v in variants)
    contrasts = tuple(
        contrast(s, v, metric, mean)
        for s, mean in zip(scenarios, (1.21, 1.05, 0.71, 1.33, 3.0), strict=True)
        for v in variants[1:]
        for metric in ("output_throughput", "speed_per_user")
    )
    question = "How do sglang-cpu, transformers, vllm-cpu compare on this machine?"
    comparison = Comparison(
        run_id="r", question=question, rows=rows, contrasts=contrasts, notes=("host drift 22 %", "x" * 99)
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(report.table(comparison))
    table = console.file.getvalue().rstrip()  # type: ignore[attr-defined]
    lines = [
        *report.opening(comparison),
        "",
        *table.splitlines(),
        *report.footnotes(comparison),
        "Kept in",
    ]
    assert len(lines) <= 25 and max(map(len, lines)) <= 80, "\n".join(lines)
    assert lines[0] == question
    assert lines[1:4] == [
        "text-100-200@c4: transformers 1.21x faster than sglang-cpu (output tok/s)",
        "text-500-100@c4: nothing decided; 1.05x would take about 17 restarts",
        "text-1000-50@c4: sglang-cpu 1.41x faster than transformers (output tok/s)",
    ]


def contrast(scenario: str, variant: str, metric: str, mean: float) -> Contrast:
    """Decided, unless it is within a tenth of 1."""
    ratio = Interval(mean=mean, low=mean * 0.93, high=mean * 1.07, num=3)
    return Contrast(
        scenario=scenario,
        baseline="sglang-cpu",
        variant=variant,
        metric=metric,
        ratio=ratio,
        p_value=0.001 if abs(mean - 1) > 0.1 else 0.4,
        detectable=1.12,
    )


def test_what_one_scenario_says_without_ratios() -> None:
    def said(*rows: Row) -> str:
        (only,) = answer.answers(Comparison(run_id="r", question="q", rows=rows))
        return only.full

    assert said(row("a", 100.0)) == "only a counts, at 100 output tok/s"
    assert said(row("a", 100.0), row("b", 90.0, "FAIL")) == "only a counts, at 100 output tok/s"
    assert said(row("a", 90.0), row("b", 100.0)).startswith("b is first of 2, at 100 output tok/s; no ratio")
    wait = Ranked(title="E2EL p50 from due", value=1.25, lower_is_better=True)
    assert said(row("a", 9.0, ranked_by=(wait,))) == "only a counts, at E2EL p50 from due 1250 ms"
    assert said(row("b", 90.0, "FAIL")) == "no row counts; the reasons stand below"
    assert said(row("a", 90.0, "CANNOT TELL")).endswith("(output not judged)")


def test_times_of_the_delivery_are_not_the_engines() -> None:
    whole = msgspec.structs.replace(COMPARISON.rows[0].metrics, whole_share=0.7)
    rows = (row("proxied", 100.0, metrics=whole),)
    comparison = Comparison(run_id="r", question="q", rows=rows)
    assert "| -, delivered whole | -, delivered whole | 0/50 |" in report.markdown_table(comparison)


def test_a_tail_is_as_far_out_as_requests_certify() -> None:
    tails = (
        Tail(
            metric="ttft",
            asked=0.99,
            share=0.9,
            value=0.2,
            bound=0.25,
            num=150,
            num_effective=130.0,
            pooled=True,
            needed=532,
        ),
    )
    comparison = Comparison(run_id="r", question="q", rows=(row("a", 100.0, tails=tails),))
    assert "| 123, p90 200, p99 needs 532 more | 12.3 |" in report.markdown_table(comparison)


def test_silences_are_told_with_length_share_and_period() -> None:
    quiet = Silences(
        threshold_s=0.05,
        total_s=4.2,
        share=0.158,
        median_s=0.375,
        period_s=2.299,
        period_tokens=47104.0,
        found=tuple(Silence(2.3 * i, 0.375, 47104.0 * i) for i in range(1, 13)),
    )
    comparison = Comparison(run_id="r", question="q", rows=(row("a", 100.0, silences=quiet), row("b", 90.0)))
    told = (
        "a at 1000-2000@c8: no stream got a chunk 12 times, each about 0.38 s: 16% of the time, every "
        "2.30 s or 47,104 tokens; its rate would read 1.19x without"
    )
    assert f"## Silences\n\n- {told}\n" in report.markdown(comparison, None)
    assert told in " ".join(" ".join(report.footnotes(comparison)).split())
    assert told in report_html.document(comparison, None, [])


def test_what_a_verdict_would_have_seen_stands_beside_it_and_the_weakest_is_told() -> None:
    def judged(variant: str, effective: int | None, verdict: Verdict = "PASS") -> Row:
        power = "would have seen (95 %): one expert fewer; could not have seen: int8 weights"
        found = Agreement(verdict=verdict, num_tokens=1200, num_effective=effective, power=power)
        return row(variant, 100.0, agreement=found)

    rows = (judged("a", 700), judged("b", 350), judged("c", 90, "CANNOT TELL"), judged("d", None))
    comparison = Comparison(run_id="r", question="q", rows=rows)
    told = (
        "b at 1000-2000@c8: 1,200 tokens, worth 350 uncertain ones, would have seen (95 %): one expert "
        "fewer; could not have seen: int8 weights"
    )
    assert evidence.lines(rows)[1] == told and "1,200 tokens would have seen" in evidence.lines(rows)[3]
    assert f"\n- {told}\n" in report.markdown(comparison, None)
    shown = report.footnotes(comparison)
    assert f"of 2 PASS the one on least evidence: {told}" in " ".join(" ".join(shown).split())
    assert max(map(len, shown)) <= 80


def test_escapes() -> None:
    assert plain("a\x00b\n c") == "a\\x00b c"
    assert len(plain("x" * 10_000)) == 300
    assert markdown("<b>&amp;") == "&lt;b&gt;&amp;amp;"


def test_an_empty_comparison_still_prints() -> None:
    empty = Comparison(run_id="r", question="nothing?", rows=())
    assert "nothing?" in report.markdown(empty, None)
    assert report.table(empty).row_count == 0
    assert HOSTILE not in MARKDOWN
