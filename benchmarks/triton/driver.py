"""The load on tritonserver: its official asyncio client, as users write it. Runs in .venv-triton.

    driver.py ADDRESS unary|stream SESSIONS SECONDS SEED

Says `begin` and `end` around the measured window, then prints one line of JSON; `benchmarks.sides`
reads it.
"""

import asyncio
import collections
import json
import sys
import time

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc import aio as triton

WARM_UP = 1.0


class Load:
    """Sessions that each await one step at a time."""

    def __init__(self, client, sessions, seed):
        self.client, self.count = client, sessions
        self.xs = np.random.default_rng(seed).normal(size=(4, sessions, 16)).astype(np.float32)
        self.first = seed * 1_000_000 + 1
        self.steps, self.running = 0, True
        self.latencies, self.seen = [], []

    async def play(self, session):
        """Step until stopped, then end the sequence, so that the server has room for the next."""
        step = 0
        while self.running:
            started = time.perf_counter()
            outputs = await self.step(session, step, self.xs[step % 4, session])
            if session == 0:
                self.latencies.append(time.perf_counter() - started)
                self.seen.append(outputs)
            step += 1
            self.steps += 1
        await self.step(session, step, self.xs[step % 4, session], end=True)

    def arguments(self, session, step, x, end):
        """What a request says."""
        tensor = InferInput("INPUT", [1, 16], "FP32")
        tensor.set_data_from_numpy(x[None])
        return {
            "model_name": "h64",
            "inputs": [tensor],
            "sequence_id": self.first + session,
            "sequence_start": step == 0,
            "sequence_end": end,
        }


class Unary(Load):
    """A call a step."""

    async def step(self, session, step, x, end=False):
        """One step."""
        result = await self.client.infer(**self.arguments(session, step, x, end))
        return result.as_numpy("OUTPUT")[0]


class Stream(Load):
    """One stream, whose replies keep the order of requests."""

    def __init__(self, client, sessions, seed):
        super().__init__(client, sessions, seed)
        self.requests, self.waiting = asyncio.Queue(), collections.deque()
        self.reader = asyncio.create_task(self.read())

    async def send(self):
        """The requests, as they come."""
        while True:
            yield await self.requests.get()

    async def read(self):
        """Hand each reply to whom it belongs."""
        async for result, error in self.client.stream_infer(self.send()):
            done = self.waiting.popleft()
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

    async def step(self, session, step, x, end=False):
        """One step."""
        done = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        self.requests.put_nowait(self.arguments(session, step, x, end))
        return (await done).as_numpy("OUTPUT")[0]


async def main(address, way, sessions, seconds, seed):
    """Warm up, measure, report."""
    async with triton.InferenceServerClient(address) as client:
        load = (Stream if way == "stream" else Unary)(client, sessions, seed)
        plays = [asyncio.create_task(load.play(each)) for each in range(sessions)]
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
        if way == "stream":
            load.reader.cancel()
            await asyncio.gather(load.reader, return_exceptions=True)


if __name__ == "__main__":
    where, how, *numbers = sys.argv[1:]
    asyncio.run(main(where, how, int(numbers[0]), float(numbers[1]), int(numbers[2])))
