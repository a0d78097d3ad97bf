"""The verbs of a bench and what becomes of it; the others are in cli_tools.

Each block parses words and calls one function; nothing is decided here.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from typer.exceptions import TyperException

from harness import cli_tools
from harness.errors import HarnessError, InputError
from harness.reporting.cells import DEFINITIONS
from harness.terminal import Words, say, show

if TYPE_CHECKING:
    from harness.schema import Comparison

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
MEANINGS = "\n\n".join(f"{term}: {meaning}" for term, meaning in DEFINITIONS)
INTERRUPTED = 130
"""Exit status of a verb that Ctrl-C or SIGTERM ended."""


def main() -> None:
    """Run a verb; failures are one sentence on stderr and an exit status, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows a question mark.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console(stderr=True)
    given = sys.argv[1:] or ["--help"]
    try:
        status = app(given, standalone_mode=False)
    except TyperException as error:
        said, known = error.format_message().strip().rstrip("."), "No such command" not in error.message
        shown = (
            f"`python -m harness {given[0]} --help` shows its words" if known else "`just` lists the verbs"
        )
        say(f"error: {given[0]}: {said}; {shown}.", stderr=True)
        sys.exit(2)
    except OSError as error:
        say(
            f"error: The system refused: {error}; mend what it names and rerun with the same run id.",
            stderr=True,
        )
        sys.exit(1)
    except HarnessError as error:
        console.print(f"[bold red]error:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
        if error.details:
            say(error.details, stderr=True)
        sys.exit(error.exit_code)
    if status == INTERRUPTED:
        say("Stopped.", stderr=True)
    sys.exit(status or 0)


@app.command()
def aa(words: Words = None) -> None:
    """Measure a variant against itself under two blind names: aa <variant> [workload|all] [key=value ...]"""
    from harness import recipe

    _bench(recipe.against_itself(words or []))


@app.command(epilog=MEANINGS)
def bench(words: Words = None) -> None:
    """Launch, measure and compare: bench <variant|all|a,b,c> [workload|all] [key=value ...]"""
    _bench(words or [])


@app.command(epilog=MEANINGS)
def bisect(words: Words = None) -> None:
    """Which release changed it: bisect <variant> good=VERSION bad=VERSION [metric=] [workload] [key=value]

    Exit status 4 when no release can be named.
    """
    from harness import store
    from harness.bisect import evidence, verbs

    folder, comparison = _benched(verbs.as_bench(words or []))
    found = evidence.outcome(folder, store.read_recipe(folder), comparison.rows)
    sys.exit(0 if found.status == "guilty" else 4)


def _bench(words: list[str]) -> None:
    _, comparison = _benched(words)
    if any(row.wrong for row in comparison.rows):
        sys.exit(3)
    if not any(row.status == "done" for row in comparison.rows):
        sys.exit(1)


def _benched(words: list[str]) -> tuple[Path, Comparison]:
    from harness import bench as benching
    from harness import claim, store
    from harness.host.machine import probe
    from harness.plan import recipe_of
    from harness.progress import Progress
    from harness.schema import Comparison

    machine = probe()
    recipe, run_id = recipe_of(words, machine)
    folder, against = store.run_folder(run_id), recipe.options.against
    _check_against(against)
    try:
        with Progress() as progress, claim.alone(folder, progress.note):
            comparison = benching.bench(recipe, machine, folder, progress)
    except KeyboardInterrupt:
        if (folder / "comparison.json").exists():
            show(store.read(folder / "comparison.json", Comparison))
            say(f"\nWhat was measured is kept in {folder}; `just bench run_id={run_id}` goes on from there.")
        raise
    show(comparison)
    if against:
        _against(folder, against)
    say(f"Kept in {folder}")
    return folder, comparison


def _check_against(name: str) -> None:
    """Raises InputError for an entry that the log does not have, before anything is measured."""
    if name:
        from harness.history import against
        from harness.reporting import publish

        against.check(publish.log_path(), name)


def _against(folder: Path, name: str) -> None:
    """Say, and note in the log, how far the run is from an earlier one."""
    from harness.history import against
    from harness.reporting import logbook, publish

    lines = against.remarks(publish.log_path(), folder, name)
    logbook.note(publish.log_path(), folder.name, "\n".join(lines))
    for line in lines:
        say(line)


@app.command()
def tune(words: Words = None) -> None:
    """Find the best settings at equal budget, wrong answers out: tune <variant,...> [workload] budget_s=S"""
    from harness.tune import verbs

    proof, told, files = verbs.tune(words or [])
    show(proof)
    for line in (*told.slots, told.spends, *(line for found in told.found for line in found.words)):
        say(line)
    for path in files:
        say(f"Kept as a variant: {path}")


@app.command()
def bundle(words: Words = None) -> None:
    """Everything that a run rests on in one signed file, with what checks it: bundle [RUN] [key=FILE|none]"""
    from harness.sealing import pack

    said = pack.run(words or [])
    for line in said:
        say(line)
    sys.exit(any(line.startswith("WRONG: ") for line in said))


@app.command(epilog=MEANINGS)
def compare(runs: Words = None) -> None:
    """Recompute from stored records: compare [RUN ...]; other tools' files: compare FOLDER [baseline=X]"""
    from harness import compare as comparing
    from harness import store
    from harness.reporting import publish
    from harness.reporting.importers import folder as foreign

    if foreign.is_foreign(runs or []):
        table, remarks = foreign.run(runs or [])
        Console().print(table)
        for line in remarks:
            say(line)
        return
    folders, left_out = comparing.comparable([store.find_run(name) for name in runs or [""]])
    found = []
    for folder in folders:
        comparison = comparing.without_records(folder)
        if comparison is None:
            comparison = comparing.compare(folder)
            publish.publish(folder, comparison, to_log=False)
        found.append(comparison)
    show(found[0] if len(found) == 1 else comparing.merged(found))
    for line in left_out:
        say(line, stderr=True)


@app.command()
def export(
    runs: Words = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default export/ of the run.")
    ] = None,
    form: Annotated[str, typer.Option("--format")] = "",
) -> None:
    """Runs for other tools: export [RUN ...] [--format vllm-bench|csv|parquet] [--out FOLDER]"""
    from harness import store
    from harness.reporting import exporters

    folders = [store.find_run(name) for name in runs or [""]]
    if form in exporters.TABLES:
        from harness import frames

        if len(folders) > 1 and out is None:
            raise InputError("Tables of several runs belong to none of them: give --out FOLDER.")
        written = frames.write(folders, out or folders[0] / "export", form)
    else:
        tool = form or exporters.USUAL
        written = (path for run in folders for path in exporters.export(run, out or run / "export", tool))
    for path in written:
        print(path)


