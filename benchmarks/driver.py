"""The load on Tidegate: its own client, as its users write it.

    python -m benchmarks.driver ADDRESS SESSIONS SECONDS SEED

Says what `benchmarks.window` does; `benchmarks.clients` reads it.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.models import H64
from benchmarks.window import Callers, Floats
from tidegate import Client, Session


class TidegateCallers(Callers):
    """A session of the client each."""

    def __init__(self, sessions: list[Session], seed: int) -> None:
        super().__init__(len(sessions), seed)
        self._sessions = sessions

    async def step(self, session: int, number: int, x: Floats) -> Floats:
        return await self._sessions[session].step(x)

    async def leave(self, session: int, number: int, x: Floats) -> None:
        await self._sessions[session].close()


async def main(address: str, count: int, seconds: float, seed: int) -> None:
    """Open the sessions, then measure."""
    async with Client(address) as client:
        sessions = [client.session(H64.name, f"{seed}-{k}") for k in range(count)]
        await asyncio.gather(*(session.open() for session in sessions))
        await TidegateCallers(sessions, seed).measure(seconds)


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    asyncio.run(main(where, int(numbers[0]), float(numbers[1]), int(numbers[2])))
