"""Files that are read again once they have changed, with no restart. A leaf."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from server.config import ConfigError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # between two looks at the files


class Watched:
    """Any thread may look; none waits for another that does.

    Args:
        files: what is looked at.
        take: reads them and uses what they say; raises ConfigError where that cannot be used, and
            then what was used before stays.
        before: says so, for the log.
    """

    def __init__(self, files: Sequence[Path], take: Callable[[], None], before: str) -> None:
        self._files, self._take, self._before = files, take, before
        self._looking = threading.Lock()
        self._looked, self._seen = time.monotonic(), self._stat()

    def look(self) -> None:
        """Read the files again, if a second has passed since the last look and they have
        changed."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._looked = time.monotonic()
            seen = self._stat()
            if seen != self._seen:
                self._seen = seen  # before: what cannot be used is told once
                self._take()
        except ConfigError as error:
            log.error("%s: %s", self._before, error)
        finally:
            self._looking.release()

    def _stat(self) -> list[tuple[int, int, int] | None]:
        return [_stat(file) for file in self._files]


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:  # to read it tells why
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
