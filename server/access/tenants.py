"""What tenants use of this server, and how much they may: sessions, steps and bytes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from server.access.policy import Policy, Quota
from server.errors import QuotaReached
from server.metrics import Metrics
from server.names import tenant

MOST_TENANTS = 10_000  # whose use is remembered while they have no sessions
SESSION_DELAY = 1.0


class _Rate:
    """A token bucket that holds a second's worth. What is there may be overdrawn by one message,
    however large, and is paid back before the next."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left, self._at = math.inf, clock()

    def delay(self, rate: float | None) -> float:
        """Seconds until more may be taken; 0: now."""
        if rate is None:
            return 0.0
        now = self._clock()
        self._left = min(rate, self._left + rate * (now - self._at))
        self._at = now
        return 0.0 if self._left > 0 else max(0.001, -self._left / rate)

    def take(self, much: float) -> None:
        """After `delay` has said 0."""
        self._left -= much


class Usage:
    """What one tenant uses. Any thread may tell."""

    def __init__(
        self, name: str, quota: Quota, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self.name, self.quota = name, quota
        self.sessions = 0
        self._metrics = metrics
        self._steps, self._bytes = _Rate(clock), _Rate(clock)
        self._lock = threading.Lock()

    def take(self, size: int, steps: int) -> None:
        """A message of `size` bytes has come, with so many steps.

        Raises:
            QuotaReached: nothing of it may be done.
        """
        quota = self.quota
        with self._lock:
            for what, rate, limit in (
                ("bytes", self._bytes, quota.bytes_per_second),
                ("steps", self._steps, quota.steps_per_second if steps else None),
            ):
                if delay := rate.delay(limit):
                    raise self._reached(what, f"{limit:g} {what} a second", delay)
            self._bytes.take(size)
            self._steps.take(steps)

    def check_room(self) -> None:
        """Whether it may have a further session.

        Raises:
            QuotaReached: it has as many as it may.
        """
        most = self.quota.sessions
        if most is not None and self.sessions >= most:
            raise self._reached("sessions", f"{most} live sessions", SESSION_DELAY)

    def _reached(self, what: str, words: str, delay: float) -> QuotaReached:
        self._metrics.quota_reached(self.name, what)
        return QuotaReached(self.name, words, delay)


class Tenants:
    """All tenants' use. Sessions are counted under their names inside the server."""

    def __init__(
        self, policy: Policy, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy, self._metrics, self._clock = policy, metrics, clock
        self._lock = threading.Lock()
        self._usage: dict[str, Usage] = {}
        self.change(policy)

    def change(self, policy: Policy) -> None:
        """Other quotas hold from now on; what is used stays counted."""
        with self._lock:
            self._policy = policy
            for name, usage in self._usage.items():
                usage.quota = policy.quota(name)
        self._metrics.watch_tenants({each: self._sessions(each) for each in policy.tenants})

    def of(self, name: str) -> Usage:
        """A tenant's use."""
        if (usage := self._usage.get(name)) is not None:
            return usage
        with self._lock:
            if len(self._usage) >= MOST_TENANTS:
                kept = {k: u for k, u in self._usage.items() if u.sessions}
                self._usage = kept
            made = Usage(name, self._policy.quota(name), self._metrics, self._clock)
            return self._usage.setdefault(name, made)

    def check_room(self, session_name: str) -> None:
        """Whether there may be one more session of its tenant. Raises QuotaReached."""
        self.of(tenant(session_name)).check_room()

    def began(self, session_name: str) -> None:
        """A session is live here."""
        usage = self.of(tenant(session_name))
        with self._lock:
            usage.sessions += 1

    def ended(self, session_name: str) -> None:
        """It is no more."""
        usage = self.of(tenant(session_name))
        with self._lock:
            usage.sessions -= 1

    def _sessions(self, name: str) -> Callable[[], float]:
        return lambda: self.of(name).sessions
