"""Whether the store answers, and this server still owns what it holds; what follows for steps.

One for all models of a server. Keepers and the lease's thread tell it how their calls went; the
step protocol asks it before each run.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from server.errors import ServingError, StoreDown

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class Health:
    """Any thread may use it.

    Args:
        refuse: whether steps are refused while the store does not answer; else they go on, and are
            stored when it does again.
        on_failure: called for each call that it does not answer.
    """

    def __init__(
        self,
        refuse: bool,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refuse = refuse
        self.held_until = math.inf
        """Until when, by the clock, nobody else takes this server's sessions."""
        self.lapses = 0
        """How often the lease was found to have run out: what was claimed before is no more."""
        self._clock, self._on_failure = clock, on_failure
        self._lock = threading.Lock()
        self._down_since: float | None = None
        self._pause, self._next_try = FIRST_PAUSE, 0.0

    @property
    def down(self) -> bool:
        """Whether the last call was not answered."""
        return self._down_since is not None

    def answered(self) -> None:
        """The store has done what was asked."""
        if self._down_since is None:
            return
        with self._lock:
            since, self._down_since = self._down_since, None
            self._pause, self._next_try = FIRST_PAUSE, 0.0
        if since is not None:
            log.warning("the store answers again, after %.1f s", self._clock() - since)

    def failed(self, error: Exception) -> None:
        """The store has not answered."""
        with self._lock:
            first = self._down_since is None
            now = self._clock()
            self._down_since = now if first else self._down_since
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            self._next_try = now + self._pause
        self._on_failure()
        if first:
            so = "refused" if self.refuse else "answered, and kept in memory"
            log.error("the store does not answer; steps are %s until it does: %s", so, error)

    def wait_to_try(self) -> float:
        """Seconds until it is worth asking again; 0 while it answers."""
        return max(0.0, self._next_try - self._clock()) if self.down else 0.0

    def refusal(self) -> ServingError | None:
        """Why no step may be applied now; None: it may."""
        if self._down_since is None and self.held_until == math.inf:
            return None
        if (self.refuse and self.down) or self.lapsed:
            return StoreDown(max(0.05, self.wait_to_try()))
        return None

    @property
    def lapsed(self) -> bool:
        """Whether others may have taken sessions by now, whatever the policy is."""
        return self.held_until != math.inf and self._clock() > self.held_until
