"""The live view: redrawn in place on a terminal's other screen, until a key ends it."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.live import Live

from tidegate.cli.top.drawing import drawing
from tidegate.cli.top.keys import Keys
from tidegate.cli.top.watch import Look


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def show(self, look: Look) -> None:
        """Redraw."""
        self._live.update(drawing(look, self._console, *self._title), refresh=True)

    def wait(self, until: float) -> bool:
        """Until then, or the user's key."""
        return self._keys.quits(until)
