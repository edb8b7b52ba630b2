"""Rpcs that are coroutines, for calls of the loop: all that waits for something, but for steps.

A call gets a task of the event loop, once its message is there if it has but one, and a context
that does what grpc.aio's does for them. What the task awaits, the loop's thread brings; each way
costs a wake-up, which none of these calls is too frequent for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from server.errors import NoMessage
from server.serving.model import ServedModel
from server.transport.http2.call import Call
from server.transport.http2.headers import Metadata
from server.transport.http2.loop import Loop
from server.transport.native.tallies import Tallies
from server.transport.rpcs.calls import Handler, about

log = logging.getLogger(__name__)

MOST_BEGINNING = 16
INTERNAL: Final[tuple[int, str]] = (
    grpc.StatusCode.INTERNAL.value[0],
    "internal error; the server's log has the details",
)
INVALID: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Context:
    """A call as its coroutine sees it: those of grpc.aio's methods that ours use."""

    def __init__(self, bridge: Bridge, call: Call, handler: Handler) -> None:
        self._bridge, self._call = bridge, call
        self.model: ServedModel | None = None
        """Which it steps, if any."""
        self._parse: Callable[[bytes], Any] = handler.request_deserializer or bytes
        self._pack: Callable[[Any], bytes] = handler.response_serializer or bytes

    def steps(self, model: ServedModel) -> None:
        """As `calls.Knows`."""
        self.model = model

    def invocation_metadata(self) -> Metadata:
        """The call's headers."""
        return self._call.metadata

    def peer(self) -> str:
        """Where it comes from."""
        host, port, *_ = self._call.connection.peer
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def time_remaining(self) -> float | None:
        """Seconds until its deadline, if it has one."""
        return self._call.remaining

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Metadata = (),
    ) -> NoReturn:
        """End the call with a status."""
        self._call.post(lambda: self._call.end(code.value[0], details, trailing_metadata))
        raise grpc.aio.AbortError

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        packed = await self._bridge.message(self._call)
        return grpc.aio.EOF if packed is None else self._parse(packed)

    async def write(self, message: Any) -> None:
        """Send a message."""
        packed = self._pack(message)
        await self._bridge.sent(self._call, packed)

    async def messages(self) -> AsyncIterator[Any]:
        """Every message that comes."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


class Bridge:
    """Runs handlers' coroutines on the event loop; made in its thread.

    Args:
        tallies: where calls are counted by model, by method.
    """

    def __init__(self, tallies: Mapping[str, Tallies]) -> None:
        self._tallies = tallies
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Call, Handler, bytes | None]] = deque()
        self._beginning = 0  # handed over, and not yet begun to wait for something

    @property
    def waits(self) -> bool:
        """Whether calls are yet to begin; any thread may ask."""
        return bool(self._waiting or self._beginning)

    def serve(self, call: Call, handler: Handler, packed: bytes | None = None) -> None:
        """Serve a call from the loop's thread; `packed` is its message, if that was read."""
        if packed is not None or handler.request_streaming:
            self._serve(call, handler, packed)
        else:
            with_message(call, lambda packed: self._serve(call, handler, packed))

    def _serve(self, call: Call, handler: Handler, packed: bytes | None) -> None:
        call.lend()  # a task that is cancelled may hold what it has for a while
        self._waiting.append((call, handler, packed))
        self._hand_over()

    def _hand_over(self) -> None:
        """Few at a time: what the event loop does at a stretch, steps wait for, since there is one
        interpreter; and who has given up meanwhile costs it nothing."""
        while self._waiting and self._beginning < MOST_BEGINNING:
            self._beginning += 1  # first: `waits` must never miss it
            call, handler, packed = self._waiting.popleft()
            if call.over:
                self._beginning -= 1
                call.take_back()
            else:
                self._soon(self._start, call, handler, packed)

    def message(self, call: Call) -> asyncio.Future[bytes | None]:
        """The call's next message; to be called on the event loop, as `sent` is."""
        come, settle = self._awaited()
        call.post(lambda: call.receive(settle))
        return come

    def sent(self, call: Call, packed: bytes) -> asyncio.Future[None]:
        """Done once the message has left."""
        left, settle = self._awaited()
        call.post(lambda: call.send(packed, then=lambda: settle(None)))
        return left

    def turn(self, loop: Loop) -> asyncio.Future[None]:
        """Done once the loop's thread has done all that was posted to it before."""
        turned, settle = self._awaited()
        loop.post(lambda: settle(None))
        return turned

    def _awaited(self) -> tuple[asyncio.Future[Any], Callable[[Any], None]]:
        """Something that the loop's thread brings, and how."""
        done: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any) -> None:
            if not done.done():
                done.set_result(result)

        return done, lambda result: self._soon(settle, result)

    def _soon(self, work: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(work, *arguments)
        except RuntimeError:
            log.debug("a call outlives the event loop")

    def _start(self, call: Call, handler: Handler, packed: bytes | None) -> None:
        task = self._loop.create_task(self._run(call, handler, packed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: call.post(call.take_back))
        self._loop.call_soon(call.post, lambda: self._begun(call, task))  # after its first leg

    def _begun(self, call: Call, task: asyncio.Task[None]) -> None:
        """There is room for another; this one is cancelled with its call."""
        self._beginning -= 1
        self._hand_over()
        if task.done():
            return
        if call.over:
            self._soon(task.cancel)
        else:
            call.watch(lambda: self._soon(task.cancel))

    async def _run(self, call: Call, handler: Handler, packed: bytes | None) -> None:
        context = Context(self, call, handler)
        try:
            await self._answer(context, call, handler, packed)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            pass  # the caller has gone, or has been told
        except DecodeError as error:  # of services that are not ours: their messages
            refusal = NoMessage(error)
            call.post(lambda: call.refuse(refusal))
        except Exception:
            log.exception("a call failed unexpectedly", extra=about(call.metadata))
            call.post(lambda: call.end(*INTERNAL))

    async def _answer(
        self, context: Context, call: Call, handler: Handler, packed: bytes | None
    ) -> None:
        if handler.stream_stream is not None:
            await _all(handler.stream_stream, context.messages(), context)
            call.post(call.end)
            return
        assert packed is not None
        request = (handler.request_deserializer or bytes)(packed)
        if handler.unary_stream is not None:
            await _all(handler.unary_stream, request, context)
            call.post(call.end)
        else:
            behaviour: Any = handler.unary_unary
            reply = await behaviour(request, context)
            answer = (handler.response_serializer or bytes)(reply)
            call.post(lambda: self._end(call, context.model, answer))

    def _end(self, call: Call, model: ServedModel | None, answer: bytes) -> None:
        """Answer a call, in the loop's thread."""
        if model is not None and (tallies := self._tallies.get(call.method)) is not None:
            call.tally = tallies.of(model)
        call.answer(answer)


def with_message(call: Call, take: Callable[[bytes], object]) -> None:
    """Have `take` called with a call's one message; a call that has none is ended."""

    def come(packed: bytes | None) -> None:
        if packed is None:
            call.end(INVALID, "the call has no message")
        else:
            take(packed)

    call.receive(come)


async def _all(behaviour: Callable[..., Any], requests: Any, context: Context) -> None:
    """Run a handler that writes by itself, or yields what is to be written."""
    result = behaviour(requests, context)
    if inspect.isasyncgen(result):
        async for message in result:
            await context.write(message)
    else:
        await result
