"""Which sequences live, are about to end, or start anew: START and END on sessions.

Requests count in the order of their arrival. An END takes effect once its step is answered, so that
in between a request may already know that its sequence is over, and a START may take it up again.
Requests behind a START wait for its outcome: were it to fail, they would step what went before it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from server.api.oip.refusals import NoStart, ending
from server.api.oip.requests import Sequence
from server.errors import ServingError, SessionEnded, UnknownSession
from server.serving.model import ServedModel

Key = tuple[str, int, str]
GoOn = Callable[[bool], None]
"""Called with whether the START before has started its sequence."""


class Turn:
    """One request's place in its sequence.

    Args:
        after: the START before it that has no outcome yet.
    """

    def __init__(self, model: ServedModel, sequence: Sequence, after: Turn | None) -> None:
        self.model, self.sequence, self.after = model, sequence, after
        self.key: Key = (model.name, model.version, sequence.session_id)
        self.handle = 0  # the session's
        self.opened = False  # whether the session is there for this START's sake
        self.over_before = False  # whether this START's sequence ended before: it renews it
        self.behind: list[GoOn] = []  # what waits for this START's outcome


class Sequences:
    """Turns under way, by sequence. One thread alone uses them, the one that made this."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._last: dict[Key, Turn] = {}
        self._starts: dict[Key, Turn] = {}
        self._released: deque[tuple[GoOn, bool]] = deque()
        self._releasing = False

    def take(self, model: ServedModel, sequence: Sequence) -> Turn:
        """A turn in a live sequence, or in the one that it starts.

        Raises:
            NoStart: the sequence is not live, or its last request is under way.
            ServingError: as `ServedModel.open` has it.
        """
        assert threading.get_ident() == self._thread
        after = self._starts.get((model.name, model.version, sequence.session_id))
        turn = Turn(model, sequence, after)
        if sequence.start:
            turn.handle, _, created = model.attach(sequence.session_id, create=True)
            turn.opened = created or (after is not None and after.opened)
            self._starts[turn.key] = turn
        else:
            turn.handle = self._find(turn)
        self._last[turn.key] = turn
        return turn

    def quiet(self, model: ServedModel, session_id: str) -> bool:
        """Whether no request of a sequence that takes turns is under way. Steps that neither start
        nor end one need none then: they keep their order in the queue."""
        key = model.name, model.version, session_id
        return key not in self._last and key not in self._starts

    def finish(self, turn: Turn, failed: bool) -> None:
        """The request has its outcome. An END ends the sequence, unless its step failed or it is to
        be started anew; a START that failed leaves none behind where there was none, or where the
        one before has ended."""
        assert threading.get_ident() == self._thread
        last = _remove(self._last, turn)
        newest = _remove(self._starts, turn)
        over = newest if failed else last and turn.sequence.end
        handle, steps = _session(turn) if over else (0, 0)
        if failed:
            over = over and (turn.over_before or (turn.opened and not steps))
        if (later := self._starts.get(turn.key)) is not None:
            ended = turn.sequence.end and not failed
            later.over_before = ended or (failed and (turn.over_before or later.over_before))
        if over and handle == turn.handle:  # and no later one of that id
            with suppress(SessionEnded, UnknownSession):  # it may expire at this very moment
                turn.model.close(turn.sequence.session_id)
        self._released.extend((go_on, not failed) for go_on in turn.behind)
        self._release()

    def _release(self) -> None:
        """Let go what was held back, in order; what that finishes in turn is let go after it."""
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._released:
                go_on, started = self._released.popleft()
                go_on(started)
        finally:
            self._releasing = False

    def _find(self, turn: Turn) -> int:
        model, session_id = turn.model, turn.sequence.session_id
        before = self._last.get(turn.key)
        if before is not None and before.sequence.end:
            raise ending(model.name, session_id, time.time())
        try:
            return model.directory.find(session_id)[0]
        except (SessionEnded, UnknownSession) as error:
            raise NoStart(model.name, session_id, error) from error


def is_gone(error: ServingError) -> bool:
    """Whether a step failed because its session is no more."""
    return isinstance(error, SessionEnded | UnknownSession)


def _remove(turns: dict[Key, Turn], turn: Turn) -> bool:
    """Take the turn out, if no later one has its place."""
    found = turns.get(turn.key) is turn
    if found:
        del turns[turn.key]
    return found


def _session(turn: Turn) -> tuple[int, int]:
    """Handle and steps of the session that has the turn's id now; 0 where there is none."""
    try:
        return turn.model.directory.find(turn.sequence.session_id)
    except (SessionEnded, UnknownSession):
        return 0, 0
