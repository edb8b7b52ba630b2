"""What a store of sessions is: tables of records, each owned by one server at a time.

`sessions.keeper` alone uses a table, from its one thread; so calls are plain, take many sessions at
once, and block. A record is bytes to the store (`record` says what is in them). Beside them it
keeps what it compares: the owner's *epoch*, which grows with each change of hands, and a
*revision*, which grows with each write of one owner. A write of an owner that is none any more
changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol


class StoreUnreachable(Exception):
    """The store does not answer, or cannot write. Whether the call was done is not known; it may be
    made again."""


class StoreUnusable(Exception):
    """The store cannot be used as it is set up: said once, at the start."""


class Claim(NamedTuple):
    """A session that this server is to own."""

    session_id: str
    record: bytes | None
    """What to store if there is nothing of that id; None: then it is not made."""


class Hold(Enum):
    """What became of a claim."""

    CREATED = "created"
    """There was nothing of that id; the claim's record is stored, and owned."""
    OWNED = "owned"
    """There is a record, and it is owned now."""
    ABSENT = "absent"
    """There is none, and none was to be made."""
    ELSEWHERE = "elsewhere"
    """A live server owns it, and was asked to give it up; or may own it, where the store has lost
    what it held. Claim again a little later."""


class Claimed(NamedTuple):
    """The outcome of a claim. Epoch, time and record belong to `OWNED` and `CREATED`."""

    hold: Hold
    epoch: int = 0
    used_at: float = 0.0
    """When the session was last used, seconds since the epoch of the clock."""
    record: bytes = b""


class Write(NamedTuple):
    """A newer record of an owned session."""

    session_id: str
    epoch: int
    revision: int
    used_at: float
    record: bytes


class Wrote(Enum):
    """What became of a write."""

    STORED = "stored"
    MOVED = "moved"
    """Another server owns the session; nothing was changed."""


ANY_EPOCH: Final = -1
"""Of an `End` of a session that is to be released if it is owned at all."""


class End(NamedTuple):
    """An owned session that has ended."""

    session_id: str
    epoch: int


class Table(Protocol):
    """The records of one model version, for one server. Every method raises `StoreUnreachable`, and
    answers in the order asked; no call names a session twice."""

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Become the owner of sessions. One that was owned keeps its record; its epoch grows."""

    def read(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """Records, without a change of hands; None where there is none."""

    def write(self, writes: Sequence[Write]) -> list[Wrote]:
        """Store newer records, durably, all at once. Where a record is missing altogether although
        nobody else can have taken it, it is made again."""

    def delete(self, ends: Sequence[End]) -> list[Wrote]:
        """Forget sessions, durably. One that is owned elsewhere stays; one that is gone is gone."""

    def release(self, ends: Sequence[End]) -> None:
        """Own these sessions no more; their records stay, for whoever claims them next. An epoch
        may be `ANY_EPOCH`."""

    def expire(self, before: float, limit: int) -> int:
        """Forget up to `limit` sessions that no live server owns and that were last used before
        that time of day; returns how many. A store that forgets by itself does so a while after
        the time to live, and returns 0."""


RENEWALS: Final = 5
"""How often a lease is renewed before it would run out."""


@dataclass(frozen=True)
class Lease:
    """How sure this server may be that nobody else takes its sessions."""

    seconds: float
    """For how long from just before it was renewed."""
    lapsed: bool = False
    """It had run out, so that others may have taken sessions: what is in memory is not to be
    trusted."""
    emptied: bool = False
    """The store holds nothing of before: every session has to be written again."""


class Store(Protocol):
    """All tables of one server, and its lease."""

    @property
    def owner(self) -> str:
        """Who this server is, among those that share the store."""

    @property
    def place(self) -> str:
        """Where the records are, for the log: no secrets."""

    @property
    def exclusive(self) -> bool:
        """Whether no other server can use this store as long as this one does."""

    def table(self, model: str, version: int) -> Table:
        """The table of a model version. Each is used by a thread of its own."""

    def renew(self) -> Lease:
        """Renew the lease. Raises `StoreUnreachable`."""

    def asked_for(self, seconds: float) -> list[tuple[str, int, str]]:
        """Wait at most so long for others to ask for sessions of this server: model, version and id
        of each. A request is made anew with each claim, so one may be told again, or come too late.
        Ends within a second of `close`. Raises `StoreUnreachable`."""

    def give_up(self) -> None:
        """Own nothing any more: others may take every session at once. What is left to do is to
        forget sessions, and to close."""

    def close(self) -> None:
        """Give the lease up, and whatever else is held."""
