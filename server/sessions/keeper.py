"""The keeper: one thread a model version between its sessions and their table in the store.

Whatever it is asked for, it does many at a time and in this order: forget sessions that ended,
hand over those that others ask for (`handover`), claim those that callers name (`claims`), read
those that rows wait for (`fetching`), confirm steps before they are answered, and then write what
has moved (`passes`). One thread, so that of one session nothing overtakes anything. Steps never
wait for it, unless they are to be confirmed. While the store does not answer, what was to be
written stays marked, and is written once it does; who waits is told `StoreDown`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from server.errors import (
    Internal,
    QueueFull,
    ServingError,
    SessionClosed,
    SessionExpired,
    SessionLost,
    SessionMoved,
    StoreDown,
)
from server.scheduler.protocol import Told
from server.scheduler.submission import Handles
from server.sessions.checkpoint import Checkpoint
from server.sessions.claims import AGAIN, Claims, Naming, Problems
from server.sessions.directory import Directory
from server.sessions.fetching import Fetching
from server.sessions.handover import BetweenRuns, Handover
from server.sessions.passes import PACE, Failed, Passes
from server.sessions.shelf import Shelf
from server.sessions.tombstones import How
from server.store.health import Health
from server.store.interface import End, StoreUnreachable, Table

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_SECONDS = 0.01
SWEEP_SECONDS, SWEPT = 5.0, 1000  # sessions of nobody's that have expired are looked for so often


class Keeper:
    """Keeps the sessions of one model version in their table.

    Args:
        between_runs: `Scheduler.between_runs`.
        sync: whether steps are confirmed before they are answered.
        interval: seconds after which a step is stored.
        on_death: called should the thread ever end other than by `stop`.
    """

    def __init__(
        self,
        table: Table,
        health: Health,
        directory: Directory,
        shelf: Shelf,
        claims: Claims,
        checkpoint: Checkpoint,
        between_runs: BetweenRuns,
        *,
        sync: bool,
        interval: float,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.health, self.sync, self.checkpoint = health, sync, checkpoint
        self.mark = checkpoint.mark
        self._table, self._directory, self._claims = table, directory, claims
        self._handover = Handover(table, directory, checkpoint, between_runs)
        self._fetching = Fetching(table, health, directory, shelf, claims, checkpoint, between_runs)
        self._passes = Passes(health, checkpoint, between_runs, interval)
        self._interval, self._on_death = interval, on_death
        self._condition = threading.Condition()
        self._ends: deque[End] = deque()
        self._forgotten: deque[Future[None]] = deque()
        self._namings: deque[Naming] = deque()
        self._wanted: deque[tuple[Handles, Told]] = deque()
        self._unconfirmed: deque[tuple[Handles, Told]] = deque()
        self._flushing: deque[Future[None]] = deque()
        self._waiting: list[Naming] = []  # for another server to give up a session
        self._migrated: dict[str, End] = {}
        self._next_sweep = 0.0
        self._stopping = self._dead = False
        self._stages = (
            self._forget, self._handover.serve, self._name, self._fetch, self._confirm,
            self._write_some, self._tell_flushed, self._sweep,
        )  # fmt: skip
        directory.watch_ends(self._on_end)
        name = f"keeper-{directory.model}-{directory.version}"
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        """Begin to keep."""
        self._thread.start()

    def name(self, wanted: dict[str, bool]) -> Future[Problems]:
        """Have the sessions of these ids known to the directory, those that exist, or are to be
        opened if they do not; tells of those that cannot be had."""
        naming = Naming(wanted, time.monotonic() + self._claims.patience)
        self._ask(self._namings, naming, lambda error: self._refuse(naming, error))
        return naming.done

    def fetch(self, handles: Handles, then: Told) -> None:
        """Read sessions' records, and shelve them."""
        self._ask(self._wanted, (handles, then), lambda error: then(_all(handles, error)))

    def confirm(self, handles: Handles, then: Told) -> None:
        """Have the sessions stored as they are, or newer, and tell."""
        self._ask(self._unconfirmed, (handles, then), lambda error: then(_all(handles, error)))

    def forgotten(self) -> Future[None]:
        """Done once the store has forgotten all sessions that have ended by now; fails with
        `StoreDown` where it does not answer, and forgets them later."""
        done: Future[None] = Future()
        self._ask(self._forgotten, done, done.set_exception)
        return done

    def discard(self, session_id: str) -> bool:
        """Forget a session whose record cannot be used, if it is one; `forgotten` tells when."""
        epoch = self._claims.bad.pop(session_id, None)
        if epoch is not None:
            with self._condition:
                self._ends.append(End(session_id, epoch))
        return epoch is not None

    def hand_over(self, session_ids: Iterable[str]) -> None:
        """Others ask for these sessions."""
        with self._condition:
            self._handover.ask(session_ids)
            self._condition.notify()

    def renewed(self) -> None:
        """The lease was renewed, and the store had what it should have."""
        self._handover.renewed()
        with self._condition:
            self._condition.notify()

    def emptied(self) -> None:
        """The store holds nothing any more: write every session again."""
        self.mark(self._directory.handles())
        self._handover.emptied()

    def flush(self, deadline: float) -> bool:
        """Have everything written; False if `deadline` (monotonic) came first, or cannot be."""
        done: Future[None] = Future()
        self._ask(self._flushing, done, done.set_exception)
        try:
            done.result(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, ServingError):
            self._flushing.clear()
            return False
        return True

    def stop(self) -> None:
        """End the thread, after what it was asked for."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _unsaved(self) -> int:
        left = len(self._ends) + self._passes.left + self._handover.unsaved
        return left + self.checkpoint.unsaved

    def _ask(self, queue: deque[T], asked: T, refuse: Callable[[ServingError], None]) -> None:
        with self._condition:
            if not self._dead:
                queue.append(asked)
                self._condition.notify()
                return
        refuse(Internal())

    def migrated(self, session_ids: Iterable[str]) -> None:
        """Another version has these sessions, and its table has their records: forget them here."""
        with self._condition:
            self._ends.extend(self._migrated.pop(each) for each in session_ids)
            self._condition.notify()

    def _on_end(self, _handle: int, session_id: str, epoch: int, how: How) -> None:
        """A session has ended, in any thread. One that moved is somebody else's; one that was set
        back goes on from its record."""
        if how in (SessionClosed, SessionExpired, SessionLost) and session_id:
            self._ends.append(End(session_id, epoch))
        elif not isinstance(how, type):
            self._migrated[session_id] = End(session_id, epoch)

    def _live(self) -> None:
        try:
            while not (self._stopping and not self._asked()):
                self._turn()
                self._rest()
            self._forget()  # sessions that ended while nobody waited for it
        except StoreUnreachable as error:
            log.error("sessions that have ended may be found in the store: %s", error)
        except BaseException:
            log.critical("the keeper's loop died", exc_info=True)
            self._on_death()
        finally:
            self._abandon()

    def _asked(self) -> bool:
        waits = self._namings or self._wanted or self._unconfirmed or self._forgotten
        return bool(waits or self._handover.asked or self._flushing)

    def _rest(self) -> None:
        """Until something is asked for, or is due."""
        with self._condition:
            if not (self._asked() or self._stopping or self._passes.left):
                self._condition.wait(self._pause())

    def _pause(self) -> float:
        if self._waiting:
            return AGAIN
        if self._ends or self._handover.unsaved or self.checkpoint.unsaved:
            late = 0.01 if self._ends else self._passes.wait()
            return min(1.0, max(0.001, late, self.health.wait_to_try()))
        return min(1.0, self._interval * PACE)

    def _turn(self) -> None:
        """One round of everything. What cannot be done for want of the store is told, or kept."""
        # Before the ends are looked at: who closes a session and names it again gets a new one.
        self._waiting += _drained(self._namings)
        if self.health.wait_to_try():
            self._refuse_all(StoreDown(max(0.05, self.health.wait_to_try())))
            time.sleep(0.001)
            return
        try:
            for work in self._stages:
                self._do(work)
        except StoreUnreachable as error:
            self.health.failed(error)
            self._refuse_all(StoreDown(max(0.05, self.health.wait_to_try())))
        except ServingError as error:  # the scheduler is no more
            self._refuse_all(error)
            self._fail_flushes(error)
            time.sleep(BUSY_SECONDS)

    def _do(self, work: Callable[[], None]) -> None:
        """One stage of a turn. Those that follow need not wait where only the engine is busy."""
        try:
            work()
        except QueueFull:
            time.sleep(BUSY_SECONDS)

    def _forget(self) -> None:
        told, ended = _drained(self._forgotten), _drained(self._ends)
        with self._unless_done(self._forgotten, told), self._unless_done(self._ends, ended):
            if ended:  # the last of each
                self._table.delete(list({each.session_id: each for each in ended}.values()))
                self.health.answered()
        for done in told:
            if done.set_running_or_notify_cancel():
                done.set_result(None)

    def _name(self) -> None:
        if self._waiting:
            self._waiting = self._claims.serve(self._waiting)
            self.health.answered()

    def _fetch(self) -> None:
        wanted = _drained(self._wanted)
        if not wanted:
            return
        with self._unless_done(self._wanted, wanted):
            handles = np.unique(np.concatenate([handles for handles, _ in wanted]))
            failed = self._fetching.fetch(handles)
        for _, then in wanted:
            _tell(then, failed)

    def _confirm(self) -> None:
        unconfirmed = _drained(self._unconfirmed)
        if not unconfirmed:
            return
        with self._unless_done(self._unconfirmed, unconfirmed):
            handles = np.unique(np.concatenate([handles for handles, _ in unconfirmed]))
            failed = self._passes.write(handles) | self._moved(handles)
        for _, then in unconfirmed:
            _tell(then, failed)

    def _moved(self, handles: Handles) -> Failed:
        """Those of the sessions that have gone elsewhere since they were stepped."""
        gone = handles[~self._directory.live(handles)].tolist()
        told = {handle: self._directory.error(handle) for handle in gone}
        return {handle: error for handle, error in told.items() if isinstance(error, SessionMoved)}

    def _write_some(self) -> None:
        self._passes.go_on(at_once=bool(self._flushing))

    def _tell_flushed(self) -> None:
        """Whoever waits for everything to be written; nothing is under way now."""
        if self._flushing and not self._unsaved():
            for done in _drained(self._flushing):
                done.set_result(None)

    def _fail_flushes(self, error: ServingError) -> None:
        for done in _drained(self._flushing):
            done.set_exception(error)

    def _sweep(self) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            gone = self._table.expire(time.time() - self._directory.ttl, SWEPT)
            self._next_sweep = now + (0 if gone == SWEPT else SWEEP_SECONDS)

    def _refuse_all(self, error: ServingError) -> None:
        """Whoever waits for the store is told that it does not answer."""
        for naming in [*self._waiting, *_drained(self._namings)]:
            self._refuse(naming, error)
        self._waiting = []
        for handles, then in _drained(self._wanted):
            _tell(then, _all(handles, error))
        for handles, then in _drained(self._unconfirmed):
            self.mark(handles)
            _tell(then, _all(handles, error) if self.health.refuse else {})
        for done in _drained(self._forgotten):
            if done.set_running_or_notify_cancel():
                done.set_exception(error)

    def _refuse(self, naming: Naming, error: ServingError) -> None:
        names = [name for name in naming.wanted if name not in self._directory]
        naming.problems |= dict.fromkeys(names, error)
        naming.over()

    @contextmanager
    def _unless_done(self, queue: deque[T], taken: list[T]) -> Iterator[None]:
        """Put back what was taken, if it cannot be done now."""
        try:
            yield
        except BaseException:
            queue.extendleft(reversed(taken))
            raise

    def _abandon(self) -> None:
        with self._condition:
            self._dead = True
        self._fail_flushes(Internal())
        self._refuse_all(Internal())


def _drained(queue: deque[T]) -> list[T]:
    return [queue.popleft() for _ in range(len(queue))]


def _tell(then: Told, failed: Failed) -> None:
    """One caller's completion must not cost the others theirs."""
    try:
        then(failed)
    except Exception:
        log.exception("a completion failed")


def _all(handles: Handles, error: ServingError) -> Failed:
    return dict.fromkeys(handles.tolist(), error)
