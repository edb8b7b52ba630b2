"""The queue and the thread between those who log and whoever reads, who may never do so.

The standard library's `QueueHandler` and `QueueListener` do not do: their end waits until all is
written, which a pipe that nobody reads makes for ever.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from server.logs.limits import Limits
from server.logs.texts import readable

MOST_BYTES: Final = 1 << 20
"""Of lines that wait to be written; further ones are dropped until half of it is through."""
LOOK: Final = 1.0
"""Seconds between looks for what is to be told though nothing is logged."""
PATIENCE, LONGEST = 1.0, 3.0
"""Seconds for which the end waits for a reader who reads nothing; for any reader."""


class Writer(logging.Handler):
    """Takes records in without ever waiting, and writes them to a file descriptor, in order.

    Args:
        often: as of `Limits`.
        most: bytes of lines that may wait.
    """

    def __init__(
        self, to: int, often: Mapping[str, float] | None = None, most: int = MOST_BYTES
    ) -> None:
        super().__init__()
        self._to, self._most, self._limits = to, most, Limits(often or {})
        self._queue: queue.SimpleQueue[bytes | int] = queue.SimpleQueue()
        """Lines; and, where some were dropped, how many."""
        self._put = self._taken = 0  # bytes so far: by those who log, by the thread
        self._dropped = 0  # since the last that was put
        self._lost = 0  # that the thread has yet to tell of
        self._torn = self._closed = False
        self._thread = threading.Thread(target=self._live, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in, or count it."""
        if self._limits.passes(record, time.monotonic()):
            self._emit(record)

    def say(self, text: str) -> None:
        """Write a line that is no record."""
        with self._held():
            self._enqueue(readable(text))

    def close(self) -> None:
        """Write all that is there, as long as somebody reads; then no more is taken in."""
        with self._held():
            if self._closed:
                return
            for record in self._limits.ended(float("inf")):
                self._emit(record)
            self._tell_dropped()
            self._closed = True
        self._await_written()
        super().close()

    def _emit(self, record: logging.LogRecord) -> None:
        if self._is_full():
            self._dropped += 1
            return
        try:
            text = self.format(record)
        except Exception:  # its arguments do not fit; it is told all the same
            text = readable(f"{record.levelname} {record.name} {record.msg!s} (not formatted)")
        self._enqueue(text)

    def _is_full(self) -> bool:
        """Whether there is no room. Once there was none, half has to be free."""
        most = self._most // 2 if self._dropped else self._most
        return self._closed or self._put - self._taken > most

    def _enqueue(self, text: str) -> None:
        self._tell_dropped()
        line = text.encode(errors="backslashreplace") + b"\n"
        self._put += len(line)
        self._queue.put(line)

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._put += 1
            self._queue.put(dropped)

    def _held(self) -> Any:
        """The lock, which those who log hold one after another."""
        assert self.lock is not None
        return self.lock

    # The thread.

    def _live(self) -> None:
        looked = time.monotonic()
        while not (self._closed and self._taken == self._put):
            with suppress(queue.Empty):
                self._take(self._queue.get(timeout=LOOK))
            now = time.monotonic()
            if now - looked > LOOK:
                looked = now
                self._look(now)

    def _look(self, now: float) -> None:
        """Tell what nobody's next record will. The thread waits for nobody: whoever holds the lock
        may be waiting for it."""
        lock = self._held()
        if not lock.acquire(blocking=False):
            return
        try:
            if not self._closed:
                for record in self._limits.ended(now):
                    self._emit(record)
                if not self._is_full():
                    self._tell_dropped()
        finally:
            lock.release()

    def _take(self, what: bytes | int) -> None:
        line = what if isinstance(what, bytes) else b""
        self._lost += 0 if isinstance(what, bytes) else what
        if self._lost and self._write(self._notice()):
            self._lost = 0
        if line and (self._lost or not self._write(line)):
            self._lost += 1
        self._taken += len(line) or 1

    def _notice(self) -> bytes:
        said = "%d records were dropped: they were not read as fast, or could not be written"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, said, (self._lost,), None)
        return self.format(record).encode() + b"\n"

    def _write(self, line: bytes) -> bool:
        """Write all of it, however long that takes; whether it could be."""
        left = memoryview(b"\n" + line if self._torn else line)
        whole = len(left)
        while left:
            try:
                left = left[os.write(self._to, left) :]
            except BlockingIOError:  # somebody else has set it so
                self._await_room()
            except OSError:
                self._torn = self._torn or len(left) < whole
                return False
        self._torn = False
        return True

    def _await_room(self) -> None:
        waiting = select.poll()
        waiting.register(self._to, select.POLLOUT)
        waiting.poll(LOOK * 1_000)

    def _await_written(self) -> None:
        end, seen = time.monotonic() + LONGEST, self._taken
        patient = time.monotonic() + PATIENCE
        while self._taken < self._put and time.monotonic() < min(end, patient):
            time.sleep(0.002)
            if self._taken != seen:
                seen, patient = self._taken, time.monotonic() + PATIENCE
