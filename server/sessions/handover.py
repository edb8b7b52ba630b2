"""Sessions that other servers ask for: they end here, are stored as they are, and are let go.

From then until another server has taken them up, the store alone has them. Should it come up empty
just then, they are written once more by whoever had them last: so what was let go is kept at hand
for two renewals of the lease. The keeper's thread does the work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np

from server.engine.engine import Engine
from server.errors import SessionMoved
from server.scheduler.submission import Handles
from server.sessions.checkpoint import Captured, Checkpoint
from server.sessions.directory import Directory
from server.store.interface import ANY_EPOCH, RENEWALS, End, StoreUnreachable, Table

T = TypeVar("T")

KEPT: Final = 2
"""Renewals: the one that is under way while sessions are let go shows nothing; the next one shows
that the store was there long enough for others to take them up."""


class BetweenRuns(Protocol):
    """`Scheduler.between_runs`."""

    def __call__(self, work: Callable[[Engine], T], /) -> Future[T]: ...


@dataclass(eq=False)
class _LetGo:
    captured: Captured
    renewals: int = KEPT
    lost: bool = False
    """Whether the store has lost it since, unless somebody had taken it up."""


class Handover:
    """Lets sessions of one model version go."""

    def __init__(
        self,
        table: Table,
        directory: Directory,
        checkpoint: Checkpoint,
        between_runs: BetweenRuns,
    ) -> None:
        self._table, self._directory, self._checkpoint = table, directory, checkpoint
        self._between_runs = between_runs
        self._lock = threading.Lock()
        self._asked: list[str] = []
        self._strange: set[str] = set()  # asked for, and not known here
        self._handing: deque[Captured] = deque()  # no longer ours here, and not stored yet
        self._let_go: list[_LetGo] = []
        self._waits = 0  # renewals until what was lost of them is stored once more

    @property
    def asked(self) -> bool:
        """Whether others ask for sessions."""
        return bool(self._asked)

    @property
    def unsaved(self) -> int:
        """How much is to be done before the store has everything."""
        left = len(self._asked) + len(self._strange) + len(self._handing)
        return left + len(self._lost())

    def ask(self, session_ids: Iterable[str]) -> None:
        """Others ask for these sessions. Any thread."""
        with self._lock:
            self._asked.extend(session_ids)

    def renewed(self) -> None:
        """The store had what it should have when the lease was renewed. Any thread."""
        with self._lock:
            self._waits -= 1
            for each in self._let_go:
                each.renewals -= not each.lost
            self._let_go = [each for each in self._let_go if each.renewals]

    def emptied(self) -> None:
        """The store has lost everything. Any thread."""
        with self._lock:
            self._waits = RENEWALS
            for each in self._let_go:
                each.lost = True

    def serve(self) -> None:
        """Let go what others ask for, and once more what the store has lost of it.

        Raises:
            StoreUnreachable, QueueFull: what is not done stays to be done.
        """
        self._end()
        while self._handing:
            self._store(self._handing[0])
            done = _LetGo(self._handing.popleft())
            with self._lock:
                self._let_go.append(done)
        self._store_again()
        self._release_strange()  # last, since what is being handed is not known here either

    def _end(self) -> None:
        """End those that are live here, as they are."""
        with self._lock:
            asked = list(self._asked)
        handles = {name: self._directory.handle(name) for name in asked}
        if live := [handle for handle in handles.values() if handle]:
            self._handing.append(self._capture_last(np.array(live, dtype=np.int64)))
        self._strange.update(name for name, handle in handles.items() if not handle)
        with self._lock:
            del self._asked[: len(asked)]

    def _store_again(self) -> None:
        """Not before others have had a lease's time to write what they took up, which is newer. If
        the store goes away meanwhile, it may have lost theirs, and their time begins anew."""
        lost = self._lost() if self._waits <= 0 else []
        try:
            for each in lost:
                self._store(each.captured)
                with self._lock:
                    self._let_go.remove(each)
        except StoreUnreachable:
            self.emptied()
            raise

    def _lost(self) -> list[_LetGo]:
        with self._lock:
            return [each for each in self._let_go if each.lost]

    def _store(self, captured: Captured) -> None:
        self._checkpoint.store(captured)
        ends = zip(captured.sessions.ids, captured.sessions.epochs.tolist(), strict=True)
        self._table.release([End(*each) for each in ends])

    def _release_strange(self) -> None:
        """Let go of those that are this server's at the store, and not known here."""
        names = [name for name in self._strange if name not in self._directory]
        if names:
            self._table.release([End(name, ANY_EPOCH) for name in names])
        self._strange.clear()

    def _capture_last(self, handles: Handles) -> Captured:
        def capture(engine: Engine) -> Captured:
            captured = self._checkpoint.capture(engine, handles)
            self._directory.end(handles, SessionMoved)
            return captured

        return self._between_runs(capture).result()
