"""A real redis-server for tests, on a unix socket, that can be paused, killed and restarted."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from server.store.redis import Durability, RedisSettings, RedisStore
from tests.harness import freeze, thaw


class RedisServer:
    """Keeps nothing on the disk unless told to. Use `stop` when done."""

    def __init__(self, *flags: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.folder / "socket"
        self.url = f"unix://{self.socket}?db=0"
        self._flags = flags
        self.start()

    def start(self) -> None:
        """Start, or start again, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program, "these tests need redis-server on the PATH: `make tools` installs it"
        command = [program, "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        port = [] if "--port" in self._flags else ["--port", "0"]
        command += [*port, "--save", "", "--logfile", str(self.folder / "log"), *self._flags]
        self.process = subprocess.Popen(command)
        try:
            self.await_that(lambda: bool(self.client().ping()))
        except BaseException:
            self.kill()
            raise

    def client(self) -> Any:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url, socket_timeout=10)

    def await_that(self, holds: Any) -> None:
        """Wait until it holds; redis may not be up meanwhile."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except redis.RedisError:
                pass
            time.sleep(0.01)
        raise AssertionError((self.folder / "log").read_text())

    def pause(self) -> None:
        """It answers nothing, and its connections stay."""
        freeze(self.process)

    def resume(self) -> None:
        thaw(self.process)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def settings(
        self,
        lease: float = 60.0,
        timeout: float = 10.0,
        durability: Durability = "memory",
        time_to_live: float = 3600.0,
    ) -> RedisSettings:
        """What a server over this redis is told."""
        return RedisSettings(self.url, durability, 1, timeout, lease, time_to_live)

    def store(self, **settings: Any) -> RedisStore:
        """One more server over this redis."""
        return RedisStore(self.settings(**settings))
