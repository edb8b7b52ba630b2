"""The steps of one model version's sessions over one `StepStream`, coalesced.

While messages are in flight the next one gathers; an idle stream sends at once, so there is no
timer. A broken stream is opened again, and what was not answered goes out again under the same
numbers: the server answers from memory what it had applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
from grpc import aio

from tidegate import errors
from tidegate.backlog import Backlog
from tidegate.block import Block, ManySteps, Part
from tidegate.errors import TidegateError
from tidegate.lanes import Lanes
from tidegate.message import Message
from tidegate.model import Model
from tidegate.options import ClientOptions
from tidegate.outbox import Outbox, timeout_us
from tidegate.packing import WIRE
from tidegate.replies import Settler
from tidegate.row import Row
from tidegate.v1 import tidegate_pb2 as pb

Call = Any  # grpc.aio.StreamStreamCall
WATCH_SECONDS = 0.25
PARTING_SECONDS = 0.5
# How gRPC tells that a connection broke, where no Tidegate server speaks.
BREAKS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
)


class Stream:
    """Carries rows and blocks, inside one event loop."""

    def __init__(self, open_call: Callable[[], Call], model: Model, options: ClientOptions) -> None:
        limits = options.coalescing
        self.model, self.lanes = model, Lanes()
        self.backlog = Backlog(limits, len(model.features) * WIRE.itemsize)
        self._open_call, self._retry, self._most = open_call, options.retry, limits.in_flight
        self._outbox = Outbox(self.lanes, limits.message_steps, limits.message_bytes)
        self._settler = Settler(
            model, self.lanes, self._later, self._outbox.shrink_steps, options.retry
        )
        self._in_flight: dict[int, Message] = {}
        self._held: dict[asyncio.TimerHandle, tuple[Sequence[Row], Sequence[Part]]] = {}
        self._sent = self._failures = 0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._run()), self._loop.create_task(self._watch())]

    def offer(self, row: Row) -> None:
        """Send a track's first row as soon as there is room on the wire."""
        self._outbox.rows.append(row)
        self._wake.set()

    async def carry(self, block: Block) -> ManySteps:
        """Send a block, in as many messages as it takes, and wait for its answers."""
        steps = min(len(block.session_ids) * block.steps, self.backlog.limit)
        if not steps:
            return block.answer()
        await self.backlog.room(steps)
        try:
            self._outbox.parts.append(block.part(0, len(block.session_ids)))
            self._wake.set()
            return await block.done
        finally:
            self.backlog.free(steps)

    async def close(self) -> None:
        """End the connection; what is not answered fails."""
        self._fail(errors.Cancelled("the client was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._due()
            try:
                await self._converse()
            except aio.AioRpcError as error:
                await self._broken(errors.from_rpc(error))
            else:
                await self._broken(errors.Unavailable("the server ended the stream"))

    async def _converse(self) -> None:
        """One connection, until it breaks.

        Raises:
            AioRpcError: how it broke.
        """
        call = self._open_call()
        reader = self._loop.create_task(self._read(call))
        try:
            with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # the reader knows why
                while await self._due(reader):
                    await self._write(call)
            await reader
        finally:
            await self._part(call, reader)

    async def _part(self, call: Call, reader: asyncio.Task[None]) -> None:
        """Say good-bye where the other side still listens, so that nothing of the call is left."""
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):
            await call.done_writing()
        await asyncio.wait([reader], timeout=PARTING_SECONDS)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        call.cancel()

    async def _due(self, reader: asyncio.Task[None] | None = None) -> bool:
        """Wait until there is something to send and room for it on the wire; False once nobody
        reads any more."""
        while not self._outbox or len(self._in_flight) >= self._most:
            if reader is not None and reader.done():
                return False
            self._wake.clear()
            await self._wake.wait()
        return reader is None or not reader.done()

    async def _write(self, call: Call) -> None:
        message = self._outbox.gather()
        if message is None:
            return
        number, self._sent = self._sent, self._sent + 1
        batch = message.encode(number, self.lanes)
        batch.model, batch.version = self.model.name, self.model.version
        batch.timeout_us = timeout_us(message.expiry)
        self._in_flight[number] = message
        await call.write(batch)

    async def _read(self, call: Call) -> None:
        try:
            while (reply := await call.read()) is not aio.EOF:
                self._failures = 0
                self._settle(reply)
        finally:
            self._wake.set()

    def _settle(self, reply: pb.StepBatchReply) -> None:
        message = self._in_flight.pop(reply.id, None)
        if self._outbox:
            self._wake.set()
        if message is None:  # given up while the client was being closed
            return
        try:
            self._settler.settle(message, reply)
        except errors.Internal as error:
            self._fail_message(message, error)

    async def _broken(self, error: TidegateError) -> None:
        """The connection is lost: send again what was not answered, after a pause, or give up."""
        self.lanes.forget()
        self._put_back(error)
        if isinstance(error, errors.MessageTooLarge):
            return  # smaller ones go at once
        self._failures += 1
        if not _passes(error) or self._failures >= self._retry.attempts:
            self._fail(error)
            self._failures = 0
        elif self._outbox:
            await asyncio.sleep(self._retry.pause(self._failures))

    def _put_back(self, error: TidegateError) -> None:
        messages = list(self._in_flight.values())
        self._in_flight.clear()
        if isinstance(error, errors.MessageTooLarge) and messages:
            self._shrink(max(messages, key=lambda message: message.size), error)
        for message in reversed(messages):
            self._outbox.put_back([*message.probes, *message.rows], message.parts)

    def _shrink(self, largest: Message, error: TidegateError) -> None:
        """A limit on the way is lower than ours: keep to half of what did not pass."""
        if len(largest.rows) + sum(map(len, largest.parts)) > 1:
            self._outbox.message_bytes = largest.size // 2
        elif largest.rows and str(error).startswith("SERVER:"):  # so it has not been read at all
            largest.rows[0].track.refused(largest.rows.pop(), error)
        else:
            self._fail_message(largest, error)

    def _fail_message(self, message: Message, error: TidegateError) -> None:
        for row in message.rows:
            row.track.failed(error)
        for part in message.parts:
            part.failed(error)
        message.rows, message.parts = [], []

    def _fail(self, error: TidegateError) -> None:
        """Nothing that waits will be answered."""
        left = [self._outbox.clear(), *self._held.values()]
        left += [(each.rows + each.probes, each.parts) for each in self._in_flight.values()]
        for timer in self._held:
            timer.cancel()
        self._held.clear()
        self._in_flight.clear()
        for rows, parts in left:
            for row in rows:
                row.track.failed(error)
            for part in parts:
                part.failed(error)

    def _later(self, seconds: float, rows: Sequence[Row], parts: Sequence[Part]) -> None:
        """Send rows and parts again after a pause."""

        def again() -> None:
            del self._held[timer]
            self._outbox.put_back(rows, parts)
            self._wake.set()

        timer = self._loop.call_later(seconds, again)
        self._held[timer] = rows, parts

    async def _watch(self) -> None:
        """End the waiting of callers whose time is over, often enough for the usual timeout."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = self._loop.time()
            error = errors.DeadlineExceeded("no reply within the timeout")
            for rows, parts in self._outstanding():
                for row in rows:
                    row.track.expire(now, error)
                for part in parts:
                    part.owner.expire(now, error)

    def _outstanding(self) -> list[tuple[Sequence[Row], Sequence[Part]]]:
        left: list[tuple[Sequence[Row], Sequence[Part]]] = list(self._held.values())
        left += [(m.rows + m.probes, m.parts) for m in self._in_flight.values()]
        return [*left, (self._outbox.rows, self._outbox.parts)]


def _passes(error: TidegateError) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, errors.Unavailable):
        return True
    return error.detail is None and error.code in BREAKS
