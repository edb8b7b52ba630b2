"""The steps of one model version's sessions, those of one shard, over one `StepStream`, coalesced.

While messages are in flight the next one gathers; an idle stream sends at once, so there is no
timer. A broken stream is opened again, and what was not answered goes out again under the same
numbers: the server answers from memory what it had applied.

Nobody waits for ever: whatever fails in here ends every waiter with an error, and the next call
starts anew.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc import aio

from tidegate import errors, wire
from tidegate._stream.kept import Keeping
from tidegate._stream.message import Block, LaneNames, Message, Share
from tidegate._stream.outbox import Backlog, Outbox, timeout_us
from tidegate._stream.replies import Settler
from tidegate._stream.rows import Row, Stage
from tidegate.errors import TidegateError
from tidegate.model import ManySteps, Model
from tidegate.options import ClientOptions
from tidegate.v1 import tidegate_pb2 as pb

Call = Any  # grpc.aio.StreamStreamCall
WATCH_SECONDS = 0.25
PARTING_SECONDS = 0.5
ASKING_SECONDS = 1.0
LEAST_AGE = 1.0  # seconds that a connection is kept which its server would rather not serve
# How gRPC tells that a connection broke, where no Tidegate server speaks.
BREAKS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
)
NO_ROOM = "no room for more steps within the timeout"


class Stream:
    """Carries rows and blocks, inside one event loop."""

    def __init__(
        self,
        open_call: Callable[[], Call],
        model: Model,
        options: ClientOptions,
        backlog: Backlog,
        keeping: Keeping,
    ) -> None:
        limits = options.coalescing
        self.model, self.lanes = model, LaneNames()
        self.backlog, self.keeping = backlog, keeping
        self._open_call, self._retry, self._most = open_call, options.retry, limits.in_flight
        steps = min(limits.message_steps, wire.MAX_OPENS)  # each may need its lane named
        self._outbox = Outbox(self.lanes, steps, limits.message_bytes)
        self._settler = Settler(
            model, self.lanes, self._later, self._outbox.shrink_steps, self._renew, self._retire,
            keeping, options.retry,
        )  # fmt: skip
        self._call: Call | None = None
        self._in_flight: dict[int, Message] = {}
        self._held: dict[asyncio.TimerHandle, tuple[Sequence[Row], Sequence[Share]]] = {}
        self._sent = self._failures = 0
        self._heard = False  # whether the server has answered on the present connection
        self._asking = False  # whether the present connection is to tell how the last ended
        self.breaks = 0
        """How many connections broke, or were given up."""
        self._age, self._began, self._ends_at = options.stream_age, -math.inf, math.inf
        self._renews_at = -math.inf  # when another server was looked for at last, or will be
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._idle, self._closed = True, False

    def offer(self, row: Row) -> None:
        """Send a course's first row as soon as there is room on the wire."""
        self._outbox.rows.append(row)
        self._wake.set()
        if self._idle:
            self._start()

    async def carry(self, block: Block) -> ManySteps:
        """Send a block, in as many messages as it takes, and wait for its answers."""
        shares = list(block.shares())
        if not shares:
            return block.answer()
        try:
            async with asyncio.timeout_at(block.expiry):
                steps = await self.backlog.room(sum(share.steps for share in shares))
        except TimeoutError:
            raise errors.DeadlineExceeded(NO_ROOM) from None
        try:
            self._outbox.shares.extend(shares)
            self._wake.set()
            if self._idle:
                self._start()
            return await block.done
        finally:
            self.backlog.free(steps)

    async def close(self) -> None:
        """End the connection; what is not answered fails, and so does what comes after."""
        self._closed, self._idle = True, True
        tasks, self._tasks = self._tasks, []
        self._fail(errors.Cancelled("the client was closed"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        """Begin to work, at the first call or where the tasks were cancelled by somebody else."""
        if self._closed:
            self._fail(errors.Cancelled("the client was closed"))
            return
        self._idle = False
        self._tasks = [self._loop.create_task(self._run()), self._loop.create_task(self._watch())]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody but `close` ends a task; if it was, say, a program that cancels all there are,
        the next call starts new ones."""
        if task in self._tasks:
            tasks, self._tasks, self._idle = self._tasks, [], True
            for each in tasks:
                each.cancel()
            self._fail(errors.Cancelled("the client's tasks were cancelled"))

    async def _run(self) -> None:
        while True:
            try:
                await self._due()
                if (error := await self._converse()) is not None:
                    await self._broken(error)
            except Exception as error:  # a fault of ours: tell everybody, and go on with a new call
                self.lanes.forget()
                self._fail(error if isinstance(error, TidegateError) else errors.internal(error))
                await asyncio.sleep(self._retry.pause(1))

    async def _converse(self) -> TidegateError | None:
        """One connection, until it breaks; returns how it broke. None: it was old, and all that
        went over it is answered."""
        call = self._call = self._open_call()
        self._heard, self._began = False, self._loop.time()
        self._ends_at = self._end()
        reader = self._loop.create_task(self._read(call))
        try:
            try:
                if self._asking:  # what is not written to can tell why it ends
                    await asyncio.wait([reader], timeout=ASKING_SECONDS)
                while await self._due(reader):
                    if self._old:
                        self.breaks += 1  # by now the sessions may be elsewhere, or not
                        self.lanes.forget()
                        return None
                    await self._write(call)
            except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
                pass  # the reader knows why
            except asyncio.CancelledError:
                if _cancelling():
                    raise  # else so gRPC says that the call ended with CANCELLED
            return await reader
        finally:
            await self._part(call, reader)

    async def _part(self, call: Call, reader: asyncio.Task[TidegateError]) -> None:
        """Say good-bye where the other side still listens, so that nothing of the call is left."""
        try:
            await call.done_writing()
        except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
            pass  # InternalError: it has just ended, and gRPC had not told yet
        except asyncio.CancelledError:
            if _cancelling():
                call.cancel()
                reader.cancel()
                raise
        await asyncio.wait([reader], timeout=PARTING_SECONDS)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        call.cancel()

    async def _due(self, reader: asyncio.Task[TidegateError] | None = None) -> bool:
        """Wait until there is something to send and room for it on the wire; False once nobody
        reads any more."""
        while not self._outbox or len(self._in_flight) >= self._room:
            if reader is not None and reader.done():
                return False
            self._wake.clear()
            await self._wake.wait()
        return reader is None or not reader.done()

    @property
    def _room(self) -> int:
        """Messages that may be under way: one, until the server has answered on this connection.
        Where a stream ends while it is written to, grpc.aio does not tell its status. An old
        connection takes no more beside those under way."""
        return 1 if self._old or not self._heard else self._most

    @property
    def _old(self) -> bool:
        """Whether to go over to another connection; each carries something at least."""
        return self._heard and self._loop.time() >= self._ends_at

    def _end(self) -> float:
        """When the connection that begins now is old: not all clients' together."""
        return math.inf if self._age is None else self._began + self._age * random.uniform(0.5, 1.0)

    async def _write(self, call: Call) -> None:
        number, message = self._sent, Message()
        halve = not self._in_flight and self._room > 1
        self._sent += 1
        self._in_flight[number] = message  # before it is filled: whatever fails, it can be found
        if not self._outbox.fill(message, halve):
            del self._in_flight[number]
            return
        batch = message.encode(number, self.lanes)
        batch.model, batch.version = self.model.name, self.model.version
        batch.timeout_us = timeout_us(message.expiry)
        await call.write(batch)

    async def _read(self, call: Call) -> TidegateError:
        try:
            while (reply := await call.read()) is not aio.EOF:
                self._failures, self._heard, self._asking = 0, True, False
                self._settle(reply)
            return errors.Unavailable("the server ended the stream")
        except aio.AioRpcError as error:
            return errors.from_rpc(error)
        except asyncio.CancelledError:
            if _cancelling():
                raise
            return errors.Cancelled(await call.details() or "the stream was cancelled")
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
        except Exception as error:
            told = error if isinstance(error, errors.Internal) else errors.internal(error)
            self._fail_message(message, told)

    async def _broken(self, error: TidegateError) -> None:
        """The connection is lost: send again what was not answered, after a pause, or give up."""
        self.breaks += 1
        self.lanes.forget()
        self._put_back(error)
        self._asking = self._unexplained(error)
        if isinstance(error, errors.MessageTooLarge):
            return  # smaller ones go at once
        if self._asking:
            return
        self._failures += not isinstance(error, errors.Starting)
        if not self._passes(error):
            self._fail(error)
            self._failures = 0
        elif self._outbox:
            await asyncio.sleep(error.retry_after or self._retry.pause(max(1, self._failures)))

    def _unexplained(self, error: TidegateError) -> bool:
        """Whether a stream ended before anything was heard on it, and while it was written to, in
        which case grpc.aio does not tell why; another that only listens will know."""
        unread = isinstance(error, errors.EndedUnread) and not self._heard
        return unread and not self._asking

    def _passes(self, error: TidegateError) -> bool:
        """Whether another attempt may succeed. A server that starts is waited for while anybody
        waits."""
        if isinstance(error, errors.Starting):
            return self._retry.attempts > 1
        if isinstance(error, errors.Unauthenticated) and self._heard:
            return True  # a token has run out, after which there is another
        if self._failures >= self._retry.attempts:
            return False
        if isinstance(error, errors.Unavailable | errors.RetryLater):
            return True
        return error.detail is None and error.code in BREAKS

    def _put_back(self, error: TidegateError) -> None:
        messages = list(self._in_flight.values())
        self._in_flight.clear()
        if isinstance(error, errors.MessageTooLarge) and messages:
            self._shrink(max(messages, key=lambda message: message.size), error)
        for message in reversed(messages):
            self._outbox.put_back([*message.probes, *message.rows], message.shares)

    def _shrink(self, largest: Message, error: TidegateError) -> None:
        """A limit on the way is lower than ours: keep to half of what did not pass."""
        if len(largest.rows) + sum(map(len, largest.shares)) > 1:
            self._outbox.message_bytes = largest.size // 2
        elif largest.rows and str(error).startswith("SERVER:"):  # so it has not been read at all
            largest.rows[0].course.refused(largest.rows.pop(), error)
        else:
            self._fail_message(largest, error)

    def _fail_message(self, message: Message, error: TidegateError) -> None:
        for row in [*message.rows, *message.probes]:
            if row.stage <= Stage.SENT:  # else it was settled before what failed
                row.course.failed(error)
        for share in message.shares:
            share.failed(error)
        message.rows, message.shares, message.probes = [], [], []

    def _fail(self, error: TidegateError) -> None:
        """Nothing that waits will be answered."""
        left = [self._outbox.clear(), *self._held.values()]
        left += [(each.rows + each.probes, each.shares) for each in self._in_flight.values()]
        for timer in self._held:
            timer.cancel()
        self._held.clear()
        self._in_flight.clear()
        for rows, shares in left:
            for row in rows:
                row.course.failed(error)
            for share in shares:
                share.failed(error)

    def _later(self, seconds: float, rows: Sequence[Row], shares: Sequence[Share]) -> None:
        """Send rows and shares again after a pause."""

        def again() -> None:
            self._outbox.put_back(rows, shares)
            del self._held[timer]
            self._wake.set()

        timer = self._loop.call_later(seconds, again)
        self._held[timer] = rows, shares

    def _renew(self) -> float:
        """End the connection as if it had broken: what is not answered goes over another. Not again
        and again, since a proxy may take that for an attack; returns the seconds until then."""
        now = self._loop.time()
        if now >= self._renews_at + LEAST_AGE:
            if self._call is not None:
                self._renews_at = now
                self._call.cancel()
            return 0.0
        if now >= self._renews_at:
            self._renews_at += LEAST_AGE
        self._ends_at = min(self._ends_at, self._renews_at)
        return self._renews_at - now

    def _retire(self) -> None:
        """End the connection once everything under way is answered; not again and again, since
        with each the server is told all sessions anew."""
        self._ends_at = min(self._ends_at, self._began + LEAST_AGE)

    async def _watch(self) -> None:
        """End the waiting of callers whose time is over, often enough for the usual timeout."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                self._expire()
            except Exception as error:
                self._fail(errors.internal(error))

    def _expire(self) -> None:
        now = self._loop.time()
        error = errors.DeadlineExceeded("no reply within the timeout")
        for rows, shares in self._outstanding():
            for row in rows:
                row.course.expire(now, error)
            for share in shares:
                share.owner.expire(now, error)

    def _outstanding(self) -> list[tuple[Sequence[Row], Sequence[Share]]]:
        left: list[tuple[Sequence[Row], Sequence[Share]]] = list(self._held.values())
        left += [(m.rows + m.probes, m.shares) for m in self._in_flight.values()]
        return [*left, (self._outbox.rows, self._outbox.shares)]


def _cancelling() -> bool:
    """Whether a CancelledError is meant for this task, and is not gRPC's word for a call's end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
