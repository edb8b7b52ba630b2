"""Sessions that are streamed with the client library, each reply compared with NumPy's LSTM."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from tests.server.wire.wire import WIDTH
from tidegate import Client, ClientOptions, RetryPolicy, Session, errors
from tidegate._stream.course import Course
from tidegate._stream.rows import Row
from training.network import Network
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
T = TypeVar("T")

PATIENT = ClientOptions(
    timeout=120.0,
    retry=RetryPolicy(attempts=1000, initial_backoff=0.02, max_backoff=0.2),
    reconnect_backoff=0.1,
    max_reconnect_backoff=0.2,
)
"""For servers that are gone for seconds, again and again."""


class Walk:
    """One session: what it was given and answered, and the state it must have by then."""

    def __init__(self, session: Session, network: Network, seed: int) -> None:
        self.session, self._network = session, NumpyNetwork(network)
        self._state = self._network.initial()
        self._draws, self._pauses = np.random.default_rng(seed), random.Random(seed)
        self._next: Floats | None = None
        self._given: list[Floats] = []
        self._got: list[Floats] = []
        self.steps = 0
        self.longest_pause = 0.0

    def peek_next(self) -> Floats:
        """The next observation, which stays the same until it is answered."""
        if self._next is None:
            self._next = self._draws.normal(0, 2, WIDTH).astype(np.float32)
        return self._next

    async def step(self) -> Floats:
        """One step with the next observation."""
        loop, x = asyncio.get_running_loop(), self.peek_next()
        started = loop.time()
        self._got.append(await self.session.step(x))
        self._given.append(x)
        self._next = None
        self.steps += 1
        self.longest_pause = max(self.longest_pause, loop.time() - started)
        return self._got[-1]

    async def go(self, stop: asyncio.Event, pause: float) -> None:
        """Step until told to stop, with pauses about as long: equal ones would have all walks step
        together for ever."""
        while not stop.is_set():
            await self.step()
            if pause:
                await asyncio.sleep(self._pauses.uniform(0, 2 * pause))

    async def go_to(self, steps: int) -> None:
        """Step until it has so many steps."""
        while self.steps < steps:
            await self.step()

    def check(self) -> None:
        """Every reply since the last check is what the equations say."""
        if not self._given:
            return
        count = min(len(self._given), len(self._got))
        given, got = np.stack(self._given[:count]), np.stack(self._got[:count])
        del self._given[:count], self._got[:count]
        expected, self._state = self._network.run(given, self._state)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)

    async def check_all(self) -> int:
        """Every reply, and where the session stands by the server; returns steps too many there,
        negative: too few."""
        state = await told(self.session.peek)
        self.check()
        for at, (hidden, cell) in enumerate(self._state):
            np.testing.assert_allclose(state[f"h{at}"], hidden, rtol=0, atol=1e-5)
            np.testing.assert_allclose(state[f"c{at}"], cell, rtol=0, atol=1e-5)
        return (await told(self.session.info)).steps - self.steps


@dataclass
class Replays:
    """Counts what clients apply again after crashes."""

    steps: int = 0


@contextmanager
def counting_replays() -> Iterator[Replays]:
    """Count the steps that clients apply again while the block runs."""
    found, go_back = Replays(), Course.go_back

    def counted(course: Course, row: Row, start: int, stop: int) -> None:
        found.steps += max(0, min(stop, row.number) - start)
        go_back(course, row, start, stop)

    with patch.object(Course, "go_back", counted):
        yield found


@asynccontextmanager
async def walking(
    address: str,
    network: Network,
    sessions: int,
    name: str = "walk",
    options: ClientOptions = PATIENT,
) -> AsyncIterator[list[Walk]]:
    """Open sessions, and leave them live at the end."""
    async with Client(address, options) as client:
        found = [client.session("small", f"{name}-{k}", keep=True) for k in range(sessions)]
        await asyncio.gather(*(each.open() for each in found))
        yield [Walk(each, network, seed) for seed, each in enumerate(found)]


async def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.02)


async def step_all(walks: Sequence[Walk], more: int) -> None:
    """Take so many steps with each."""
    await asyncio.gather(*(each.go_to(each.steps + more) for each in walks))


async def until_stored(session: Session) -> None:
    """Wait until the store has the session as it is."""
    async with asyncio.timeout(30):
        while (info := await told(session.info)).durable_step < info.steps:
            await asyncio.sleep(0.02)


async def told(read: Callable[[], Awaitable[T]]) -> T:
    """What a call of a session returns, once the store answers: a server that was kept from
    renewing its lease has let go of its sessions, and knows of them by the store alone."""
    async with asyncio.timeout(30):
        while True:
            with suppress(errors.StoreDown):
                return await read()
            await asyncio.sleep(0.02)


async def all_stored(walks: Sequence[Walk]) -> None:
    """Wait until every session is in the store as it is."""
    for each in walks:
        await until_stored(each.session)


async def check_all(walks: Sequence[Walk]) -> tuple[int, int]:
    """Check everything of all sessions; returns the steps lost and doubled."""
    more = await asyncio.gather(*(each.check_all() for each in walks))
    return -sum(min(each, 0) for each in more), sum(max(each, 0) for each in more)
