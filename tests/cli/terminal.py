"""A command on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cli.running import words
from tests.harness import ROOT

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])")
SHOWS_CURSOR, LEAVES_SCREEN = b"\x1b[?25h", b"\x1b[?1049l"


class Terminal:
    """The user's side of it."""

    def __init__(self, process: subprocess.Popen[bytes], user: int) -> None:
        self.process, self._user = process, user
        self.written = b""

    def read_until(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read until the text, without its escapes, has the pattern."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read()
            found = re.search(pattern, ESCAPES.sub("", self.written.decode(errors="replace")))
            if found:
                return found
        raise AssertionError(f"{pattern!r} never came; the end: {self.written[-2000:]!r}")

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._user, keys)

    def mode(self) -> list[Any]:
        """The terminal's settings."""
        return termios.tcgetattr(self._user)

    def end(self, seconds: float = 60) -> int:
        """Wait for the command's end, reading what it still writes; its exit status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        self._read()
        return self.process.wait(0)

    def _read(self) -> None:
        if select.select([self._user], [], [], 0.1)[0]:
            self.written += os.read(self._user, 65536)


@contextmanager
def on_terminal(*given: object, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """Start the command on a terminal of that size."""
    user, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *words(*given)],
        stdin=its, stdout=its, stderr=its, cwd=ROOT, env=environment,
    )  # fmt: skip
    try:
        yield Terminal(process, user)
    finally:
        process.kill()
        process.wait()
        os.close(its)
        os.close(user)
