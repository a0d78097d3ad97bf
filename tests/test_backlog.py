"""What waits, for how long, and in what order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from harness.client.backlog import Backlog


def tried(
    work: Callable[[Backlog, list[int]], None], kept_bytes: int = 100, lasting_s: float = 0.05
) -> list[int]:
    """What was done on a loop within that time."""
    done: list[int] = []

    async def go() -> None:
        work(Backlog(asyncio.get_running_loop(), kept_bytes), done)
        await asyncio.sleep(lasting_s)

    asyncio.run(go())
    return done


def keep(backlog: Backlog, done: list[int], num: int, size: int = 10) -> None:
    for i in range(num):
        backlog.keep(lambda i=i: done.append(i), size)


def test_what_is_wanted_soon_is_done_in_order() -> None:
    def work(backlog: Backlog, done: list[int]) -> None:
        for i in range(5):
            backlog.add(lambda i=i: done.append(i))
        assert done == []

    assert tried(work) == [0, 1, 2, 3, 4]


def test_what_is_kept_waits_for_the_end() -> None:
    def work(backlog: Backlog, done: list[int]) -> None:
        keep(backlog, done, 7)

    assert tried(work) == []

    def work_and_drain(backlog: Backlog, done: list[int]) -> None:
        keep(backlog, done, 7)
        backlog.drain()
        assert done == list(range(7))

    assert tried(work_and_drain) == list(range(7))


def test_close_to_the_most_bytes_the_oldest_is_done_soon() -> None:
    def work(backlog: Backlog, done: list[int]) -> None:
        keep(backlog, done, 10)
        assert done == []

    assert tried(work) == [0, 1, 2]


def test_beyond_the_most_bytes_it_is_done_at_once() -> None:
    def work(backlog: Backlog, done: list[int]) -> None:
        keep(backlog, done, 12)
        assert done == [0, 1]

    assert tried(work) == [0, 1, 2, 3, 4]


def test_a_piece_is_done_now_and_then() -> None:
    def work(backlog: Backlog, done: list[int]) -> None:
        backlog.tend()
        keep(backlog, done, 3)
        backlog.tend()
        backlog.tend()

    assert tried(work) == [0]


def test_what_is_old_is_done() -> None:
    done: list[int] = []

    async def go() -> None:
        backlog = Backlog(asyncio.get_running_loop(), 100, kept_s=0.02)
        keep(backlog, done, 4)
        backlog.tend()
        assert done == [0]
        await asyncio.sleep(0.03)
        backlog.tend()
        await asyncio.sleep(0.03)

    asyncio.run(go())
    assert done == [0, 1, 2, 3]
