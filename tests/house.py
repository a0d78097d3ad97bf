"""The house's rules, read off the source: each function gives its breaches as "file | what"."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain

from harness.registry import ROOT

PRODUCT = ("harness", "engines", "workloads", "ep_check", "moe_log", "scripts", "benchmarks")
ENGINES = re.compile(r"[\w-]*(?:vllm|sglang|trtllm|tensorrt_llm|llamacpp)[\w-]*", re.IGNORECASE)
FOREIGN = (
    "harness/reporting/importers/",
    "harness/reporting/exporters.py",
    "harness/extras/foreign_client.py",
    "harness/tune/vendor/",
    *(f"harness/{name}.py" for name in ("ep/bench_output", "ep/trace", "moe/convert", "moe/responses")),
)
"""Files about other people's tools and formats say whose they are."""
OPTIONAL = tuple(f"harness.{room}." for room in ("extras", "moe", "ep", "history", "tune", "bisect"))
EFFECTS = (
    "subprocess",
    "requests",
    "socket",
    "docker",
    "aiohttp",
    "urllib.request",
    "http.client",
    "http.server",
)
JUDGING = "agreement divergence floors promises scoring_dialects self_noise task_accuracy textcheck"
PARSING = "attestation dialect fairness feasible findings guards point release scale signatures slots"
TELLING = (
    "answer cells curves goodput opinions plots report report_agreement report_html report_pareto stops "
    "what_ran"
)
PURE = (
    "harness.numbers.",
    "harness.reporting.importers.",
    *(f"harness.correctness.{name}" for name in JUDGING.split()),
    *(f"harness.label.{name}" for name in PARSING.split()),
    *(f"harness.reporting.{name}" for name in TELLING.split()),
    *(f"harness.history.{name}" for name in ("series", "changes", "told")),
    *(f"harness.bisect.{name}" for name in ("drift", "judging", "search")),
)
"""Rooms that compute: what they import, and what that imports, reaches no effect."""
FILE_LINES, FUNCTION_LINES = 400, 50
LONG_FILES = ("harness/schema.py",)
"""One page of nouns."""


@cache
def modules() -> dict[str, tuple[str, ast.Module]]:
    """Every module of harness/ by its dotted name: path and tree."""
    return {dotted(path): (path, tree) for path, tree in files() if path.startswith("harness/")}


@cache
def files() -> tuple[tuple[str, ast.Module], ...]:
    """Path and tree of every Python file of the product."""
    paths = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in PRODUCT)
    return tuple(
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))) for path in sorted(paths)
    )


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """All of a file."""
    return tuple(ast.walk(tree))


def dotted(path: str) -> str:
    """The module's name: a package is its __init__."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.Module) -> Iterator[str]:
    """Everything imported at run time, also inside functions; "a.b" for `from a import b`."""
    for_types = {
        id(inside)
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inside in node.body
    }
    for node in nodes(tree):
        if isinstance(node, ast.Import) and id(node) not in for_types:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Module to the modules of harness/ that it imports."""
    known = modules()
    named = {name: {*imports(tree)} for name, (_, tree) in known.items()}
    return {
        name: frozenset(w if w in known else w.rpartition(".")[0] for w in words) & frozenset(known)
        for name, words in named.items()
    }


@cache
def closure(module: str) -> frozenset[str]:
    """The module and all that it brings with it."""
    seen, left = {module}, [module]
    while left:
        new = arrows()[left.pop()] - seen
        seen |= new
        left += new
    return frozenset(seen)


def lines_within(module: str) -> int:
    """Lines of the module and of all that it brings with it."""
    paths = (modules()[name][0] for name in closure(module))
    return sum(len((ROOT / path).read_text("utf-8").splitlines()) for path in paths)


def circles() -> Counter[str]:
    """Imports that come back to where they started."""
    return Counter(
        f"{modules()[name][0]} | {other}"
        for name, others in arrows().items()
        for other in others
        if name in closure(other)
    )


def optional(module: str) -> bool:
    """Whether a module is loaded only for who asks for it."""
    return module.startswith(OPTIONAL)


def spine_on_optional() -> Counter[str]:
    """Imports of an optional feature by what every bench loads."""
    return Counter(
        f"{modules()[name][0]} | {other}"
        for name in closure("harness.bench")
        if not optional(name)
        for other in arrows()[name]
        if optional(other)
    )


def impure() -> Counter[str]:
    """Rooms said to compute only that reach an effect."""
    effectful = {
        name
        for name, (_, tree) in modules().items()
        if any(f"{word}.".startswith(f"{effect}.") for word in imports(tree) for effect in EFFECTS)
    }
    pure = [n for n in modules() if n in PURE or n.startswith(tuple(p for p in PURE if p.endswith(".")))]
    return Counter(f"{modules()[name][0]} | reaches an effect" for name in pure if closure(name) & effectful)


def engine_names() -> Counter[str]:
    """Words with an engine's name in code of harness/, once per file: names and strings, docstrings apart."""
    return Counter(
        {
            f"{path} | {word}": 1
            for path, tree in modules().values()
            if not path.startswith(FOREIGN)
            for text in said(tree)
            for word in ENGINES.findall(text)
        }
    )


def said(tree: ast.Module) -> Iterator[str]:
    """Names and strings of a file, bare strings (which explain) apart."""
    bare = {id(node.value) for node in nodes(tree) if isinstance(node, ast.Expr) and node.value is not None}
    for node in nodes(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias):
            yield node.name


def launcher_comparisons() -> Counter[str]:
    """Comparisons with a launcher's name outside the launchers."""
    names = {path.stem for path in (ROOT / "harness" / "launchers").glob("[a-z]*.py")}
    return Counter(
        f"{path} | {ast.unparse(node)}"
        for path, tree in modules().values()
        if not path.startswith("harness/launchers/")
        for node in nodes(tree)
        if isinstance(node, ast.Compare) and compares(node, names)
    )


def compares(node: ast.Compare, names: set[str]) -> bool:
    """Whether one side is a launcher's name, or a collection with one."""
    sides = [part for side in (node.left, *node.comparators) for part in (side, *getattr(side, "elts", ()))]
    return any(isinstance(side, ast.Constant) and side.value in names for side in sides)


def too_long() -> Counter[str]:
    """Files and functions over the limit of lines."""
    found: Counter[str] = Counter()
    for path, tree in files():
        num = len((ROOT / path).read_text("utf-8").splitlines())
        if num > FILE_LINES and path not in LONG_FILES:
            found[f"{path} | over {FILE_LINES} lines"] += 1
        for node in nodes(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                found[f"{path} | {node.name} over {FUNCTION_LINES} lines"] += length > FUNCTION_LINES
    return +found


def just_verbs() -> dict[str, str]:
    """The justfile's verbs that the command line has too, with the comment that lists them."""
    text = (ROOT / "justfile").read_text("utf-8")
    recipes = re.findall(r"^# (.*)\n(?:\[.*\]\n)*([a-z][\w-]*)[^\n]*:[^\n=]*\n((?:[ ]+.*\n?)*)", text, re.M)
    return {name: told for told, name, body in recipes if f"-m harness {name}" in body}


def command_verbs() -> dict[str, str]:
    """The command line's verbs with the first line of what they say of themselves."""
    from harness.cli import app

    commands = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
    return {name: (verb.__doc__ or "").splitlines()[0] for name, verb in commands.items()}


def written_verbs() -> set[str]:
    """Every word that README and docs put behind `just`."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {word for page in pages for word in re.findall(r"`just ([a-z-]+)", page.read_text("utf-8"))}
