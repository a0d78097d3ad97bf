"""A plan in words: the very launches that would be started, secrets redacted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harness import launchers, models
from harness.errors import InputError
from harness.label import feasible
from harness.planned import Planned
from harness.ranks import plans
from harness.schema import scenario
from harness.secrets import redacted_launch

_WHOLE_GB, _SMALL_GB = 10.0, 0.1
"""Sizes are printed whole from here on; below, with one decimal, and below that with one digit."""


def as_json(planned: tuple[Planned, ...]) -> bytes:
    """The plan for machines: a JSON list of variant, launch (secrets redacted), trials, skip, warnings."""
    rows = [
        {
            "variant": p.variant.name,
            "source": p.variant.source,
            "launch": redacted_launch(p.launch),
            "command": launchers.by_hand(p.launch),
            "trials": p.trials,
            "skip": p.skip,
            "warnings": p.warnings,
        }
        for p in planned
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1)


def scheduler(given: Sequence[str]) -> tuple[list[str], str]:
    """(the other words, the scheduler that as= asks for). Raises InputError for one that is not known."""
    asked = [word.partition("=")[2] for word in given if word.startswith("as=")]
    if asked:
        plans.known(asked[-1])
    return [word for word in given if not word.startswith("as=")], asked[-1] if asked else ""


def as_scheduled(planned: tuple[Planned, ...], kind: str) -> str:
    """Files for a scheduler, one per variant; of a variant that it cannot start, why."""
    return "\n\n".join(_scheduled(p, kind) for p in planned if p.own_server)


def _scheduled(planned: Planned, kind: str) -> str:
    lines = [
        f"# {planned.variant.name}: {planned.variant.source}",
        *(f"# warning: {w}" for w in planned.warnings),
    ]
    try:
        text = plans.KINDS[kind](planned.launch)
    except InputError as error:
        return "\n".join([*lines, f"# {error.message}"])
    first, _, rest = text.partition("\n")
    return "\n".join([first, *lines, rest] if first.startswith("#!") else [*lines, text])


def as_text(planned: tuple[Planned, ...]) -> str:
    """The plan for people: per variant the command to copy, its files, and what would not run."""
    return "\n\n".join(_text(p) for p in planned)


def _text(planned: Planned) -> str:
    lines = [f"# {planned.variant.name}: {planned.variant.source}"]
    lines += [f"# weights: {models.provenance(planned.model)}"] if planned.own_server else []
    if planned.launch.num_gpus and planned.model.weights_gb:
        each = feasible.weights_per_gpu_gb(planned.variant, planned.model)
        size = f"{each:.0f}" if each >= _WHOLE_GB else f"{each:.1f}" if each >= _SMALL_GB else f"{each:.1g}"
        lines.append(f"# memory: {size} GB of weights on each of {planned.launch.num_gpus} GPUs")
    lines += [f"# cannot run here: {planned.skip}"] if planned.skip else []
    lines += [f"# warning: {w}" for w in planned.warnings]
    if planned.one_scenario_per_launch and len(planned.trials) > 1:
        lines.append("# started anew for every scenario: no endpoint empties its prefix cache")
    lines += [f"# skips {scenario(t.workload, t.load)}: {t.skip}" for t in planned.trials if t.skip]
    return "\n".join([*lines, launchers.by_hand(planned.launch)])
