"""serve: one engine in the foreground, its log on the terminal, until Ctrl-C."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness import plan, registry, server, store
from harness import recipe as recipes
from harness.errors import HarnessError, InputError, LaunchError
from harness.host import engines_ready
from harness.host.machine import probe
from harness.label import every_rank
from harness.planned import TRACES, Planned, launching
from harness.recipe import Words
from harness.run import interruptible

_DEFAULT_PORT = 8000


def serve(name: str, given: Sequence[str]) -> None:
    """Launch `name`, print where it answers, stop it on Ctrl-C. `given`: [model] [key=value ...].

    Raises HarnessError when it cannot start, KeyboardInterrupt on Ctrl-C once it is stopped.
    """
    console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
    words = Words(given)
    port = _port(words.take("port", str(_DEFAULT_PORT)))
    name = plan.on_nodes((name,), words.take("nodes", "1"))[0]
    if len(words.plain) > 1:
        raise InputError(f"{words.plain[1]!r} is one word too many; the order is [model] [key=value ...].")
    if words.plain:
        words.pairs["model"] = words.plain.pop()
    machine = probe()
    recipe = recipes.from_words(words, (registry.variant(name).name,), "cpu")
    (planned,) = plan.plan(recipe, machine)
    if planned.skip:
        raise HarnessError(f"{name} cannot run here: {planned.skip}. `just doctor` shows what is missing.")
    engines_ready.ensure(planned, console.print)
    planned = launching(planned, port, _outliving(planned, console))
    with tempfile.TemporaryDirectory() as folder, interruptible():
        log_path = Path(folder) / "server.log"
        log_path.touch()
        threading.Thread(target=follow, args=(log_path,), daemon=True).start()
        with server.serving(planned.launch, log_path, "serve") as running:
            parse = registry.engine(planned.variant.engine).effective
            attested = every_rank.attest_all(parse, running.evidence(), planned.variant)
            proven = "label proven" if attested.valid else f"label NOT proven: {attested.reason}"
            console.print(
                f"{name} answers at {running.launch.base_url}/v1 after {running.ready_s:.0f} s; {proven}"
            )
            while not running.dead():
                time.sleep(0.5)
            sentence, details = server.failure(planned.launch, log_path, f"ended ({running.dead()})")
            raise LaunchError(sentence, details=details)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InputError(f"port={text} is not a TCP port; give a number from 1 to 65535.")
    return int(text)


def _outliving(planned: Planned, console: Console) -> Path:
    """The folder among the results for what outlives the server: traces, of a variant that takes them."""
    folder = store.results_root() / store.new_run_id(f"serve-{planned.variant.name}")
    if planned.variant.traces:
        with store.writing(folder):
            (folder / TRACES).mkdir(parents=True)
        console.print(
            f"traces will be in {folder / TRACES}: POST /start_profile, send requests, "
            "POST /stop_profile, then `just trace FILE`"
        )
    return folder


def follow(path: Path) -> None:
    """Copy a growing log to stdout for as long as it exists."""
    with path.open("r", encoding="utf-8", errors="replace") as file:
        while path.exists():
            line = file.readline()
            if line:
                sys.stdout.write(line)
                sys.stdout.flush()
            else:
                time.sleep(0.1)
