"""The life of a bidirectional stream: messages in, a reply for each out, several under way at once.

Reading pauses while too many messages are unanswered, so that HTTP/2 holds a fast sender back.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import grpc

from server.errors import Draining
from server.transport.rpcs.calls import Context, read, write

Waiting = TypeVar("Waiting")


class Streams:
    """The streams of a service, all of which end when it drains."""

    def __init__(self) -> None:
        self._open: set[Stream[Any]] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, stream: Stream[Any]) -> None:
        """Serve a stream to its end. Raises as `Stream.run`."""
        self._open.add(stream)
        if self._draining:
            stream.drain()
        try:
            await stream.run()
        finally:
            self._open.discard(stream)

    def drain(self) -> None:
        """End every stream once what it has read is answered."""
        self._draining = True
        for stream in list(self._open):
            stream.drain()


class Stream(ABC, Generic[Waiting]):
    """One stream, from its first message to its last reply.

    A subclass handles messages as they come, and puts what becomes of them into `outbox`; None, at
    last, says that nothing more will come.
    """

    def __init__(self, context: Context, inflight: int) -> None:
        self.context = context
        self.outbox: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(inflight)
        self._draining = False
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the stream until the caller has closed its side and every message is answered.

        Raises:
            ServingError: a message that the stream cannot go on from, or the server drains.
        """
        self._reader = asyncio.create_task(self._read())
        # Not in the task itself: one that is cancelled before it has begun never gets there.
        self._reader.add_done_callback(lambda _: self.read_all())
        try:
            while (waiting := await self.outbox.get()) is not None:
                await write(self.context, await self.reply(waiting))
                self._room.release()
            if self._draining:
                raise Draining
            await self._reader
        finally:
            self._reader.cancel()
            self.drop()

    def drain(self) -> None:
        """Read no more; answer what was read, then end the stream."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    @abstractmethod
    async def handle(self, message: Any) -> None:
        """Take in a message."""

    @abstractmethod
    async def reply(self, waiting: Waiting) -> Any:
        """The reply to be written."""

    @abstractmethod
    def read_all(self) -> None:
        """No more messages will come."""

    @abstractmethod
    def drop(self) -> None:
        """The stream is over: what is not answered yet must not run."""

    async def _read(self) -> None:
        while not self._draining:
            await self._room.acquire()
            message = await read(self.context)
            if message is grpc.aio.EOF:
                break
            await self.handle(message)
