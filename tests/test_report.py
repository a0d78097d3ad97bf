"""The table and report.md: ranking, striking out, escaping, and what must be printed beside a number."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from harness.escape import markdown, plain
from harness.reporting import report, report_html
from harness.reporting.cells import COLUMNS, DEFINITIONS, ranked
from harness.schema import Comparison
from tests.examples import COMPARISON, ENVIRONMENT, HOSTILE, RECIPE

MARKDOWN = report.markdown(COMPARISON, ENVIRONMENT, RECIPE)


def rendered(width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    console.print(report.table(COMPARISON))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_wrong_and_mislabelled_rows_have_no_rank() -> None:
    assert [(standing.rank, standing.row.variant) for standing in ranked(COMPARISON.rows)] == [
        (1, "engine-a"),
        (2, "engine-b"),
        (None, "engine-wrong"),
        (None, "engine-mislabelled"),
        (None, "engine-c"),
        (1, "engine-a"),
    ]


def test_markdown_rows() -> None:
    lines = [line for line in MARKDOWN.splitlines() if line.startswith("| ")]
    assert lines[0].count("|") == len(COLUMNS) + 1
    assert lines[2] == (
        "| 1 | engine-a | 1000-2000@c8 | 1180 (1121-1239, n=3) | 148 | 123/247 | 12.3/24.6 | 0/50 "
        "| PASS, match 98.5%, Δlogprob 0.012, margin 0.004 | proven |"
    )
    assert "| - | engine-wrong | 1000-2000@c8 | ~~5000 (4750-5250, n=3)~~ | ~~625~~ |" in lines[4]
    assert "INVALID: expert\\_parallel\\_size: label says 8, engine runs 1" in lines[5]
    assert "| failed |" in lines[6]
    assert "| 1 | engine-a | 30000-100@c8 | 200 | - |" in lines[7]
    assert lines[7].endswith("| 3/50 | not verified | unproven, dummy-weights |")


def test_every_column_is_on_every_surface_and_no_surface_knows_one_by_name() -> None:
    """What makes a new column one value in cells.py."""
    page = report_html.document(COMPARISON, ENVIRONMENT, [])
    wide = rendered(200)
    for column in COLUMNS:
        assert column.title in MARKDOWN.splitlines()[4]
        assert f"<th>{column.title}</th>" in page or column.header == "scenario"
        assert not column.short or column.short in wide
    for place in ("report.py", "report_html.py", "report.html.j2", "log.py"):
        text = (Path(report.__file__).parent / place).read_text()
        known = [
            column.header for column in COLUMNS if re.search(rf"[\"']{re.escape(column.header)}[\"']", text)
        ]
        assert known in ([], ["scenario"], ["variant", "scenario"]), place


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
    assert "[bold]rich[/bold]" in wide and "\\x1b[31m" in wide
    assert "\x1b[31m" not in "\n".join(report.footnotes(COMPARISON))
    struck = next(line for line in wide.splitlines() if "engine-wrong" in line)
    assert re.search(r"\x1b\[9;31m *5000", struck)
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 80 for line in rendered(80).splitlines())


def test_escapes() -> None:
    assert plain("a\x00b\n c") == "a\\x00b c"
    assert len(plain("x" * 10_000)) == 300
    assert markdown("<b>&amp;") == "&lt;b&gt;&amp;amp;"


def test_an_empty_comparison_still_prints() -> None:
    empty = Comparison(run_id="r", question="nothing?", rows=())
    assert "nothing?" in report.markdown(empty, None)
    assert report.table(empty).row_count == 0
    assert HOSTILE not in MARKDOWN
