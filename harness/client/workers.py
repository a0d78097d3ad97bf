"""Several client processes that share one precomputed schedule; their records come together here."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic_ns

import msgspec

from harness.client.body import Target
from harness.client.frames import Finished, Inbox, Message, Ready, Record, Refused
from harness.client.shard import Job, Result, load_share, num_shares, share
from harness.client.window import UNWATCHED, ClientStats, Pulse, Watch, cpu_seconds, percentile
from harness.errors import InputError, MachineError
from harness.schema import Load, Request, RequestRecord

_LEAD_NS = 20_000_000
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[2]


def fire(
    target: Target,
    requests: Sequence[Request],
    load: Load,
    on_record: Callable[[RequestRecord], None],
    watch: Watch = UNWATCHED,
) -> ClientStats:
    """client.fire() with target.num_workers processes. Raises InputError, MachineError."""
    count = num_shares(load, requests, target.num_workers)
    crew = _Crew(on_record, watch.on_pulse)
    try:
        for index in range(count):
            crew.hire(
                Job(
                    target=target, load=load_share(load, index, count), requests=share(requests, index, count)
                )
            )
        crew.until(lambda: crew.num_ready == count)
        began = crew.cpu_at_pulse = cpu_seconds()
        crew.begin(monotonic_ns() + _LEAD_NS)
        crew.until(lambda: len(crew.results) == count, watch.stop)
    except KeyboardInterrupt:
        crew.call_off()
        crew.until(lambda: len(crew.results) == count)
        raise
    finally:
        crew.dismiss()
    own = crew.cpu_at_pulse - began, cpu_seconds() - crew.cpu_at_pulse
    return merged(crew.results, *own)


class _Crew:
    """The worker processes of one fire()."""

    def __init__(
        self, on_record: Callable[[RequestRecord], None], on_pulse: Callable[[Pulse], None] | None
    ) -> None:
        self._on_record = on_record
        self._on_pulse = on_pulse
        self._pulses: dict[int, Pulse] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self.num_ready = 0
        self.cpu_at_pulse = 0.0
        """CPU time of this process when last told of progress: at the end, that of the timed part."""
        self.results: list[Result] = []

    def hire(self, job: Job) -> None:
        """Start a worker and hand it its share."""
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.client.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._processes.append(process)
        assert process.stdin is not None and process.stdout is not None
        content = msgspec.msgpack.encode(job)
        try:
            process.stdin.write(len(content).to_bytes(8, "big") + content)
            process.stdin.flush()
        except BrokenPipeError as error:
            raise MachineError(
                "a client process ended while it was given its work: see its message above"
            ) from error
        self._selector.register(process.stdout, selectors.EVENT_READ, Inbox())

    def begin(self, start_ns: int) -> None:
        """All start at one time."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(start_ns.to_bytes(8, "big"))
            process.stdin.flush()

    def call_off(self) -> None:
        """Ask all to stop: their requests in flight are recorded as cancelled."""
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()

    def until(self, reached: Callable[[], bool], stop: threading.Event | None = None) -> None:
        """Take in messages until `reached`. Raises InputError, MachineError."""
        while not reached():
            if stop is not None and stop.is_set():
                self.call_off()
            for key, _ in self._selector.select(_POLL_S):
                data = os.read(key.fd, 1 << 20)
                if not data:
                    self._selector.unregister(key.fileobj)
                    if len(self.results) + len(self._selector.get_map()) < len(self._processes):
                        raise MachineError(
                            "a client process ended before its work was done: see its message above"
                        )
                for message in key.data.feed(data):
                    self._take(message, key.fd)

    def _take(self, message: Message, worker: int) -> None:
        match message:
            case Pulse() as pulse:
                self._pulses[worker] = pulse
                self.cpu_at_pulse = cpu_seconds()
                if self._on_pulse:
                    self._on_pulse(_sum(self._pulses.values()))
            case Record(record=record):
                self._on_record(record)
            case Ready():
                self.num_ready += 1
            case Finished(result=result):
                self.results.append(result)
            case Refused(error=error, user_error=user_error):
                raise InputError(error) if user_error else MachineError(error)

    def dismiss(self) -> None:
        """Nothing of the crew is left after this."""
        self.call_off()
        self._selector.close()
        for process in self._processes:
            assert process.stdout is not None
            try:
                process.wait(5 if self.results else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _sum(pulses: Iterable[Pulse]) -> Pulse:
    counts = [(pulse.num_in_flight, pulse.num_ended) for pulse in pulses]
    return Pulse(num_in_flight=sum(c[0] for c in counts), num_ended=sum(c[1] for c in counts))


def merged(results: Sequence[Result], own_cpu_s: float, own_later_cpu_s: float = 0.0) -> ClientStats:
    """Figures of all shares together; lateness is taken over all their requests."""
    late = sorted(ns for result in results for ns in result.late)
    stats = [result.stats for result in results]
    return ClientStats(
        started_at=min(s.started_at for s in stats),
        duration_s=max(s.duration_s for s in stats),
        cpu_s=sum(s.cpu_s for s in stats) + own_cpu_s,
        later_cpu_s=sum(s.later_cpu_s for s in stats) + own_later_cpu_s,
        num_in_flight_max=sum(s.num_in_flight_max for s in stats),
        num_connections=sum(s.num_connections for s in stats),
        num_workers=len(stats),
        late_p50_s=percentile(late, 50) / 1e9,
        late_p99_s=percentile(late, 99) / 1e9,
        late_max_s=percentile(late, 100) / 1e9,
        interrupted=any(s.interrupted for s in stats),
    )
