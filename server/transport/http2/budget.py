"""Bytes that all connections' calls hold together: one budget, of which each connection has a part
of its own, so that whoever holds much cannot keep those out who hold little.

What has been let in can always go on to its end: bytes are asked for only where there is room for
them, and a call whose bytes come unasked while there is none is refused. Streams are held back by
HTTP/2's windows, and wait their turn here; a unary call is told when to come again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

CALL: Final = 2_048
"""Bytes that a call costs at least."""
WEIGHT: Final = 2
"""Bytes that a request's byte costs: it is there packed and as a message."""
OWN_CALLS: Final = 16
"""Calls that a connection may have however many there are."""


class Holder(Protocol):
    """Whose calls hold bytes."""

    held: int


class Waiter(Protocol):
    """A stream whose caller may not send more for now."""

    def go_on(self) -> bool:
        """There may be room; returns whether there was."""


class Budget:
    """Used by the loop's thread alone; others may look at its numbers.

    Args:
        limit: bytes; a quarter of it is for calls as such, an eighth is parted among connections.
        connections: at most.
        post: has something done in the next turn.
    """

    def __init__(
        self, limit: int, connections: int, post: Callable[[Callable[[], object]], None]
    ) -> None:
        self.most_calls = max(1, limit // 4 // CALL)
        self.own = limit // 8 // connections
        """A connection's part."""
        self.common = limit - limit // 4 - limit // 8
        """For all, beyond their own parts."""
        self.large = self.common * 2 // 3
        """Of that, what messages beyond a call's first window may take."""
        self.held = self.calls = 0
        """What is taken of `common`; calls under way."""
        self.pressed = False
        """Whether so much is taken that streams are asked for more one after the other."""
        self._turned_down = False  # whether somebody was, since it was last asked
        self._post = post
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._waking = False

    def take(self, holder: Holder, size: int, limit: int) -> bool:
        """Take so many bytes, where no more than `limit` of `common` is taken then."""
        held = holder.held
        more = held + size - max(self.own, held)
        if more > 0:
            if self.held + more > limit:
                self._turned_down = True
                return False
            self.held += more
            self.pressed = self.held > self.large
        holder.held = held + size
        return True

    def full(self, holder: Holder, size: int) -> bool:
        """Whether there is no room for so many bytes."""
        more = holder.held + size - max(self.own, holder.held)
        return more > 0 and self.held + more > self.common

    def charge(self, holder: Holder, size: int) -> None:
        """Take bytes that are there already."""
        held = holder.held
        holder.held = held + size
        if (more := held + size - max(self.own, held)) > 0:
            self.held += more
            self.pressed = self.held > self.large

    def give(self, holder: Holder, size: int) -> None:
        """Give bytes back."""
        left = holder.held = holder.held - size
        if (back := left + size - max(self.own, left)) > 0:
            self.held -= back
            self.pressed = self.held > self.large
            if self._waiting and not self._waking:
                self._waking = True
                self._post(self._wake)

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiting)

    def is_short(self) -> bool:
        """Whether somebody waits for room, or was turned down since this was last asked."""
        short = self.pressed or self.waited_for or self._turned_down
        self._turned_down = False
        return short

    def wait(self, waiter: Waiter) -> None:
        """Have it go on when there may be room, after those that wait already."""
        self._waiting[waiter] = None

    def waits(self, waiter: Waiter) -> bool:
        """Whether it waits."""
        return waiter in self._waiting

    def _wake(self) -> None:
        """Those that wait go on, until there is no room for one."""
        self._waking = False
        while self._waiting:
            waiter = next(iter(self._waiting))
            if not waiter.go_on():
                return
            self._waiting.pop(waiter, None)
