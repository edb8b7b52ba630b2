"""Replies: read in columns, and each outcome handed to its row or share.

What may succeed later is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tidegate import errors
from tidegate._stream.answers import Answers, plain
from tidegate._stream.kept import Keeping
from tidegate._stream.message import LaneNames, Message, Share
from tidegate._stream.rows import CERTAIN, Row, Stage
from tidegate.errors import TidegateError
from tidegate.model import FloatArray, Model
from tidegate.options import RetryPolicy
from tidegate.v1 import tidegate_pb2 as pb

# The session has ended, which another may follow under its id.
ENDED = (errors.UnknownSession, errors.SessionExpired, errors.SessionClosed)

# What a message that is too large for the server is refused for.
SIZES = ("steps", "lanes", "opens")

Later = Callable[[float, Sequence[Row], Sequence[Share]], None]
Shrink = Callable[[Message], None]
Renew = Callable[[], float]
Retire = Callable[[], None]


class Settler:
    """Settles messages of one model.

    Args:
        later: sends rows and shares again after so many seconds.
        shrink: keeps messages smaller than one that the server's queue cannot hold.
        renew: opens the stream anew, where another server may answer; tells in how many seconds.
        retire: does so once nothing is under way.
        keeping: told how much the sessions keep.
    """

    def __init__(
        self,
        model: Model,
        lanes: LaneNames,
        later: Later,
        shrink: Shrink,
        renew: Renew,
        retire: Retire,
        keeping: Keeping,
        retry: RetryPolicy,
    ) -> None:
        self._width, self._lanes, self._retry = model.width, lanes, retry
        self._later, self._shrink = later, shrink
        self._renew, self._retire = renew, retire
        self._keeping = keeping

    def settle(self, message: Message, reply: pb.StepBatchReply) -> None:
        """Give every row of the message its outcome.

        Raises:
            Internal: the reply does not fit the message; no row has its outcome.
        """
        if (singles := plain(message, reply, self._width)) is not None:
            for row, outputs in zip(message.rows, singles, strict=True):
                row.course.applied(row, outputs)
            if reply.durable_steps:
                self._keep(message, np.frombuffer(reply.durable_steps, "<u8").tolist())
            return
        answers = Answers(message, reply, self._width)
        unnamed, told = self._named(message, reply)
        self._probed(message, told, answers, unnamed)
        if self._too_many(message, answers):
            return
        for row, outcome in zip(message.rows, answers, strict=False):
            self._settle_row(row, outcome, unnamed, told)
        if answers.durable is not None:
            self._keep(message, answers.durable.tolist())
        start = len(message.rows)
        for share in message.shares:
            self._settle_share(share, start, answers, unnamed)
            start += len(share)

    def _keep(self, message: Message, durable: list[int]) -> None:
        """Keep the inputs of what was applied, until they are stored; a store tells so far."""
        self._keeping.turn += 1
        turn = self._keeping.turn
        for row, step in zip(message.rows, durable, strict=False):
            if row.stage is Stage.APPLIED:
                course = row.course
                course.durable = step
                course.kept.add(row.number, row.packed, row.steps, step, turn)
        self._keeping.grew(message.size)

    def _named(
        self, message: Message, reply: pb.StepBatchReply
    ) -> tuple[dict[str, TidegateError], dict[str, pb.LaneOpened]]:
        """By session: why it has no lane, or what naming the lane told of it."""
        failed: dict[str, TidegateError] = {}
        told: dict[str, pb.LaneOpened] = {}
        for opened in reply.opened:
            if opened.HasField("error"):
                failed[message.opens[opened.lane]] = errors.from_detail(opened.error)
                self._lanes.known[opened.lane] = 0
            else:
                told[message.opens[opened.lane]] = opened
        for row in message.rows + message.probes if told else ():
            if (lane := told.get(row.course.session_id)) is not None:
                row.course.told(lane.steps, lane.life, lane.durable_step)
        return failed, told

    def _probed(
        self,
        message: Message,
        told: dict[str, pb.LaneOpened],
        answers: Answers,
        unnamed: dict[str, TidegateError],
    ) -> None:
        """Rows that waited for their session's count may go now: what was unsure is settled. Those
        of no steps have waited for nothing else, unless the count tells of a crash."""
        silent = answers.errors.get(0) or errors.Internal("the server told no count")
        for row in message.probes:
            course = row.course
            error = unnamed.get(course.session_id, silent)
            if row.done.done():
                course.dropped(row)
            elif (lane := told.get(course.session_id)) is not None:
                if row.steps:
                    self._later(0.0, [row], ())
                else:
                    course.caught_up(row, lane.steps, lane.life)
            elif not self._try_again(row, error):
                if isinstance(error, CERTAIN):
                    course.uncertain = None
                course.refused(row, error)

    def _too_many(self, message: Message, answers: Answers) -> bool:
        """The server's limits are lower than ours: send the message again in pieces."""
        refused = [each for each in answers.errors.values() if isinstance(each, errors.BadInput)]
        count = len(answers.status)
        if count < 2 or len(refused) < count or any(each.field not in SIZES for each in refused):
            return False
        for lane in message.opens:
            self._lanes.known[lane] = 0
        self._shrink(message)
        self._later(0.0, message.rows, message.shares)
        return True

    def _settle_row(
        self,
        row: Row,
        outcome: FloatArray | TidegateError,
        unnamed: dict[str, TidegateError],
        told: dict[str, pb.LaneOpened],
    ) -> None:
        if not isinstance(outcome, TidegateError):
            row.course.applied(row, outcome)
            return
        error = self._reason(row.course.session_id, outcome, unnamed)
        if not self._try_again(row, error) and not self._go_back(row, error, told):
            row.course.refused(row, error)

    def _go_back(self, row: Row, error: TidegateError, told: dict[str, pb.LaneOpened]) -> bool:
        """Whether a crash explains the error, and what it took back is being made good. Only in the
        life that the client knows: a session begun anew is somebody else's doing."""
        course = row.course
        if not course.life or (back := whence(row, error)) is None:
            return False
        opened = told.get(course.session_id)
        if opened is None:  # its life stands in the answer to naming its lane
            self._lanes.ask(course.lane)
            self._later(0.0, [row], ())
        elif opened.life == course.life:
            course.go_back(row.before or row, *back)
        else:
            return False
        return True

    def _try_again(self, row: Row, error: TidegateError) -> bool:
        if (pause := self._retry.after(error, row.attempts)) is None:
            return False
        row.attempts += 1
        row.stage = Stage.SENT if row.resent else Stage.WAITING
        self._later(max(pause, self._look_elsewhere(error)), [row], ())
        return True

    def _settle_share(
        self,
        share: Share,
        start: int,
        answers: Answers,
        unnamed: dict[str, TidegateError],
    ) -> None:
        stop = start + len(share)
        failed = {at - start: error for at, error in answers.errors.items() if start <= at < stop}
        pauses: dict[int, float] = {}
        for at, error in sorted(failed.items()):
            session_id = share.owner.session_ids[share.start + at]
            failed[at] = error = self._reason(session_id, error, unnamed)
            if (pause := self._retry.after(error, share.attempts)) is not None:
                pauses[at] = max(pause, self._look_elsewhere(error))
            elif isinstance(error, ENDED) and session_id not in unnamed and share.opens(at):
                pauses[at] = 0.0
        failed = {at: error for at, error in failed.items() if at not in pauses}
        again = [
            Share(share.owner, share.start + first, share.start + end, share.attempts + 1)
            for first, end in _runs(pauses)
        ]
        if again:
            self._later(max(pauses.values()), (), again)
        if answers.durable is not None:
            share.owner.durable[share.start : share.stop] = answers.durable[start:stop]
        share.answered(*answers.block(start, stop), failed, again)

    def _look_elsewhere(self, error: TidegateError) -> float:
        """Where another server may do what was refused, the next attempt goes over a new stream,
        which may take so many seconds. One that is going, or that its store does not answer,
        answers what it has taken in: that is waited for."""
        if isinstance(error, errors.SessionMoved):
            return self._renew()
        if isinstance(error, errors.Draining | errors.StoreDown):
            self._retire()
        return 0.0

    def _reason(
        self, session_id: str, error: TidegateError, unnamed: dict[str, TidegateError]
    ) -> TidegateError:
        """The error of a row, or of its lane where that is why; a session that is gone loses its
        lane, since one opened anew under its id needs another naming."""
        error = unnamed.get(session_id, error)
        if isinstance(error, errors.SessionGone):
            self._lanes.release(session_id)
        return error


def whence(row: Row, error: TidegateError) -> tuple[int, int] | None:
    """From which step to which, if a crash explains why the row was refused, steps must be applied
    again; None where it does not explain it.

    A row that goes before another for that may also find that it was applied already, in part or
    in whole, where its reply was lost.
    """
    if not isinstance(error, errors.WrongStep) or (count := error.expected_step) is None:
        return None
    if isinstance(error, errors.StepGap):
        return (count, (row.before or row).number) if count < row.number else None
    if row.before is None:
        return None
    if isinstance(error, errors.StepTooOld):
        return (count, row.before.number) if count > row.number else None
    # The part that the server has already shows whether it is the same input.
    return (row.number, count) if row.number < count < row.number + row.steps else None


def _runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending places as ranges, from each first one to before its end."""
    runs: list[tuple[int, int]] = []
    for at in places:
        if runs and runs[-1][1] == at:
            runs[-1] = runs[-1][0], at + 1
        else:
            runs.append((at, at + 1))
    return runs
