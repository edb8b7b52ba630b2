"""Hands a message's answers to its rows and parts; what may succeed later is sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate import errors
from tidegate.block import Part
from tidegate.errors import TidegateError
from tidegate.lanes import Lanes
from tidegate.message import Answers, Message, plain
from tidegate.model import Model
from tidegate.options import RetryPolicy
from tidegate.packing import FloatArray
from tidegate.row import Row, Stage
from tidegate.v1 import tidegate_pb2 as pb

# The server refused for now; nothing was applied.
FOR_NOW = (errors.QueueFull, errors.Draining, errors.Starting)

# What a message that is too large for the server is refused for.
SIZES = ("steps", "lanes", "opens")

Later = Callable[[float, Sequence[Row], Sequence[Part]], None]
Shrink = Callable[[Message], None]


class Settler:
    """Settles messages of one model.

    Args:
        later: sends rows and parts again after so many seconds.
        shrink: keeps messages smaller than one that the server's queue cannot hold.
    """

    def __init__(
        self, model: Model, lanes: Lanes, later: Later, shrink: Shrink, retry: RetryPolicy
    ) -> None:
        self._width, self._lanes, self._retry = model.width, lanes, retry
        self._later, self._shrink = later, shrink

    def settle(self, message: Message, reply: pb.StepBatchReply) -> None:
        """Give every row of the message its outcome.

        Raises:
            Internal: the reply does not fit the message; no row has its outcome.
        """
        if (singles := plain(message, reply, self._width)) is not None:
            for row, outputs in zip(message.rows, singles, strict=True):
                row.track.applied(row, outputs)
            return
        answers = Answers(message, reply, self._width)
        unnamed = self._named(message, reply)
        self._probed(message, unnamed)
        if self._too_many(message, answers):
            return
        for row, outcome in zip(message.rows, answers, strict=False):
            self._settle_row(row, outcome, unnamed)
        start = len(message.rows)
        for part in message.parts:
            self._settle_part(part, start, answers, unnamed)
            start += len(part)

    def _named(self, message: Message, reply: pb.StepBatchReply) -> dict[str, TidegateError]:
        """Why sessions have no lane. The counts of those that have one settle what was unsure."""
        probes = {row.track.lane: row.track for row in message.probes}
        failed: dict[str, TidegateError] = {}
        for opened in reply.opened:
            if opened.HasField("error"):
                name = self._lanes.names[opened.lane]
                failed[name] = errors.from_detail(opened.error)
                self._lanes.known[opened.lane] = 0
            elif opened.lane in probes:
                probes[opened.lane].settle(opened.steps)
        return failed

    def _probed(self, message: Message, unnamed: dict[str, TidegateError]) -> None:
        """Rows that waited for their session's count may go now."""
        ready = []
        for row in message.probes:
            error = unnamed.get(row.track.session_id)
            if row.done.done():
                continue
            if error is None:
                ready.append(row)
            else:
                row.track.uncertain = None
                row.track.refused(row, error)
        if ready:
            self._later(0.0, ready, ())

    def _too_many(self, message: Message, answers: Answers) -> bool:
        """The server's limits are lower than ours: send the message again in pieces."""
        refused = [each for each in answers.errors.values() if isinstance(each, errors.BadInput)]
        count = len(answers.status)
        if count < 2 or len(refused) < count or any(each.field not in SIZES for each in refused):
            return False
        for lane in message.opens:
            self._lanes.known[lane] = 0
        self._shrink(message)
        self._later(0.0, message.rows, message.parts)
        return True

    def _settle_row(
        self, row: Row, outcome: FloatArray | TidegateError, unnamed: dict[str, TidegateError]
    ) -> None:
        if not isinstance(outcome, TidegateError):
            row.track.applied(row, outcome)
            return
        error = self._reason(row.track.session_id, outcome, unnamed)
        if isinstance(error, FOR_NOW) and row.attempts < self._retry.attempts:
            row.attempts += 1
            row.stage = Stage.SENT if row.resent else Stage.WAITING
            self._later(self._pause(error, row.attempts - 1), [row], ())
        else:
            row.track.refused(row, error)

    def _settle_part(
        self, part: Part, start: int, answers: Answers, unnamed: dict[str, TidegateError]
    ) -> None:
        stop = start + len(part)
        failed = {at - start: error for at, error in answers.errors.items() if start <= at < stop}
        for at, error in failed.items():
            session_id = part.owner.session_ids[part.start + at]
            failed[at] = self._reason(session_id, error, unnamed)
        passing = [error for error in failed.values() if isinstance(error, FOR_NOW)]
        if len(passing) == len(part) and part.attempts < self._retry.attempts:
            part.attempts += 1
            self._later(self._pause(passing[0], part.attempts - 1), (), [part])
        else:
            part.answered(*answers.block(start, stop), failed)

    def _reason(
        self, session_id: str, error: TidegateError, unnamed: dict[str, TidegateError]
    ) -> TidegateError:
        """The error of a row, or of its lane where that is why; a session that is gone loses its
        lane, since one opened anew under its id needs another naming."""
        error = unnamed.get(session_id, error)
        if isinstance(error, errors.SessionGone):
            self._lanes.release(session_id)
        return error

    def _pause(self, error: TidegateError, failures: int) -> float:
        asked = error.retry_after if isinstance(error, errors.RetryLater) else None
        return self._retry.pause(failures) if asked is None else asked