@app.command()
def history(words: Words = None) -> None:
    """Series over the log, where they changed and what else did: history [variant=] [metric=] [model=] ..."""
    from harness.history import verbs

    say(verbs.history(words or []))


@app.command("import")
def import_files(files: Annotated[list[Path], typer.Argument()]) -> None:
    """Results of vLLM, SGLang, guidellm, aiperf, InferenceX in this harness's terms: import FILE ..."""
    from harness import store
    from harness.reporting.importers import adoption

    folder = store.run_folder(store.new_run_id("import"))
    show(adoption.adopt(files, folder))
    say(f"Kept in {folder}")


@app.command()
def load(words: Words = None) -> None:
    """The client alone against a running endpoint: load url=http://host:port [workload] [key=value ...]"""
    given = list(words or [])
    if not any(w.startswith("url=") for w in given):
        raise InputError(
            "load needs url=http://host:port, the base URL of a running OpenAI-compatible server."
        )
    bench(["attach", *given])


@app.command()
def log(words: Words = None) -> None:
    """The experiment log: log [show ID | note ID TEXT | sign ID WHY | check | TEXT | variant= ...]"""
    from harness import store
    from harness.reporting import logbook, publish

    text, status = logbook.run(publish.log_path(), store.results_root(), words or [])
    say(text)
    sys.exit(status)


