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
            begun = self._looked  # there was nothing then
            due = begun if self._has_work() else self.timers.wait_until(begun)
            ready = self._epoll.poll(due - begun)
            self.since = self._looked = min(due, time.monotonic())
            return ready
        finally:
            self._sleeps = False

    def _look_on(self) -> list[tuple[int, int]]:
        """Look again and again for a moment: to sleep and be woken would take longer than many a
        caller needs for the next call. The more often in vain, the more seldom, but once always."""
        rests, now = self._rests > 0, time.monotonic()
        until = now if rests else now + self._busy
        while not ((ready := self._epoll.poll(0)) or self._has_work()):
            self._looked = now
            if (now := time.monotonic()) >= until:
                self._look_less(rests)
                return []
        self._in_vain = self._in_vain if rests else 0
        former, self._looked = self._looked, now
        self.since = former if now - former > STALL else (former + now) / 2
        return ready

    def _look_less(self, rests: bool) -> None:
        if rests:
            self._rests -= 1
        else:
            self._in_vain = min(self._in_vain + 1, MOST_RESTS)
            self._rests = (1 << self._in_vain) - 1

    def _has_work(self) -> bool:
        """Whether something is to be done whoever has come."""
        return bool(self._posted or self._later or self._behind)

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
