"""moe_log=LAYER: an engine logs its routing, as its file says (routed, ROUTING_PACKAGE, RECORDER)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from harness import launchers, registry
from harness.errors import InputError
from harness.extras import routing_section, visit_recorder
from harness.moe import command, routing_log, timed
from harness.planned import Planned
from harness.reporting.report_html import Section
from harness.schema import Scalar
from harness.server import Running
from harness.trial import Visit

LOG = "moe.moelog"
"""Name of the log that a plugin writes, in a visit's folder."""
_PLUGIN, _OUT = "routing/moe_log", "routing/out"
"""What a container calls the plugin's folder and the visit's."""


def layers_of(layer: Scalar) -> str:
    """The layers an option moe_log=layer asks for: "all", "0" or "0,12,23". Raises InputError."""
    layers = "all" if layer is True else str(layer).strip().lower()
    if layers != "all" and not all(part.strip().isdigit() for part in layers.split(",")):
        raise InputError(
            f"moe_log={layer!r} names no layers: write moe_log=0, moe_log=0,12,23 or moe_log=all."
        )
    return layers


@contextlib.contextmanager
def around(visit: Visit, running: Running) -> Iterator[None]:
    """The engine's recorder runs, where it has one."""
    layers, launch = layers_of(visit.recipe.options.moe_log), running.launch
    with visit_recorder.recording(launch, launch.base_url, layers, visit.folder):
        yield


def launching(planned: Planned, folder: Path) -> Planned:
    """The launch with its routing logged to the visit's folder, or a warning that it is not.

    Raises InputError for layers that are none.
    """
    layer, launch = planned.options.moe_log, planned.launch
    layers = layers_of(layer)
    why = ""
    routed = registry.fact(launch.engine, "routed", None)
    if routed is None or not planned.own_server:
        why = f"{launch.engine} has no log of it, or is not started here"
    elif planned.model.moe is None:
        why = f"{planned.model.alias} is no mixture of experts"
    if why:
        return replace(planned, warnings=(*planned.warnings, f"routing is not logged, {why}"))
    launcher = launchers.of(launch)
    launch, out = launcher.inside(launch, folder, _OUT)
    if package := registry.fact(launch.engine, "ROUTING_PACKAGE", ""):
        launch, path = launcher.inside(launch, registry.ROOT / package, _PLUGIN, writable=False)
        held = launcher.environment(launch).get("PYTHONPATH", "")
        joined = os.pathsep.join(filter(None, (path, held)))
        launch = replace(launch, env={**launch.env, "PYTHONPATH": joined})
    labels = (*launch.labels, f"routing logged: {layers}")
    return replace(planned, launch=replace(routed(launch, layers, out), labels=labels))


def log_of(folder: Path) -> Path:
    """A visit's routing log: the plugin's, or what a recorder's dumps became."""
    converted = folder / visit_recorder.LOG
    return converted if converted.exists() else folder / LOG


def afterwards(visit: Visit) -> None:
    """Say what the routing log of the visit told; pictures and moe.json go to its folder moe/."""
    if log_of(visit.folder).exists():
        visit.progress.note(remark(visit.folder))


def remark(folder: Path) -> str:
    """What a visit's routing log told, in one line, or why there is none."""
    path = log_of(folder)
    try:
        log = timed.only(routing_log.read([str(path)]), folder)
    except InputError as error:
        return f"routing is not logged: {error.message}"
    report = replace(command.build(log), source=path.name)
    command.publish(report, log, None, folder / "moe")
    worst = max(report.layers, key=lambda b: b.max_over_mean)
    return (
        f"routing of {len(log.layers)} layers in {folder / 'moe'}: busiest expert {worst.max_over_mean:.2f} "
        f"times the mean (layer {worst.layer}, {worst.phase})" + "".join(f"; {note}" for note in log.notes)
    )


def section(run: Path, order: Sequence[str]) -> Section:
    """Expert usage in report.html."""
    return routing_section.section(run, order)
