"""Connections' sockets, plain or encrypted: bytes in, buffers out, and never waiting."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Protocol

from server.transport.http2.frames import Packed


class Socket(Protocol):
    """A socket that does not wait: what it cannot do now raises BlockingIOError."""

    socket: socket.socket
    more: bool
    """Whether bytes have come that `receive` had no room for, and the system does not tell of."""

    def shake(self) -> bool:
        """Go on with the handshake; True once nothing is left of it, False to be asked again when
        there is something to read. Raises OSError."""

    def receive(self, room: memoryview) -> int:
        """Fill the room; returns how many bytes came, 0 at the end. Raises OSError."""

    def send(self, pieces: Sequence[Packed]) -> int:
        """Send what it takes; returns how many bytes. Raises OSError."""


class Plain:
    """TCP."""

    more = False

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def shake(self) -> bool:
        """There is none."""
        return True

    def receive(self, room: memoryview) -> int:
        """As `Socket`."""
        return self.socket.recv_into(room)

    def send(self, pieces: Sequence[Packed]) -> int:
        """As `Socket`."""
        return self.socket.sendmsg(pieces)


class Encrypted:
    """TLS."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.socket: socket.socket = self._tls
        self.more = False

    def shake(self) -> bool:
        """As `Socket`. Its few bytes go out at once, or the peer is none."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._tls.selected_alpn_protocol() != "h2":
            raise ssl.SSLError("the peer does not offer HTTP/2")
        return True

    def receive(self, room: memoryview) -> int:
        """As `Socket`: all records that have come, of 16 KiB each, not the first alone."""
        count = 0
        try:
            while count < len(room) and (came := self.socket.recv_into(room[count:])):
                count += came
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not count:
                raise BlockingIOError from None
        self.more = self._tls.pending() > 0
        return count

    def send(self, pieces: Sequence[Packed]) -> int:
        """As `Socket`."""
        try:
            return self.socket.send(b"".join(pieces))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
