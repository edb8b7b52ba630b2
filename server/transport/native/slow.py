"""Tells in the log of replies that took too long, and where their time went; a few a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.transport.http2.loop import Loop
from server.transport.http2.tally import Tally, Told

log = logging.getLogger(__name__)

MOST: Final = 6
"""Told in full in a minute; of the others, how many they were."""
MINUTE: Final = 60.0


class SlowReplies(Collector):
    """Hears of a loop's slow replies, in its thread.

    Args:
        seconds: from which on a reply is slow; 0: none is.
    """

    def __init__(self, loop: Loop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self._count = self._told = self._untold = 0
        self._until = 0.0
        if seconds:
            loop.slow, loop.on_slow = seconds, self.tell

    def tell(self, tally: Tally, told: Told, now: float) -> None:
        """Some replies took too long, all alike."""
        self._count += told.count
        if now > self._until:
            self._until, self._told = now + MINUTE, 0
            self._loop.timers.at(self._until, self._tell_rest)
        self._told += 1
        if self._told > MOST:
            self._untold += told.count
            return
        alike = f" (and {told.count - 1} more alike)" if told.count > 1 else ""
        log.warning("slow: %s%s", story(tally, told, now), alike)

    def _tell_rest(self) -> None:
        if self._untold:
            log.warning("slow: %d more replies in the last minute", self._untold)
            self._untold = 0

    def collect(self) -> Iterable[Metric]:
        """The family as it stands."""
        text = f"Replies that took longer than --slow-seconds ({self._seconds:g})."
        return [CounterMetricFamily("tidegate_slow_replies", text, value=self._count)]


def story(tally: Tally, told: Told, now: float) -> str:
    """What it was, and where its time went. Of the names that it says none is a caller's."""
    model = f" model={'/'.join(tally.model)}" if tally.model[0] else ""
    code = f" code={told.status}" if told.code else ""
    parts = [
        f"rpc={tally.method.name}{model} rows={told.rows}{code}",
        f"took {now - told.since:.3f} s",
    ]
    came = time.time() - (time.monotonic() - told.since)
    parts.append(
        f"arrived {time.strftime('%H:%M:%S', time.gmtime(came))}.{int(came % 1 * 1000):03d}"
    )
    submission = told.submission
    if submission is not None:
        parts.append(f"until queued {submission.enqueued_at - told.since:.3f} s")
        if submission.ran_at:
            ran = submission.ran_at + submission.ran_for
            parts.append(f"in the queue {submission.ran_at - submission.enqueued_at:.3f} s")
            parts.append(f"run {submission.ran_for:.3f} s with {len(submission)} rows")
            parts.append(f"until written {now - ran:.3f} s")
    return ", ".join(parts)
