"""A TCP proxy that loses replies or cuts connections when told to, for tests of a lossy network."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards every connection made to `address` to the server at `target`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_at_next_reply = False
        """Close the connection, once, in place of forwarding what the server says next."""
        self.holding = threading.Event()
        """While set, what the server says is thrown away."""
        self._parted = threading.Event()
        self._open: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._closed = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Close every connection."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Nothing comes through the connections that are open now, and neither end is told, as
        where a cable is cut; new ones work."""
        self._silent.update(self._open)

    def partition(self) -> None:
        """Nothing comes through any connection, new ones too, either way; neither end is told."""
        self._parted.set()

    def mend(self) -> None:
        """New connections work; those that were open stay silent."""
        self._silent.update(self._open)
        self._parted.clear()

    def _start(self, run: object, *arguments: object) -> None:
        assert callable(run)
        thread = threading.Thread(target=run, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            self._start(self._forward, client, server, False)
            self._start(self._forward, server, client, True)

    def _forward(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(65536):
                if replies and self.cut_at_next_reply:
                    self.cut_at_next_reply = False
                    break
                held = replies and self.holding.is_set()
                if not (held or self._parted.is_set() or source in self._silent):
                    sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
