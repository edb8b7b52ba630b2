"""A loop that serves in this process, and callers of it: gRPC's own, and HTTP/2 frame by frame."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event

from server.transport.http2.call import Call
from server.transport.http2.loop import Limits, Loop

LARGEST = 1 << 20
DEFAULTS = Limits()
METHOD = "/any/method"
OnCall = Callable[[Call], object]


@contextmanager
def loop(
    on_call: OnCall,
    settle: Callable[[], bool | None] = lambda: None,
    most_calls: int = 4_096,
    limits: Limits = DEFAULTS,
) -> Iterator[tuple[Loop, int]]:
    """A loop and its port; it must not die."""
    died = threading.Event()
    served = Loop(
        on_call, settle, died.set,
        largest_message=LARGEST, most_calls=most_calls, limits=limits,
    )  # fmt: skip
    port = served.listen("127.0.0.1", 0)
    served.start()
    try:
        yield served, port
    finally:
        served.stop(5)
    assert not died.is_set()


@contextmanager
def channel(
    on_call: OnCall, settle: Callable[[], bool | None] = lambda: None
) -> Iterator[grpc.Channel]:
    """gRPC's own caller."""
    with loop(on_call, settle) as (_, port), grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened


def unary(opened: grpc.Channel, method: str = METHOD) -> Any:
    """Calls of bytes."""
    return opened.unary_unary(method)


def echo(call: Call) -> None:
    """Answer a call with its message."""
    call.receive(lambda packed: call.answer(b"nothing" if packed is None else packed))


def echoes(call: Call) -> None:
    """Answer every message of a stream with itself."""
    call.streams = True

    def take(packed: bytes | None) -> None:
        if packed is None:
            call.end()
        else:
            call.send(packed)
            call.receive(take)

    call.receive(take)


def prefixed(message: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Raw:
    """A connection whose every frame the test decides."""

    def __init__(self, port: int, greets: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.http2 = H2Connection(
            H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        self.closed = False
        if greets:
            self.http2.initiate_connection()
            self.flush()

    def flush(self) -> None:
        """Send what the other end is to hear."""
        self.socket.sendall(self.http2.data_to_send())

    def head(self, **more: str) -> list[tuple[str, str]]:
        """A request's headers."""
        said = {
            ":method": "POST", ":scheme": "http", ":path": METHOD, ":authority": "here",
            "content-type": "application/grpc", "te": "trailers",
        }  # fmt: skip
        said |= {name.replace("_", "-"): value for name, value in more.items()}
        return list(said.items())

    def begin(self, **more: str) -> int:
        """Send a request's headers; returns its stream."""
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, self.head(**more))
        self.flush()
        return stream

    def say(self, stream: int, data: bytes, last: bool = False) -> None:
        """Send data, as there is room for it; what comes meanwhile is dropped."""
        at = 0
        while at < len(data):
            room = min(self.http2.local_flow_control_window(stream), 16_384, len(data) - at)
            if room:
                self.http2.send_data(stream, data[at : at + room])
                at += room
                self.flush()
            else:
                self.events()
        if last:
            self.http2.end_stream(stream)
            self.flush()

    def call(self, message: bytes, **more: str) -> int:
        """A whole unary request; returns its stream."""
        stream = self.begin(**more)
        self.say(stream, prefixed(message), last=True)
        return stream

    def events(self) -> list[Event]:
        """What comes next; `closed` once it is the end."""
        try:
            come = self.socket.recv(1 << 16)
        except ConnectionError:
            come = b""
        if not come:
            self.closed = True
            return []
        events: list[Event] = self.http2.receive_data(come)
        with contextlib.suppress(ConnectionError):
            self.flush()
        return events

    def until(self, kind: type, **wanted: Any) -> Any:
        """The next event of a kind with these attributes; others are dropped."""
        while not self.closed:
            for event in self.events():
                alike = all(getattr(event, name, None) == value for name, value in wanted.items())
                if isinstance(event, kind) and alike:
                    return event
        raise AssertionError(f"no {kind.__name__} came")

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def silent(self, seconds: float = 0.2) -> bool:
        """Whether nothing comes for a while."""
        return not select.select([self.socket], [], [], seconds)[0]

    def close(self) -> None:
        """Leave without a word."""
        self.socket.close()
