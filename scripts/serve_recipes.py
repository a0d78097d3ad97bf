"""Writes engines/serve.just: one `serve-<variant>` recipe for every variant of engines/*.toml.

usage: python scripts/serve_recipes.py [--check]
Only the standard library, so that it can run before the harness's environment exists.
"""

from __future__ import annotations

import sys
import textwrap
import tomllib
from pathlib import Path

ENGINES = Path(__file__).resolve().parent.parent / "engines"
_HELP_WIDTH = 100
"""`just` prints one line a recipe; the whole source is in the toml and in `just plan`."""
HEADER = "# Written by scripts/serve_recipes.py from engines/*.toml; `just setup` keeps it up to date.\n"


def recipes() -> str:
    """The text of engines/serve.just."""
    blocks = [HEADER]
    for path in sorted(ENGINES.glob("*.toml")):
        if path.with_suffix(".py").exists():
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
            blocks += [recipe(name, str(table.get("source", ""))) for name, table in tables.items()]
    return "\n".join(blocks)


def recipe(name: str, source: str) -> str:
    """One recipe with its one-line help."""
    return (
        f"# {textwrap.shorten(source, _HELP_WIDTH, placeholder=' ...')}\n"
        "[no-exit-message]\n"
        f"serve-{name} *model_and_keys: setup\n"
        f'    @{{{{ python }}}} -m harness serve {name} "$@"\n'
    )


def main() -> int:
    """0 when the file is (now) up to date, 1 when --check finds it stale."""
    target = ENGINES / "serve.just"
    text = recipes()
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in sys.argv:
        sys.stderr.write("engines/serve.just is stale; run `just setup`.\n")
        return 1
    target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
