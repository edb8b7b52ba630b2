"""Brings completions from the schedulers' threads to the event loop, many for one wake-up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable

from server.scheduler.submission import Submission

log = logging.getLogger(__name__)

Deliver = Callable[[Submission], None]


class Mailbox:
    """Calls back on the event loop, in the order in which completions were posted.

    Made in the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._posted: deque[tuple[Deliver, Submission]] = deque()
        self._awake = False

    def address(self, deliver: Deliver) -> Deliver:
        """An `on_done` that has `deliver` called on the event loop; at once if it is there already,
        that is while the step is being submitted."""

        def post(submission: Submission) -> None:
            if threading.get_ident() == self._thread and not self._posted:
                deliver(submission)
                return
            self._posted.append((deliver, submission))
            if not self._awake:
                self._awake = True
                self._wake()

        return post

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._posted.clear()

    def _deliver(self) -> None:
        self._awake = False
        while self._posted:
            deliver, submission = self._posted.popleft()
            try:
                deliver(submission)
            except Exception:  # one broken caller must not keep the others from their replies
                log.exception("a completion could not be delivered")
