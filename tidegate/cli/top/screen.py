"""The live view: redrawn in place on a terminal's other screen, until a key ends it."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tidegate.cli.top.change import Changes, total
from tidegate.cli.top.tables import number, reasons, shorten, sparkline, tables
from tidegate.cli.top.watch import Look
from tidegate.printable import printable

QUIT = ("q", "Q")
AROUND = 14
"""Lines that are no model version's: title, message, headings, totals, errors, history, foot."""
TITLE, HISTORY = "tidegate top  ", "steps/s   "


class Screen:
    """Draws, and leaves the terminal as it was, also when it is terminated."""

    def __init__(self, url: str, interval: float) -> None:
        self._title = url, interval
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._keys = Keys()
        self._stack = ExitStack()

    def __enter__(self) -> Screen:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._stack.callback(signal.signal, signal.SIGTERM, before)
        self._stack.enter_context(self._keys)
        self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, look: Look) -> None:
        """Redraw."""
        self._live.update(drawing(look, self._console, *self._title), refresh=True)

    def wait(self, until: float) -> bool:
        """Until then, or the user's key."""
        return self._keys.quits(until)


def drawing(look: Look, console: Console, url: str, interval: float) -> Group:
    """The whole screen."""
    width, height = console.size
    return Group(
        _title(url, interval, width),
        Text(printable(look.message), style="bold red"),
        *_figures(look.changes, width, max(1, (height - AROUND) // 2)),
        _history(look, width) if "utf" in console.encoding else Text(),
        Text("q or Ctrl-C leaves", style="dim"),
    )


def _title(url: str, interval: float, width: int) -> Text:
    tail = f"  every {interval:g} s  {datetime.now():%H:%M:%S}"
    room = max(8, width - len(TITLE) - len(tail))
    return Text(f"{TITLE}{shorten(printable(url), room)}{tail}", no_wrap=True)


def _figures(changes: Changes, width: int, most: int) -> list[RenderableType]:
    if not changes:
        return []
    errors = reasons(total(changes.values()), width)
    return [*tables(changes, width, most), Text(), errors]


def _history(look: Look, width: int) -> Text:
    rates = [each for each in look.history if each is not None]
    if not rates:
        return Text()
    tail = f"  most {number(max(rates))}"
    line = sparkline(look.history, width - len(HISTORY) - len(tail))
    return Text(f"{HISTORY}{line}{tail}", no_wrap=True)


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
