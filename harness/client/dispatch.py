"""Drives one schedule over one event loop: which request goes when, on which connection."""

from __future__ import annotations

import asyncio
import heapq
import threading
from array import array
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import msgspec

from harness.client import pacing
from harness.client.alarm import Alarm
from harness.client.backlog import Backlog
from harness.client.body import Job, addition, check_prompt, payload
from harness.client.connection import Connection
from harness.client.order import Order
from harness.client.pool import Pool, connect_later
from harness.client.response import Response, Times, build_record
from harness.schema import ErrorKind, RequestRecord

SWEEP_S = 0.1
SEND_CLEAR_S = 0.005
"""A sweep, with its parsing, would delay a send that is due sooner: it waits once that long."""
PREBUILT_BYTES = 256 * 1024 * 1024
LAUNCHED_AT_ONCE = 8
ANSWER_SIZE = 2500
"""Bytes of memory that an answer takes beside its reads, about."""
SPARE_CONNECTIONS = 16
"""Idle connections held ready in open loop, where the concurrency is not known beforehand."""


class Turn:
    """One request on its way."""

    __slots__ = ("connection", "due_ns", "held", "index", "payload", "resent", "sent_ns")

    def __init__(self, index: int, due_ns: int) -> None:
        self.index = index
        self.due_ns = due_ns
        self.held = False
        """It had to wait for a free slot or an earlier turn, so being late is no fault of the client."""
        self.payload = b""
        self.sent_ns = 0
        self.resent = False
        """Sent again because the kept connection it first went out on was already closed by the server."""
        self.connection: Connection | None = None


