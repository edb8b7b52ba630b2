"""What hostile peers do to a server, over HTTP/2 by hand: each attack goes on until it is told to
stop, begins again when it is thrown out, and cares for no answer."""

from __future__ import annotations

import contextlib
import gzip
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from benchmarks.http2 import LARGEST, WINDOW, Connection, Refused
from benchmarks.models import H64
from server.transport.http2 import frames, headers
from tidegate.v1 import tidegate_pb2 as pb

SERVICE: Final = "/tidegate.v1.Tidegate"
MEGABYTE: Final = 1 << 20
LARGE: Final = 15 * MEGABYTE
END: Final = frames.END_HEADERS | frames.END_STREAM
IDLE: Final = 3_000  # connections


class Stop(Protocol):
    """Tells when it is over: an Event of threads or of processes."""

    def is_set(self) -> bool:
        """Whether it is."""


Attack = Callable[[str, Stop], None]


# Peers that keep to the protocol, and ask for too much.


class Peer(Connection):
    """Takes whatever comes; `statuses` counts how its calls ended."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.statuses: Counter[str] = Counter()
        self._socket.settimeout(5)

    def upload(self, method: str, message: memoryview) -> None:
        """Begin a unary call of a large message, whose bytes all calls share."""
        stream = self.begin(method, lambda _: None)
        prefix = b"\0" + frames.NUMBER.pack(len(message))
        pieces = [message[at : at + LARGEST] for at in range(0, len(message), LARGEST)]
        last = len(pieces) - 1
        stream._said = [(prefix, False), *((each, k == last) for k, each in enumerate(pieces))]
        stream.resume()

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._streams)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        known = stream in self._streams
        if kind == frames.RST_STREAM:
            self._streams.pop(stream, None)
        elif kind == frames.GOAWAY:
            raise Refused(f"the server gave up: {payload!r}")
        elif kind in (frames.DATA, frames.HEADERS) and not known:
            pass
        else:
            super()._take(kind, flags, stream, payload)

    def _end(self, number: int, trailers: dict[bytes, bytes]) -> None:
        self.statuses[trailers[b"grpc-status"].decode()] += 1
        self._streams.pop(number).over = True


def uploads(method: str, make: Callable[[], bytes], connections: int = 8, each: int = 16) -> Attack:
    """Keeps so many large unary calls under way on each of so many connections."""

    def attack(address: str, stop: Stop) -> None:
        peers, message = [Peer(address) for _ in range(connections)], memoryview(make())
        try:
            while not stop.is_set():
                for peer in peers:
                    while peer.calls < each:
                        peer.upload(f"{SERVICE}/{method}", message)
                    peer.turn(0.001)
        finally:
            for peer in peers:
                peer.close()

    return attack


def import_request() -> bytes:
    """Of a session whose states are far too large."""
    state = pb.StateTensor(name="h_0", dtype="float32", shape=[LARGE // 4], data=bytes(LARGE))
    snapshot = pb.Snapshot(format=2, model=H64.name, version=1, session_id="huge", states=[state])
    return pb.ImportRequest(snapshot=snapshot).SerializeToString()


def step_request() -> bytes:
    """With far too many features."""
    features = [0.5] * (LARGE // 4)
    return pb.StepRequest(model=H64.name, session_id="none", features=features).SerializeToString()


def long_id() -> bytes:
    """A session's name that is far too long."""
    return pb.StepRequest(model=H64.name, session_id="i" * LARGE).SerializeToString()


def unread(address: str, stop: Stop, streams: int = 6, rows: int = 1_600) -> None:
    """Streams of steps whose replies are never let come: their windows stay shut."""
    peer = Peer(address)
    peer.first_window = frames.DEFAULT_WINDOW
    peer.write(frames.settings([(frames.INITIAL_WINDOW_SIZE, 100_000)]))
    try:
        opened = [peer.begin(f"{SERVICE}/StepStream", lambda _: None) for _ in range(streams)]
        for number, stream in enumerate(opened):
            stream._credit = 1 << 60  # which is never topped up
            for message in _rows(f"unread-{id(peer)}-{number}", rows):
                stream.send(message)
        while not stop.is_set():
            peer.turn(0.01)
    finally:
        peer.close()


def _rows(name: str, rows: int) -> Iterator[bytes]:
    opens = [
        pb.LaneOpen(lane=lane, session_id=f"{name}-{lane}", create=True) for lane in range(rows)
    ]
    for at in range(0, rows, 1_000):
        batch = pb.StepBatch(model=H64.name, opens=opens[at : at + 1_000])
        yield batch.SerializeToString()
    lanes = b"".join(lane.to_bytes(4, "little") for lane in range(rows))
    batch = pb.StepBatch(lanes=lanes, features=bytes(4 * H64.inputs * rows))
    for _ in range(200):
        yield batch.SerializeToString()


