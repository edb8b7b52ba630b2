"""The metrics over HTTP, for Prometheus: one thread, and bounds on whatever a peer may do.

Nobody here can hold up a caller, nor the end of the server: a connection brings no thread, those
that ask nothing give way to new ones, whoever is slow is let go, and the making of pages gets so
much of a core and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from typing import Any, Final

import h11
from prometheus_client import CollectorRegistry, make_wsgi_app

from server.transport.listening import PortTaken

log = logging.getLogger(__name__)

BACKLOG: Final = 1_024
MOST: Final = 256
"""Connections at once; the one that has asked nothing for longest gives way to a new one."""
TAKEN_AT_ONCE, PAUSE = 16, 0.01  # connections, and seconds until the next
PATIENCE: Final = 10.0  # seconds that a peer may take to ask, and then to read
LAST_WORDS: Final = 1.0  # seconds in which a peer is to close once it has its answer
HEAD_BYTES: Final = 8_192
SHARE, AHEAD = 0.2, 1.0
"""Of a core, for making pages; and seconds of it that may be spent at once."""

Headers = list[tuple[str, str]]


class MetricsPort:
    """Serves a registry's metrics. `port` 0 takes a free one."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._make: Any = make_wsgi_app(registry)
        self._where = host, port
        self._asking: dict[asyncio.Task[None], None] = {}  # who has not asked yet, oldest first
        self._open: set[asyncio.Task[None]] = set()
        self._credit, self._credited = AHEAD, time.monotonic()  # for making pages
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._making: asyncio.Lock

    def start(self) -> int:
        """Listen; returns the port. Raises PortTaken."""
        try:
            listening = _listen(*self._where)
        except OSError as error:
            where = "{}:{}".format(*self._where)
            raise PortTaken(f"cannot serve metrics on {where}: {error.strerror}") from error
        port: int = listening.getsockname()[1]
        # Made here, since it may be stopped before the thread has got anywhere.
        self._loop = asyncio.new_event_loop()
        self._over, self._making = asyncio.Event(), asyncio.Lock()
        self._thread = threading.Thread(
            target=self._live, args=(listening,), name="metrics", daemon=True
        )
        self._thread.start()
        return port

    def stop(self) -> None:
        """Serve no more, whoever asks."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # it is over already
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(LAST_WORDS)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def _live(self, listening: socket.socket) -> None:
        try:
            with listening, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve(listening))
        except BaseException:
            log.critical("the metrics port died", exc_info=True)

    async def _serve(self, listening: socket.socket) -> None:
        self._loop.add_reader(listening, self._take, listening)
        await self._over.wait()

    def _take(self, listening: socket.socket) -> None:
        """Take a few connections, and more after a pause: to take many costs callers their time."""
        try:
            for _ in range(TAKEN_AT_ONCE):
                sock, _ = listening.accept()
                self._welcome(sock)
        except BlockingIOError:  # none is left
            return
        except OSError as error:  # there is no room for another
            log.debug("no scrape can be taken: %s", error)
        self._loop.remove_reader(listening)
        self._loop.call_later(PAUSE, self._loop.add_reader, listening, self._take, listening)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._open) >= MOST and self._asking:
            oldest = next(iter(self._asking))
            del self._asking[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._attend(sock))
        self._open.add(task)
        self._asking[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._asking.pop(task, None)

    async def _attend(self, sock: socket.socket) -> None:
        """One connection: a request, and its answer."""
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        with sock, contextlib.suppress(OSError, TimeoutError, h11.LocalProtocolError):
            async with asyncio.timeout(PATIENCE):
                request = await self._request(sock, peer)
            if request is None:
                return
            if (task := asyncio.current_task()) is not None:
                self._asking.pop(task, None)
            status, headers, body = await self._answer(request)
            async with asyncio.timeout(PATIENCE):
                await self._loop.sock_sendall(sock, _packed(peer, status, headers, body))
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LAST_WORDS):
                while await self._loop.sock_recv(sock, HEAD_BYTES):
                    pass  # or what it still says would take the answer from it

    async def _request(self, sock: socket.socket, peer: h11.Connection) -> h11.Request | int | None:
        """What is asked; the status that says what is wrong with it; None if the peer is gone."""
        try:
            while not isinstance(event := peer.next_event(), h11.Request):
                if event is not h11.NEED_DATA:
                    return None
                peer.receive_data(await self._loop.sock_recv(sock, HEAD_BYTES))
        except h11.RemoteProtocolError as error:
            return error.error_status_hint
        return event

    async def _answer(self, request: h11.Request | int) -> tuple[str, Headers, bytes]:
        if isinstance(request, int):
            return f"{request} No request", [], b""
        async with self._making:
            started = time.monotonic()
            earned = (started - self._credited) * SHARE
            self._credit, self._credited = min(AHEAD, self._credit + earned), started
            if self._credit < 0:
                await asyncio.sleep(-self._credit / SHARE)
            started = time.monotonic()
            try:
                return self._page(request)
            except Exception:
                log.exception("the metrics could not be told")
                return "500 Internal Server Error", [], b""
            finally:
                self._credit -= time.monotonic() - started

    def _page(self, request: h11.Request) -> tuple[str, Headers, bytes]:
        said = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        path, _, query = request.target.decode("latin-1").partition("?")
        environment = {
            "REQUEST_METHOD": request.method.decode("latin-1"),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT": said.get("accept"),
            "HTTP_ACCEPT_ENCODING": said.get("accept-encoding"),
        }
        told: list[tuple[str, Headers]] = []
        body = b"".join(self._make(environment, lambda *begun: told.append(begun)))
        return *told[0], body


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server(
        (str(where[0]), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )
    listening.setblocking(False)
    return listening


def _packed(peer: h11.Connection, status: str, headers: Headers, body: bytes) -> bytes:
    code, _, reason = status.partition(" ")
    said = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    response = h11.Response(status_code=int(code), reason=reason.encode(), headers=said)
    pieces = [peer.send(each) for each in (response, h11.Data(data=body), h11.EndOfMessage())]
    return b"".join(piece for piece in pieces if piece)
