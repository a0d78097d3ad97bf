"""tasks=NAME,...: accuracy on tasks of lm-evaluation-harness, asked of the running server under load.

Once per variant, after the timed parts of its first restart, at the recipe's highest concurrency. A task is a
name that the tool knows (those fetch their data), one that lies beside the model's weights
(<weights>/tasks/NAME.yaml), or a path to such a file. Variants are compared item by item
(harness/correctness/task_accuracy.py). Whatever befalls the tool is a note: the timed numbers stand.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness import registry, store
from harness.correctness.task_accuracy import FOLDER, PROBLEM
from harness.errors import HarnessError, InputError, MachineError
from harness.extras import foreign_client
from harness.host import engine_env
from harness.progress import Progress
from harness.schema import Noun, Recipe
from harness.server import Running
from harness.trial import Visit

ENVIRONMENT = "lm-eval"
_OPEN_LOOP_CONCURRENCY = 32
_TIMEOUT_S = 6 * 3600.0


class TaskJob(Noun):
    """What lm-evaluation-harness is asked to do."""

    base_url: str
    model: str
    tasks: tuple[str, ...]
    folders: tuple[str, ...] = ()
    """Where tasks of one's own lie."""
    tokenizer: str = ""
    """Folder with tokenizer.json; "" = prompts go out as text, which tasks that score answers cannot do."""
    concurrency: int = 1
    limit: int = 0
    """First items of each task only; 0 = all."""
    api_key_env: str = ""
    """Name of the variable that holds the endpoint's API key."""


def named(recipe: Recipe) -> tuple[str, ...]:
    """The tasks of the recipe; () for none. Raises InputError for a file that is not there."""
    asked = tuple(filter(None, recipe.options.tasks.split(",")))
    for task in asked:
        if task.endswith(".yaml") and not Path(task).is_file():
            raise InputError(f"tasks={task} is no file; give a task's name or the path of its .yaml file.")
    limit = recipe.options.task_limit
    if limit < 0:
        raise InputError(f"task_limit={limit} is not a number of items; give 1 or more, or leave it out.")
    return asked


def prepare(recipe: Recipe, progress: Progress) -> None:
    """Make the tool's environment while no engine runs; a failure is told again where it is needed."""
    try:
        _python(progress)
    except HarnessError as error:
        progress.note(f"no task will be asked: {error.message}")


def check(recipe: Recipe) -> None:
    """Raises InputError for a task's file that is not there."""
    named(recipe)


def after_visit(visit: Visit, running: Running) -> None:
    """Ask the running server of the first restart all tasks of the recipe, unless that is done."""
    folder = visit.folder / FOLDER
    if visit.restart > 1 or folder.exists() or running.dead():
        return
    visit.progress.stage(f"{visit.planned.variant.name}: tasks {', '.join(named(visit.recipe))}")
    try:
        run(job_of(visit, running), _python(visit.progress), folder)
    except HarnessError as error:
        folder.mkdir(exist_ok=True)
        cause = ". ".join((error.message, *error.details.strip().splitlines()[-1:]))
        store.write_text(folder / PROBLEM, cause + "\n")
        visit.progress.note(f"{visit.planned.variant.name}: tasks not answered: {cause}")


def job_of(visit: Visit, running: Running) -> TaskJob:
    """The recipe's tasks at the recipe's highest concurrency."""
    asked, weights = named(visit.recipe), visit.planned.model.path
    own = [Path(t).absolute().parent for t in asked if t.endswith(".yaml")]
    beside = Path(weights) / FOLDER
    levels = [load.max_concurrency or _OPEN_LOOP_CONCURRENCY for load in visit.recipe.loads]
    has_tokenizer = bool(weights) and (Path(weights) / "tokenizer.json").is_file()
    return TaskJob(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        tasks=tuple(Path(t).stem if t.endswith(".yaml") else t for t in asked),
        folders=tuple(str(f) for f in [*own, *([beside.absolute()] if weights and beside.is_dir() else [])]),
        tokenizer=str(Path(weights).absolute()) if has_tokenizer else "",
        concurrency=max(levels, default=1),
        limit=visit.recipe.options.task_limit,
        api_key_env=running.launch.api_key_env,
    )


def command(job: TaskJob, out: Path) -> list[str]:
    """Arguments behind the environment's Python. Greedy, as the tasks say; samples of every item."""
    arguments = (
        f"base_url={job.base_url}/v1/completions",
        f"model={job.model}",
        f"num_concurrent={job.concurrency}",
        "max_retries=3",
        f"tokenizer={job.tokenizer}" if job.tokenizer else "tokenizer_backend=none",
    )
    return [
        *("-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", *arguments),
        *("--tasks", ",".join(job.tasks)),
        *(word for folder in job.folders for word in ("--include_path", folder)),
        *(("--limit", str(job.limit)) if job.limit else ()),
        *("--log_samples", "--output_path", str(out)),
    ]


def run(job: TaskJob, python: Path, folder: Path) -> tuple[Path, ...]:
    """Ask the tasks; the sample files, moved to `folder`. Raises MachineError with the tool's last words."""
    with tempfile.TemporaryDirectory(prefix="harness-tasks-") as place:
        out = Path(place)
        foreign_client.call(ENVIRONMENT, [str(python), *command(job, out)], out, _TIMEOUT_S, job.api_key_env)
        found = sorted(out.glob("**/samples_*.jsonl"))
        if not found:
            raise MachineError("lm-evaluation-harness ended without a sample file; its tasks have no items")
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(Path(shutil.move(path, folder / path.name)) for path in found)


def _python(progress: Progress) -> Path:
    def tell(line: str) -> None:
        progress.stage(f"installing {ENVIRONMENT}: {line}")

    return engine_env.ensure(ENVIRONMENT, registry.ROOT, tell)
