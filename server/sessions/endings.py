"""Remembers how and when sessions ended, so that a late step learns more than "unknown"."""

from __future__ import annotations

from collections import OrderedDict

from server.errors import SessionClosed, SessionEnded, SessionExpired, UnknownSession

LIMIT = 100_000


class Endings:
    """The last `limit` endings of one model version."""

    def __init__(self, model: str, limit: int = LIMIT) -> None:
        self._model, self._limit = model, limit
        self._ended: OrderedDict[str, tuple[type[SessionEnded], float]] = OrderedDict()

    def closed(self, session_id: str, when: float) -> None:
        """The session was closed by its caller."""
        self._note(session_id, SessionClosed, when)

    def expired(self, session_id: str, when: float) -> None:
        """The session was idle for too long."""
        self._note(session_id, SessionExpired, when)

    def forget(self, session_id: str) -> None:
        """The id is live again."""
        self._ended.pop(session_id, None)

    def knows(self, session_id: str) -> bool:
        """Whether the id ended here."""
        return session_id in self._ended

    def error(self, session_id: str) -> SessionEnded | UnknownSession:
        """Why there is no session of that id."""
        ending = self._ended.get(session_id)
        if ending is None:
            return UnknownSession(self._model, session_id)
        return ending[0](self._model, session_id, ending[1])

    def _note(self, session_id: str, how: type[SessionEnded], when: float) -> None:
        self._ended[session_id] = (how, when)
        self._ended.move_to_end(session_id)
        if len(self._ended) > self._limit:
            self._ended.popitem(last=False)
