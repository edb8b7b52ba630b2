"""How late a loop runs: a timer that is due ten times a second, and what it finds when it runs.

A loop that is frozen, starved or kept busy by one long piece of work shows here, whatever else does
not: calls that wait in the kernel meanwhile are seen by nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.histograms import Weighted

TICK: Final = 0.1
"""Seconds between two runs of the timer."""
WINDOW: Final = 60.0
"""Seconds for which the worst is remembered, at least; twice as long at most."""
SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Lag:
    """One loop's. The loop's thread notes; any may read."""

    def __init__(self) -> None:
        self.seconds = Weighted(SECONDS)
        self.due = time.monotonic() + TICK
        """When the timer is to run next."""
        self._worst, self._former = 0.0, 0.0
        self._until = self.due + WINDOW
        self.over = False
        """Whether the loop has ended."""

    def ran(self) -> float:
        """The timer runs now; returns when it is due again."""
        now = time.monotonic()
        late = max(0.0, now - self.due)
        self.seconds.observe(late)
        if now > self._until:
            self._former, self._worst, self._until = self._worst, 0.0, now + WINDOW
        self._worst = max(self._worst, late)
        self.due = now + TICK
        return self.due

    @property
    def worst(self) -> float:
        """The worst of the last minute or two; what is missing now counts."""
        missing = 0.0 if self.over else time.monotonic() - self.due
        return max(self._worst, self._former, missing)

    async def keep(self) -> None:
        """Note how late the event loop runs, until cancelled."""
        while True:
            await asyncio.sleep(max(0.0, self.ran() - time.monotonic()))


class LagCollector(Collector):
    """Tells of loops by their names."""

    def __init__(self, loops: dict[str, Lag]) -> None:
        self._loops = loops

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        seconds = HistogramMetricFamily(
            "tidegate_loop_lag_seconds", "How late timers of a loop run.", labels=["loop"]
        )
        worst = GaugeMetricFamily(
            "tidegate_loop_lag_worst_seconds",
            "How late a loop's timer ran at worst, in the last minute or two.",
            labels=["loop"],
        )
        for name, lag in self._loops.items():
            seconds.add_metric([name], *lag.seconds.cumulative())
            worst.add_metric([name], lag.worst)
        return [seconds, worst]
