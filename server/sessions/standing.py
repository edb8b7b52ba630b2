"""What is told of sessions: to callers, to a store, to another version; and their names."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.errors import BadInput
from server.names import MAX_TENANT, own
from server.scheduler.submission import Handles
from tidegate.wire import MAX_ID_BYTES


@dataclass(frozen=True)
class SessionInfo:
    """A live session, as callers see it. Times are seconds since the epoch."""

    model: str
    version: int
    session_id: str
    steps: int
    opened_at: float
    last_used_at: float
    expires_at: float
    durable_step: int = 0
    life: int = 0


@dataclass(frozen=True)
class Left:
    """What stays the same of a session that goes to another version; `last_used` by the clock."""

    opened_at: float
    last_used: float
    life: int


@dataclass(frozen=True)
class Standings:
    """Where live sessions stand, in columns over them, for a store to be told.
    Times are seconds since the epoch."""

    handles: Handles
    ids: list[str]
    epochs: NDArray[np.int64]
    lives: NDArray[np.int64]
    counts: NDArray[np.int64]
    opened_at: NDArray[np.float64]
    used_at: NDArray[np.float64]

    def standing(self) -> tuple[list[int], list[int], list[int]]:
        """Their handles, lives and counts."""
        return self.handles.tolist(), self.lives.tolist(), self.counts.tolist()

    def rows(self, rows: NDArray[np.int64]) -> Standings:
        """Some of the sessions."""
        ids = [self.ids[row] for row in rows.tolist()]
        return Standings(
            self.handles[rows], ids, self.epochs[rows], self.lives[rows], self.counts[rows],
            self.opened_at[rows], self.used_at[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Adopted:
    """A session that comes out of a store, or has just been made there."""

    session_id: str
    epoch: int
    life: int
    steps: int
    opened_at: float
    used_at: float
    created: bool


def new_life() -> int:
    """A number that no other session's life has, but for one chance in 2**48; numbers after it are
    for the lives that follow, and every language's numbers hold it."""
    return random.getrandbits(48) + 1


def is_id(session_id: str) -> bool:
    """Whether it can be a session's id."""
    try:
        check_id(session_id)
    except BadInput:
        return False
    return True


def check_id(session_id: str) -> None:
    """Refuse what cannot be a session's id.

    Raises:
        BadInput: it is empty, longer than 256 bytes of UTF-8, or no text that UTF-8 can say.
    """
    must = f"session_id must have 1 to {MAX_ID_BYTES} bytes of UTF-8"
    if len(session_id) > MAX_TENANT + 1 + MAX_ID_BYTES:  # before it is copied
        raise BadInput(f"{must}, not {len(session_id)} or more", field="session_id")
    try:
        size = len(own(session_id).encode())
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{must}, which cannot say {own(session_id)!r}", field="session_id"
        ) from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadInput(f"{must}, not {size}", field="session_id")
