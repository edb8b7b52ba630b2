"""A stream on the event loop, with a caller made up: however early it is told to end, it does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.errors import Draining
from server.transport.rpcs.stream import Stream, Streams


class Silent:
    """A caller that sends nothing."""

    async def read(self) -> Any:
        await asyncio.Event().wait()


class Echo(Stream[str]):
    """Would answer what it reads."""

    async def handle(self, message: str) -> None:
        self.outbox.put_nowait(message)

    async def reply(self, waiting: str) -> str:
        return waiting

    def read_all(self) -> None:
        self.outbox.put_nowait(None)

    def drop(self) -> None:
        pass


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
def test_a_stream_ends_however_young_it_is_when_the_server_drains(turns: int) -> None:
    """Once one whose reader had not begun yet waited for it for ever."""

    async def drain() -> None:
        streams = Streams()
        serving = asyncio.create_task(streams.serve(Echo(Silent(), 4)))  # type: ignore[arg-type]
        for _ in range(turns):
            await asyncio.sleep(0)
        streams.drain()
        with pytest.raises(Draining):
            await asyncio.wait_for(serving, 20)
        assert not len(streams)

    asyncio.run(drain())
