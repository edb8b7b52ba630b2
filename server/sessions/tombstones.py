"""Tombstones: how the last sessions ended, so that a late step learns more than "unknown"."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from server.errors import (
    SessionEnded,
    SessionMoved,
    SessionSetBack,
    SessionVanished,
    UnknownSession,
)

How = Callable[[str, str, float], SessionEnded]
"""Of model, session and moment: how it ended."""


class Tombstones:
    """How and when the last `limit` sessions of a model version ended, by id and by handle."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_id: OrderedDict[str, tuple[int, How, float]] = OrderedDict()
        self._ids: dict[int, str] = {}

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_id

    def add(self, handle: int, session_id: str, how: How, when: float) -> None:
        """A session has ended."""
        self.remove(session_id)
        self._by_id[session_id] = (handle, how, when)
        self._ids[handle] = session_id
        if len(self._by_id) > self._limit:
            self.remove(next(iter(self._by_id)))

    def remove(self, session_id: str) -> None:
        """The id is live again, or its end long gone."""
        if (stone := self._by_id.pop(session_id, None)) is not None:
            del self._ids[stone[0]]

    def vanish(self, session_id: str, before: float) -> None:
        """What moved before that time of day is nowhere any more."""
        if (stone := self._by_id.get(session_id)) is None:
            return
        handle, how, when = stone
        if how in (SessionMoved, SessionSetBack) and when < before:
            self._by_id[session_id] = handle, SessionVanished, when

    def name(self, handle: int) -> str:
        """The id of a session that ended; "" if that is forgotten."""
        return self._ids.get(handle, "")

    def error(self, model: str, session_id: str) -> SessionEnded | UnknownSession:
        """Why there is no session of that id."""
        if (stone := self._by_id.get(session_id)) is None:
            return UnknownSession(model, session_id)
        return stone[1](model, session_id, stone[2])