@app.command()
def plan(
    words: Words = None,
    json: Annotated[bool, typer.Option("--json")] = False,
    check: Annotated[bool, typer.Option("--check", help="Parse it with the engine's own parser.")] = False,
) -> None:
    """Print what would be launched, touch nothing: plan <variant|all> [key=value ...] [--json|--check]"""
    from harness import plan as planning
    from harness import plan_text
    from harness.host.machine import probe
    from harness.label import dialect_check

    machine = probe()
    given, scheduler = plan_text.scheduler(words or [])
    planned = planning.everything(given, machine)
    if check:
        commands = [each for p in planned for each in dialect_check.every_rank(p.variant, p.launch)]
        results = dialect_check.check_all(commands, machine.images)
        say(dialect_check.as_text(results))
        dialect_check.refuse(results)
        return
    if json:
        sys.stdout.write(plan_text.as_json(planned).decode() + "\n")
        return
    say(plan_text.as_scheduled(planned, scheduler) if scheduler else plan_text.as_text(planned))


@app.command()
def replay(entry: str) -> None:
    """Run a log entry again from its own recipe, and say how far the result is from the old: replay ID"""
    from harness import bench as benching
    from harness import claim, store
    from harness.host.machine import probe
    from harness.progress import Progress
    from harness.reporting import log as experiment_log
    from harness.reporting import logbook, publish, replay

    path = publish.log_path()
    old = experiment_log.find(path, entry)
    recipe = replay.recipe_of(old)
    folder = store.run_folder(store.new_run_id(replay.slug(old.run_id)))
    with Progress() as progress, claim.alone(folder, progress.note):
        comparison = benching.bench(recipe, probe(), folder, progress)
    show(comparison)
    lines = replay.differences(old, experiment_log.find(path, folder.name), comparison, folder)
    logbook.note(path, folder.name, f"Replay of {old.run_id}.\n\n" + "\n".join(f"- {line}" for line in lines))
    for line in lines:
        say(line)


@app.command()
def report(run: Annotated[str, typer.Argument()] = "") -> None:
    """Write report.md and report.html of a run again: report [RUN]"""
    from harness import compare as comparing
    from harness import store
    from harness.reporting import publish

    folder = store.find_run(run)
    stored = comparing.without_records(folder)
    if stored:
        publish.pages(folder, stored)
    else:
        publish.publish(folder, comparing.compare(folder), to_log=False)
    say(str(folder / "report.html"))


@app.command()
def serve(variant: str, words: Words = None) -> None:
    """Serve in the foreground, Ctrl-C stops it: serve <variant> [model] [key=value ...]"""
    from harness import foreground

    foreground.serve(variant, words or [])


@app.command()
def site(words: Words = None) -> None:
    """The whole log as static pages that need no server and no network: site [out=FOLDER]"""
    from harness.history import verbs
    from harness.progress import Progress

    with Progress() as progress:
        page = verbs.site(words or [], progress.stage)
    say(str(page))


@app.command()
def verify(
    run: Annotated[str, typer.Argument()] = "", reference: Annotated[str, typer.Option()] = ""
) -> None:
    """Recompute verdicts from stored records: verify [RUN] [--reference VARIANT]

    Exit status 3 when an output is wrong, 4 when one cannot be judged.
    """
    from harness import store
    from harness.correctness import verify as verifying
    from harness.reporting import publish

    folder = store.find_run(run)
    comparison = verifying.run(folder, reference)
    publish.publish(folder, comparison, to_log=False)
    show(comparison)
    verdicts = {row.agreement.verdict for row in comparison.rows if row.agreement}
    sys.exit(3 if "FAIL" in verdicts else 4 if "CANNOT TELL" in verdicts else 0)


app.registered_commands += cli_tools.app.registered_commands
