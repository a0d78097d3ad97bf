"""second_opinion=vllm-bench,aiperf,...: other tools measure the same server, after our own trial at its load.

They send prompts of their own, of the lengths that ours had on average. Whatever befalls one of them is a
sentence in its opinion; our trial stands.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import registry, store
from harness.errors import HarnessError, InputError, MachineError
from harness.extras import foreign_client
from harness.extras.foreign_client import TOOLS, ForeignJob
from harness.host import engines_ready
from harness.numbers import collector, metrics
from harness.progress import Progress
from harness.schema import Imported, Metrics, Opinion, Recipe, Trial
from harness.server import Running
from harness.trial import Visit, flush

_LEAST_TIMEOUT_S = 600.0
_SLOWER = 10.0
"""How many times as long as ours a tool's run may take; they also load tokenizers and make prompts."""


def check(recipe: Recipe) -> None:
    """Raises InputError for a client that does not exist, and for work that no other client can be told."""
    tools = foreign_client.names(recipe.options.second_opinion)
    other = [w.label for w in recipe.workloads if w.sampling or not w.ignore_eos]
    if tools and other:
        raise InputError(
            f"second_opinion={','.join(tools)} would measure other work than {other[0]}: the tools ask for "
            "greedy outputs of a fixed length; leave out one of the two."
        )


def prepare(recipe: Recipe, progress: Progress) -> None:
    """Make the tools' environments while no engine runs."""
    for tool in foreign_client.names(recipe.options.second_opinion):
        made = _programs(TOOLS[tool][0], progress)
        if isinstance(made, str):
            progress.note(f"{tool} will have no opinion: {made}")


def after_trial(visit: Visit, trial: Trial, running: Running) -> None:
    """Run every tool of the recipe that has not spoken of this trial yet.

    In every restart, as our own trials: one figure alone would not tell a difference from noise. A tool that
    could not say anything in an earlier restart is not asked again.
    """
    result = visit.result_of(trial)
    if not result or result.status != "done":
        return
    folder = store.trial_folder(visit.run, trial)
    for tool in foreign_client.names(visit.recipe.options.second_opinion):
        path = folder / "opinions" / f"{tool}.json"
        if path.exists() or running.dead() or _failed_before(visit, trial, tool):
            continue
        visit.progress.stage(f"{trial.variant} {trial.scenario}: {tool} measures the same server")
        path.parent.mkdir(exist_ok=True)
        try:
            opinion = Opinion(client=tool, imported=_measured(tool, visit, trial, running))
        except HarnessError as error:
            cause = error.details.strip().splitlines()[-1:]
            opinion = Opinion(client=tool, problem=". ".join((error.message, *cause)))
            visit.progress.note(f"{trial.variant} {trial.scenario}: {error.message}; our own trial stands")
        store.write(path, opinion)


def _failed_before(visit: Visit, trial: Trial, tool: str) -> bool:
    earlier = (msgspec.structs.replace(trial, restart=number) for number in range(1, visit.restart))
    paths = (store.trial_folder(visit.run, one) / "opinions" / f"{tool}.json" for one in earlier)
    return any(store.read(path, Opinion).problem for path in paths if path.exists())


def _measured(tool: str, visit: Visit, trial: Trial, running: Running) -> Imported:
    folder = store.trial_folder(visit.run, trial)
    job = job_of(visit, trial, running)
    place = _programs(_environment(tool, visit), visit.progress)
    if isinstance(place, str):
        raise MachineError(place)
    flush(visit, running)
    return foreign_client.run(tool, job, place, folder / "opinions" / f"{tool}.log")


def job_of(visit: Visit, trial: Trial, running: Running) -> ForeignJob:
    """The same load with requests of our mean lengths. Raises InputError where that cannot be said."""
    ours = summary(store.trial_folder(visit.run, trial))
    if not visit.planned.model.path:
        raise InputError("other clients need the model's tokenizer: name its folder with model=FOLDER")
    result = visit.result_of(trial)
    job = ForeignJob(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        tokenizer=str(Path(visit.planned.model.path).absolute()),
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


def _environment(tool: str, visit: Visit) -> str:
    """A tool that comes with the engine that is measured (CLIENTS) is run from that one's environment."""
    own = engines_ready.used(visit.planned)
    if own and tool in registry.fact(visit.planned.variant.engine, "CLIENTS", ()):
        return own
    return TOOLS[tool][0]


def _programs(environment: str, progress: Progress) -> Path | str:
    return foreign_client.programs(environment, registry.ROOT, progress.stage)
