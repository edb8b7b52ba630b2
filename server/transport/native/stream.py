"""The life of a bidirectional stream where it arrives: messages in, a reply for each out,
several under way at once.

Reading pauses while too many messages are unanswered, so that HTTP/2 holds a fast sender back. The
loop's thread alone uses a stream.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from server.errors import Draining, Internal, NoMessage, ServingError
from server.transport.http2.call import Call
from server.transport.http2.frames import Packed
from server.transport.rpcs.calls import about

log = logging.getLogger(__name__)


class Streams:
    """The streams of a transport, all of which end when it drains."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: Stream) -> None:
        """A stream has begun."""
        self._open.add(stream)
        if self._draining:
            stream.drain()

    def discard(self, stream: Stream) -> None:
        """A stream is over."""
        self._open.discard(stream)

    def drain(self) -> None:
        """End every stream once what it has read is answered; any thread may ask for it."""
        self._draining = True
        for stream in list(self._open):
            stream.call.post(stream.drain)


class Stream(ABC):
    """One stream, from its first message to its last reply.

    Args:
        parse: bytes to a message.
        count: takes note of an error that ends the stream.
        inflight: messages that may be unanswered before reading pauses.
    """

    def __init__(
        self,
        call: Call,
        streams: Streams,
        parse: Callable[[bytes], Any],
        count: Callable[[ServingError], None],
        inflight: int,
    ) -> None:
        self.call, self._streams = call, streams
        call.streams = True
        self._parse, self._count, self._room = parse, count, inflight
        self._unanswered = 0
        self._reading = self._read_all = self._draining = self._over = False
        self.paused = False
        """No message is to be read before the present one was taken in whole: see `go_on`."""

    def begin(self) -> None:
        """Serve the stream until the caller has closed its side and every message is answered."""
        self.call.watch(self._finish)
        self._streams.add(self)
        self._read()

    def drain(self) -> None:
        """Read no more; answer what was read, then end the stream."""
        self._draining = True
        self._end_if_done()

    @abstractmethod
    def handle(self, message: Any) -> None:
        """Take in a message; `put` answers it, by and by.

        Raises:
            ServingError: the stream cannot go on.
        """

    @abstractmethod
    def drop(self) -> None:
        """The stream is over: what is not answered yet must not run."""

    def put(self, *packed: Packed) -> None:
        """A message's reply, in pieces."""
        self.call.send(*packed, then=self._sent)

    def go_on(self) -> None:
        """The message that `paused` the stream is taken in."""
        self.paused = False
        self._read()

    def fail(self, error: ServingError) -> None:
        """The stream cannot go on: end it with an error."""
        if not self._over:
            self._count(error)
            self.call.refuse(error)
            self._finish()

    def _read(self) -> None:
        held = self._reading or self.paused or self._unanswered >= self._room
        if not (held or self._read_all or self._draining or self._over):
            self._reading = True
            self.call.receive(self._received)

    def _received(self, packed: bytes | None) -> None:
        self._reading = False
        if packed is None or self._over:
            self._read_all = True
            self._end_if_done()
            return
        self._unanswered += 1
        try:
            self.handle(self._parse(packed))
        except ServingError as error:
            self.fail(error)
        except DecodeError as error:
            self.fail(NoMessage(error))
        except Exception:
            log.exception("a stream failed unexpectedly", extra=about(self.call.metadata))
            self.fail(Internal())
        self._read()

    def _sent(self) -> None:
        self._unanswered -= 1
        self._read()
        self._end_if_done()

    def _end_if_done(self) -> None:
        done = (self._read_all or self._draining) and not self._unanswered
        if done and not self._over:
            if self._draining and not self._read_all:
                self.fail(Draining())
            else:
                self.call.end()
                self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._streams.discard(self)
            self.drop()
