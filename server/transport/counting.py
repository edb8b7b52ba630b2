"""Counts calls over grpc.aio, as the native transport's loop counts its own."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from server.transport.http2.tally import Method
from server.transport.methods import Methods
from server.transport.rpcs.calls import Handler

UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]
CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]
UNIMPLEMENTED: int = grpc.StatusCode.UNIMPLEMENTED.value[0]


class Counting(grpc.aio.ServerInterceptor):
    """Puts a count around every handler."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler that serves the call."""
        handler = await continuation(details)
        if handler is None:
            unknown = self._methods.unknown
            unknown.started += 1
            _end(unknown, UNIMPLEMENTED, 0.0)
            return None
        return _counted(handler, self._methods[details.method])


def _counted(handler: Handler, method: Method) -> Handler:
    makers = {
        "unary_unary": grpc.unary_unary_rpc_method_handler,
        "unary_stream": grpc.unary_stream_rpc_method_handler,
        "stream_unary": grpc.stream_unary_rpc_method_handler,
        "stream_stream": grpc.stream_stream_rpc_method_handler,
    }
    for name, make in makers.items():
        if (behaviour := getattr(handler, name)) is not None:
            kept = handler.request_deserializer, handler.response_serializer
            made: Handler = make(_around(behaviour, method), *kept)
            return made
    return handler


def _around(behaviour: Any, method: Method) -> Any:
    if inspect.isasyncgenfunction(behaviour):

        async def yields(request: Any, context: Any) -> AsyncIterator[Any]:
            with _counting(method, context):
                async for reply in behaviour(request, context):
                    yield reply

        return yields

    async def answers(request: Any, context: Any) -> Any:
        with _counting(method, context):
            return await behaviour(request, context)

    return answers


@contextmanager
def _counting(method: Method, context: Any) -> Iterator[None]:
    """Count a call, however it ends."""
    method.started += 1
    began, code = time.monotonic(), 0
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        code = CANCELLED
        raise
    except BaseException:
        code = _number(context.code()) or UNKNOWN
        raise
    finally:
        _end(method, code, time.monotonic() - began)


def _number(code: Any) -> int:
    """A context tells its code as a number or by name, if at all."""
    number: int = code.value[0] if isinstance(code, grpc.StatusCode) else (code or 0)
    return number


def _end(method: Method, code: int, seconds: float) -> None:
    method.seconds.observe(seconds)
    method.ended[code] = method.ended.get(code, 0) + 1
