"""Which servers share a redis: their leases, and what they ask each other for."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from server.store.interface import Lease, StoreUnreachable
from server.store.redis_link import SLICE, Link

MARKER: Final = "tidegate:store"
FILLING: Final = 2
"""Leases that live servers have to write their sessions again, once redis has lost them."""
ASKED: Final = 60
"""Seconds that a request stays on the list of an owner that does not look."""
AT_ONCE: Final = 10_000
"""Requests taken from the list at once."""


class Owners:
    """This server among the others. It holds a lease from the start."""

    def __init__(self, link: Link) -> None:
        self.me: Final = str(uuid.uuid4())
        self._link, self._closing = link, threading.Event()
        self._lease_ms = max(1, int(link.settings.lease * 1000))
        self._marker: bytes = b""
        self._filling_until = -math.inf
        self._lapsed = False
        self._take_lease()

    def renew(self) -> Lease:
        """Renew the lease, and tell what had become of it."""
        renewal = ("SET", _lease(self.me), 1, "PX", self._lease_ms, "XX")
        marker, renewed = self._link.send(("GET", MARKER), renewal)
        emptied = marker != self._marker
        if emptied:
            self._filling_until = time.monotonic() + FILLING * self._link.settings.lease
        # Kept, since the answer to taking the lease may be lost, and the next call finds it held.
        self._lapsed = (self._lapsed or not renewed) and not emptied
        if emptied or not renewed:
            self._take_lease()
        lapsed, self._lapsed = self._lapsed, False
        return Lease(self._link.settings.lease, lapsed=lapsed, emptied=emptied)

    def may_make_again(self) -> bool:
        """Whether a record that is missing cannot have been another server's meanwhile: the lease
        did not run out, or all is gone."""
        marker, held = self._link.send(("GET", MARKER), ("EXISTS", _lease(self.me)))
        return (bool(held) and not self._lapsed) or marker != self._marker

    def filling(self) -> bool:
        """Whether redis has lost everything lately, so that what it has not may be a live server's,
        who is about to write it again."""
        if time.monotonic() < self._filling_until:
            return True
        (marker,) = self._link.send(("GET", MARKER))
        return bool(marker != self._marker)

    def living(self, owners: Sequence[str]) -> dict[str, bool]:
        """Whose lease lives."""
        answers = self._link.send(*(("EXISTS", _lease(owner)) for owner in owners))
        return dict(zip(owners, map(bool, answers), strict=True))

    def ask(self, requests: Sequence[tuple[str, str, int, str]]) -> None:
        """Ask owners for sessions: owner, model, version and id of each."""
        names: dict[str, list[str]] = {}
        for owner, *name in requests:
            names.setdefault(owner, []).append(json.dumps(name))
        commands: list[tuple[Any, ...]] = []
        for owner, those in names.items():
            commands += [("RPUSH", _asked(owner), *those), ("EXPIRE", _asked(owner), ASKED)]
        self._link.send(*commands)

    def asked_for(self, seconds: float) -> list[tuple[str, int, str]]:
        """Wait at most so long for requests, or until `leave`; each is told once."""
        try:
            names = self._wait(time.monotonic() + seconds)
        except StoreUnreachable:
            if self._closing.is_set():  # the connection was closed under the wait
                return []
            raise
        return [tuple(json.loads(name)) for name in dict.fromkeys(names)]

    def leave(self) -> None:
        """Give the lease up."""
        self._closing.set()
        with suppress(StoreUnreachable):
            self._link.send(("DEL", _lease(self.me)), ("DEL", _asked(self.me)))

    def _wait(self, deadline: float) -> list[bytes]:
        while not self._closing.is_set():
            left = deadline - time.monotonic()
            names = self._requests(min(left, SLICE))
            if names or left <= SLICE:
                return names
        return []

    def _requests(self, seconds: float) -> list[bytes]:
        """Waits in short slices, since redis would be waited for as long if it were dead."""
        key = _asked(self.me)
        with self._link.answering():  # to redis, no time is for ever
            found = self._link.waiting.blpop([key], timeout=max(seconds, 0.001))
            return [found[1], *(self._link.waiting.lpop(key, AT_ONCE) or [])] if found else []

    def _take_lease(self) -> None:
        mark = ("SET", MARKER, str(uuid.uuid4()), "NX")
        lease = ("SET", _lease(self.me), 1, "PX", self._lease_ms)
        _, self._marker, _ = self._link.send(mark, ("GET", MARKER), lease)


def _lease(owner: str) -> str:
    return f"tidegate:owner:{owner}"


def _asked(owner: str) -> str:
    return f"tidegate:asked:{owner}"
