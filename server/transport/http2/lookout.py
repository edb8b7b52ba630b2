"""Who looks out for connections that are silent, and for messages that do not come.

A peer that does not speak HTTP/2, or is not there any more (keepalive), is closed; what was begun
and is late is ended; and where there is no room for a new connection, one without calls is let go.
"""

from __future__ import annotations

import time
from typing import Final

from server.transport.http2.budget import Budget
from server.transport.http2.connection import Connection
from server.transport.http2.timers import Timers

LOOK_ROUND: Final = 1.0  # seconds between two looks at connections that are silent
GREETING: Final = 20.0  # seconds that a peer may take to speak HTTP/2
IDLE, ANSWER = 60.0, 20.0
"""Seconds of silence after which a peer is asked whether it is there, and that it may take."""
LET_GO: Final = 256  # silent connections looked for at once, where there is no room for others


class Lookout:
    """Used by the loop's thread alone.

    Args:
        connections: those that are open, whoever takes them in.
        message_seconds: in which a message that was begun has to come whole (see `Limits`).
    """

    def __init__(
        self,
        connections: dict[int, Connection],
        budget: Budget,
        timers: Timers,
        message_seconds: float,
    ) -> None:
        self._connections, self._budget, self._timers = connections, budget, timers
        self._message_seconds = message_seconds
        self._idlest: list[Connection] = []  # the last longest
        self._looked_for_idle = 0.0

    def begin(self) -> None:
        """Look round from now on."""
        self._timers.at(time.monotonic() + LOOK_ROUND, self._look_round)

    def let_one_go(self) -> bool:
        """End the connection that has been silent longest, of those without calls."""
        now = time.monotonic()
        if not self._idlest and now > self._looked_for_idle + LOOK_ROUND:
            self._look_for_idle(now)
        while self._idlest:
            connection = self._idlest.pop()
            if not (connection.over or connection.calls) and now - connection.heard > LOOK_ROUND:
                connection.make_room()
                return True
        return False

    def _look_for_idle(self, now: float) -> None:
        self._looked_for_idle = now
        idle = [each for each in self._connections.values() if not each.calls]
        idle.sort(key=lambda each: each.heard, reverse=True)
        self._idlest = idle[-LET_GO:]

    def _look_round(self) -> None:
        now = time.monotonic()
        late, short = now - self._message_seconds, self._budget.is_short()
        self._timers.at(now + LOOK_ROUND, self._look_round)
        for connection in list(self._connections.values()):
            connection.drop_late(late)
            if short:
                connection.drop_stuck(late)
            _keep_alive(connection, now)


def _keep_alive(connection: Connection, now: float) -> None:
    """Ask a peer that is silent whether it is there; close its connection if it is not."""
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
