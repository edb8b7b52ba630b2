"""The time of day jumps: sessions live by a clock that does not, and between two servers by it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.conftest import SmallModel
from tests.durability.service import on_redis, on_sqlite, serving
from tests.durability.walks import PATIENT, all_stored, check_all, step_all, until, walking
from tests.server.store.redis_server import RedisServer
from tidegate import Client, errors

DAY = 86_400
# A library that stands in for the system's clocks breaks short sleeps; what the server knows of the
# time of day it has from here.
SERVER = """
import pathlib, sys, time
now, clock = time.time, pathlib.Path({!r})
time.time = lambda: now() + float(clock.read_text() or 0)
from server.__main__ import main
sys.exit(main())
"""


class Clock:
    """The time of day of one server, which a test sets."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.jump(0)
        self.code = SERVER.format(str(self._file))

    def jump(self, seconds: float) -> None:
        """From now on it is so many seconds later than it is."""
        self._file.write_text(f"{seconds:g}")


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_while_a_server_runs_no_jump_ends_a_session_or_keeps_it(
    small: SmallModel, tmp_path: Path, jump: float
) -> None:
    clock = Clock(tmp_path)

    async def play() -> None:
        async with walking(service.address, small.weights, 5) as walks:
            await step_all(walks, 5)
            clock.jump(jump)
            opened = (await walks[0].session.info()).opened_at.timestamp()
            assert abs(opened - time.time()) < DAY / 2
            for _ in range(4):  # looks for idle sessions pass meanwhile
                await asyncio.sleep(0.5)
                await step_all(walks, 5)
            clock.jump(0)
            await step_all(walks, 5)
            assert await check_all(walks) == (0, 0)
            clock.jump(jump)
            await until(lambda: not service.running.metric("tidegate_sessions_live"))
            with pytest.raises(errors.SessionExpired):
                await walks[0].step()

    flags = (*on_sqlite(tmp_path / "data"), "--session-ttl", "3")
    with serving(small.repository, *flags, code=clock.code) as service:
        asyncio.run(play())


def test_over_a_restart_a_session_is_as_old_as_the_time_of_day_says(
    small: SmallModel, tmp_path: Path
) -> None:
    """Set back, nobody grows older by it; set on by more than the time to live, all expire."""
    clock = Clock(tmp_path)

    async def play() -> None:
        async with walking(service.address, small.weights, 5) as walks:
            for jump in (-DAY, 0.0, 1800.0, -DAY):
                await step_all(walks, 5)
                await all_stored(walks)
                await asyncio.to_thread(service.kill)
                clock.jump(jump)
                await asyncio.to_thread(service.start)
            await step_all(walks, 5)
            assert await check_all(walks) == (0, 0)
            await all_stored(walks)
            await asyncio.to_thread(service.kill)
            clock.jump(DAY)
            await asyncio.to_thread(service.start)
            async with Client(service.address, PATIENT) as client:
                session = client.session("small", "walk-0", keep=True)
                await session.open()
                assert (session.created, session.steps) == (True, 0)

    flags = (*on_sqlite(tmp_path / "data"), "--session-ttl", "90000")
    with serving(small.repository, *flags, code=clock.code) as service:
        asyncio.run(play())


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_server_whose_clock_is_not_redis_s_keeps_its_sessions(
    small: SmallModel, tmp_path: Path, redis: RedisServer, jump: float
) -> None:
    clock = Clock(tmp_path)
    clock.jump(jump)

    async def play() -> None:
        async with walking(service.address, small.weights, 5) as walks:
            await step_all(walks, 5)
            await all_stored(walks)
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            infos = [await each.session.info() for each in walks]
            assert {each.steps for each in infos} == {5}
            await step_all(walks, 5)
            assert await check_all(walks) == (0, 0)

    flags = (*on_redis(redis.url), "--session-ttl", "60")
    with serving(small.repository, *flags, code=clock.code) as service:
        asyncio.run(play())
