"""Where connections come in: so many and no more, and none waits where there is no room."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from server.transport.http2 import frames

log = logging.getLogger(__name__)

BACKLOG: Final = 1_024  # connections that wait to be taken
ACCEPTED_AT_ONCE: Final = 64
OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
QUIET: Final = 10.0  # seconds between two words in the log about those turned away
FAREWELL: Final = frames.settings([]) + frames.goaway(
    0, frames.ENHANCE_YOUR_CALM, "too many connections"
)


class Entrance:
    """Sockets that are listened on. Used by the loop's thread alone, once it runs.

    Args:
        welcome: takes a connection in; False where there is no room for it.
        turned_away: called for each connection that is closed at once.
    """

    def __init__(
        self,
        welcome: Callable[[socket.socket, tuple[Any, ...]], bool],
        turned_away: Callable[[], object],
    ) -> None:
        self._welcome, self._turned_away = welcome, turned_away
        self.sockets: dict[int, socket.socket] = {}
        """By their file's number."""
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._unsaid, self._said = 0, -QUIET

    def listen(self, host: str, port: int) -> int:
        """The port on which it will listen. Raises OSError."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            taken = _bind(family, where[0], port)
            port = taken.getsockname()[1]
            self.sockets[taken.fileno()] = taken
        return port

    def accept(self, listening: socket.socket) -> bool:
        """Take in those that wait; False where the system cannot have more, so that it is better
        asked again later."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, peer = listening.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    return True
                if not self._accept_with_spare(listening, error):
                    return False
                continue
            try:
                if not self._welcome(sock, peer):
                    self._turn_away(sock, "there are as many as may be")
            except Exception:  # that it has gone already is no fault, whatever else is
                log.debug("a connection could not be taken", exc_info=True)
                sock.close()
        return True

    def _accept_with_spare(self, listening: socket.socket, error: OSError) -> bool:
        """Let one in by the file that is kept for that, and close it: it would wait for ever."""
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        try:
            sock, _ = listening.accept()
            self._turn_away(sock, error.strerror or "no files")
            return True
        except OSError:
            return False
        finally:
            self._take_spare()

    def _take_spare(self) -> None:
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._spare = None

    def _turn_away(self, sock: socket.socket, why: str) -> None:
        try:
            sock.setblocking(False)
            sock.send(FAREWELL)
        except OSError:
            pass
        finally:
            sock.close()
        self._turned_away()
        self._unsaid += 1
        if (now := time.monotonic()) - self._said > QUIET:
            log.warning("%d connections were turned away: %s", self._unsaid, why)
            self._unsaid, self._said = 0, now

    def close(self) -> None:
        """Listen no more."""
        for listening in self.sockets.values():
            listening.close()
        self.sockets.clear()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def _bind(family: int, host: str | int, port: int) -> socket.socket:
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    taken = socket.create_server(
        (str(host), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )
    taken.setblocking(False)
    return taken
