"""Has all that the process says go to stderr through one writer: records, and what libraries print.

writer = begin()           # before anything can fail
follow(writer, level, format, audit)
writer.close()             # at the very end: nothing that anybody reads is lost
"""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from typing import Final

from server.logs.layout import JsonLayout, TextLayout
from server.logs.writer import Writer

AUDIT: Final = "server.audit"
"""The logger of what callers do with whole sessions and models."""
STRAY: Final = "stderr"
"""The logger of what is printed to stderr past logging, a record a line."""
MODELS: Final = ("server.serving.loader", "server.serving.watcher", "server.serving.shadows")
"""Loggers with a record a model: as many as an operator has, and no caller can cause one."""
OFTEN: Final = {AUDIT: math.inf, STRAY: 100, **dict.fromkeys(MODELS, 10_000)}
"""Records of a kind a minute, where that is not `limits.MOST`."""
QUIET: Final = ("hpack",)
"""Loggers that tell every header, those that let callers in included."""

LAYOUTS: Final = {"text": TextLayout, "json": JsonLayout}


def begin() -> Writer:
    """What writes to stderr from now on."""
    to = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    return Writer(to, OFTEN)


def follow(writer: Writer, level: str, layout: str, audit: bool) -> None:
    """Have records from `level` on written in a layout; those of the audit or none of them."""
    writer.setFormatter(LAYOUTS[layout]())
    logging.basicConfig(level=level.upper(), handlers=[writer])
    logging.captureWarnings(True)
    logging.getLogger(AUDIT).setLevel(logging.INFO if audit else logging.CRITICAL + 1)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.stderr = _Stray()


class _Stray(io.TextIOBase):
    """Stands in for stderr: threads' last words, and servers within libraries, print there and
    would wait for whoever reads."""

    def __init__(self) -> None:
        self._log = logging.getLogger(STRAY)
        self._begun = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Log whole lines."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._log.warning("%s", line)
        self._begun = self._begun[-4096:]
        return len(text)
