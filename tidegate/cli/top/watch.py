"""Watches a server until the user leaves: scrape, compare with the scrape before, show, wait.

Here is the plain view too: lines, where there is no terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol, Self

from rich.console import Console

from tidegate.cli.common import Failure, say
from tidegate.cli.top.change import Change, Changes, changes, restarted, standing, total
from tidegate.cli.top.page import NoPage, Page, scrape
from tidegate.cli.top.tables import milliseconds, named, number, once, rows, selected, whole

MOST_LOOKS = 500
FIRST = "first look; rates come with the next"
RESTARTED = "the server restarted: counters went backwards; rates come with the next look"
WIDE = 200
"""Columns for a table that no terminal bounds."""
BREATH = 0.05
"""Seconds that are waited at least, so that keys are heard though the server hangs."""


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


@dataclass(frozen=True)
class Look:
    """What is to be shown."""

    changes: Changes = field(default_factory=dict)
    message: str = ""
    """Why there are no rates; empty where there are."""
    history: Sequence[float | None] = ()
    """Steps a second of the looks so far, oldest first; None where there were none."""


class Watch:
    """Remembers the last page, and the steps a second so far."""

    def __init__(self, scrape: Callable[[], Page]) -> None:
        self._scrape = scrape
        self._before: Page | None = None
        self._history: deque[float | None] = deque(maxlen=MOST_LOOKS)

    def look(self) -> Look:
        """Scrape once more."""
        try:
            page = self._scrape()
        except NoPage as error:
            self._before = None  # whoever answers next may be another process
            self._history.append(None)
            return Look(message=f"{error}, retrying", history=tuple(self._history))
        before, self._before = self._before, page
        found, message = _compare(before, page)
        if before is not None:
            self._history.append(total(found.values()).rate("steps"))
        return Look(found, message, tuple(self._history))


def _compare(before: Page | None, page: Page) -> tuple[Changes, str]:
    if before is None:
        return standing(page), FIRST
    if restarted(before, page):
        return standing(page), RESTARTED
    return changes(before, page), ""


class View(Protocol):
    """A way to show looks."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, look: Look) -> None:
        """Show this."""

    def wait(self, until: float) -> bool:
        """Wait until that moment of the monotonic clock; whether the user left before."""


class Lines:
    """A line a model version for each look."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, look: Look) -> None:
        """Print the look."""
        now = f"{datetime.now():%H:%M:%S}"
        if look.message:
            say(f"{now}  {look.message}", now=True)
            return
        for version, change in selected(look.changes):
            say(f"{now}  {named(version)}  {_figures(change)}", now=True)

    def wait(self, until: float) -> bool:
        """Only an interruption ends it."""
        time.sleep(max(0.0, until - time.monotonic()))
        return False


def _figures(change: Change) -> str:
    """One model version's figures in a line."""
    seconds = change.histograms.get("step_seconds")
    p50, p90, p99 = (milliseconds(seconds, percent) for percent in (50, 90, 99))
    batch = change.histograms.get("batch_rows")
    parts = [
        f"{number(change.rate('steps'))} steps/s",
        f"p50 {p50} ms, p90 {p90}, p99 {p99}",
        f"{number(batch.mean if batch else None)} rows a run (p50 {rows(batch, 50)})",
        f"{whole(change.gauges.get('sessions_live'))} live",
        f"{whole(change.gauges.get('queue_steps'))} queued",
        *(f"{number(each)} {reason}/s" for reason, each in change.reasons("errors").items()),
    ]
    return "  ".join(parts)