class Dispatch:
    """All state of one fire(). Records go to `on_record` between reads, on the loop's own thread."""

    def __init__(self, job: Job, on_record: Callable[[RequestRecord], None]) -> None:
        load, requests = job.load, job.requests
        self._target = job.target
        self._requests = requests
        self._on_record = on_record
        self._open_loop = pacing.is_open(load)
        self._limit = load.max_concurrency or (len(requests) if self._open_loop else 1)
        self._order = Order(requests)
        self._due = [(int(requests[i].due_at_s * 1e9), i) for i in self._order.first]
        heapq.heapify(self._due)
        self._history: dict[int, list[Any]] = {}
        self._ready: deque[Turn] = deque()
        self._prebuilt: dict[int, bytes] = {}
        self._prebuild_order = deque(i for _, i in sorted(self._due) if not requests[i].session)
        self._in_flight: set[Turn] = set()
        self._left = len(requests)
        """Requests that have not ended."""
        self._start_ns = 0
        self._until_ns = int(load.duration_s * 1e9) if load.duration_s else 0
        self._stopping = False
        self._broken: Exception | None = None
        self._pump_waits = False
        self._connects: set[asyncio.Task[None]] = set()
        self.num_in_flight_max = 0
        self.num_ended = 0
        """Requests that have ended, recorded or not."""
        self.late_ns = array("q")

    @property
    def num_in_flight(self) -> int:
        """Requests sent, or waiting for a connection, and not yet answered."""
        return len(self._in_flight)

    @property
    def num_connections(self) -> int:
        """Connections opened so far."""
        return self._pool.num_opened

    async def prepare(self) -> None:
        """Everything that can be done before the clock runs. Raises InputError."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._backlog = Backlog(self._loop)
        self._pool = Pool(self._loop, self._target, self._on_batch)
        self._alarm = Alarm(self._loop, self._on_alarm)
        for request in self._requests:
            check_prompt(request)
        size = 0
        while self._prebuild_order and size < PREBUILT_BYTES:
            size += len(self._prebuild_one())
        first = min(self._limit, len(self._requests))
        await self._pool.open(first if not self._open_loop else min(first, 4 * SPARE_CONNECTIONS))

    async def run(self, start_ns: int, stop: threading.Event | None) -> bool:
        """Fire from `start_ns` on; True when all requests ended by themselves."""
        self._start_ns = start_ns
        if not self._left:
            return True
        sweep = self._loop.create_task(self._sweep(stop))
        self._set_alarm()
        try:
            return bool(await self._done)
        except asyncio.CancelledError:
            self._cancel_all("interrupted")
            raise
        finally:
            sweep.cancel()

    def settle(self) -> None:
        """Parse and record all that has ended and was kept. Raises what a record could not be kept for."""
        self._backlog.drain()
        if self._broken is not None:
            raise self._broken

    def close(self) -> None:
        """Let go of timer and connections."""
        for task in self._connects:
            task.cancel()
        self._alarm.close()
        self._pool.close()

    # --- when ---------------------------------------------------------------------------------

    def _on_alarm(self) -> None:
        if self._stopping:
            return
        now = monotonic_ns() - self._start_ns
        while self._due and self._due[0][0] <= now:
            due, index = heapq.heappop(self._due)
            self._ready.append(Turn(index, due))
        self._pump()
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._due:
            self._alarm.set(self._start_ns + self._due[0][0])

    def _pump(self) -> None:
        """Launch what may go, a few between two polls, so that reads which wait are stamped in time."""
        self._drop_what_is_over()
        launched = 0
        while self._ready and len(self._in_flight) < self._limit:
            if launched == LAUNCHED_AT_ONCE:
                self._pump_soon()
                return
            self._launch(self._ready.popleft())
            launched += 1
        for turn in self._ready:
            if turn.held:
                break
            turn.held = True

    def _drop_what_is_over(self) -> None:
        """After the load's duration nothing more is sent."""
        if self._until_ns and monotonic_ns() - self._start_ns >= self._until_ns:
            self._due.clear()
            self._ready.clear()
            self._prebuild_order.clear()
            self._order.clear()
            self._left = len(self._in_flight)
            self._end_if_all_ended()

    def _end_if_all_ended(self) -> None:
        if not self._left and not self._done.done():
            self._done.set_result(True)

    def _pump_soon(self) -> None:
        if not self._pump_waits:
            self._pump_waits = True
            self._loop.call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_waits = False
        if not self._stopping:
            self._pump()

    # --- sending ------------------------------------------------------------------------------

    def _launch(self, turn: Turn) -> None:
        self._in_flight.add(turn)
        self.num_in_flight_max = max(self.num_in_flight_max, len(self._in_flight))
        turn.payload = self._prebuilt.pop(turn.index, b"") or self._build(turn.index)
        connection = self._pool.take()
        if connection is not None:
            self._send(turn, connection)
        else:
            self._connect(turn)
        if self._open_loop:
            self._pool.keep_ready(min(SPARE_CONNECTIONS, self._left - len(self._in_flight)))
        if self._prebuild_order:
            self._loop.call_soon(self._prebuild_one)

    def _connect(self, turn: Turn) -> None:
        """Send on a new connection as soon as there is one."""
        task = connect_later(self._pool, self._loop, lambda made: self._on_connect(turn, made))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    def _on_connect(self, turn: Turn, made: Connection | OSError) -> None:
        if turn not in self._in_flight:
            if isinstance(made, Connection):
                self._pool.give(made)
            return
        if isinstance(made, Connection):
            self._send(turn, made)
            return
        turn.sent_ns = monotonic_ns()
        response = Response()
        kind: ErrorKind = "timeout" if isinstance(made, TimeoutError) else "refused"
        response.fail(kind, f"cannot connect: {made}" if str(made) else "cannot connect in time")
        self._finish(turn, response)

    def _send(self, turn: Turn, connection: Connection) -> None:
        turn.connection = connection
        sent_ns = connection.send(turn.payload, lambda c: self._on_answer(turn, c))
        turn.sent_ns = turn.sent_ns or sent_ns
        turn.payload = b""
        if self._open_loop and not turn.held and not turn.resent:
            self.late_ns.append(turn.sent_ns - self._start_ns - turn.due_ns)

    def _build(self, index: int) -> bytes:
        request = self._requests[index]
        return payload(request, self._target, self._history.get(index, ()))

    def _prebuild_one(self) -> bytes:
        """Build the next body ahead of its time; one more follows each that was sent."""
        while self._prebuild_order:
            index = self._prebuild_order.popleft()
            if not self._stopping:
                built = self._prebuilt[index] = self._build(index)
                return built
        return b""

    # --- ending -------------------------------------------------------------------------------

    def _on_answer(self, turn: Turn, connection: Connection) -> None:
        self._pool.give(connection)
        if connection.was_stale and not turn.resent:
            self._resend(turn)
        else:
            self._finish(turn, connection.response)

    def _on_batch(self, response: Response) -> None:
        """Part of a long answer may be parsed; soon, where a next turn may wait for its end."""
        if self._order.awaited():
            self._backlog.add(response.catch_up)
        else:
            self._backlog.keep(response.catch_up, response.newest_size)

    def _resend(self, turn: Turn) -> None:
        """Once more on a fresh connection; the time since the first try counts.

        Some servers promise keep-alive and close after each answer (llama.cpp): as every HTTP client does, a
        kept connection that died before a byte came back is taken for closed, not for a failed request.
        """
        turn.resent = True
        turn.payload = self._build(turn.index)
        self._connect(turn)

    def _finish(self, turn: Turn, response: Response) -> None:
        """Free the turn's place at once; parse and record it when nothing is disturbed by that."""
        self._in_flight.discard(turn)
        self._left -= 1
        self.num_ended += 1
        ended_well = turn.connection is not None and not response.error_kind
        done_ns = turn.connection.last_ns if turn.connection and ended_well else monotonic_ns()
        self._pump_soon()
        if response.num_deferred and not self._order.awaited(turn.index):
            size = response.newest_size + ANSWER_SIZE
            self._backlog.keep(lambda: self._conclude(turn, response, done_ns), size)
        else:
            self._backlog.add(lambda: self._conclude(turn, response, done_ns))
        self._end_if_all_ended()

    def _conclude(self, turn: Turn, response: Response, done_ns: int) -> None:
        while not response.done and response.num_deferred:
            response.catch_up()
        response.fail("protocol", "the answer does not end where its last bytes said so")
        if self._order.awaited(turn.index) and not self._stopping:
            self._let_follow(turn, response, done_ns - self._start_ns)
            self._pump_soon()
        self._keep(self._record(turn, response, done_ns))
        self._history.pop(turn.index, None)

    def _keep(self, record: RequestRecord) -> None:
        """Hand a record over. When it cannot be kept (disk full) no more is sent; settle() raises why."""
        try:
            self._on_record(record)
        except Exception as error:
            self._stopping = True
            self._broken = self._broken or error
            if not self._done.done():
                self._done.set_exception(error)

    def _let_follow(self, turn: Turn, response: Response, end_ns: int) -> None:
        """What waited for this answer alone is due; the conversation's next turn carries it."""
        following = self._order.next_turn(turn.index)
        if response.error_kind:
            for index in self._order.waiting_for(turn.index):
                of = (
                    "an earlier turn of its conversation" if index == following else "a request it waited for"
                )
                self._drop(index, f"{of} failed")
            return
        if following is not None:
            if self._requests[following].prompt_token_ids is not None and not response.answer.ids_known:
                self._drop(following, "the engine gave no token ids of the answer that it should carry")
            else:
                said = addition(self._requests[turn.index], response.answer)
                self._history[following] = self._history.get(turn.index, []) + said
        now = monotonic_ns() - self._start_ns
        for index, free_ns in self._order.ended(turn.index, end_ns):
            due = max(free_ns, int(self._requests[index].due_at_s * 1e9))
            if due > now:
                heapq.heappush(self._due, (due, index))
                self._set_alarm()
            else:
                self._ready.appendleft(Turn(index, now))

    def _drop(self, first: int, why: str) -> None:
        """Record a request that is never sent, and all that wait for it."""
        for index in self._order.dropped(first):
            request = self._requests[index]
            self._left -= 1
            self.num_ended += 1
            gone = RequestRecord(request_id=request.request_id, due_at_s=request.due_at_s)
            self._keep(msgspec.structs.replace(gone, error_kind="cancelled", error=why))
        self._end_if_all_ended()

    def _record(self, turn: Turn, response: Response, done_ns: int) -> RequestRecord:
        start = self._start_ns
        due_ns = turn.due_ns if self._open_loop else turn.sent_ns - start
        times = Times(due_ns=due_ns, sent_ns=turn.sent_ns - start, done_ns=done_ns - start, start_ns=start)
        request = self._requests[turn.index]
        record = build_record(request, response, times)
        before = self._history.get(turn.index)
        if before and request.prompt_token_ids is not None:
            return msgspec.structs.replace(record, prompt_len=record.prompt_len + len(before))
        return record

    # --- giving up ----------------------------------------------------------------------------

    async def _sweep(self, stop: threading.Event | None) -> None:
        """Deadlines and stop, looked at every SWEEP_S instead of by a timer per read."""
        timeout, stall = int(self._target.timeout_s * 1e9), int(self._target.stall_s * 1e9)
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._due and self._start_ns + self._due[0][0] - monotonic_ns() < SEND_CLEAR_S * 1e9:
                await asyncio.sleep(SEND_CLEAR_S)
            if stop is not None and stop.is_set():
                self._cancel_all("stopped")
                return
            self._drop_what_is_over()
            self._backlog.tend()
            now = monotonic_ns()
            for turn in list(self._in_flight):
                if turn.connection is None:
                    continue
                if now - turn.sent_ns > timeout:
                    turn.connection.fail("timeout", f"no end after {self._target.timeout_s:g} s")
                elif 0 < self._target.ends_at_s < now / 1e9:
                    turn.connection.fail("timeout", "the time for all questions together is over")
                elif turn.connection.silent_ns(now) > stall:
                    turn.connection.fail("stall", f"silent for {self._target.stall_s:g} s")
            if self._open_loop:
                self._pool.keep_ready(min(SPARE_CONNECTIONS, self._left - len(self._in_flight)))

    def _cancel_all(self, why: str) -> None:
        self._stopping = True
        for turn in list(self._in_flight):
            if turn.connection is not None:
                turn.connection.fail("cancelled", why)
            else:
                response = Response()
                response.fail("cancelled", why)
                turn.sent_ns = monotonic_ns()
                self._finish(turn, response)
        if not self._done.done():
            self._done.set_result(False)
