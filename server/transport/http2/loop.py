"""The thread that serves connections: it takes in all that has come, has it settled, and gives out
all that is to go."""

from __future__ import annotations

import logging
import math
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from server.errors import ServingError
from server.transport.http2.budget import Budget
from server.transport.http2.call import Call
from server.transport.http2.connection import Connection
from server.transport.http2.entrance import Entrance
from server.transport.http2.framing import READ
from server.transport.http2.incoming import USUAL
from server.transport.http2.lookout import Lookout
from server.transport.http2.outgoing import Outgoing
from server.transport.http2.polling import GONE, IN, LEFT, OUT, Polling
from server.transport.http2.sockets import Encrypted, Plain, Socket
from server.transport.http2.tally import Tally, Told

log = logging.getLogger(__name__)

PATIENCE: Final = 0.25  # seconds until connections are taken again, where there was no room


@dataclass(frozen=True)
class Limits:
    """What peers may hold.

    Attributes:
        connections: at the same time.
        bytes: of all calls together (see `Budget`).
        message_seconds: in which a message that was begun has to come whole; where others wait for
            room, also those in which something of a reply has to be read.
    """

    connections: int = 4_096
    bytes: int = 256 << 20
    message_seconds: float = 60.0


class Loop(Polling):
    """Serves gRPC over HTTP/2.

    Args:
        on_call: called with each new call.
        settle: called when everything that was ready has been taken in, before anything is sent;
            and again, once what came of it is sent, as long as it tells that there is more.
        on_death: called should the thread ever end other than by `stop`.
        largest_message: bytes of a message, unpacked.
        most_calls: of one connection at the same time.
        busy: seconds to look for more before sleeping.
        limits: what peers may hold.
        refused: takes note of a call that there was no room for.
        secure: what a new connection is encrypted with; None: it is not.
    """

    def __init__(
        self,
        on_call: Callable[[Call], object],
        settle: Callable[[], bool | None],
        on_death: Callable[[], None],
        largest_message: int,
        most_calls: int,
        busy: float = 0.0,
        secure: Callable[[], ssl.SSLContext] | None = None,
        limits: Limits = Limits(),
        refused: Callable[[ServingError], object] = lambda _: None,
    ) -> None:
        super().__init__(busy)
        self.turned_down = refused
        self.on_call, self._settle, self._on_death = on_call, settle, on_death
        self.largest_message, self.most_calls = largest_message, most_calls
        self.usual_message = min(USUAL, largest_message)
        self._limits = limits
        self.budget = Budget(limits.bytes, limits.connections, self.post)
        self.lost = False
        """Whether peers had not taken all that they were to be told when it ended."""
        self._entrance = Entrance(self._welcome, self._turned_away)
        self._listening = self._entrance.sockets
        self._connections: dict[int, Connection] = {}
        self._lookout = Lookout(self._connections, self.budget, self.timers, limits.message_seconds)
        self._words: list[Outgoing] = []  # those that have something to send
        self._secure = secure
        self._stopping = self._over = False
        self._settles = False
        self._buffer = memoryview(bytearray(READ))
        self.tallies: list[Tally] = []
        """Those that have something to count in this turn."""
        self.slow, self.on_slow = math.inf, _nobody
        """Seconds from which on a reply is slow, and who hears of it."""
        self.opened = self.refused = self.throttled = self.bytes_in = self.bytes_out = 0
        """Connections taken, times that none could be, times that one had to wait for its flood;
        bytes."""
        self.ended = Counter[str]()
        """Connections that are over, by why."""
        self._thread = threading.Thread(target=self._live, name="transport", daemon=True)

    def listen(self, host: str, port: int) -> int:
        """The port on which it will listen. Raises OSError."""
        return self._entrance.listen(host, port)

    def start(self) -> None:
        """Begin to serve."""
        for number in self._listening:
            self._epoll.register(number, IN)
        self._lookout.begin()
        self._tick()
        self._thread.start()

    def is_here(self) -> bool:
        """Whether the thread that asks is the loop's."""
        return threading.get_ident() == self._thread.ident

    @property
    def lives(self) -> bool:
        """Whether what is posted will be done; any thread may ask."""
        return self._thread.is_alive()

    @property
    def has_unsent(self) -> bool:
        """Whether a peer has not taken all that it was to be told; any thread may ask."""
        return any(each.has_unsent for each in list(self._connections.values()))

    def stop(self, grace: float) -> None:
        """Take no more connections, cancel the calls that are not over within `grace` seconds, and
        end."""
        deadline = time.monotonic() + grace
        self.post(self._leave)
        while time.monotonic() < deadline and self._thread.is_alive() and self._has_calls():
            time.sleep(0.005)
        self._over = True
        self._wake()
        self._thread.join()

    def has_words(self, connection: Outgoing) -> None:
        """A connection has something to send."""
        self._words.append(connection)

    def watch(self, connection: Outgoing) -> None:
        """What is wanted of a connection's socket has changed."""
        if not connection.over:
            # Where nothing is read of it, its end is to be told as well.
            wanted = (IN if connection.reads else LEFT) | (OUT if connection.blocked else 0)
            self._epoll.modify(connection.socket, wanted)
            if connection.reads and connection.wire.more:  # of which no event will tell
                self.post(lambda: self._read(connection))

    def closed(self, connection: Outgoing) -> None:
        """A connection is over; its socket is still open."""
        if self._connections.pop(connection.socket.fileno(), None) is not None:
            self.ended[connection.why] += 1

    @property
    def connections(self) -> list[Connection]:
        """Those that are open; any thread may ask."""
        return list(self._connections.copy().values())

    def _live(self) -> None:
        try:
            while not self._over:
                self._turn()
        except BaseException:
            log.critical("the transport's loop died", exc_info=True)
            self._on_death()
        finally:
            self._clear()

    def _turn(self) -> None:
        """Wait for something, take in all that is ready, settle it, and send what came of it."""
        ready = self._ready()
        for number, events in ready:
            if number not in self._listening:
                self._take_in(number, events)
        for number, _ in ready:  # after: a new connection may have the number of one that ended
            if (listening := self._listening.get(number)) is not None:
                self._accept(listening)
        self._do_posted()
        if self._later:
            self._attempt(self._later.popleft())
        self.timers.ring()
        self._settles = True
        more = self._settle()
        while more or self._words:
            self._give_out()
            more = self._settle()
        self._settles = False
        if self.tallies:  # calls that ended without a word
            self._count()
        if self._behind:  # last: nobody waits for more than one of those who took their turn
            self._attempt(self._behind.popleft())

    def _count(self) -> None:
        now = time.monotonic()
        try:
            while self.tallies:
                self.tallies.pop().flush(now, self.slow, self.on_slow)
        except Exception:
            log.exception("replies could not be counted")

    def _take_in(self, number: int, events: int) -> None:
        connection = self._connections.get(number)
        if connection is None:
            if number == self._asleep.fileno():
                self._woken()
            return
        try:
            if events & GONE:
                connection.close()
            elif events & OUT:
                connection.flush()
            if events & IN and not connection.over:
                if connection.shaken:
                    self._read(connection)
                else:
                    connection.shake()
        except Exception:  # one connection must not cost the others theirs
            log.exception("a connection failed unexpectedly")
            connection.why = "failed"
            connection.close()

    def _read(self, connection: Outgoing) -> None:
        if not connection.reads:
            self.watch(connection)
            return
        try:
            count = connection.wire.receive(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count, connection.why = 0, "broken"
        self.bytes_in += count
        connection.take(bytes(self._buffer[:count]))
        if connection.wire.more and not connection.over:
            self.post(lambda: self._read(connection))

    def _accept(self, listening: socket.socket) -> None:
        if self._entrance.accept(listening):
            return
        self._epoll.modify(listening, 0)

        def again() -> None:
            if not self._stopping:
                self._epoll.modify(listening, IN)

        self.timers.at(time.monotonic() + PATIENCE, again)

    def _welcome(self, sock: socket.socket, peer: tuple[Any, ...]) -> bool:
        """Take a connection in; False where as many as may be are there, each with calls."""
        if len(self._connections) >= self._limits.connections and not self._lookout.let_one_go():
            return False
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, self._wire(sock), peer)
        self._connections[connection.socket.fileno()] = connection
        self.opened += 1
        self._epoll.register(connection.socket, IN)
        connection.shake()
        return True

    def _turned_away(self) -> None:
        self.refused += 1

    def _wire(self, sock: socket.socket) -> Socket:
        return Plain(sock) if self._secure is None else Encrypted(sock, self._secure())

    def send_now(self) -> None:
        """While all is settled: send what there is to be sent, for work is left that nobody waits
        for."""
        if self._settles:
            self._give_out()

    def _give_out(self) -> None:
        words, self._words = self._words, []
        for connection in words:
            if connection.over:
                continue
            try:
                connection.flush()
            except Exception:
                log.exception("a connection failed unexpectedly")
                connection.why = "failed"
                connection.close()
        if self.tallies:
            self._count()

    def _leave(self) -> None:
        self._stopping = True
        for number in self._listening:
            self._epoll.unregister(number)
        self._entrance.close()
        for connection in list(self._connections.values()):
            connection.leave()

    def _has_calls(self) -> bool:
        return any(connection.calls for connection in list(self._connections.values()))

    def _clear(self) -> None:
        self.lost = self.has_unsent
        for connection in list(self._connections.values()):
            connection.why = "drain"
            connection.close()
        self._entrance.close()
        self._end()


def _nobody(tally: Tally, told: Told, now: float) -> None:
    """Nobody asks for slow replies."""
