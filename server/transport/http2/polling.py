"""How the transport's loop waits: for sockets, for what other threads post, and for timers; and
since when what it finds has been there."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections import deque
from typing import Final

from server.transport.http2.incoming import Then
from server.transport.http2.timers import Timers
from server.transport.lag import Lag

log = logging.getLogger(__name__)

IN, OUT, LEFT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
GONE: Final = select.EPOLLHUP | select.EPOLLERR | LEFT
MOST_RESTS: Final = 8  # doublings of the turns without a look, where looking is in vain
STALL: Final = 0.02
"""Seconds without a look at the sockets from which on what is found is taken to have been there all
the while; else it came midway, on the average."""
ASLEEP: Final = 5e-5  # seconds: a wait this long had nothing to find at first


class Polling:
    """What a loop waits for. All but `post` is for the loop's thread.

    Args:
        busy: seconds to look for more before sleeping.
    """

    def __init__(self, busy: float) -> None:
        self.timers = Timers(self._attempt)
        self._epoll = select.epoll()
        self._posted: deque[Then] = deque()
        self._later: deque[Then] = deque()  # of which one is done in a turn
        self._behind: deque[Then] = deque()  # of which one is done at the end of a turn
        self._asleep, self._awake = socket.socketpair()
        for each in (self._asleep, self._awake):
            each.setblocking(False)
        self._epoll.register(self._asleep, IN)
        self._sleeps = False
        self._busy, self._in_vain, self._rests = busy, 0, 0
        self._looked = time.monotonic()  # when it last saw what sockets have
        self.since = self._looked
        """When what this turn takes in arrived, as far as can be known."""
        self.lag = Lag()

    def post(self, work: Then) -> None:
        """Have `work` done by the loop's thread; not once it has ended."""
        self._posted.append(work)
        if self._sleeps:
            self._sleeps = False
            self._wake()

    def later(self, work: Then) -> None:
        """Have `work`, which takes long, done in a turn of its own."""
        self._later.append(work)

    def behind(self, work: Then) -> None:
        """Have `work` done when all others have had their turn."""
        self._behind.append(work)

    def _ready(self) -> list[tuple[int, int]]:
        """Wait for something to do; returns the sockets that have something, and what."""
        if ready := self._look_on():
            return ready
        self._sleeps = True
        try:
            begun = time.monotonic()
            due = begun if self._has_work() else self.timers.wait_until(begun)
            ready = self._epoll.poll(due - begun)
            now = time.monotonic()
            self._found(begun, now if now < due else due)
            return ready
        finally:
            self._sleeps = False

    def _look_on(self) -> list[tuple[int, int]]:
        """Look again and again for a moment: to sleep and be woken would take longer than many a
        caller needs for the next call. The more often in vain, the more seldom."""
        if self._rests:
            self._rests -= 1
            return []
        until = time.monotonic() + self._busy
        while (now := time.monotonic()) < until:
            if (ready := self._epoll.poll(0)) or self._has_work():
                self._in_vain = 0
                self._found(now, now)
                return ready
            self._looked = now
        self._in_vain = min(self._in_vain + 1, MOST_RESTS)
        self._rests = (1 << self._in_vain) - 1
        return []

    def _has_work(self) -> bool:
        """Whether something is to be done whoever has come."""
        return bool(self._posted or self._later or self._behind)

    def _found(self, begun: float, now: float) -> None:
        """A look that began then has found something by now, or was to be over by then."""
        if now - begun > ASLEEP:  # there was nothing at first
            self.since = self._looked = now
            return
        former, self._looked = self._looked, now
        self.since = former if now - former > STALL else (former + now) / 2

    def _do_posted(self) -> None:
        for _ in range(len(self._posted)):
            self._attempt(self._posted.popleft())

    def _tick(self) -> None:
        self.timers.at(self.lag.ran(), self._tick)

    def _attempt(self, work: Then) -> None:
        try:
            work()
        except Exception:
            log.exception("the transport failed unexpectedly")

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full of calls to wake, or closed
            self._awake.send(b"\0")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._asleep.recv(1_024)

    def _end(self) -> None:
        """Wait no more."""
        self.lag.over = True
        self._epoll.close()
        self._asleep.close()
        self._awake.close()
