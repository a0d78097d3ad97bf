"""client=vllm-bench,aiperf,guidellm: other tools measure the same server, after our own trial at its load.

They send prompts of their own, of the lengths that ours had on average. Whatever befalls one of them is a
sentence in its opinion; our trial stands.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import foreign_client, registry, store
from harness.errors import HarnessError, InputError, MachineError
from harness.foreign_client import TOOLS, ForeignJob
from harness.host import engines_ready
from harness.numbers import collector, metrics
from harness.progress import Progress
from harness.schema import Imported, Metrics, Opinion, Recipe, Trial
from harness.server import Running
from harness.trial import Bench, flush

_LEAST_TIMEOUT_S = 600.0
_SLOWER = 10.0
"""How many times as long as ours a tool's run may take; they also load tokenizers and make prompts."""


def check(recipe: Recipe) -> None:
    """Raises InputError when the recipe names a client that does not exist."""
    foreign_client.names(recipe.options.client)


def prepare(recipe: Recipe, progress: Progress) -> None:
    """Make the tools' environments while no engine runs."""
    for tool in foreign_client.names(recipe.options.client):
        made = _programs(TOOLS[tool][0], progress)
        if isinstance(made, str):
            progress.note(f"{tool} will have no opinion: {made}")


def ask(bench: Bench, trial: Trial, running: Running) -> None:
    """Run every tool of the recipe that has not spoken of this trial yet.

    In every restart, as our own trials: one figure alone would not tell a difference from noise. A tool that
    could not say anything in an earlier restart is not asked again.
    """
    result = bench.result_of(trial)
    if not result or result.status != "done":
        return
    folder = store.trial_folder(bench.run, trial)
    for tool in foreign_client.names(bench.recipe.options.client):
        path = folder / "opinions" / f"{tool}.json"
        if path.exists() or running.dead() or _failed_before(bench, trial, tool):
            continue
        bench.progress.stage(f"{trial.variant} {trial.scenario}: {tool} measures the same server")
        path.parent.mkdir(exist_ok=True)
        try:
            opinion = Opinion(client=tool, imported=_measured(tool, bench, trial, running))
        except HarnessError as error:
            cause = error.details.strip().splitlines()[-1:]
            opinion = Opinion(client=tool, problem=". ".join((error.message, *cause)))
            bench.progress.note(f"{trial.variant} {trial.scenario}: {error.message}; our own trial stands")
        store.write(path, opinion)


def _failed_before(bench: Bench, trial: Trial, tool: str) -> bool:
    earlier = (msgspec.structs.replace(trial, restart=number) for number in range(1, bench.restart))
    paths = (store.trial_folder(bench.run, one) / "opinions" / f"{tool}.json" for one in earlier)
    return any(store.read(path, Opinion).problem for path in paths if path.exists())


def _measured(tool: str, bench: Bench, trial: Trial, running: Running) -> Imported:
    folder = store.trial_folder(bench.run, trial)
    job = job_of(bench, trial, running)
    place = _programs(_environment(tool, bench), bench.progress)
    if isinstance(place, str):
        raise MachineError(place)
    flush(bench, running)
    return foreign_client.run(tool, job, place, folder / "opinions" / f"{tool}.log")


def job_of(bench: Bench, trial: Trial, running: Running) -> ForeignJob:
    """The same load with requests of our mean lengths. Raises InputError where that cannot be said."""
    ours = summary(store.trial_folder(bench.run, trial))
    if not bench.planned.model.path:
        raise InputError("other clients need the model's tokenizer: name its folder with model=FOLDER")
    result = bench.result_of(trial)
    job = ForeignJob(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        tokenizer=str(Path(bench.planned.model.path).absolute()),
        input_len=max(1, round(ours.total_input_tokens / ours.completed)),
        output_len=max(1, round(ours.total_output_tokens / ours.completed)),
        num_prompts=ours.completed + ours.failed,
        seed=trial.workload.seed,
        api_key_env=running.launch.api_key_env,
        timeout_s=max(_LEAST_TIMEOUT_S, _SLOWER * (result.duration_s if result else 0.0)),
    )
    return foreign_client.loaded(job, result.trial.load if result else trial.load)


def summary(folder: Path) -> Metrics:
    """Our own figures of a trial."""
    return metrics.summarize(collector.collect(folder / "requests.jsonl").columns, {})


def _environment(tool: str, bench: Bench) -> str:
    """A tool that comes with the engine that is measured (CLIENTS) is run from that one's environment."""
    own = engines_ready.used(bench.planned)
    if own and tool in registry.fact(bench.planned.variant.engine, "CLIENTS", ()):
        return own
    return TOOLS[tool][0]


def _programs(environment: str, progress: Progress) -> Path | str:
    return foreign_client.programs(environment, registry.ROOT, progress.stage)