def deaf(address: str, stop: Stop) -> None:
    """Asks for descriptions, with the widest windows, and never takes a byte from its socket."""
    with _socket(address) as sock:
        widest = frames.settings([(frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW)])
        sock.sendall(widest + frames.window_update(0, WINDOW))
        message = pb.ListModelsRequest().SerializeToString()
        pieces = (_calls(f"{SERVICE}/ListModels", message, n) for n in _streams(50))
        _pour(sock, stop, pieces, reads=False)


def half_open(address: str, stop: Stop) -> None:
    """Calls whose message never comes whole: none of it, a few bytes, or as much as may be sent."""
    with _socket(address) as sock:
        parts = (b"", b"\0\0", b"\0\0\1\0\0" + bytes(60_000), b"\0\0\x80\0\0" + bytes(200_000))

        def begin(number: int) -> bytes:
            data = parts[number // 2 % len(parts)]
            pieces = [data[at : at + LARGEST] for at in range(0, len(data), LARGEST)]
            sent = [frames.frame(frames.DATA, 0, number, piece) for piece in pieces]
            head = frames.frame(frames.HEADERS, frames.END_HEADERS, number, _head("Step"))
            return head + b"".join(sent)

        _pour(sock, stop, (begin(n) for n in range(1, 4_000 * 2, 2)))
        while not stop.is_set() and _listens(sock):
            time.sleep(0.01)


def gzip_bombs(address: str, stop: Stop) -> None:
    """Small messages that unfold to large ones."""
    bomb = gzip.compress(bytes(LARGE))
    fields = (*_FIELDS, (":path", f"{SERVICE}/Step"), ("grpc-encoding", "gzip"))
    block = headers.block(*sorted(fields))
    message = b"\1" + frames.NUMBER.pack(len(bomb)) + bomb
    with _socket(address) as sock:
        _pour(sock, stop, (_call(block, message, n) for n in _streams(1)))


def late(address: str, stop: Stop) -> None:
    """Calls with a millisecond to live."""
    block = _head("Step") + headers.block(("grpc-timeout", "1m"))
    _steps(block, address, stop)


def malformed(address: str, stop: Stop) -> None:
    """Calls whose headers are in disorder."""
    _steps(headers.block(*_FIELDS, (":path", f"{SERVICE}/Step")), address, stop)


def _steps(block: bytes, address: str, stop: Stop) -> None:
    """One after the other, of a session that there is not."""
    message = pb.StepRequest(model=H64.name, session_id="none").SerializeToString()
    packed = b"\0" + frames.NUMBER.pack(len(message)) + message
    with _socket(address) as sock:
        pieces = (
            b"".join(_call(block, packed, n + 2 * k) for k in range(50)) for n in _streams(50)
        )
        _pour(sock, stop, pieces)


def idle(address: str, stop: Stop, connections: int = IDLE) -> None:
    """Thousands of connections that say hello and no more."""
    with contextlib.ExitStack() as opened:
        for _ in range(connections):
            if stop.is_set():
                return
            try:
                opened.enter_context(_socket(address))
            except OSError:
                break
        while not stop.is_set():
            time.sleep(0.05)


# Peers that flood.


def flood(make: Callable[[], Iterable[bytes]]) -> Attack:
    """Sends without end, as fast as it is taken."""

    def attack(address: str, stop: Stop) -> None:
        with _socket(address) as sock:
            _pour(sock, stop, make())

    return attack


def resets() -> Iterator[bytes]:
    """Calls that are given up at once."""
    head = _head("Step")
    for first in _streams(100):
        yield b"".join(
            frames.frame(frames.HEADERS, frames.END_HEADERS, n, head)
            + frames.reset(n, frames.CANCEL)
            for n in range(first, first + 200, 2)
        )


def unknown() -> Iterator[bytes]:
    """Calls of methods that there are none of."""
    head = _head("Nothing")
    for first in _streams(100):
        yield b"".join(
            frames.frame(frames.HEADERS, END, n, head) for n in range(first, first + 200, 2)
        )


def pings() -> Iterator[bytes]:
    """Nothing else."""
    while True:
        yield frames.frame(frames.PING, 0, 0, b"12345678") * 1_000


def settings() -> Iterator[bytes]:
    """Windows that change with every entry, thousands in a frame, under a thousand calls."""
    head = _head("Step")
    yield b"".join(
        frames.frame(frames.HEADERS, frames.END_HEADERS, n, head) for n in range(1, 2_000, 2)
    )
    both = [(frames.INITIAL_WINDOW_SIZE, 1), (frames.INITIAL_WINDOW_SIZE, 2)]
    while True:
        yield frames.settings(both * 1_300) * 4


def continuations() -> Iterator[bytes]:
    """Headers that go on and on, a byte at a time."""
    yield frames.frame(frames.HEADERS, 0, 1, _head("Step"))
    while True:
        yield frames.frame(frames.CONTINUATION, 0, 1, b"\0") * 500


def windows() -> Iterator[bytes]:
    """Replies that wait for a window which opens a byte at a time."""
    yield frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)])
    message = pb.ListModelsRequest().SerializeToString()
    yield _calls(f"{SERVICE}/ListModels", message, 1)
    while True:
        yield b"".join(frames.window_update(n, 1) for n in range(1, 100, 2)) * 20


