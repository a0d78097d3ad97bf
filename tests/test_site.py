"""The site in a real browser: whole, silent, inert, readable on a phone; no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urldefrag

import msgspec
import pytest

from harness import compare, store
from harness.history import pages, site
from harness.reporting import log
from harness.schema import Comparison, Environment
from tests import chromium
from tests.examples import COMPARISON, ENVIRONMENT
from tests.examples import RECIPE as HOSTILE_RECIPE
from tests.runs import RECIPE, SCRIPT, write_run
from tests.test_report_html import needs_browser

KEPT = "20261121-000000-example"


def written(comparison: Comparison, run_id: str, day: int) -> tuple[Comparison, Environment]:
    environment: Environment = msgspec.structs.replace(ENVIRONMENT, started_at=f"2026-11-{day}T00:00:00Z")
    return msgspec.structs.replace(comparison, run_id=run_id), environment


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of two runs of one question, one of them kept, and of two others, one a damaged entry."""
    root = tmp_path_factory.mktemp("site")
    run, path = write_run(root / "results" / KEPT), root / "LOG.md"
    comparison = compare.compare(run)
    store.write(run / "comparison.json", comparison)
    for run_id, day in (("older", 20), (KEPT, 21)):
        log.append(path, log.entry(*written(comparison, run_id, day), RECIPE))
    log.append(path, log.entry(*written(COMPARISON, "hostile", 22), HOSTILE_RECIPE))
    log.append(path, "## 2026-11-23T00:00:00Z damaged\n\n<script>document.title='owned'</script>\n")
    log.note(
        path,
        KEPT,
        f"fans were off {SCRIPT} {'and so on ' * 40}the end",
        author="somebody",
        date="2026-11-24T00:00:00Z",
    )
    site.write(path, root / "results", root / "out", lambda _: None)
    return root / "out"


def addresses(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.html"))


def test_every_run_and_every_label_has_a_page(out: Path) -> None:
    found = addresses(out)
    assert {"index.html", "runs/older.html", "runs/hostile.html", "runs/damaged.html"} < {*found}
    assert pages.run_address(KEPT) in found
    assert {re.sub(r"-\w{8}\.html", "", a) for a in found if a.startswith("history/")} == {
        *("history/slow", "history/fast", "history/broken"),
        *("history/engine-a", "history/engine-b", "history/engine-c", "history/engine-wrong"),
        "history/engine-mislabelled",
    }
    index = (out / "index.html").read_text()
    assert "4 runs of 2 questions" in index and "1 note" in index
    assert "Entries that cannot be read" in index
    kept = (out / pages.run_address(KEPT)).read_text()
    assert "fans were off" in kept and "the end" in kept and "TTFT over time" in kept, (
        "the whole report, and what was noted later"
    )
    assert "results are not kept here" in (out / "runs/older.html").read_text()


def test_nothing_is_fetched_and_nothing_runs(out: Path) -> None:
    for address in addresses(out):
        text = (out / address).read_text()
        assert not re.search(r"<(script|link|img|iframe|object)\b", text), address
        assert "url(http" not in text and "@import" not in text
        assert all(not href.startswith(("http", "//", "javascript")) for href in links(text)), address
        assert "default-src 'none'" in text


def links(text: str) -> list[str]:
    """What it leads to; the signs of plots (xlink) apart."""
    return re.findall(r"<a href=\"([^\"]*)\"", text)


def test_no_link_leads_nowhere(out: Path) -> None:
    reached = {"index.html"}
    for address in addresses(out):
        text = (out / address).read_text()
        for href in links(text):
            page, anchor = urldefrag(href)
            target = (out / address).parent / page if page else out / address
            assert target.is_file(), f"{address} links to {href}"
            assert not anchor or f'id="{anchor}"' in target.read_text(), f"{address} links to {href}"
            reached.add(target.resolve().relative_to(out.resolve()).as_posix())
    assert reached == {*addresses(out)}, "every page is reached from another"


def test_pages_of_runs_are_made_again_only_when_what_they_show_changed(out: Path) -> None:
    root = out.parent
    page = out / pages.run_address(KEPT)
    (out / "runs" / "forgotten.html").write_text("of an entry that was cut out")
    before = page.stat().st_mtime_ns
    site.write(root / "LOG.md", root / "results", out, lambda _: None)
    assert page.stat().st_mtime_ns == before
    assert not (out / "runs" / "forgotten.html").exists()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
async def test_in_a_browser(out: Path, width: int) -> None:
    history = next(a for a in addresses(out) if a.startswith("history/fast"))
    async with chromium.browsing() as page:
        for address in (
            "index.html",
            history,
            pages.run_address(KEPT),
            "runs/hostile.html",
            "runs/damaged.html",
        ):
            await page.open(out / address, width, "light" if width > 700 else "dark")
            assert page.problems == []
            assert [url for url in page.requests if not url.startswith("file:")] == []
            assert await page.evaluate("document.scripts.length") == 0
            assert await page.evaluate("document.title") != "owned"
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, address
            cells = "[...document.querySelectorAll('td')].map(c => c.getBoundingClientRect().right)"
            assert max(await page.evaluate(cells), default=0) <= width, f"{address} at {width}"
        assert "<script>document.title='owned'</script>" in await page.evaluate("document.body.textContent")
