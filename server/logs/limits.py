"""How often a record may be repeated: a storm of one kind costs a few lines a minute.

Records are of a kind if their logger, level and message are the same before arguments go into it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MOST: Final = 10
"""Records of a kind in a window."""
WINDOW: Final = 60.0
"""Seconds."""
KINDS: Final = 1_000
"""Kinds in a window that are told apart; further ones are alike if logger and level are."""
LONGEST_KIND: Final = 256
"""Characters by which messages are told apart."""

Kind = tuple[str, int, str]


@dataclass(slots=True)
class _Window:
    until: float
    passed: int = 0
    held: int = 0


class Limits:
    """Counts the records of each kind. Whoever uses it sees to it that one does at a time.

    Args:
        often: by logger, how many of a kind may be told in a window, where it is not `MOST`.
    """

    def __init__(self, often: Mapping[str, float]) -> None:
        self._often = often
        self._windows: dict[Kind, _Window] = {}

    def passes(self, record: logging.LogRecord, now: float) -> bool:
        """Whether the record is to be told."""
        kind = self._kind(record)
        window = self._windows.get(kind)
        if window is None or (now >= window.until and not window.held):
            window = self._windows[kind] = _Window(now + WINDOW)
        if window.passed >= self._often.get(record.name, MOST):
            window.held += 1
            return False
        window.passed += 1
        return True

    def ended(self, now: float) -> Iterator[logging.LogRecord]:
        """For each kind whose window is over by now and that had records held back, one that says
        how many; to be asked now and then."""
        over = [kind for kind, window in self._windows.items() if now >= window.until]
        for kind in over:
            if held := self._windows.pop(kind).held:
                yield _summary(kind, held)

    def _kind(self, record: logging.LogRecord) -> Kind:
        # What is no text is told by its type: its words may be of any kind.
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__qualname__
        kind = record.name, record.levelno, text[:LONGEST_KIND]
        if kind in self._windows or len(self._windows) < KINDS:
            return kind
        return record.name, record.levelno, "(of many kinds)"


def _summary(kind: Kind, held: int) -> logging.LogRecord:
    name, level, text = kind
    return logging.LogRecord(name, level, "", 0, "%d more like this: %s", (held, text), None)
