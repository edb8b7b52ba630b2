"""Rpcs that wait for nothing, answered where they arrive: descriptions of what is served.

Over the bridge each would wake the event loop, whose thread then contends with the steps for the
interpreter; here it takes its connection's turn among theirs.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from server.transport.http2.call import Call
from server.transport.native.bridge import INTERNAL, Bridge, Context, with_message
from server.transport.rpcs.calls import Handler, about

log = logging.getLogger(__name__)


class Prompt:
    """Answers a unary method's calls in the loop's thread; its coroutine must never wait."""

    def __init__(self, bridge: Bridge, handler: Handler) -> None:
        self._bridge, self._handler = bridge, handler
        self._work: Any = handler.unary_unary
        self._pack: Callable[[Any], bytes] = handler.response_serializer or bytes

    def begin(self, call: Call) -> None:
        """A call has come; its message follows."""
        with_message(call, lambda packed: self._take(call, packed))

    def _take(self, call: Call, packed: bytes) -> None:
        try:
            work = self._work(packed, Context(self._bridge, call, self._handler))
            reply = contextvars.copy_context().run(_through, work)  # whose caller is set in there
            call.answer(self._pack(reply))
        except grpc.aio.AbortError:
            pass  # the caller has been told
        except Exception:
            log.exception("a call failed unexpectedly", extra=about(call.metadata))
            call.end(*INTERNAL)


def _through(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine comes to that does not wait."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("an rpc waits that is to wait for nothing")
