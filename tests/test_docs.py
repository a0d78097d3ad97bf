"""The pages: generated ones are current, links lead somewhere, the front page claims what a kept run says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import store
from harness.reporting import answer
from harness.schema import Comparison
from tests import house

ROOT = house.ROOT
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
WRITTEN = ("README.md", "CONTRIBUTING.md", "docs/README.md", "docs/GUIDE.md", "docs/REFERENCE.md")


def test_generated_pages_are_what_would_be_written() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.write_docs", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^(```.*?^```|    .*?$)", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        file, _, anchor = target.partition("#")
        if not re.match(r"https?:", target):
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), f"{page.name} links {target}"
            assert not anchor or anchor in anchors(found), f"{page.name} links {target}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_on_the_site_and_in_the_index(page: Path) -> None:
    assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert f"]({page.name})" in (ROOT / "docs" / "README.md").read_text("utf-8") or page.name == "README.md"


def test_the_front_page_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    _, shown, _ = re.split(r"^```\n(?=How do )|(?<=report.html)\n```$", text, flags=re.M)
    assert len(text.splitlines()) - len(shown.splitlines()) <= 125
    assert len(shown.splitlines()) <= 25 and max(map(len, shown.splitlines())) <= 80
    assert "\n    just" not in text, "commands are fenced, so that they can be copied"


def claims() -> list[tuple[str, str]]:
    """Run and factor of each row of the front page's table."""
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\|([^|]+)\|([^|]+)\| `(20\d{6}-[\w-]+)` \|$", text, re.M)
    return [(run, factor) for _, told, run in rows for factor in re.findall(r"\d\.\d\dx", told)]


@pytest.mark.parametrize(("run", "factor"), claims())
def test_what_the_front_page_claims_its_run_says(run: str, factor: str) -> None:
    comparison = store.read(ROOT / "results" / run / "comparison.json", Comparison)
    assert any(factor in one.full for one in answer.answers(comparison)), f"{run} says no {factor}"


def test_the_front_page_has_at_most_six_claims_and_says_what_did_not_win() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\|.*`20\d{6}-[\w-]+` \|$", text, re.M)
    assert 1 <= len(rows) <= 6 and any("not decided" in row for row in rows)
    assert any("refused" in row for row in rows) and len(claims()) >= 4


@pytest.mark.parametrize("name", WRITTEN)
def test_every_key_and_verb_of_a_page_exists(name: str) -> None:
    """Words behind `just` in code blocks; those in running text are tests/test_house.py's."""
    text = (ROOT / name).read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    verbs = {word for block in blocks for word in re.findall(r"^just ([a-z-]+)", block, re.M)}
    own = {"test", "check", "test-fast", "docs", "setup"}
    known = {*house.just_verbs(), *own}
    assert {v for v in verbs if not v.startswith("serve-")} <= known


@pytest.mark.parametrize("name", ["README.md", "docs/GUIDE.md"])
def test_every_recipe_and_variant_of_a_page_exists(name: str) -> None:
    from harness import registry

    text = (ROOT / name).read_text("utf-8")
    for recipe in re.findall(r"recipes/[\w-]+\.toml", text):
        assert (ROOT / recipe).exists(), recipe
    commands = re.findall(r"^just (?:bench|plan) ([a-z0-9,-]+)(?:\s|$)", text, re.M)
    commands += re.findall(r"^just serve-([a-z0-9-]+)", text, re.M)
    commands += [
        ",".join(re.findall(r"[\w-]+", found)) for found in re.findall(r"^variants = (.*)$", text, re.M)
    ]
    for variant in {name for words in commands for name in words.split(",")} - {"all"}:
        registry.variant(variant)
