"""report.html in a real browser: opens from a file, draws, is silent, keeps scripts as text, fits a phone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from harness import compare, store
from harness.reporting import log, report_html, report_pareto, report_sections
from harness.reporting.publish import page as write_page
from harness.schema import Comparison, Environment, Recipe, Row
from tests import chromium, moe_logs
from tests.examples import COMPARISON, ENVIRONMENT, row
from tests.runs import RECIPE, SCRIPT, write_run

needs_browser = pytest.mark.skipif(
    chromium.executable() is None and not os.environ.get("CI"),
    reason="no chromium here (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, and a log with an older, faster entry of the same question."""
    folder = write_run(tmp_path_factory.mktemp("results") / "20261121-000000-example")
    comparison = compare.compare(folder)
    moe_logs.random_log(folder / "fast" / "r1" / "moe.jsonl", 12, seed=1, favour=2.0, lengths=(100, 19))
    path = folder.parent / "LOG.md"
    for run_id, date, speed in (
        ("older", "2026-11-20T00:00:00Z", 1.5),
        (folder.name, "2026-11-21T00:00:00Z", 1.0),
    ):
        log.append(path, _entry(comparison, run_id, date, speed))
    sections = report_sections.sections(folder, comparison, RECIPE, log.entries(path))
    text = report_html.document(comparison, ENVIRONMENT, sections)
    store.write_text(folder / "report.html", text)
    return folder


def _entry(comparison: Comparison, run_id: str, date: str, speed: float) -> str:
    rows = tuple(
        msgspec.structs.replace(
            row,
            output_throughput=row.output_throughput
            and msgspec.structs.replace(
                row.output_throughput,
                mean=row.output_throughput.mean * speed,
                low=row.output_throughput.mean * speed * 0.99,
                high=row.output_throughput.mean * speed * 1.01,
            ),
        )
        for row in comparison.rows
    )
    changed = msgspec.structs.replace(comparison, rows=rows, run_id=run_id)
    environment: Environment = msgspec.structs.replace(ENVIRONMENT, started_at=date)
    return log.entry(changed, environment, RECIPE)


def test_the_file_is_whole_in_itself_and_small(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert len(text) < 1_500_000
    assert not re.search(r"<(script|link|img|iframe|object)\b", text)
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert "url(http" not in text and "@import" not in text


def test_it_says_what_it_must(run: Path) -> None:
    text = (run / "report.html").read_text()
    for expected in (
        "fast is 2.00x slow",
        "Throughput and interactivity",
        "Latencies",
        "Over time",
        "Agreement with the reference",
        "The same question before",
        "slower than in older (intervals do not overlap)",
        "Energy and cost",
        "broken at 100-20@c1 failed: died",
        "just bench recipe=results/20261121-000000-example/recipe.toml",
        "TTFT, 100-20@c8",
        "requests running, 100-20@c1",
        "power, 100-20@c1",
        "margin by position",
        "expert usage, fast",
        "busiest expert",
        "Output tok/s, ratios",
        '<tr class="clear"><td class="where">100-20@c8</td>',
        '<span class="badge">PASS</span>',
        "a triangle marks a loss of over 5%",
        "What ran",
        "# nothing is launched; http://127.0.0.1:8000 is used as it is",
    ):
        assert expected in text, expected
    assert "preemptions" not in text, "what stayed at zero is not drawn"
    assert text.index("TPOT over time, 100-20@c1") < text.index("requests running, 100-20@c1")
    assert text.index("requests running, 100-20@c1") < text.index("TTFT over time, 100-20@c8")


def test_rows_stand_under_their_scenario_with_a_bar_of_their_rate(run: Path) -> None:
    text = (run / "report.html").read_text()
    table = text[text.index('id="comparison"') :]
    assert table.count('<tr class="scenario">') == 2
    assert re.findall(r"--share: (\d+)%", table[: table.index("</table>")]) == ["100", "50", "0", "100", "51"]


def test_workloads_of_one_load_share_a_plot() -> None:
    """A frontier of single points says nothing."""

    def one(variant: str, scenario: str, rate: float) -> Row:
        return row(variant, rate, scenario=scenario)

    single = [one(v, f"{w}@c8", r) for w, r in (("100-20", 900.0), ("sharegpt", 90.0)) for v in ("a", "b")]
    section = report_pareto.section(single, ("a", "b"))
    (plot,) = section.plots
    assert "sharegpt" in plot and "100-20" in plot and "Logarithmic" in section.about
    several = report_pareto.section([*single, one("a", "sharegpt@c64", 300.0)], ("a", "b"))
    assert len(several.plots) == 2 and "dashed line" in several.about


def test_long_tables_are_folded() -> None:
    rows = [(str(i), "x") for i in range(30)]
    text = report_html.document(
        COMPARISON, None, [report_html.Section("Many", headers=("a", "b"), rows=rows)]
    )
    assert "<summary>30 rows</summary>" in text


@needs_browser
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (390, "dark"), (390, "light"), (1280, "dark")]
)
async def test_in_a_browser(run: Path, tmp_path: Path, width: int, scheme: str) -> None:
    async with chromium.browsing() as page:
        await page.open(run / "report.html", width, scheme)
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith("file:")] == []
        assert await page.evaluate("document.title") == f"Is fast faster than slow? {SCRIPT}"
        assert await page.evaluate("document.scripts.length") == 0
        assert await page.evaluate("document.images.length") == 0
        assert SCRIPT in await page.evaluate("document.querySelector('h1').textContent")
        blocks = await page.evaluate(
            "[...document.querySelectorAll('pre')].map(p => p.textContent).join('|')"
        )
        assert f"{SCRIPT} answer 0" in blocks and "\\x1b[31m" in blocks
        drawn = await page.evaluate(
            "[...document.querySelectorAll('svg')].map(s => [s.getBoundingClientRect().width,"
            " s.querySelectorAll('path').length])"
        )
        assert len(drawn) >= 15
        assert all(200 <= wide <= width and num > 5 for wide, num in drawn)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        text, paper = await page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert contrast(text, paper) >= 7
        ink = await page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert ink == text, "plots follow the page's colours"
        assert await smallest_text(page) >= 7.0
        assert len(await page.screenshot(tmp_path / "page.png")) > 20_000


@needs_browser
async def test_the_table_is_readable_on_a_phone(run: Path) -> None:
    async with chromium.browsing() as page:
        await page.open(run / "report.html", 390, "light")
        cells = await page.evaluate(
            "[...document.querySelectorAll('#comparison td')].map(c => [c.getBoundingClientRect().right,"
            " getComputedStyle(c, '::before').content])"
        )
        assert all(right <= 390 for right, _ in cells)
        assert any("TTFT" in label for _, label in cells)


async def smallest_text(page: chromium.Page) -> float:
    """Height in CSS pixels of the smallest text in any plot, as drawn."""
    sizes = await page.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => {"
        " const svg = t.ownerSVGElement;"
        " const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;"
        " return parseFloat(getComputedStyle(t).fontSize) * scale; })"
    )
    return float(min(sizes))


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two rgb() colours."""

    def luminance(colour: str) -> float:
        parts = [int(p) / 255 for p in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_comparison_without_records_still_gives_a_page(tmp_path: Path) -> None:
    path = write_page(tmp_path, COMPARISON, None, Recipe(question="q", variants=("a",)))
    text = path.read_text()
    assert "engine-wrong" in text and 'class="struck"' in text
    assert "&lt;script&gt;" in text and "<script" not in text
