"""gRPC's core, called without grpc.aio. This module alone knows grpcio's private interface.

A completion queue tells what has become of *operations* (receive a message, send one with its
status) that were begun on calls. Each is begun with a *tag*, which comes back with its outcome:
here the function to be called then. One thread, `Core`'s, takes outcomes off the queue and calls
them; operations may be begun in any thread. Every operation is an object of its own, made anew each
time: the core writes into it, and frees what is in it.

`grpc._cython.cygrpc` promises nobody anything, so grpcio is pinned exactly, and a test names what
of it has changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from grpc._cython import cygrpc  # type: ignore[attr-defined]

from server.api.errors import CODES, trailing, words
from server.errors import ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")

Event = Any
"""cygrpc's: `tag`, `success`, and what was received."""
Then = Callable[[Event], object]
Metadata = tuple[tuple[str, str | bytes], ...]

AWAITED: Final = 256
"""Calls that the core may hand out before it is asked for more; so many are met at once."""
AT_ONCE: Final = 512
"""Outcomes taken in a turn, so that none waits for ever for those that keep coming."""
OK: Final = cygrpc.StatusCode.ok
MORE: Final = cygrpc.WriteFlag.buffer_hint
NEVER: Final = 1e15  # a call without a deadline has one far beyond any

Receive, SendMessage = cygrpc.ReceiveMessageOperation, cygrpc.SendMessageOperation
SendMetadata, SendStatus = cygrpc.SendInitialMetadataOperation, cygrpc.SendStatusFromServerOperation
Closed = cygrpc.ReceiveCloseOnServerOperation


class Call:
    """One call, as the core has it. An operation on a call of a core that has stopped is not begun,
    and its `then` never called."""

    __slots__ = ("_call", "_core", "_deadline", "_headed", "_watched", "metadata", "method")

    def __init__(self, core: Core, event: Event) -> None:
        details = event.call_details
        self._core, self._call = core, event.call
        self._deadline: float = details.deadline
        self._headed = self._watched = False
        self.method: str = details.method.decode("utf-8", "replace")
        self.metadata: Metadata = event.invocation_metadata

    @property
    def remaining(self) -> float | None:
        """Seconds until its deadline, if it has one."""
        now = time.clock_gettime(time.CLOCK_REALTIME)
        return max(0.0, self._deadline - now) if self._deadline < NEVER else None

    def receive(self, then: Then) -> None:
        """Have the next message; `message` makes bytes of its event."""
        self._begin((Receive(0),), then)

    def watch(self, then: Then) -> None:
        """Have `then` called once the call is over, however it ends; `was_cancelled` tells."""
        if not self._watched:
            self._watched = True
            self._begin((Closed(0),), then)

    def post(self, then: Then) -> None:
        """Have `then` called by the core's thread."""
        self._begin((), then)

    def address(self, deliver: Callable[[T], None]) -> Callable[[T], None]:
        """A function for any thread, which has `deliver` called in the core's."""

        def post(what: T) -> None:
            if self._core.is_here():
                deliver(what)
            else:
                self.post(lambda _: deliver(what))

        return post

    def send(self, packed: bytes, then: Then, more: bool = False) -> None:
        """Send a message of a stream; the next one once `then` was called. If there are `more`, it
        may wait for them, to be written with them."""
        flags = MORE if more else 0
        self._begin((*self._head(), SendMessage(packed, flags)), then)

    def answer(self, packed: bytes) -> None:
        """Send a unary call's message and end it, in one write."""
        status = SendStatus(None, OK, b"", 0)
        self._begin((*self._head(), SendMessage(packed, 0), status, *self._close()), nothing)

    def end(self, code: int = OK, words: str = "", trailing: Metadata | None = None) -> None:
        """End the call."""
        status = SendStatus(trailing, code, words.encode(), 0)
        self._begin((*self._head(), status, *self._close()), nothing)

    def refuse(self, error: ServingError) -> None:
        """End the call with an error, in words and in typed form."""
        self.end(CODES[error.code], words(error), trailing(error))

    def _head(self) -> Sequence[Any]:
        if self._headed:
            return ()
        self._headed = True
        return (SendMetadata(None, 0),)

    def _close(self) -> Sequence[Any]:
        """The core wants to be asked how every call ended."""
        return () if self._watched else (Closed(0),)

    def _begin(self, operations: Sequence[Any], then: Then) -> None:
        with self._core.open:
            if not self._core.closed:
                self._call.start_server_batch(operations, then)


