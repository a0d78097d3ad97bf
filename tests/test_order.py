"""Requests that wait for others: turns, sub-agents, joins, think times."""

import pytest

from harness.client.order import Order, groups
from harness.client.shard import share
from harness.errors import InputError
from harness.schema import Request


def request(name: str, *after: str, session: str = "", think_s: float = 0.0) -> Request:
    return Request(
        request_id=name, max_tokens=1, prompt_token_ids=(1,), after=after, session=session, think_s=think_s
    )


AGENT = (
    request("main-0", session="main"),
    request("sub-a", "main-0", think_s=0.5),
    request("sub-b", "main-0"),
    request("main-1", "sub-a", "sub-b", session="main", think_s=2.0),
    request("other"),
)


def test_a_turn_waits_for_its_sub_agents_and_thinks_from_the_last_end() -> None:
    order = Order(AGENT)
    assert order.first == [0, 4]
    assert order.ended(0, 1_000_000_000) == [(1, 1_500_000_000), (2, 1_000_000_000)]
    assert order.next_turn(0) is None, "nothing waits for what has ended"
    assert order.ended(2, 3_000_000_000) == []
    assert order.ended(1, 2_000_000_000) == [(3, 5_000_000_000)]
    assert not order.awaited()


def test_the_next_turn_is_of_the_same_conversation() -> None:
    order = Order(AGENT)
    assert order.next_turn(0) == 3
    assert order.next_turn(1) is None and order.next_turn(4) is None


def test_what_waits_for_a_failure_is_given_up_with_all_behind_it() -> None:
    order = Order(AGENT)
    order.ended(0, 0)
    assert order.waiting_for(1) == [3]
    assert order.dropped(3) == [3]
    assert order.waiting_for(2) == []
    assert order.ended(2, 5) == []


def test_what_waits_for_each_other_stays_with_one_client_process() -> None:
    assert groups(AGENT) == [[0, 1, 2, 3], [4]]
    joined = (request("a"), request("b"), request("c", "b", "a"))
    assert groups(joined) == [[0, 1, 2]]
    assert [r.request_id for r in share(AGENT, 1, 2)] == ["other"]


def test_waiting_for_what_is_not_there_is_a_sentence() -> None:
    with pytest.raises(InputError, match="x waits for y, which is not before it"):
        Order((request("x", "y"),))
