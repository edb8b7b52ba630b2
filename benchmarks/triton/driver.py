"""The load on tritonserver: its official asyncio client, as users write it. Runs in .venv-triton.

    python -m benchmarks.triton.driver ADDRESS unary|stream SESSIONS SECONDS SEED

Says what `benchmarks.window` does; `benchmarks.clients` reads it.
"""

import asyncio
import collections
import sys

from tritonclient.grpc import InferInput
from tritonclient.grpc import aio as triton

from benchmarks.window import Callers


class Unary(Callers):
    """A call a step."""

    def __init__(self, client, sessions, seed):
        super().__init__(sessions, seed)
        self.client, self.first = client, seed * 1_000_000 + 1

    async def step(self, session, number, x):
        return await self.infer(self.arguments(session, number, x, end=False))

    async def leave(self, session, number, x):
        await self.infer(self.arguments(session, number, x, end=True))

    def arguments(self, session, number, x, end):
        """What a request says."""
        tensor = InferInput("input", [1, 16], "FP32")
        tensor.set_data_from_numpy(x[None])
        return {
            "model_name": "h64",
            "inputs": [tensor],
            "sequence_id": self.first + session,
            "sequence_start": number == 0,
            "sequence_end": end,
        }

    async def infer(self, arguments):
        """The outputs of one request."""
        return (await self.client.infer(**arguments)).as_numpy("y")[0]

    async def close(self):
        """Nothing is held."""


class Stream(Unary):
    """One stream, whose replies keep the order of requests."""

    def __init__(self, client, sessions, seed):
        super().__init__(client, sessions, seed)
        self.requests, self.waiting = asyncio.Queue(), collections.deque()
        self.reader = asyncio.create_task(self.read())

    async def infer(self, arguments):
        done = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        self.requests.put_nowait(arguments)
        return (await done).as_numpy("y")[0]

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

    async def close(self):
        self.reader.cancel()
        await asyncio.gather(self.reader, return_exceptions=True)


async def main(address, way, sessions, seconds, seed):
    """Measure, with a stream or without."""
    async with triton.InferenceServerClient(address) as client:
        callers = (Stream if way == "stream" else Unary)(client, sessions, seed)
        await callers.measure(seconds)
        await callers.close()


if __name__ == "__main__":
    where, how, *numbers = sys.argv[1:]
    asyncio.run(main(where, how, int(numbers[0]), float(numbers[1]), int(numbers[2])))