def message(event: Event) -> bytes | None:
    """What `receive` brought; None where the caller has no more to say, or is gone."""
    packed: bytes | None = event.batch_operations[0].message()
    return packed


def was_cancelled(event: Event) -> bool:
    """Whether a watched call ended because its caller gave it up, or its deadline passed."""
    return bool(event.batch_operations[0].cancelled())


def nothing(_: Event) -> None:
    """Nobody waits for this outcome."""


class Core:
    """A gRPC server on a completion queue, and the thread that serves it.

    Args:
        on_call: called with each new call.
        settle: called when everything that was ready has been taken in, before the thread waits.
        on_death: called should the thread ever end other than by `stop`.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, Any]],
        on_call: Callable[[Call], None],
        settle: Callable[[], object],
        on_death: Callable[[], None],
    ) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(list(options), False)
        self._server.register_completion_queue(self._queue)
        self._on_call, self._settle, self._on_death = on_call, settle, on_death
        self.open = threading.Lock()
        """Held while an operation is begun, for none may be once the queue is `closed`."""
        self.closed = False
        self._stopping = self._over = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name="transport", daemon=True)

    def listen(self, address: str) -> int:
        """The port on which it will listen. Raises RuntimeError."""
        port: int = self._server.add_http2_port(address.encode())
        if not port:
            raise RuntimeError("the address is in use, or not one of this machine's")
        return port

    def start(self) -> None:
        """Begin to serve."""
        self._server.start(backup_queue=False)  # this queue hears of the server's end
        for _ in range(AWAITED):
            self._await_call()
        self._thread.start()

    def is_here(self) -> bool:
        """Whether the thread that asks is the core's."""
        return threading.get_ident() == self._thread.ident

    def stop(self, grace: float) -> None:
        """Take no more calls, cancel those that are not over within `grace` seconds, and end."""
        with self.open:
            self._stopping = True
        self._server.shutdown(self._queue, self._on_stopped)
        self._stopped.wait(grace)
        self._server.cancel_all_calls()
        self._stopped.wait()
        with self.open:
            self.closed = True
            self._queue.shutdown()
        self._thread.join()

    def _await_call(self) -> None:
        with self.open:
            if not self._stopping:
                self._server.request_call(self._queue, self._queue, self._on_request)

    def _on_request(self, event: Event) -> None:
        if event.success:  # else the server stops
            self._await_call()
            self._on_call(Call(self, event))

    def _on_stopped(self, _: Event) -> None:
        self._stopped.set()

    def _live(self) -> None:
        try:
            while not self._over:
                self._turn()
        except BaseException:
            log.critical("the transport's loop died", exc_info=True)
            self._on_death()
        finally:
            self._stopped.set()  # nobody will hear of it any more

    def _turn(self) -> None:
        """Wait for something, take in all that is ready, then settle it."""
        patience = None
        for _ in range(AT_ONCE):
            event = self._queue.poll(patience)
            if event.tag is None:  # nothing more; or the end
                self._over = event.completion_type == cygrpc.CompletionType.queue_shutdown
                break
            self._handle(event)
            patience = 0.0
        self._settle()

    def _handle(self, event: Event) -> None:
        try:
            event.tag(event)
        except Exception:  # one call must not cost the others theirs
            log.exception("an event could not be handled")
