"""docs/RESULTS.md of kept runs, docs/REFERENCE.md of the code: python -m scripts.write_docs [--check|--runs]

With --check nothing is written; exit status 1 names the pages that are not what would be written. With --runs
comparison.json and report.md of all kept runs are made again from their records first (minutes).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import compare, errors, recipe, registry, store
from harness.cli import app
from harness.escape import markdown as md
from harness.reporting import cells, log, report
from harness.reporting.importers import FORMATS
from harness.schema import Comparison, Environment, Load, Noun, Options, Recipe

DOCS = registry.ROOT / "docs"
GENERATED = "Written by `python -m scripts.write_docs`; tests/test_docs.py holds it to what that writes.\n"


def results() -> str:
    """Every kept run, in the order of its start: question, answer, machine, table, what ran."""
    runs = sorted(
        (registry.ROOT / "results").glob("*/comparison.json"), key=lambda path: _started(path.parent)
    )
    parts = [
        "# Results\n",
        "Every run that is kept in `results/`, from its `comparison.json`: nothing here is written by hand. "
        "The log of all runs with the notes on them is `EXPERIMENT_LOG.md`; `just compare RUN` makes a table "
        "again from the stored records, `just report RUN` its pages with plots.\n",
        GENERATED,
        *(f"- **{term}**: {meaning}" for term, meaning in cells.DEFINITIONS),
    ]
    return "\n".join([*parts, *(part for path in runs for part in _run(path.parent))]) + "\n"


def _started(run: Path) -> str:
    return store.read(run / "environment.json", Environment).started_at


def _run(run: Path) -> Iterator[str]:
    comparison = store.read(run / "comparison.json", Comparison)
    environment = store.read(run / "environment.json", Environment)
    yield f"\n## {md(comparison.question)}\n"
    yield f"`results/{run.name}/`, {environment.started_at[:10]}, {log.machine(environment)}.\n"
    yield from (f"- {line}" for line in report.answers(comparison))
    versions = ", ".join(f"{one.variant}: {one.engine} {one.engine_version or '?'}" for one in comparison.ran)
    yield f"- what ran: {versions}\n" if versions else ""
    yield report.markdown_table(comparison)
    failed = [line for line in report.failures(comparison.rows) if " failed: " in line or "wrongly" in line]
    yield "".join(f"\n- {md(line)}" for line in failed)


def reference() -> str:
    """Verbs, keys, workloads, columns, files, exit statuses and variables, from the code."""
    sections = {
        "Verbs": _verbs(),
        "Keys of bench, plan and load": _keys(),
        "Variants": _variants(),
        "Workloads": _workloads(),
        "Columns of the table": [f"- **{term}**: {meaning}" for term, meaning in cells.DEFINITIONS],
        "Results": _files(),
        "Exit statuses": _exit_statuses(),
        "Variables": _variables(),
    }
    head = ["# Reference\n", GENERATED]
    body = [f"\n## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()]
    return "\n".join([*head, *body]) + "\n"


def _verbs() -> list[str]:
    commands = {c.name or c.callback.__name__: c.callback for c in app.registered_commands if c.callback}
    lines = [
        "Each is `just VERB` and `.venv/bin/python -m harness VERB`; `just serve-VARIANT` is "
        "`just serve VARIANT`. Of the justfile alone: `just setup`, `just test`, `just test-fast`, "
        "`just check`, `just docs`.\n",
        "| verb | does |",
        "|---|---|",
    ]
    for name, verb in sorted(commands.items()):
        told = (inspect.getdoc(verb) or "").splitlines()[0]
        lines.append(f"| `just {name}` | {_cell(told)} |")
    return lines


def _cell(text: str) -> str:
    """Text in a table: no column of it, no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _keys() -> list[str]:
    told = {
        **_documented(Recipe, recipe.RECIPE_KEYS, recipe.RENAMED),
        **_documented(Load, recipe.LOAD_KEYS, {"rate": "request_rate", "concurrency": "max_concurrency"}),
        **_documented(Options, list(recipe.OPTION_KEYS), {}),
        **_OWN_KEYS,
    }
    return [
        "A key that is not known is refused. Lists (`concurrency=1,8,64`) make one trial each.\n",
        "| key | default | means |",
        "|---|---|---|",
        *(f"| `{key}=` | {default} | {meaning} |" for key, (default, meaning) in sorted(told.items())),
    ]


