"""What the user sees while a run goes on: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.client import Pulse
from harness.schema import RequestRecord, Trial, TrialResult

_PLAIN_EVERY_S = 10.0


class Progress:
    """Stages and the running trial's requests. Use as a context manager."""

    def __init__(self, console: Console | None = None, every_s: float = _PLAIN_EVERY_S) -> None:
        """`every_s`: least time between plain lines of one kind."""
        self._every_s = every_s
        self.console = console or Console(stderr=True, emoji=False)
        self._live: Live | None = None
        self._stage = ""
        self._said: set[str] = set()
        self._stage_told = 0.0
        self._trial = ""
        self._began = self._last = time.monotonic()
        self._trials_done, self._trials_total = 0, 0
        self._done, self._failed, self._tokens, self._total = 0, 0, 0, 0
        self._in_flight: int | None = None
        self._ended = 0

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._view, console=self.console, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def begin(self, run_id: str, num_trials: int) -> None:
        """A run starts."""
        self._trials_total = num_trials
        self.note(f"run {run_id}: {num_trials} trials")

    def stage(self, text: str) -> None:
        """What happens now, outside timed parts."""
        self._stage = text
        kind = text.split(":")[0]
        # Lines of one kind come by the hundred (an installer's); the next is told when time has passed, and a
        # repeated stage only once another trial has ended.
        due = time.monotonic() - self._stage_told > self._every_s
        if not self._live and (kind not in self._said or (due and text not in self._said)):
            self._stage_told = time.monotonic()
            self._said |= {kind, text}
            self.note(text)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def trial_begin(self, trial: Trial, total: int) -> None:
        """The timed part of a trial starts."""
        self._trial = f"{trial.variant} {trial.scenario} r{trial.restart}"
        self._stage = f"{self._trial}: measuring"
        self._began = self._last = time.monotonic()
        self._done, self._failed, self._tokens, self._total = 0, 0, 0, total
        self._in_flight, self._ended = None, 0

    def pulse(self, pulse: Pulse) -> None:
        """The client is so far; records of requests that have ended may come later."""
        self._in_flight, self._ended = pulse.num_in_flight, pulse.num_ended
        self._tell()

    def record(self, record: RequestRecord) -> None:
        """A request finished."""
        self._done += 1
        self._failed += bool(record.error)
        self._tokens += record.output_len
        self._tell()

    def _tell(self) -> None:
        """Where nothing is redrawn, a line now and then."""
        if not self._live and time.monotonic() - self._last > self._every_s:
            self._last = time.monotonic()
            self.note(f"  {self._trial}: {self._counts()}")

    def trial_end(self, result: TrialResult) -> None:
        """A trial has its trial.json."""
        self._trials_done += 1
        self._said.clear()
        self._in_flight = None
        trial = result.trial
        total = max(self._trials_done, self._trials_total)
        name = f"[{self._trials_done}/{total}] {trial.variant} {trial.scenario} r{trial.restart}"
        said = result.reason or (self._counts(result.duration_s) if result.status == "done" else "")
        self.note(f"{name}: {result.status}{'; ' if said else ''}{said}")

    def _counts(self, measured_s: float = 0.0) -> str:
        # Making bodies and opening connections lie between the stage's begin and the first request.
        elapsed = measured_s or max(time.monotonic() - self._began, 1e-9)
        ended = max(self._ended, self._done)
        left = max(0, self._total - ended) * elapsed / ended if ended else 0.0
        # Tokens of answers that are not read yet are taken to be as many as those of the others.
        speed = self._tokens / elapsed * (ended / self._done if self._done else 0.0)
        flying = "" if self._in_flight is None else f", {self._in_flight} in flight"
        text = f"{ended} of {self._total} requests{flying}, {self._failed} failed, {speed:.0f} tokens/s"
        return text + (f", about {left:.0f} s left" if left else "")

    def _view(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(f"trials {self._trials_done}/{self._trials_total}", escape(self._stage))
        if self._total and self._stage.endswith("measuring"):
            table.add_row("", self._counts())
        return table
