"""While one thread captures a CUDA graph, no other calls CUDA: it would spoil the capture, and its
own call would fail. Captures are rare (as a model is loaded); runs of all models pass side by side.

A capture keeps out whoever comes while it waits for those inside. So what is inside for long, as a
model is that opens, is announced: a capture waits for that first, and nobody for the capture yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """`with gate:` around whatever calls CUDA, in any thread and as deep as it comes; `long` in its
    place around what takes more than a run does; `alone` around a capture."""

    def __init__(self) -> None:
        self._changed, self._long = threading.Condition(), threading.Lock()
        self._inside: dict[int, int] = {}  # how deep each thread is
        self._alone = 0  # the thread that captures, or is about to

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            deep = self._inside.get(me, 0)
            if not deep and self._alone not in (0, me):
                self._changed.wait_for(lambda: not self._alone)
            self._inside[me] = deep + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._changed:
            deep = self._inside.pop(me) - 1
            if deep:
                self._inside[me] = deep
            elif self._alone:
                self._changed.notify_all()

    @contextmanager
    def long(self) -> Iterator[None]:
        """Inside, for long: one thread at a time. Within another call it is a part of that."""
        if threading.get_ident() in self._inside:
            with self:
                yield
        else:
            with self._long, self:
                yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Once everybody else is out, and until the end nobody else comes in.

        Raises:
            RuntimeError: this thread is inside already: two such would wait for each other.
        """
        me = threading.get_ident()
        if me in self._inside or self._alone == me:
            raise RuntimeError("a capture begins amid another call of CUDA")
        with self._long:
            try:
                with self._changed:
                    self._alone = me
                    self._changed.wait_for(lambda: not self._inside)
                yield
            finally:
                with self._changed:
                    self._alone = 0
                    self._changed.notify_all()


gate = Gate()
"""The process's: captures are global to it."""
