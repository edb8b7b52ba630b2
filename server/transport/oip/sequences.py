"""Which sequences live, are about to end, or start anew: START and END on sessions.

Requests count in the order of their arrival. An END takes effect once its step is answered, so that
in between a request may already know that its sequence is over, and a START may take it up again.
"""

from __future__ import annotations

import time

from server.errors import ServingError, SessionEnded, UnknownSession
from server.sessions.served_model import ServedModel
from server.transport.oip.parameters import Sequence
from server.transport.oip.refusals import NoStart, ending


class Turn:
    """One request's place in its sequence."""

    def __init__(self, model: ServedModel, sequence: Sequence, created: bool) -> None:
        self.model, self.sequence, self.created = model, sequence, created
        self.key = (model.name, model.version, sequence.session_id)


class Sequences:
    """Turns under way, by sequence."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int, str], Turn] = {}
        self._starts: dict[tuple[str, int, str], Turn] = {}

    def take(self, model: ServedModel, sequence: Sequence) -> Turn:
        """A turn in a live sequence, or in the one that it starts.

        Raises:
            NoStart: the sequence is not live, or its last request is under way.
            ServingError: as `ServedModel.open` has it.
        """
        if sequence.start:
            _, created = model.open(sequence.session_id)
            turn = Turn(model, sequence, created)
            self._starts[turn.key] = turn
        else:
            turn = Turn(model, sequence, created=False)
            self._check(turn)
        self._last[turn.key] = turn
        return turn

    def finish(self, turn: Turn, failed: bool) -> None:
        """The request has its outcome. An END ends the sequence, unless its step failed or it was
        started anew; a START that failed leaves none behind where there was none."""
        last = _remove(self._last, turn)
        first = _remove(self._starts, turn)
        over = (turn.created and first) if failed else (turn.sequence.end and last)
        if over and turn.model.holds(turn.sequence.session_id):
            turn.model.close(turn.sequence.session_id)

    def _check(self, turn: Turn) -> None:
        model, session_id = turn.model, turn.sequence.session_id
        before = self._last.get(turn.key)
        if before is not None and before.sequence.end:
            raise ending(model.name, session_id, time.time())
        try:
            model.locate(session_id)
        except (SessionEnded, UnknownSession) as error:
            raise NoStart(model.name, session_id, error) from error


def _remove(turns: dict[tuple[str, int, str], Turn], turn: Turn) -> bool:
    """Take the turn out, if no later one has its place."""
    found = turns.get(turn.key) is turn
    if found:
        del turns[turn.key]
    return found


def is_gone(error: ServingError) -> bool:
    """Whether a step failed because its session is no more."""
    return isinstance(error, SessionEnded | UnknownSession)
