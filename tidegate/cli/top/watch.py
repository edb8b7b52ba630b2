"""Watches a server: scrape after scrape, each compared with the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidegate.cli.top.change import Changes, changes, restarted, standing, total
from tidegate.cli.top.page import Page
from tidegate.cli.top.scrape import NoPage

MOST_LOOKS = 500
FIRST = "first look; rates come with the next"
RESTARTED = "the server restarted: counters went backwards; rates come with the next look"


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
