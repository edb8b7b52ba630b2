"""One measured window of a load, told on stdout: what both drivers of `benchmarks.clients` share.

Needs numpy alone, since Triton's driver runs in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WARM_UP = 1.0
FEATURES = 16
# Each session is fed these many different observations, in turn.
CYCLE = 4
MOST_OUTPUTS = 2000


class Callers(ABC):
    """Callers of h64, one a session, that each await one step at a time."""

    def __init__(self, sessions: int, seed: int) -> None:
        drawn = np.random.default_rng(seed).normal(size=(CYCLE, sessions, FEATURES))
        self._xs = drawn.astype(np.float32)
        self._steps, self._running = 0, True
        self._latencies: list[float] = []
        self._outputs: list[Floats] = []

    @abstractmethod
    async def step(self, session: int, number: int, x: Floats) -> Floats:
        """The outputs [O] of the session's step `number`, whose observation is x [I]."""

    @abstractmethod
    async def leave(self, session: int, number: int, x: Floats) -> None:
        """End the session, so that the server has room for the next; `number` steps are done."""

    async def measure(self, seconds: float) -> None:
        """Step all sessions; print `begin`, `end` and a line of JSON about what is between."""
        sessions = range(self._xs.shape[1])
        plays = [asyncio.create_task(self._play(each)) for each in sessions]
        await asyncio.sleep(WARM_UP)
        self._latencies.clear()
        print("begin", flush=True)
        steps, started, used = self._steps, time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        report = {
            "steps": self._steps - steps,
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - used,
            "latencies": self._latencies.copy(),
        }
        self._running = False
        print("end", flush=True)
        await asyncio.gather(*plays)
        report["inputs"] = self._xs[:, 0].tolist()
        report["outputs"] = [each.tolist() for each in self._outputs[:MOST_OUTPUTS]]
        print(json.dumps(report), flush=True)

    async def _play(self, session: int) -> None:
        """Step until stopped. The first session is followed."""
        number = 0
        while self._running:
            started = time.perf_counter()
            outputs = await self.step(session, number, self._xs[number % CYCLE, session])
            if session == 0:
                self._latencies.append(time.perf_counter() - started)
                self._outputs.append(outputs)
            number += 1
            self._steps += 1
        await self.leave(session, number, self._xs[number % CYCLE, session])
