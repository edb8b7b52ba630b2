"""Claims: sessions that a caller names and this server does not know, asked of the store.

What the store has becomes a session of the directory, its state shelved until its next step. What
it has not is made there, if the caller wants it opened. The keeper's thread does the work.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from server.bundle.manifest import Manifest
from server.errors import BadRecord, ServingError, SessionExpired, SessionMoved
from server.metrics import ModelMetrics
from server.sessions.directory import Directory
from server.sessions.shelf import Shelf, Shelved
from server.sessions.standing import Adopted, new_life
from server.store.health import Health
from server.store.interface import Claim, Claimed, End, Hold, Table
from server.store.record import Codec, Columns, Record

AGAIN = 0.01  # seconds after which a server that was asked for a session may have given it up

Problems = dict[str, ServingError]
"""By id: why a session cannot be had."""


@dataclass(eq=False)
class Naming:
    """Ids that a caller names, and whether each is to be opened if there is nothing of it; `done`
    gets those that cannot be had, and why. Of one that does not exist nothing is said."""

    wanted: dict[str, bool]
    until: float
    """When, by the monotonic clock, another server has had the time to give them up."""
    done: Future[Problems] = field(default_factory=Future)
    problems: Problems = field(default_factory=dict)

    def over(self) -> None:
        """Tell the caller."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(self.problems)


class _Begun(NamedTuple):
    """A session that is to begin, should there be nothing of it."""

    life: int
    at: float
    data: bytes