_OWN_KEYS = {
    "recipe": ("", "A file of recipes/: one question, in place of all other words."),
    "run_id": ("", "Name of the run; one that exists is gone on with, no finished trial is repeated."),
    "nodes": ("1", "Nodes that an engine runs on; the variant is then called NAME-nN."),
    "good, bad, versions, metric": (
        "",
        "Of `just bisect` alone: two versions, or all candidates by name, and what is looked at.",
    ),
    "port": ("8000", "Of `just serve` alone."),
    "num_prompts": ("by the load", "Requests of a trial."),
    "args": ("", "Arguments appended to the engine's, as one quoted word: args='--max-num-seqs 8'."),
    "sampling": (
        "greedy",
        "How tokens are chosen: temperature=0.7,top_p=0.9,top_k=20 and the other fields of Sampling; + joins "
        "several ways, each a row: greedy+temperature=1.",
    ),
    "ignore_eos": ("true", "false: outputs end where the model ends them."),
    "env.NAME": ("", "A variable of the engine's environment."),
    "settings.NAME": (
        "",
        "An option of the engine's file over the variant's own, like settings.prefix_cache=true.",
    ),
    "slo.ttft_s": ("", "A limit in seconds; also slo.tpot_s, slo.e2el_s. Goodput counts what meets all."),
    "w.PARAM": ("", "A parameter of the workload; the workloads below list theirs."),
}
_PLAIN = {
    "rate": "Open loop: requests per second, Poisson unless arrival= says otherwise.",
    "concurrency": "Closed loop: requests in flight; with rate= the most that may be.",
    "arrival": "closed, constant, poisson, gamma, ramp, stages or trace.",
    "stages": "Seconds:requests per second, one after the other: 5:2,5:8.",
    "duration": "Seconds, instead of a number of requests.",
    "model": "Alias of models/models.toml, a Hugging Face id, or a folder; else each variant's default.",
    "launcher": "process, docker, attach, slurm or one of your own, overriding the variant's way.",
    "url": "Base URL of a server that runs already.",
    "image": "Image to run a container variant from, in place of its own.",
    "question": "What the report is headed with.",
    "seed": "Of prompts, arrival times and samples.",
    "timeout": "Seconds that a request may take.",
    "prompts": "How prompts are sent: ids, text or chat.",
    "ramp_to": "Requests per second at the end; rate= is where it begins.",
    "repeats": "Server restarts per variant in interleaved order A B B A; auto (0 in a recipe) = until "
    "intervals are tight; with 1 nothing has an interval.",
}


