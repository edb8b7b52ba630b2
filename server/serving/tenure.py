"""This server's tenure of its sessions, where others share the store: a lease that is renewed, and
what others ask for.

A lease that has run out means that others may have taken sessions. Then what is in memory is not
trusted any more: the sessions end here as moved, and whoever names one again gets it from the
store, wherever it is by then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from server.errors import SessionMoved
from server.serving.assembly import Keeping
from server.serving.registry import Registry
from server.store.interface import StoreUnreachable

log = logging.getLogger(__name__)

LISTEN_SECONDS = 0.5
CLOCKS_DIFFER = 0.9  # so much of the lease counts as held, since clocks go at different rates


class Tenure:
    """Two threads over one store.

    Args:
        pause: seconds between two renewals, a small part of the lease.
        on_death: called should a thread ever end other than by `stop`.
    """

    def __init__(
        self, keeping: Keeping, registry: Registry, pause: float, on_death: Callable[[], None]
    ) -> None:
        self._store, self._health, self._registry = keeping.store, keeping.health, registry
        self._pause, self._on_death = pause, on_death
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._live, args=(work,), name=name, daemon=True)
            for name, work in (("lease", self._renew_on), ("asked", self._listen))
        ]

    def start(self) -> None:
        """Take the lease, and keep it.

        Raises:
            StoreUnreachable: the store does not answer.
        """
        self.renew()
        if not self._store.exclusive:
            for thread in self._threads:
                thread.start()

    def stop(self) -> None:
        """Give the lease up. Twice is once."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        try:
            self._store.give_up()
        except StoreUnreachable:
            log.warning("the lease could not be given up: others have to wait until it runs out")

    def renew(self) -> None:
        """Renew the lease, and do what follows if it had run out. Raises `StoreUnreachable`."""
        started = time.monotonic()
        lease = self._store.renew()
        if lease.lapsed:
            log.error("the lease had run out: others may have taken sessions, all are let go")
            self._health.lapses += 1  # first, so that none is missed that is just being claimed
            for model in self._registry:
                handles = model.directory.handles()
                model.directory.end(handles, SessionMoved)
                model.metrics.moved.inc(len(handles))
        if lease.emptied:
            log.error("the store has been emptied: every session is written again")
        for keeper in (model.keeper for model in self._registry):
            if keeper is not None:
                (keeper.emptied if lease.emptied else keeper.renewed)()
        self._health.held_until = started + CLOCKS_DIFFER * lease.seconds

    def _live(self, work: Callable[[], None]) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    work()
                except StoreUnreachable as error:
                    self._health.failed(error)
                    self._stopped.wait(self._health.wait_to_try())
        except BaseException:
            log.critical("the tenure's loop died", exc_info=True)
            self._on_death()

    def _renew_on(self) -> None:
        self._stopped.wait(self._pause)
        if not self._stopped.is_set():
            self.renew()
            self._health.answered()

    def _listen(self) -> None:
        asked: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name, version, session_id in self._store.asked_for(LISTEN_SECONDS):
            asked[name, version].append(session_id)
        for model in self._registry:
            if model.keeper is not None and (ids := asked.get((model.name, model.version))):
                model.keeper.hand_over(ids)
