"""A server that is killed, paused and started again at the same address, over the same store."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness import RunningServer, await_ready, freeze, start, thaw

QUICK = ("--checkpoint-interval", "0.2", "--lease-seconds", "1")
"""Stores and takes over soon, so that tests need not wait."""


class Service:
    """One place for a server, which keeps its port through all its lives; `before` and `code` are
    as `harness.start` has them."""

    def __init__(
        self, repository: Path, *flags: str, before: Sequence[str] = (), code: str = ""
    ) -> None:
        self._repository, self._before, self._code = repository, before, code
        self._flags = (*QUICK, *flags)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.running: RunningServer

    def start(self) -> RunningServer:
        """Start it, and wait until it serves."""
        self.begin()
        return self.await_ready()

    def begin(self) -> None:
        """Start it, without waiting."""
        flags = ("--port", str(self.port), *self._flags)
        self._begun = start(self._repository, *flags, before=self._before, code=self._code)

    def await_ready(self) -> RunningServer:
        """Wait until what was begun serves."""
        self.running = await_ready(*self._begun)
        return self.running

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        process, log = self._begun
        process.kill()
        process.wait()
        log.unlink(missing_ok=True)

    def pause(self) -> None:
        """It does nothing, and its connections stay."""
        freeze(self.running.process)

    def resume(self) -> None:
        """It goes on."""
        thaw(self.running.process)


@contextmanager
def serving(
    repository: Path, *flags: str, before: Sequence[str] = (), code: str = ""
) -> Iterator[Service]:
    """A service that serves; at the end it is killed."""
    service = Service(repository, *flags, before=before, code=code)
    service.start()
    try:
        yield service
    finally:
        service.kill()


def on_sqlite(folder: Path) -> tuple[str, ...]:
    """Flags for a store in a folder."""
    return ("--data-folder", str(folder))


def on_redis(url: str) -> tuple[str, ...]:
    """Flags for a store in redis."""
    return ("--store", "redis", "--redis-url", url)


def free_port() -> int:
    """A port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
