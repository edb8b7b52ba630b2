"""The thread that serves connections: it takes in all that has come, has it settled, and gives out
all that is to go."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from server.errors import ServingError
from server.transport.http2.budget import Budget
from server.transport.http2.call import Call
from server.transport.http2.connection import READ, Connection
from server.transport.http2.entrance import Entrance
from server.transport.http2.incoming import USUAL, Then
from server.transport.http2.outgoing import Outgoing
from server.transport.http2.sockets import Encrypted, Plain, Socket
from server.transport.http2.tally import Tally, Told
from server.transport.lag import Lag

log = logging.getLogger(__name__)

IN, OUT, LEFT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
GONE: Final = select.EPOLLHUP | select.EPOLLERR | LEFT
LOOK_ROUND: Final = 1.0  # seconds between two looks at connections that are silent
GREETING: Final = 20.0  # seconds that a peer may take to speak HTTP/2
IDLE, ANSWER = 60.0, 20.0
"""Seconds of silence after which a peer is asked whether it is there, and that it may take."""
LET_GO: Final = 256  # silent connections looked for at once, where there is no room for others
MOST_RESTS: Final = 8  # doublings of the turns without a look, where looking is in vain
STALL: Final = 0.02
"""Seconds without a look at the sockets from which on what is found is taken to have been there all
the while; else it came midway, on the average."""
ASLEEP: Final = 5e-5  # seconds: a wait this long had nothing to find at first
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


class Loop:
    """Serves gRPC over HTTP/2.

    Args:
        on_call: called with each new call.
        settle: called when everything that was ready has been taken in, before anything is sent.
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
        settle: Callable[[], object],
        on_death: Callable[[], None],
        largest_message: int,
        most_calls: int,
        busy: float = 0.0,
        secure: Callable[[], ssl.SSLContext] | None = None,
        limits: Limits = Limits(),
        refused: Callable[[ServingError], object] = lambda _: None,
    ) -> None:
        self.turned_down = refused
        self.on_call, self._settle, self._on_death = on_call, settle, on_death
        self.largest_message, self.most_calls = largest_message, most_calls
        self.usual_message = min(USUAL, largest_message)
        self._limits = limits
        self.budget = Budget(limits.bytes, limits.connections, self.post)
        self.lost = False
        """Whether peers had not taken all that they were to be told when it ended."""
        self._epoll = select.epoll()
        self._entrance = Entrance(self._welcome, self._turned_away)
        self._listening = self._entrance.sockets
        self._connections: dict[int, Connection] = {}
        self._idlest: list[Connection] = []  # the last longest
        self._looked_for_idle = 0.0
        self._words: list[Outgoing] = []  # those that have something to send
        self._posted: deque[Then] = deque()
        self._later: deque[Then] = deque()  # of which one is done in a turn
        self._behind: deque[Then] = deque()  # of which one is done at the end of a turn
        self._timers: list[tuple[float, int, Then | Call]] = []
        self._numbers = itertools.count()
        self._expiring = 0  # calls under way that have a deadline
        self._asleep, self._awake = socket.socketpair()
        self._secure = secure
        self._busy, self._in_vain, self._rests = busy, 0, 0
        self._sleeps = self._stopping = self._over = False
        self._buffer = memoryview(bytearray(READ))
        self._looked = time.monotonic()  # when it last saw what sockets have
        self.since = self._looked
        """When what this turn takes in arrived, as far as can be known."""
        self.tallies: list[Tally] = []
        """Those that have something to count in this turn."""
        self.slow, self.on_slow = math.inf, _nobody
        """Seconds from which on a reply is slow, and who hears of it."""
        self.lag = Lag()
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
        self._asleep.setblocking(False)
        self._awake.setblocking(False)
        self._epoll.register(self._asleep, IN)
        for number in self._listening:
            self._epoll.register(number, IN)
        self.at(time.monotonic() + LOOK_ROUND, self._look_round)
        self._tick()
        self._thread.start()

    def is_here(self) -> bool:
        """Whether the thread that asks is the loop's."""
        return threading.get_ident() == self._thread.ident

    def post(self, work: Then) -> None:
        """Have `work` done by the loop's thread; not once it has ended."""
        self._posted.append(work)
        if self._sleeps:
            self._sleeps = False
            self._wake()

    def later(self, work: Then) -> None:
        """Have `work`, which takes long, done in a turn of its own. For the loop's thread."""
        self._later.append(work)

    def behind(self, work: Then) -> None:
        """Have `work` done when all others have had their turn. For the loop's thread."""
        self._behind.append(work)

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

    def at(self, when: float, work: Then | Call) -> None:
        """Do `work` then, by the monotonic clock, or end the call."""
        heapq.heappush(self._timers, (when, next(self._numbers), work))

    def expires(self, call: Call) -> None:
        """A call with a deadline is under way."""
        assert call.deadline is not None
        self._expiring += 1
        self.at(call.deadline, call)
        if len(self._timers) > 1_000 + 2 * self._expiring:  # most are of calls that are over
            left = [
                each for each in self._timers if not (isinstance(each[2], Call) and each[2].over)
            ]
            heapq.heapify(left)
            self._timers = left

    def does_not_expire(self) -> None:
        """It is over."""
        self._expiring -= 1

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
        self._ring()
        self._settle()
        while self._words:
            self._give_out()
            if self.tallies:
                self._count()
            self._settle()
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

    def _look_on(self) -> list[tuple[int, int]]:
        """Look again and again for a moment: to sleep and be woken would take longer than many a
        caller needs for the next call. The more often in vain, the more seldom."""
        if self._rests:
            self._rests -= 1
            return []
        until = time.monotonic() + self._busy
        while (now := time.monotonic()) < until:
            if (ready := self._epoll.poll(0)) or self._has_work():
                self._in_vain = 0
                self._found(now, now)
                return ready
            self._looked = now
        self._in_vain = min(self._in_vain + 1, MOST_RESTS)
        self._rests = (1 << self._in_vain) - 1
        return []

    def _ready(self) -> list[tuple[int, int]]:
        if ready := self._look_on():
            return ready
        self._sleeps = True
        try:
            begun = time.monotonic()
            due = begun
            if not self._has_work() and self._timers:
                due = max(begun, self._timers[0][0])
            ready = self._epoll.poll(due - begun)
            now = time.monotonic()
            self._found(begun, now if now < due else due)
            return ready
        finally:
            self._sleeps = False

    def _has_work(self) -> bool:
        """Whether something is to be done whoever has come."""
        return bool(self._posted or self._later or self._behind)

    def _found(self, begun: float, now: float) -> None:
        """A look that began then has found something by now, or was to be over by then."""
        if now - begun > ASLEEP:  # there was nothing at first
            self.since = self._looked = now
            return
        former, self._looked = self._looked, now
        self.since = former if now - former > STALL else (former + now) / 2

    def _take_in(self, number: int, events: int) -> None:
        connection = self._connections.get(number)
        if connection is None:
            if number == self._asleep.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._asleep.recv(1_024)
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

        self.at(time.monotonic() + PATIENCE, again)

    def _welcome(self, sock: socket.socket, peer: tuple[Any, ...]) -> bool:
        """Take a connection in; False where as many as may be are there, each with calls."""
        if len(self._connections) >= self._limits.connections and not self._let_one_go():
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

    def _let_one_go(self) -> bool:
        """End the connection that has been silent longest, of those without calls."""
        now = time.monotonic()
        if not self._idlest and now > self._looked_for_idle + LOOK_ROUND:
            self._looked_for_idle = now
            idle = [each for each in self._connections.values() if not each.calls]
            idle.sort(key=lambda each: each.heard, reverse=True)
            self._idlest = idle[-LET_GO:]
        while self._idlest:
            connection = self._idlest.pop()
            if not (connection.over or connection.calls) and now - connection.heard > LOOK_ROUND:
                connection.make_room()
                return True
        return False

    def _wire(self, sock: socket.socket) -> Socket:
        return Plain(sock) if self._secure is None else Encrypted(sock, self._secure())

    def _do_posted(self) -> None:
        for _ in range(len(self._posted)):
            self._attempt(self._posted.popleft())

    def _ring(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, work = heapq.heappop(self._timers)
            self._attempt(work.expire if isinstance(work, Call) else work)

    def _attempt(self, work: Then) -> None:
        try:
            work()
        except Exception:
            log.exception("the transport failed unexpectedly")

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

    def _tick(self) -> None:
        self.at(self.lag.ran(), self._tick)

    def _look_round(self) -> None:
        """Ask those that are silent whether they are there; close those that are not."""
        now = time.monotonic()
        late, short = now - self._limits.message_seconds, self.budget.is_short()
        self.at(now + LOOK_ROUND, self._look_round)
        for connection in list(self._connections.values()):
            connection.drop_late(late)
            if short:
                connection.drop_stuck(late)
            silent = now - connection.heard
            if not connection.greeted:
                gone, why = silent > GREETING, "greeting"
            else:
                why = "keepalive"
                gone = bool(connection.pinged) and now - connection.pinged > ANSWER
                if silent > IDLE and not connection.pinged:
                    connection.ask(now)
            if gone:
                if connection.why == "peer":
                    connection.why = why
                connection.close()

    def _leave(self) -> None:
        self._stopping = True
        for number in self._listening:
            self._epoll.unregister(number)
        self._entrance.close()
        for connection in list(self._connections.values()):
            connection.leave()

    def _has_calls(self) -> bool:
        return any(connection.calls for connection in list(self._connections.values()))

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is full of calls to wake, or closed
            self._awake.send(b"\0")

    def _clear(self) -> None:
        self.lost = self.has_unsent
        self.lag.over = True
        for connection in list(self._connections.values()):
            connection.why = "drain"
            connection.close()
        self._entrance.close()
        self._epoll.close()
        self._asleep.close()
        self._awake.close()


def _nobody(tally: Tally, told: Told, now: float) -> None:
    """Nobody asks for slow replies."""
