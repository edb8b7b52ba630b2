"""The load on Tidegate: its own client, as its users write it.

    python -m benchmarks.coalesced ADDRESS SESSIONS SECONDS SEED

Says `begin` and `end` around the measured window, then prints one line of JSON; `benchmarks.sides`
reads it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import H64
from tidegate import Client, Session

WARM_UP = 1.0


class Load:
    """Sessions that each await one step at a time."""

    def __init__(self, sessions: list[Session], seed: int) -> None:
        self.sessions = sessions
        self.xs = np.random.default_rng(seed).normal(size=(4, len(sessions), H64.inputs))
        self.xs = self.xs.astype(np.float32)
        self.steps, self.running = 0, True
        self.latencies: list[float] = []
        self.seen: list[NDArray[np.float32]] = []

    async def play(self, at: int) -> None:
        """Step until stopped."""
        session, step = self.sessions[at], 0
        while self.running:
            started = time.perf_counter()
            outputs = await session.step(self.xs[step % 4, at])
            if at == 0:
                self.latencies.append(time.perf_counter() - started)
                self.seen.append(outputs)
            step += 1
            self.steps += 1


async def main(address: str, count: int, seconds: float, seed: int) -> None:
    """Warm up, measure, report."""
    async with Client(address) as client:
        sessions = [client.session(H64.name, f"{seed}-{k}") for k in range(count)]
        await asyncio.gather(*(session.open() for session in sessions))
        load = Load(sessions, seed)
        plays = [asyncio.create_task(load.play(at)) for at in range(count)]
        await asyncio.sleep(WARM_UP)
        load.latencies.clear()
        print("begin", flush=True)
        steps, started, used = load.steps, time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        report = {
            "steps": load.steps - steps,
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - used,
            "latencies": load.latencies.copy(),
        }
        load.running = False
        print("end", flush=True)
        await asyncio.gather(*plays)
        report["inputs"] = load.xs[:, 0].tolist()
        report["outputs"] = [each.tolist() for each in load.seen[:2000]]
        print(json.dumps(report), flush=True)
        await asyncio.gather(*(session.close() for session in sessions))


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    asyncio.run(main(where, int(numbers[0]), float(numbers[1]), int(numbers[2])))
