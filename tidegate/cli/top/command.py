"""`tidegate top`: look, show, wait, until the user leaves."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from tidegate.cli.failure import Failure
from tidegate.cli.top.change import changes, restarted
from tidegate.cli.top.lines import Lines
from tidegate.cli.top.scrape import scrape
from tidegate.cli.top.tables import once
from tidegate.cli.top.watch import RESTARTED, Look, Watch

WIDE = 200
"""Columns for a table that no terminal bounds."""
BREATH = 0.05
"""Seconds that are waited at least, so that keys are heard though the server hangs."""


class View(Protocol):
    """A way to show looks."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def show(self, look: Look) -> None:
        """Show this."""

    def wait(self, until: float) -> bool:
        """Wait until that moment of the monotonic clock; whether the user left before."""


def top(url: str, interval: float, single: bool) -> int:
    """Run the command; returns the exit status."""
    try:
        if single:
            _print_once(url, interval)
        else:
            _watch(url, interval)
    except KeyboardInterrupt:
        pass  # it is how one leaves
    return 0


def _watch(url: str, interval: float) -> None:
    watch = Watch(partial(scrape, url))
    with _view(url, interval) as view:
        due = time.monotonic()
        while True:
            view.show(watch.look())
            due = max(due + interval, time.monotonic() + BREATH)
            if view.wait(due):
                return


def _view(url: str, interval: float) -> View:
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return Lines()
    from tidegate.cli.top.screen import Screen  # needs a terminal's settings, which not all have

    return Screen(url, interval)


def _print_once(url: str, interval: float) -> None:
    before = scrape(url)
    time.sleep(interval)
    after = scrape(url)
    if restarted(before, after):
        raise Failure(RESTARTED)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(once(changes(before, after), console.width))
