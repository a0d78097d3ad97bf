"""An engine's recorder around the trials of one visit; its dumps become the visit's routing log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import registry
from harness.errors import HarnessError
from harness.moe import routing_log
from harness.schema import Launch

LOG = "moe.jsonl"
"""What the dumps become in the visit's folder."""


@contextlib.contextmanager
def recording(launch: Launch, base_url: str, layers: str, folder: Path) -> Iterator[None]:
    """Record what runs inside; nothing for an engine without the recorder. layers: "all", or "0,12,23".

    A recorder that fails never fails the trials: the log then says why it is empty.
    """
    recorder = registry.fact(launch.engine, "RECORDER", None)
    if recorder is None or not recorder.is_on(launch):
        yield
        return
    with contextlib.ExitStack() as stack:
        problem = ""
        try:
            stop = launch.accelerator != "cpu"
            stack.enter_context(
                recorder.recording(base_url, folder, stop=stop, api_key_env=launch.api_key_env)
            )
        except HarnessError as error:
            problem = error.message
        try:
            yield
        finally:
            try:
                stack.close()
            except HarnessError as error:  # the server has died: the trials say so
                problem = error.message
            _keep(recorder, folder, layers, problem)


def _keep(recorder: Any, folder: Path, layers: str, problem: str) -> None:
    dumps = sorted(folder.glob(recorder.DUMPS))
    try:
        if dumps:
            log = recorder.read(dumps)
            wanted = log.layers if layers == "all" else [int(part) for part in layers.split(",")]
            converted = folder / f"{LOG}.new"
            routing_log.write(log.where(np.isin(log.layer, wanted)), converted)
            with (folder / LOG).open("ab") as file:  # one engine life of several in this visit
                file.write(converted.read_bytes())
            converted.unlink()
            for dump in dumps:
                dump.unlink()
    except HarnessError as error:
        problem = error.message
    if problem or not dumps:
        reason = problem or f"the engine wrote no {recorder.DUMPS} into the visit's folder"
        with (folder / LOG).open("ab") as file:
            file.write(msgspec.json.encode({"type": "problem", "reason": reason}) + b"\n")
