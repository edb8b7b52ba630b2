"""What a server's process is like over time: memory, file descriptors, threads, the store's lag."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import resident_bytes
from tests.durability.soak.places import stopped
from tests.harness import RunningServer

MEBI = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One look at a process."""

    at: float
    resident: float
    """MiB."""
    fds: int
    threads: int
    lag: float


def look(running: RunningServer, lag: bool = True) -> Sample:
    """Look at a server's process now."""
    pid = running.process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    threads = re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)
    assert threads
    return Sample(
        time.monotonic(),
        resident_bytes(pid) / MEBI,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(threads[1]),
        running.metric("tidegate_store_lag_seconds") if lag else 0.0,
    )


class Watch:
    """Looks at a server that is not killed, every so often."""

    def __init__(self, running: RunningServer, every: float) -> None:
        self._running, self._every = running, every
        self.samples: list[Sample] = []

    async def go(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        while not await stopped(stop, self._every):
            self.samples.append(await asyncio.to_thread(look, self._running))

    def since(self, moment: float) -> list[Sample]:
        """The samples after a moment by `time.monotonic`."""
        return [each for each in self.samples if each.at >= moment]


@dataclass(frozen=True)
class Growth:
    """How a process's memory grew: `slope` in MiB an hour, the median of the slopes between all
    pairs of samples (Theil and Sen), which a few high samples do not move; `rise` in MiB, from the
    median of the first third to that of the last."""

    slope: float
    rise: float


def growth(samples: list[Sample]) -> Growth:
    """The growth over these samples."""
    if len(samples) < 6:
        return Growth(0.0, 0.0)
    thin = samples[:: max(1, len(samples) // 600)]
    at = np.array([each.at for each in thin])
    resident = np.array([each.resident for each in thin])
    first, second = np.triu_indices(len(thin), 1)
    slopes = (resident[second] - resident[first]) / (at[second] - at[first])
    third = len(thin) // 3
    rise = np.median(resident[-third:]) - np.median(resident[:third])
    return Growth(float(np.median(slopes)) * 3600, float(rise))
