"""Which requests wait for which: turns of a conversation for each other, others for those they name."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import InputError
from harness.schema import Request


def predecessors(requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """Per request the indexes that must have ended before: its conversation's turn before, and its `after`.

    Raises InputError for one that waits for a request which is not in the schedule before it.
    """
    place: dict[str, int] = {}
    last: dict[str, int] = {}
    found = []
    for index, request in enumerate(requests):
        before = [last[request.session]] if request.session in last else []
        for name in request.after:
            if name not in place:
                raise InputError(
                    f"request {request.request_id} waits for {name}, which is not before it in the schedule; "
                    "name earlier requests in `after`."
                )
            before.append(place[name])
        found.append(tuple(dict.fromkeys(before)))
        place[request.request_id] = index
        if request.session:
            last[request.session] = index
    return found


def groups(requests: Sequence[Request]) -> list[list[int]]:
    """Indexes of requests that wait for each other, a group each, in the order of their first request."""
    own: list[int] = []
    members: dict[int, list[int]] = {}
    for index, before in enumerate(predecessors(requests)):
        joined = sorted({own[i] for i in before}) or [index]
        own.append(joined[0])
        members.setdefault(joined[0], []).append(index)
        for other in joined[1:]:
            for moved in members.pop(other):
                own[moved] = joined[0]
                members[joined[0]].append(moved)
    return [sorted(members[first]) for first in sorted(members)]


class Order:
    """The state of one schedule: what is still waited for."""

    def __init__(self, requests: Sequence[Request]) -> None:
        before = predecessors(requests)
        self.first = [i for i, waits in enumerate(before) if not waits]
        """Requests that wait for nobody."""
        self._think_ns = [int(r.think_s * 1e9) for r in requests]
        self._sessions = [r.session for r in requests]
        self._left = {i: set(waits) for i, waits in enumerate(before) if waits}
        self._freed_ns: dict[int, int] = {}
        self._followers: dict[int, list[int]] = {}
        for index, waits in enumerate(before):
            for other in waits:
                self._followers.setdefault(other, []).append(index)

    def awaited(self, index: int | None = None) -> bool:
        """Whether any request waits for this one; without an index, for any."""
        return bool(self._followers) if index is None else index in self._followers

    def next_turn(self, index: int) -> int | None:
        """The following turn of its conversation, which carries its answer."""
        session = self._sessions[index]
        waiting = self._followers.get(index, ()) if session else ()
        return next((f for f in waiting if self._sessions[f] == session), None)

    def ended(self, index: int, end_ns: int) -> list[tuple[int, int]]:
        """(request, when it is due) of those that wait for nothing else: the last end + its think time."""
        free = []
        for follower in self._followers.pop(index, ()):
            left = self._left.get(follower)
            if left is None:
                continue
            left.discard(index)
            self._freed_ns[follower] = max(end_ns, self._freed_ns.get(follower, 0))
            if not left:
                del self._left[follower]
                free.append((follower, self._freed_ns[follower] + self._think_ns[follower]))
        return free

    def dropped(self, index: int) -> list[int]:
        """All that can never be sent now that `index` is not: it and what waits for it, in schedule order."""
        gone, stack = set[int](), [index]
        while stack:
            one = stack.pop()
            if one not in gone:
                gone.add(one)
                self._left.pop(one, None)
                stack += self._followers.pop(one, [])
        return sorted(gone)

    def waiting_for(self, index: int) -> list[int]:
        """Requests that wait for this one and are not given up."""
        return [f for f in self._followers.get(index, ()) if f in self._left]

    def clear(self) -> None:
        """Nothing more is sent."""
        self._followers.clear()
        self._left.clear()