def drops() -> Iterator[bytes]:
    """Empty pieces of a message that never ends."""
    yield frames.frame(frames.HEADERS, frames.END_HEADERS, 1, _head("StepStream"))
    while True:
        yield frames.frame(frames.DATA, 0, 1) * 1_000


ATTACKS: Final[dict[str, Attack]] = {
    "imports of 15 MB": uploads("Import", import_request),
    "steps of 15 MB": uploads("Step", step_request, each=25),
    "ids of 15 MB": uploads("Step", long_id),
    "streams unread": unread,
    "sockets unread": deaf,
    "calls half open": half_open,
    "gzip bombs": gzip_bombs,
    "1 ms deadlines": late,
    "malformed calls": malformed,
    "rapid resets": flood(resets),
    "unknown methods": flood(unknown),
    "pings": flood(pings),
    "settings": flood(settings),
    "continuations": flood(continuations),
    "1-byte windows": flood(windows),
    "empty pieces": flood(drops),
    "idle connections": idle,
}
"""By name."""


def keep_on(name: str, address: str, stop: Stop) -> None:
    """Attack until it is time to stop, again and again where the server ends it."""
    while not stop.is_set():
        with contextlib.suppress(OSError, Refused):
            ATTACKS[name](address, stop)
        time.sleep(0.02)


@contextlib.contextmanager
def attacked(name: str, address: str) -> Iterator[None]:
    """An attack, by a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=keep_on, args=(name, address, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


_FIELDS: Final = ((":method", "POST"), (":scheme", "http"), ("content-type", "application/grpc"))


def _head(method: str) -> bytes:
    fields = (*_FIELDS[:2], (":path", f"{SERVICE}/{method}"), *_FIELDS[2:])
    return headers.block(*fields)


def _call(block: bytes, message: bytes, number: int) -> bytes:
    pieces = [message[at : at + LARGEST] for at in range(0, len(message), LARGEST)]
    ends = [0] * (len(pieces) - 1) + [frames.END_STREAM]
    sent = [
        frames.frame(frames.DATA, end, number, piece)
        for piece, end in zip(pieces, ends, strict=True)
    ]
    return frames.frame(frames.HEADERS, frames.END_HEADERS, number, block) + b"".join(sent)


def _calls(method: str, message: bytes, first: int, count: int = 50) -> bytes:
    """Several calls of one message."""
    block = headers.block(*_FIELDS[:2], (":path", method), *_FIELDS[2:])
    packed = b"\0" + frames.NUMBER.pack(len(message)) + message
    return b"".join(_call(block, packed, first + 2 * k) for k in range(count))


def _streams(at_once: int) -> Iterator[int]:
    return iter(range(1, frames.LAST_STREAM - 2 * at_once, 2 * at_once))


def _socket(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=5)
    sock.sendall(frames.PREFACE + frames.settings([]))
    sock.setblocking(False)
    return sock


def _pour(sock: socket.socket, stop: Stop, pieces: Iterable[bytes], reads: bool = True) -> None:
    """Send all of it as it is taken; what comes is dropped, or left where it is.

    Raises:
        OSError: the server has closed the connection.
    """
    for piece in pieces:
        left = memoryview(piece)
        while left:
            if stop.is_set():
                return
            come, ready, _ = select.select([sock] if reads else [], [sock], [], 0.05)
            if come and not _listens(sock):
                raise ConnectionResetError
            if ready:
                with contextlib.suppress(BlockingIOError):
                    left = left[sock.send(left) :]


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(65_536))
    except BlockingIOError:
        return True
