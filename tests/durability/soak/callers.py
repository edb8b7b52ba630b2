"""The soak's load: callers whose sessions open, step, branch, move, end and are left behind.

Each caller is a coroutine that lives one session after the other until told to stop. Those of the
client library share clients, which are closed and made anew; the others hold plain stubs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tests.durability.soak.places import stopped
from tests.durability.soak.tally import Ledger, Tally, Times
from tests.durability.walks import PATIENT
from tidegate import Client, Session, errors
from training.network import Network

Answer = TypeVar("Answer")
MODEL = "small"
MOST_LOOKS = 30  # a tenth of a second apart, at a count that a crash took back
LIVES_OF_A_CLIENT = 3  # sessions that each of its callers lives before the client is closed


@dataclass
class Load:
    """What all callers of one address share."""

    label: str
    address: str
    network: Network
    tally: Tally
    times: Times
    pause: float
    """Seconds between a caller's calls."""
    time_to_live: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    _named: int = 0

    def new_name(self, kind: str) -> str:
        """A session's id that nobody has used."""
        self._named += 1
        return f"{self.label}-{kind}-{self._named}"

    def ledger(self, name: str) -> Ledger:
        return Ledger(self.network, self.tally, self.chance.randrange(1 << 30), name)

    async def rest(self) -> None:
        """Between two calls."""
        await asyncio.sleep(self.chance.uniform(0, 2 * self.pause))

    async def until_stopped(self, doing: str, live: Callable[[], Awaitable[None]]) -> None:
        """One life after the other; errors that nobody should meet are counted."""
        while not self.stop.is_set():
            try:
                await live()
            except Exception as error:
                self.tally.failed(f"{self.label}, {doing}", error)
                await asyncio.sleep(0.2)


async def streamed(load: Load, callers: int) -> None:
    """Callers of the client library, who share a client for a while."""

    async def generation() -> None:
        async with Client(load.address, PATIENT) as client, asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(_several_lives(load, client))
        load.tally.events["clients closed"] += 1

    await load.until_stopped("a client", generation)


async def _several_lives(load: Load, client: Client) -> None:
    for _ in range(LIVES_OF_A_CLIENT):
        if load.stop.is_set():
            return
        try:
            await _Life(load, client).live()
        except Exception as error:
            load.tally.failed(f"{load.label}, a session of the client", error)


