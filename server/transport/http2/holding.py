"""What one call holds of the budget. Most hold nothing that counts, and have none of these."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from server.transport.http2.budget import WEIGHT, Budget, Holder

SMALL: Final = 4_096
"""Bytes of a message that is not weighed while it is served."""


class Holding:
    """Bytes of one call: of its head, of what comes, is served, and waits to be sent."""

    __slots__ = (
        "_budget", "_charged", "_holder", "_served", "_serving", "admitted", "lent", "moved",
        "over", "owed",
    )  # fmt: skip

    def __init__(self, budget: Budget, holder: Holder) -> None:
        self._budget, self._holder = budget, holder
        self._charged = self._serving = 0
        self._served: deque[int] = deque()  # by request of a stream that is not answered
        self.owed = 0
        """Bytes that wait for a window."""
        self.moved = 0.0
        """When some of those left last, or the first came."""
        self.admitted = 0
        """Bytes of the message that is coming, if they were let in all at once."""
        self.over = self.lent = False

    def weigh(self, coming: int) -> bool:
        """Take what the call holds, with so much that comes; False where there is no room."""
        come = WEIGHT * max(coming, self.admitted)
        more = come + self._serving + self.owed - self._charged
        if more < 0:
            self._budget.give(self._holder, -more)
        elif not come:
            self._budget.charge(self._holder, more)
        elif not self._budget.take(self._holder, more, self._budget.common):
            return False
        self._charged += more
        return True

    def admit(self, size: int) -> bool:
        """Let a large message come, if there is room for all of it."""
        more = WEIGHT * size + self._serving + self.owed - self._charged
        if not self._budget.take(self._holder, more, self._budget.large):
            return False
        self._charged, self.admitted = self._charged + more, size
        return True

    def head(self, size: int) -> bool:
        """Take headers that are not small; whether there was room."""
        self._serving = size
        if not self._budget.take(self._holder, size, self._budget.common):
            return False
        self._charged = size
        return True

    def serve(self, size: int, streams: bool) -> None:
        """A message is served from now on: until the call is over, or, of a stream, until as many
        replies have been made."""
        weight = WEIGHT * size if size > SMALL else 0
        self._serving += weight
        if streams:
            self._served.append(weight)

    def answered(self) -> None:
        """A stream's reply is made."""
        if self._served:
            self._serving -= self._served.popleft()

    def owe(self, size: int) -> None:
        """So much waits for a window."""
        if not self.owed:
            self.moved = time.monotonic()
        self.owed += size

    def end(self) -> None:
        """The call is over; what it holds is given back, unless it is lent."""
        self.over = True
        if not self.lent:
            self._budget.give(self._holder, self._charged)
            self._charged = 0
