"""All sessions of a run: opened, stepped at the same time, and closed whatever happens."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate import Client, ClientOptions, Model, Session
from tidegate.cli.bench.record import Record
from tidegate.errors import SessionGone, TidegateError

AT_A_TIME = 64
"""Sessions being opened or closed at the same moment."""
WARM_UP = 1.0
"""Seconds of load before counting, at most; a fifth of the run where that is shorter."""
AFTER_ERROR = 0.05
"""Seconds of rest, lest a server that refuses everything be asked without end."""
DRAWN = 4096
"""Random steps; all sessions read them, each from a place of its own."""


@dataclass(frozen=True)
class BenchPlan:
    """What the user asked for."""

    model: str
    version: int
    address: str
    options: ClientOptions
    sessions: int
    seconds: float
    chunk: int
    """Steps a call."""
    rate: float
    """Steps a second of each session; 0: the next call as soon as the last one is answered."""
    json: bool


class Load:
    """The sessions of one run, named `bench-RANDOM-NUMBER`."""

    def __init__(self, client: Client, model: Model, plan: BenchPlan) -> None:
        self._client, self._model, self._plan = client, model, plan
        self._prefix = f"bench-{secrets.token_hex(4)}-"
        self._observations = Observations(len(model.features), plan.chunk)
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._opened = asyncio.Barrier(plan.sessions + 1)
        self._record = Record()

    async def run(self) -> Record:
        """Put the load on; every session is closed at the end, also at an early one."""
        warm_up = min(WARM_UP, self._plan.seconds / 5)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._plan.sessions):
                    group.create_task(self._keep_busy(number, warm_up + self._plan.seconds))
                await self._opened.wait()
                await asyncio.sleep(warm_up)
                self._record.begin()
                await asyncio.sleep(self._plan.seconds)
                self._record.end()
        except BaseException:
            await self._sweep()
            raise
        return self._record

    async def _keep_busy(self, number: int, seconds: float) -> None:
        name, version = self._model.name, self._model.version
        session = self._client.session(name, f"{self._prefix}{number}", version=version)
        observations = self._observations.of(number)
        async with AsyncExitStack() as stack:
            await self._open(session, stack)
            await self._opened.wait()
            interval = self._plan.chunk / self._plan.rate if self._plan.rate else 0.0
            pace = Pace(interval, time.perf_counter() + seconds)
            await call(session, observations, pace, self._record)

    async def _open(self, session: Session, stack: AsyncExitStack) -> None:
        """Open it now and have it closed at the end, both while there is a place for that."""
        await self._places.acquire()
        stack.callback(self._places.release)
        await stack.enter_async_context(session)
        self._places.release()
        stack.push_async_callback(self._places.acquire)

    async def _sweep(self) -> None:
        """Close what the server opened though the call was cut off."""
        try:
            live = [each async for each in self._client.sessions(self._model.name)]
            for each in live:
                if each.session_id.startswith(self._prefix):
                    await self._close(each.session_id)
        except TidegateError:
            pass  # the server is away: they expire

    async def _close(self, session_id: str) -> None:
        name, version = self._model.name, self._model.version
        with suppress(SessionGone):
            await self._client.close_session(name, session_id, version=version)


async def call(
    session: Session, observations: Iterator[NDArray[np.float32]], pace: Pace, record: Record
) -> None:
    """Step the session through observations: [I] is a step, [T, I] a chunk."""
    while (began := await pace.next()) is not None:
        given = next(observations)
        try:
            await (session.step(given) if given.ndim == 1 else session.chunk(given))
        except TidegateError as error:
            record.failed(error)
            await _recover(session, error, record)
        else:
            record.answered(given.size // given.shape[-1], time.perf_counter() - began)


async def _recover(session: Session, error: TidegateError, record: Record) -> None:
    await asyncio.sleep(AFTER_ERROR)
    if not isinstance(error, SessionGone):
        return
    try:
        await session.open()  # it expired, or the server is another one
    except TidegateError as again:
        record.failed(again)


class Pace:
    """Calls `interval` seconds apart, or one after the other where it is 0.

    Sessions begin spread over the first interval, so that they do not call in step. `now` and
    `sleep` are the clock, in seconds.
    """

    def __init__(
        self,
        interval: float,
        until: float,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval, self._until = interval, until
        self._now, self._sleep = now, sleep
        self._due = now() + interval * random.random()

    async def next(self) -> float | None:
        """Wait for it; the moment from which it counts, None when the time is over.

        A call that is late, because the one before took too long, counts from when it was due:
        whoever needed its answer would have waited since then.
        """
        now = self._now()
        if self._interval and now < self._due:
            await self._sleep(min(self._due, self._until) - now)
            now = self._now()
            began = now
        else:
            began = self._due if self._interval else now
        self._due += self._interval
        return began if now < self._until else None


class Observations:
    """Standard normal values, what normalised features look like.

    They are drawn before the load begins: drawing is not what is measured.
    """

    def __init__(self, features: int, chunk: int) -> None:
        self._chunk = chunk
        drawn = np.random.default_rng().standard_normal((DRAWN + chunk, features))
        self._drawn = drawn.astype(np.float32)

    def of(self, number: int) -> Iterator[NDArray[np.float32]]:
        """The endless observations of one session: [I], or [chunk, I]."""
        at = number * 977 % DRAWN  # a prime, so that neighbours begin far apart
        while True:
            yield self._drawn[at] if self._chunk == 1 else self._drawn[at : at + self._chunk]
            at = (at + self._chunk) % DRAWN