class Claims:
    """Turns names into sessions of one model version's directory.

    Args:
        patience: seconds that another server has to give up a session, or to store what it took
            over; what the store has not by then is nowhere.
    """

    def __init__(
        self,
        table: Table,
        codec: Codec,
        manifest: Manifest,
        directory: Directory,
        shelf: Shelf,
        metrics: ModelMetrics,
        health: Health,
        patience: float,
    ) -> None:
        self.patience: Final = patience
        self._table, self._codec, self._metrics = table, codec, metrics
        self._manifest = manifest
        self._directory, self._shelf, self._health = directory, shelf, health
        self.bad: dict[str, int] = {}
        """Sessions whose records cannot be used, and their epochs, so that they can be removed."""

    def serve(self, namings: list[Naming]) -> list[Naming]:
        """Do what can be done now; returns the namings that have to wait, for other servers, or
        until sessions that had expired are forgotten.

        Raises:
            StoreUnreachable: nothing is told yet.
        """
        wanted: dict[str, bool] = {}
        for naming in namings:
            for name, create in naming.wanted.items():
                if name not in self._directory:
                    wanted[name] = wanted.get(name, False) or create
        problems = self._claim(wanted)
        return [each for each in namings if not self._settle(each, problems)]

    def read(self, session_id: str, data: bytes | None) -> Record | BadRecord:
        """What a stored record says, or why it cannot be used."""
        try:
            return self._codec.unpack(session_id, data or b"")
        except BadRecord as error:
            self._metrics.bad_records.inc()
            return error

    def _claim(self, wanted: dict[str, bool]) -> Problems:
        """Claim sessions; tells of those that cannot be had, or not yet."""
        try:
            self._directory.check_room(len(wanted))
        except ServingError as error:
            return self._refuse(wanted, error)
        problems = self._beyond_quota(wanted)
        lapses = self._health.lapses
        begun = self._begun([name for name, new in wanted.items() if new])
        claims = [Claim(name, begun[name].data if new else None) for name, new in wanted.items()]
        claimed = dict(zip(wanted, self._table.claim(claims) if claims else (), strict=True))
        absent = [name for name, each in claimed.items() if each.hold is Hold.ABSENT]
        self._directory.vanish(absent, time.time() - self.patience)
        unwanted: list[End] = []
        for name, each in claimed.items():
            if each.hold is Hold.ELSEWHERE:
                problems[name] = SessionMoved(self._directory.model, name, time.time())
            elif each.hold is not Hold.ABSENT and (
                problem := self._take(name, each, begun.get(name))
            ):
                problems[name] = problem
                if not isinstance(problem, BadRecord):
                    unwanted.append(End(name, each.epoch))
        if unwanted:
            made = [each for each in unwanted if claimed[each.session_id].hold is Hold.CREATED]
            self._table.delete(made)
            self._table.release([each for each in unwanted if each not in made])
        if self._health.lapses != lapses:
            self._let_go(list(claimed))
        return problems

    def _beyond_quota(self, wanted: dict[str, bool]) -> Problems:
        """Those that their tenants may not have, which are wanted no more."""
        problems: Problems = {}
        for name, error in self._directory.beyond_quota(wanted).items():
            problems |= self._refuse({name: wanted.pop(name)}, error)
        return problems

    def _let_go(self, names: list[str]) -> None:
        """The lease ran out while sessions were claimed: others may have taken them since."""
        handles = np.array([self._directory.handle(name) for name in names], dtype=np.int64)
        self._directory.end(handles[handles > 0], SessionMoved)

    def _refuse(self, wanted: dict[str, bool], error: ServingError) -> Problems:
        """There is no room for any: of those that do not exist, that is what is told."""
        sought = [name for name, create in wanted.items() if not create]
        records = dict(zip(sought, self._table.read(sought) if sought else (), strict=True))
        return {name: error for name in wanted if records.get(name, b"") is not None}

    def _begun(self, names: list[str]) -> dict[str, _Begun]:
        """The records of sessions that begin now, by name."""
        count, now = len(names), time.time()
        zeros, moments = np.zeros(count, dtype=np.int64), np.full(count, now)
        lives = [new_life() for _ in names]
        records = self._codec.pack_many(
            Columns(
                names, zeros, np.array(lives, dtype=np.int64), zeros, moments, moments, (),
                np.zeros((count, 0, self._manifest.outputs_width), dtype=np.float32),
                np.zeros((count, 0), dtype=np.uint64), zeros,
            )
        )  # fmt: skip
        each = zip(names, lives, records, strict=True)
        return {name: _Begun(life, now, record) for name, life, record in each}

    def _take(self, name: str, claimed: Claimed, begun: _Begun | None) -> ServingError | None:
        try:
            if begun is not None and claimed.hold is Hold.CREATED:
                self._begin(name, claimed, begun)
            else:
                self._adopt(name, claimed)
        except BadRecord as error:
            self._metrics.bad_records.inc()
            self.bad[name] = claimed.epoch
            return error
        except ServingError as error:
            return error
        return None

    def _begin(self, name: str, claimed: Claimed, begun: _Begun) -> None:
        self._directory.adopt(
            Adopted(name, claimed.epoch, begun.life, 0, begun.at, claimed.used_at, True)
        )

    def _adopt(self, name: str, claimed: Claimed) -> None:
        record = self._codec.unpack(name, claimed.record)
        # A claim is a use, but for one that came too late.
        late = time.time() - claimed.used_at > self._directory.ttl
        handle = self._directory.adopt(
            Adopted(
                name, claimed.epoch, record.life, record.steps, record.opened_at,
                claimed.used_at, False,
            )
        )  # fmt: skip
        if late:
            self._directory.end(np.array([handle]), SessionExpired)
        elif record.steps:
            self._shelf.put_read(handle, shelved(record))
        self._metrics.taken_up.inc(not late)

    def _settle(self, naming: Naming, problems: Problems) -> bool:
        """Whether the naming is over, which its caller is told then."""
        open_names = {name for name in naming.wanted if name not in self._directory}
        told = {name: problems[name] for name in open_names if name in problems}
        elsewhere = any(isinstance(error, SessionMoved) for error in told.values())
        if elsewhere and time.monotonic() < naming.until:
            return False
        naming.problems |= told
        # One that had expired is forgotten now, and is opened anew where that was wanted.
        again = {name for name in open_names if naming.wanted[name] and name not in told}
        naming.wanted = dict.fromkeys(again, True)
        if not again:
            naming.over()
        return not again


def shelved(record: Record) -> Shelved:
    """A record as it waits for its slot."""
    return Shelved(
        record.life, record.steps, record.states, record.outputs, record.prints,
        len(record.prints), ring=False,
    )  # fmt: skip
