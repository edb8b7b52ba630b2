"""What every call on the event loop needs: errors told, numbers bounded, long work in turns."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import grpc
from google.protobuf.message import DecodeError

from server.access.caller import CALLER, Caller
from server.api import scope
from server.api.errors import trailing, words
from server.errors import Internal, NoMessage, ServingError, TooManyCalls
from server.serving.model import ServedModel

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

Note = Callable[[Context, Any, Any, str], None]
"""Takes note of a call that is over: its context, its request, its reply (None where it failed) and
the outcome: OK, CANCELLED, or a reason."""

REQUEST_ID, LONGEST_ID = "x-request-id", 128
CANCELLED = "CANCELLED"
TURN_SECONDS = 0.005
LEAST_DELAY, LONGEST_DELAY = 0.02, 1.0


class CallerGone(Exception):
    """A stream's caller has left while it was being answered."""


@runtime_checkable
class Knows(Protocol):
    """The context of a transport that counts by model."""

    def steps(self, model: ServedModel, /) -> None:
        """The call steps this model."""


def tell(context: Context, model: ServedModel) -> None:
    """Tell the transport which model a call steps, if it asks."""
    if isinstance(context, Knows):
        context.steps(model)


async def abort(context: Context, error: ServingError) -> None:
    """End the call with the error's status and details."""
    await context.abort(grpc.StatusCode[error.code], words(error), trailing(error))


async def read(context: Context) -> Any:
    """A stream's next message, or grpc.aio.EOF.

    Raises:
        NoMessage: what came is no such message; the stream cannot go on.
    """
    try:
        return await context.read()
    except DecodeError as error:
        raise NoMessage(error) from error


async def write(context: Context, message: Any) -> None:
    """Send a stream's message.

    Raises:
        CallerGone: nobody is there to get it.
    """
    try:
        await context.write(message)
    except grpc.aio.InternalError as error:  # as grpc.aio tells of it
        raise CallerGone from error


def about(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """What a record about a call says of it besides: the id that its caller gave, if it is one."""
    for name, value in metadata or ():
        if name == REQUEST_ID and isinstance(value, str):
            good = 1 <= len(value) <= LONGEST_ID and value.isascii() and value.isprintable()
            return {"request_id": value} if good else {}
    return {}


def unary(
    call: Callable[[Any, Context], Awaitable[Any]],
    parse: Callable[[bytes], Any],
    gate: Gate | None,
    count: Callable[[ServingError, Any], None],
    enter: Callable[[Context], Caller | None],
    note: Note | None = None,
) -> Callable[[bytes, Context], Awaitable[Any]]:
    """The handler of a unary call that gets its request's bytes and raises what it cannot do.

    Args:
        parse: bytes to the request; what is none is told in our own words.
        gate: bounds the calls under way.
        count: takes note of a failure, with the request, or None where it was none.
        enter: whose call it is, if that is asked for; raises why it may not be made.
        note: takes note of every call whose request was one.
    """

    async def run(caller: Caller | None, request: Any, context: Context) -> Any:
        if gate is None:
            return await call(request, context)
        started = gate.enter()
        try:
            return await _for(caller, call, request, context)
        finally:
            gate.leave(started)

    async def noted(caller: Caller | None, request: Any, context: Context) -> Any:
        reply, outcome = None, CANCELLED
        try:
            reply = await run(caller, request, context)
            outcome = "OK"
        except ServingError as error:
            outcome = error.reason
            raise
        except Exception:
            outcome = Internal.reason
            raise
        finally:
            assert note is not None
            note(context, request, reply, outcome)
        return reply

    work = run if note is None else noted

    async def answer(packed: bytes, context: Context) -> Any:
        request = None
        try:
            caller = enter(context)
            request = parse(packed)
            return await work(caller, request, context)
        except ServingError as error:
            # Its traceback holds this frame, and with it the request, until they are collected.
            failure = error.with_traceback(None)
        except DecodeError as error:
            failure = NoMessage(error)
        except Exception:
            log.exception("a call failed unexpectedly", extra=about(context.invocation_metadata()))
            failure = Internal()
        count(failure, request)
        return await abort(context, failure)

    return answer


async def _for(
    caller: Caller | None,
    call: Callable[[Any, Context], Awaitable[Any]],
    request: Any,
    context: Context,
) -> Any:
    """Serve a call in the names that its caller gives to sessions."""
    if caller is None:
        return await call(request, context)
    CALLER.set(caller)
    scope.admit(caller, request)
    reply = await call(request, context)
    scope.release(caller, reply)
    return reply


@asynccontextmanager
async def translated(
    context: Context, count: Callable[[ServingError], None]
) -> AsyncIterator[None]:
    """Turn a typed error raised inside into a stream's end, the unexpected into INTERNAL; either is
    counted."""
    try:
        yield
    except ServingError as error:
        count(error)
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except CallerGone:
        log.debug("a caller left its stream")
    except Exception:
        log.exception("a call failed unexpectedly", extra=about(context.invocation_metadata()))
        count(Internal())
        await abort(context, Internal())


async def in_turns(work: Generator[None, None, T]) -> T:
    """The result of work that yields now and then: others get their turn of the event loop there,
    once it has taken five milliseconds."""
    until = time.monotonic() + TURN_SECONDS
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + TURN_SECONDS


class Gate:
    """Bounds the unary calls under way, in whatever threads. gRPC itself would cancel those past
    its own limits, without a word of when to come again."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self.under_way = 0
        self._seconds = 0.0  # that a call takes, of late

    def enter(self) -> float:
        """A call begins; returns what `leave` needs.

        Raises:
            TooManyCalls: as many as may be are under way already.
        """
        with self._lock:
            if self.under_way < self._limit:
                self.under_way += 1
                return time.monotonic()
        # About as long as it takes until those under way are through.
        raise TooManyCalls(self._limit, min(LONGEST_DELAY, max(LEAST_DELAY, self._seconds)))

    def leave(self, entered: float) -> None:
        """The call is over."""
        with self._lock:
            self.under_way -= 1
            self._seconds += 0.05 * (time.monotonic() - entered - self._seconds)
