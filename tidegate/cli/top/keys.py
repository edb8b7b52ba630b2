"""Waits for the time of the next look, or for the key that ends it."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from typing import Any

QUIT = ("q", "Q")


class Keys:
    """Reads single keys of the terminal, which is put back as it was at the end."""

    def __init__(self) -> None:
        self._listens = sys.stdin is not None and sys.stdin.isatty()
        self._file = sys.stdin.fileno() if self._listens else -1
        self._mode: list[Any] | None = None

    def __enter__(self) -> Keys:
        if self._listens:
            self._mode = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._mode is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._mode)

    def quits(self, until: float) -> bool:
        """Wait until that moment of the monotonic clock; whether the key was pressed before."""
        while (left := until - time.monotonic()) > 0:
            if not self._listens:
                time.sleep(left)
            elif select.select([self._file], [], [], left)[0] and self._pressed():
                return True
        return False

    def _pressed(self) -> bool:
        typed = os.read(self._file, 1024)
        self._listens = bool(typed)  # nothing: the terminal is gone
        return any(key.encode() in typed for key in QUIT)