class _Life:
    """One session of the client library, from its opening to its end."""

    def __init__(self, load: Load, client: Client) -> None:
        self._load, self._client, self._chance = load, client, load.chance
        name = load.new_name("s")
        self._ledger = load.ledger(name)
        self._session = client.session(MODEL, name, keep=True)
        self._ended = False

    async def live(self) -> None:
        await again(self._session.open)
        self._event("opened")
        for _ in range(self._chance.randrange(20, 200)):
            if self._load.stop.is_set() or self._ended:
                break
            await self._act()
            await self._load.rest()
        if not self._ended:
            await self._end()

    async def _act(self) -> None:
        acts = (self._step, self._chunk, self._give_up, self._look_ahead, self._fork, self._move,
                self._reset)  # fmt: skip
        await self._chance.choices(acts, (86, 5, 4, 2, 1, 1, 1))[0]()

    async def _step(self) -> None:
        x = self._ledger.draw(1)
        started = time.perf_counter()
        y = await self._session.step(x[0])
        self._load.times.add(time.perf_counter() - started)
        self._ledger.answered(x, y[None])

    async def _chunk(self) -> None:
        xs = self._ledger.draw(self._chance.randrange(2, 9))
        self._ledger.answered(xs, await self._session.chunk(xs))

    async def _give_up(self) -> None:
        """Leave a step while it is on its way, and ask for it again."""
        x, y = self._ledger.draw(1), None
        try:
            async with asyncio.timeout(self._chance.uniform(0, 0.005)):
                y = await self._session.step(x[0])
        except TimeoutError:
            self._event("given up")
        if y is None:
            y = await self._session.step(x[0])
        self._ledger.answered(x, y[None])

    async def _look_ahead(self) -> None:
        xs = self._ledger.draw(5)
        told = await again(lambda: self._session.forecast(len(xs), xs))
        self._ledger.check_ahead(xs, told)
        self._event("forecast")

    async def _fork(self) -> None:
        """Go on with a copy."""
        name = self._load.new_name("f")
        try:
            copy = await self._session.fork(name)
        except errors.Unavailable:  # it may be there all the same
            self._event("fork cut off")
            await _close(self._client, name)
            return
        branch = self._ledger.branch(self._chance.randrange(1 << 30), name)
        self._load.tally.counted(name, copy.steps, branch.steps)
        await self._end()
        self._go_on(copy, branch)
        self._event("forked")

    async def _move(self) -> None:
        """Go on with what was exported, closed and imported under another name."""
        packed, name = await again(self._session.export), self._load.new_name("m")
        branch = self._ledger.branch(self._chance.randrange(1 << 30), name)
        await self._end()
        await again(
            lambda: self._client.import_session(packed, session_id=name, replace=True)
        )  # which an attempt before may have made already
        moved = self._client.session(MODEL, name, keep=True)
        await again(moved.open)
        self._load.tally.counted(name, moved.steps, branch.steps)
        self._go_on(moved, branch)
        self._event("moved")

    async def _reset(self) -> None:
        try:
            await self._session.reset()
        except errors.Unavailable:  # whether it was, nobody knows
            self._event("reset cut off")
            self._ended = True
            await _close(self._client, self._session.session_id)
            return
        self._ledger.restart()
        self._event("reset")

    def _go_on(self, session: Session, ledger: Ledger) -> None:
        self._session, self._ledger, self._ended = session, ledger, False

    async def _end(self) -> None:
        """Look at all of it once more, and close it."""
        server = await self._look()
        self._load.tally.counted(self._ledger.name, server, self._ledger.steps)
        await _close(self._client, self._session.session_id)
        self._ended = True
        self._event("closed")

    async def _look(self) -> int:
        """Compare the state; returns the server's count. `info` tells of the server as it is: after
        a crash that is fewer steps than were answered, until the client has applied them again,
        which it does for the next `peek`."""
        for _ in range(MOST_LOOKS):
            self._ledger.check_state(await again(self._session.peek))
            server = (await again(self._session.info)).steps
            if server >= self._ledger.steps:
                break
            await asyncio.sleep(0.1)
        return server

    def _event(self, what: str) -> None:
        self._load.tally.events[what] += 1


async def again(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Until a server is there: of a unary call gRPC makes five attempts, which are soon over."""
    while True:
        try:
            return await call()
        except errors.Unavailable:
            await asyncio.sleep(0.1)


async def _close(client: Client, name: str) -> None:
    with suppress(errors.SessionGone):  # by the call before this one, whose answer was lost
        await again(lambda: client.close_session(MODEL, name))


async def left_behind(load: Load) -> None:
    """A caller who leaves its sessions, which must expire."""

    async def life() -> None:
        name = load.new_name("e")
        async with Client(load.address, PATIENT) as client:
            session, ledger = client.session(MODEL, name, keep=True), load.ledger(name)
            await again(session.open)
            load.tally.events["opened"] += 1
            for x in ledger.draw(3):
                ledger.answered(x[None], (await session.step(x))[None])
            ledger.check()
            if await stopped(load.stop, load.time_to_live * 1.5 + 1.5):
                await _close(client, name)
                return
            try:
                await again(lambda: client.get_session(MODEL, name))
            except (errors.SessionExpired, errors.UnknownSession):
                load.tally.events["expired"] += 1
                return
            raise AssertionError(f"{name} has not expired")

    await load.until_stopped("a session left behind", life)


async def fill(address: str, sessions: int) -> None:
    """Open and close so many, so that what a server remembers of ended sessions is at its bound."""
    async with Client(address, PATIENT) as client:
        for start in range(0, sessions, 4000):
            names = [f"filler-{n}" for n in range(start, min(sessions, start + 4000))]
            xs = np.zeros((len(names), 5), np.float32)
            (await client.step_many(MODEL, names, np.zeros(len(names), np.int64), xs)).raise_first()
            await asyncio.gather(*(client.close_session(MODEL, name) for name in names))
