"""Replies: read in columns, and each outcome handed to its row or share.

What may succeed later is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate import errors
from tidegate._stream.course import CERTAIN, Row, Stage
from tidegate._stream.message import LaneNames, Message, Share
from tidegate._stream.packing import WIRE
from tidegate.errors import TidegateError
from tidegate.model import FloatArray, Model
from tidegate.options import RetryPolicy
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import FAILED

# The server refused for now; nothing was applied.
FOR_NOW = (errors.RetryLater, errors.Draining, errors.Starting)

# The session has ended, which another may follow under its id.
ENDED = (errors.UnknownSession, errors.SessionExpired, errors.SessionClosed)

# What a message that is too large for the server is refused for.
SIZES = ("steps", "lanes", "opens")

Later = Callable[[float, Sequence[Row], Sequence[Share]], None]
Shrink = Callable[[Message], None]


def plain(message: Message, reply: pb.StepBatchReply, width: int) -> FloatArray | None:
    """Outputs [rows, O] of the usual reply: single steps of sessions known, all applied."""
    if reply.errors or reply.opened or message.shares or message.lengths is not None:
        return None
    values = np.frombuffer(reply.outputs, WIRE)
    if reply.first_steps != message.first_steps or values.size != len(message.rows) * width:
        return None
    # A copy, since what protobuf gives cannot be written to.
    return values.astype(np.float32).reshape(-1, width)


def row_errors(reply: pb.StepBatchReply) -> dict[int, TidegateError]:
    """Why rows failed, by row: an error of its own for each, also where they share an entry.

    Raises:
        Internal: the entries name rows that the reply has not.
    """
    found: dict[int, TidegateError] = {}
    numbers = np.frombuffer(reply.first_steps, "<u8")
    for each in reply.errors:
        found[each.row] = errors.from_detail(each.error)
        also = np.frombuffer(each.also, "<u4")
        if len(also) and also.max() >= len(numbers):
            raise errors.Internal(f"the server gave a reason to row {also.max()}, which is none")
        for row in also.tolist():
            found[row] = errors.from_detail(_alike(each.error, int(numbers[row])))
    return found


def _alike(detail: pb.ErrorDetail, number: int) -> pb.ErrorDetail:
    """The same failure of another row, which expects `number` if it failed on its number."""
    if not detail.HasField("expected_step") or detail.expected_step == number:
        return detail
    other = pb.ErrorDetail()
    other.CopyFrom(detail)
    other.expected_step = number
    return other


class Answers:
    """What became of a message's rows.

    Raises:
        Internal: the reply does not fit the message.
    """

    def __init__(self, message: Message, reply: pb.StepBatchReply, width: int) -> None:
        self.status = np.frombuffer(reply.status, np.uint8)
        self.errors = row_errors(reply)
        self._lengths = message.lengths
        values = np.frombuffer(reply.outputs, WIRE)
        expected = self._good_steps() * width
        if 8 * len(self.status) != len(message.first_steps) or values.size != expected:
            raise errors.Internal(
                f"the server answered {len(self.status)} rows with {values.size} values to "
                f"{len(message.first_steps) // 8} rows that have {expected}"
            )
        if not self.errors and reply.first_steps != message.first_steps:
            raise errors.Internal("the server answered other steps than were asked for")
        for row in np.flatnonzero(self.status == FAILED).tolist():
            if row not in self.errors:
                self.errors[row] = errors.Internal("the server gave no reason")
        self._values = values.astype(np.float32).reshape(-1, width)

    def __iter__(self) -> Iterator[FloatArray | TidegateError]:
        """Row after row, its outputs ([O] of a single step, else [steps, O]) or its error."""
        at = 0
        for row, length in enumerate(self._each_length()):
            if self.status[row] == FAILED:
                yield self.errors[row]
            else:
                yield self._values[at] if length == 1 else self._values[at : at + length]
                at += length

    def block(self, start: int, stop: int) -> tuple[FloatArray, NDArray[np.uint8]]:
        """Outputs of the good rows from `start` to before `stop`, and each one's status."""
        ends = np.concatenate(([0], np.cumsum(self._good_lengths())))
        return self._values[ends[start] : ends[stop]], self.status[start:stop]

    def _each_length(self) -> Sequence[int]:
        if self._lengths is None:
            return [1] * len(self.status)
        lengths: list[int] = self._lengths.tolist()
        return lengths

    def _good_lengths(self) -> NDArray[np.int64]:
        lengths = 1 if self._lengths is None else self._lengths[: len(self.status)]
        good: NDArray[np.int64] = (self.status != FAILED).astype(np.int64) * lengths
        return good

    def _good_steps(self) -> int:
        if self._lengths is not None and len(self._lengths) != len(self.status):
            return 0
        return int(self._good_lengths().sum())


