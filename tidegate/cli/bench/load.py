"""All sessions of a run: opened, stepped at the same time, and closed whatever happens."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack, suppress

from tidegate.cli.bench.caller import call
from tidegate.cli.bench.observations import Observations
from tidegate.cli.bench.pace import Pace
from tidegate.cli.bench.plan import BenchPlan
from tidegate.cli.bench.record import Record
from tidegate.client import Client
from tidegate.errors import SessionGone, TidegateError
from tidegate.model import Model
from tidegate.session import Session

AT_A_TIME = 64
"""Sessions being opened or closed at the same moment."""
WARM_UP = 1.0
"""Seconds of load before counting, at most; a fifth of the run where that is shorter."""


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