def _documented(noun: type[Noun], keys: object, renamed: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Key -> (default, what the docstring under the field says)."""
    docs, defaults = _field_docs(noun), dict(zip(noun.__struct_fields__, _defaults(noun), strict=True))
    found = {}
    for key in keys:  # type: ignore[attr-defined]
        field = renamed.get(key, key)
        field = field if field in defaults else f"{field}_s"
        default = defaults.get(field)
        shown = (
            "" if default in ("", None, (), {}) or (key in _PLAIN and key != "repeats") else f"`{default}`"
        )
        found[key] = (shown, _PLAIN.get(key) or docs.get(field, ""))
    return found


def _defaults(noun: type[Noun]) -> list[object]:
    fields = list(noun.__struct_fields__)
    values = [*noun.__struct_defaults__]
    padded: list[object] = [None] * (len(fields) - len(values)) + values
    return [None if callable(value) or "NODEFAULT" in repr(value) else value for value in padded]


def _field_docs(noun: type[Noun]) -> dict[str, str]:
    """The strings under the fields of a class."""
    (tree,) = ast.parse(inspect.getsource(noun)).body
    found: dict[str, str] = {}
    body = tree.body  # type: ignore[attr-defined]
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            text = " ".join(ast.literal_eval(after.value).split())
            found[ast.unparse(field.target)] = _cell(text)
    return found


def _variants() -> list[str]:
    lines = [
        "`all` is those of one accelerator that this machine can run: the CPU engines where there is none. "
        "Behind a name: `-x2` for another number of GPUs, `-n2` (or `nodes=2`) for nodes, `+prefix` and "
        "other switches, `@VERSION`. Without an image a variant runs from a Python environment that is made "
        "on first use.\n",
        "| variant | on | GPUs | image | what it is |",
        "|---|---|---|---|---|",
    ]
    for variant in registry.variants().values():
        num = "" if variant.accelerator == "cpu" else variant.parallel.num_gpus
        image = f"`{variant.image}`" if variant.image else ""
        lines.append(
            f"| `{variant.name}` | {variant.accelerator} | {num} | {image} | {_cell(variant.source)} |"
        )
    return lines


def _workloads() -> list[str]:
    lines = [
        "`1000/2000` and any other ISL/OSL, or one of these; commas join several. Parameters are given as "
        "`w.NAME=`, and `w.path=FILE` makes the last of `all` ShareGPT itself. `all` is "
        f"{', '.join(recipe.ORIGIN_SHAPES)}; on CPU {', '.join(recipe.CPU_SHAPES)}.\n"
    ]
    for name in registry.workloads():
        told = inspect.getdoc(registry.workload(name)) or ""
        title, _, rest = told.partition("\n\n")
        lines += [f"**{name.replace('_', '-')}**: {title} {' '.join(rest.split())}\n"]
    return lines


def _files() -> list[str]:
    return ["```", *_LAYOUT.strip("\n").splitlines(), "```", "", "`harness/schema.py` describes every file."]


_LAYOUT = """
results/<run_id>/
    recipe.toml environment.json comparison.json report.md report.html
    workloads/<workload>@<load>.jsonl        prompts of the verified sample
    <variant>/r<restart>/launch.json         the exact command, secrets left out
    <variant>/r<restart>/server.log
    <variant>/r<restart>/evidence.json       what the engine showed of itself
    <variant>/r<restart>/attestation.json    what it really runs, against the label
    <variant>/r<restart>/<workload>@<load>/
        workload.json                        sha256 of all token ids, lengths and due times
        requests.jsonl                       one RequestRecord a line (.xz afterwards)
        telemetry.jsonl                      gauges and accelerators, once a second
        trial.json                           how it ended; engine counters
        scores.jsonl                         the reference's view of the sampled output
"""


def _exit_statuses() -> list[str]:
    tree = (inspect.getdoc(errors) or "").partition("\n\n")[2].partition("\n\nA failed")[0]
    return [
        "| status | means |",
        "|---|---|",
        "| 0 | done |",
        "| 1 | nothing was measured, or the machine lacks something; of `just log check`: results changed or "
        "are gone |",
        "| 2 | words that are not understood |",
        "| 3 | an output is wrong (FAIL); a CANNOT TELL alone is 0; of `just probe`: a promise is not kept |",
        "| 4 | of `just verify`: an output cannot be judged; of `just bisect`: undecided |",
        "| 130 | Ctrl-C; what was measured is kept |",
        "",
        "Every failure is one sentence that says what, why and what to do next, of one of these kinds:",
        "",
        "```",
        *tree.splitlines(),
        "```",
    ]


def _variables() -> list[str]:
    return [
        "| variable | means |",
        "|---|---|",
        "| `HARNESS_LOG` | the experiment log, in place of EXPERIMENT_LOG.md |",
        "| `HARNESS_RESULTS` | where runs are written, in place of results/ |",
        "| `HARNESS_ENGINES` | folders with engines of your own, joined by : |",
        "| `HARNESS_VARIANTS` | folders of variants that were found, joined by : (tuned/ and vendor/) |",
        "| `HARNESS_LAUNCHERS` | folders with launchers of your own, joined by : |",
        "| `HF_TOKEN`, `HF_HOME` | Hugging Face: for gated weights; where weights are cached |",
        "",
        f"Formats that `just import` and `just compare FOLDER` read: {', '.join(FORMATS)}.",
    ]


def recompute() -> None:
    """Kept runs told under the rules of this checkout."""
    for run in sorted(path.parent for path in (registry.ROOT / "results").glob("*/recipe.toml")):
        stored = compare.without_records(run)
        comparison = stored or compare.compare(run)
        environment = store.read(run / "environment.json", Environment)
        if stored is None:
            store.write(run / "comparison.json", comparison)
        store.write_text(run / "report.md", report.markdown(comparison, environment, store.read_recipe(run)))


PAGES = {"RESULTS.md": results, "REFERENCE.md": reference}


def main(check: bool) -> int:
    """0, or 1 when a page is not current."""
    stale = 0
    for name, made in PAGES.items():
        text = re.sub(r"\n{3,}", "\n\n", made())
        path = DOCS / name
        if check:
            if not path.exists() or path.read_text("utf-8") != text:
                print(f"docs/{name} is not current; python -m scripts.write_docs writes it")
                stale = 1
        else:
            path.write_text(text, "utf-8")
    return stale


if __name__ == "__main__":
    if "--runs" in sys.argv[1:]:
        recompute()
    sys.exit(main("--check" in sys.argv[1:]))
