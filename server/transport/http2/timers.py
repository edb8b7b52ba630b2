"""What the transport's loop has to do at a time: work of any kind, and to end calls whose deadline
has passed."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Final

from server.transport.http2.call import Call
from server.transport.http2.incoming import Then

SLACK: Final = 1_000
"""Timers that are kept though they are of calls that are over, besides as many as are not."""


class Timers:
    """Used by the loop's thread alone.

    Args:
        attempt: does what is due; it must not raise.
    """

    def __init__(self, attempt: Callable[[Then], None]) -> None:
        self._attempt = attempt
        self._heap: list[tuple[float, int, Then | Call]] = []
        self._numbers = itertools.count()  # so that no two are compared by what they do
        self._expiring = 0  # calls under way that have a deadline

    def __len__(self) -> int:
        """Those that are kept, of calls that are over too."""
        return len(self._heap)

    def at(self, when: float, work: Then) -> None:
        """Do `work` then, by the monotonic clock."""
        heapq.heappush(self._heap, (when, next(self._numbers), work))

    def expires(self, call: Call) -> None:
        """A call with a deadline is under way."""
        assert call.deadline is not None
        self._expiring += 1
        heapq.heappush(self._heap, (call.deadline, next(self._numbers), call))
        if len(self._heap) > SLACK + 2 * self._expiring:  # most are of calls that are over
            self._drop_those_over()

    def does_not_expire(self) -> None:
        """It is over."""
        self._expiring -= 1

    def _drop_those_over(self) -> None:
        heap = self._heap
        heap[:] = [each for each in heap if not (isinstance(each[2], Call) and each[2].over)]
        heapq.heapify(heap)

    def wait_until(self, now: float) -> float:
        """When the next is due: at once, if one is already, or there is none."""
        return max(now, self._heap[0][0]) if self._heap else now

    def ring(self) -> None:
        """Do what is due."""
        now, heap = time.monotonic(), self._heap
        while heap and heap[0][0] <= now:
            _, _, work = heapq.heappop(heap)
            self._attempt(work.expire if isinstance(work, Call) else work)