class Settler:
    """Settles messages of one model.

    Args:
        later: sends rows and shares again after so many seconds.
        shrink: keeps messages smaller than one that the server's queue cannot hold.
    """

    def __init__(
        self, model: Model, lanes: LaneNames, later: Later, shrink: Shrink, retry: RetryPolicy
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
                row.course.applied(row, outputs)
            return
        answers = Answers(message, reply, self._width)
        unnamed = self._named(message, reply)
        self._probed(message, reply, answers, unnamed)
        if self._too_many(message, answers):
            return
        for row, outcome in zip(message.rows, answers, strict=False):
            self._settle_row(row, outcome, unnamed)
        start = len(message.rows)
        for share in message.shares:
            self._settle_share(share, start, answers, unnamed)
            start += len(share)

    def _named(self, message: Message, reply: pb.StepBatchReply) -> dict[str, TidegateError]:
        """Why sessions have no lane."""
        failed: dict[str, TidegateError] = {}
        for opened in reply.opened:
            if opened.HasField("error"):
                failed[message.opens[opened.lane]] = errors.from_detail(opened.error)
                self._lanes.known[opened.lane] = 0
        return failed

    def _probed(
        self,
        message: Message,
        reply: pb.StepBatchReply,
        answers: Answers,
        unnamed: dict[str, TidegateError],
    ) -> None:
        """Rows that waited for their session's count may go now, which settles what was unsure."""
        counts = {each.lane: each.steps for each in reply.opened if not each.HasField("error")}
        silent = answers.errors.get(0) or errors.Internal("the server told no count")
        for row in message.probes:
            course = row.course
            error = unnamed.get(course.session_id, silent)
            if course.lane in counts:
                course.settle(counts[course.lane])
            if row.done.done():
                continue
            if course.uncertain is None:
                self._later(0.0, [row], ())
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
        self, row: Row, outcome: FloatArray | TidegateError, unnamed: dict[str, TidegateError]
    ) -> None:
        if not isinstance(outcome, TidegateError):
            row.course.applied(row, outcome)
            return
        error = self._reason(row.course.session_id, outcome, unnamed)
        if not self._try_again(row, error):
            row.course.refused(row, error)

    def _try_again(self, row: Row, error: TidegateError) -> bool:
        if not self._passes(error, row.attempts):
            return False
        row.attempts += 1
        row.stage = Stage.SENT if row.resent else Stage.WAITING
        self._later(self._pause(error, row.attempts - 1), [row], ())
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
            if self._passes(error, share.attempts):
                pauses[at] = self._pause(error, share.attempts)
            elif isinstance(error, ENDED) and session_id not in unnamed and share.opens(at):
                pauses[at] = 0.0
        failed = {at: error for at, error in failed.items() if at not in pauses}
        again = [
            Share(share.owner, share.start + first, share.start + end, share.attempts + 1)
            for first, end in _runs(pauses)
        ]
        if again:
            self._later(max(pauses.values()), (), again)
        share.answered(*answers.block(start, stop), failed, again)

    def _reason(
        self, session_id: str, error: TidegateError, unnamed: dict[str, TidegateError]
    ) -> TidegateError:
        """The error of a row, or of its lane where that is why; a session that is gone loses its
        lane, since one opened anew under its id needs another naming."""
        error = unnamed.get(session_id, error)
        if isinstance(error, errors.SessionGone):
            self._lanes.release(session_id)
        return error

    def _passes(self, error: TidegateError, attempts: int) -> bool:
        """Whether to try again. A server that starts is waited for while anybody waits."""
        if isinstance(error, errors.Starting):
            return self._retry.attempts > 1
        return isinstance(error, FOR_NOW) and attempts < self._retry.attempts

    def _pause(self, error: TidegateError, failures: int) -> float:
        return error.retry_after or self._retry.pause(failures)


def _runs(places: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending places as ranges, from each first one to before its end."""
    runs: list[tuple[int, int]] = []
    for at in places:
        if runs and runs[-1][1] == at:
            runs[-1] = runs[-1][0], at + 1
        else:
            runs.append((at, at + 1))
    return runs
