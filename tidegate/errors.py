"""Failures of a call as exceptions, one class for each reason the server gives.

The server sends an `ErrorDetail` in the trailing metadata; where it could not (no connection, a
deadline that passed on this side, gRPC's own limits), the status code decides.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY


class TidegateError(Exception):
    """A call failed. `str()` is the server's message, which names the culprit."""

    default_code = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode | None = None,
        detail: pb.ErrorDetail | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        """The gRPC status code."""
        self.detail = detail
        """The failure as the server typed it; None where it never reached a Tidegate server."""

    @property
    def reason(self) -> str:
        """The server's reason in lower case ("step_gap"), as in its metrics; "" without detail."""
        if self.detail is None:
            return ""
        if self.detail.reason not in pb.Reason.values():
            return f"reason_{self.detail.reason}"
        return pb.Reason.Name(self.detail.reason).removeprefix("REASON_").lower()

    @property
    def retry_after(self) -> float | None:
        """Seconds after which to try again, where the server names them: `RetryLater`,
        `Starting`, `StoreDown`."""
        if self.detail is None or not self.detail.HasField("retry_after_ms"):
            return None
        return self.detail.retry_after_ms / 1000

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code, self.detail), self.__dict__


class UnknownModel(TidegateError):
    """The server has no model of that name."""

    default_code = grpc.StatusCode.NOT_FOUND


class UnknownVersion(TidegateError):
    """The model has no such version."""

    default_code = grpc.StatusCode.NOT_FOUND


class BadModel(TidegateError):
    """The model's bundle is corrupt, unsafe or of a newer format; the message names the culprit."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class SessionGone(TidegateError):
    """The server holds no such session: never opened, expired, closed or lost."""

    default_code = grpc.StatusCode.NOT_FOUND

    @property
    def ended_at(self) -> datetime | None:
        """When the session ended, if the server still knows."""
        if self.detail is None or not self.detail.HasField("ended_at"):
            return None
        return self.detail.ended_at.ToDatetime(tzinfo=UTC)


class UnknownSession(SessionGone):
    """The session was never opened, or so long ago that its end is forgotten."""


class SessionExpired(SessionGone):
    """The session was idle for longer than the server's time to live."""


class SessionClosed(SessionGone):
    """The session was closed."""


class SessionLost(SessionGone):
    """The session's state was lost: a run failed after it had begun to move it. It has ended."""

    default_code = grpc.StatusCode.DATA_LOSS


class SessionExists(TidegateError):
    """A session of that id is live already."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class BadSnapshot(TidegateError):
    """The snapshot cannot be taken in; the message says what in it does not fit."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class WrongStep(TidegateError):
    """The step's number does not fit the session; another writer moved it."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION

    @property
    def expected_step(self) -> int | None:
        """The number that the session expects next."""
        if self.detail is None or not self.detail.HasField("expected_step"):
            return None
        return self.detail.expected_step


class StepGap(WrongStep):
    """The step's number is ahead of the session's count."""


class StepsLost(StepGap):
    """The server came back from a crash at an earlier step, `expected_step`, and this client does
    not have the inputs of all steps from there on: they were not given to it, or it has forgotten
    them (`Replay`)."""


class StepTooOld(WrongStep):
    """The step was applied, and its outputs are no longer remembered."""


class StepConflict(WrongStep):
    """A step of that number was applied with other features."""


class BadRecord(TidegateError):
    """What the server's store holds of the session cannot be used; the message says why. Closing
    the session removes it."""

    default_code = grpc.StatusCode.DATA_LOSS


class BadInput(TidegateError):
    """A value or shape the server, or this library before it, cannot accept."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    offset = 0  # steps of a chunk sent before the request that failed

    @property
    def field(self) -> str:
        """The request's field at fault."""
        return self.detail.field if self.detail is not None else ""

    @property
    def feature(self) -> str:
        """The name of the feature at fault; "" where none is."""
        return self.detail.feature if self.detail is not None else ""

    @property
    def index(self) -> int | None:
        """The step at fault, counted in the array given to `chunk`; None where none is."""
        if self.detail is None or not self.detail.HasField("index"):
            return None
        return self.detail.index + self.offset


class NotFinite(BadInput):
    """The model's result for this step was not finite; the session is as before."""


class RetryLater(TidegateError):
    """A limit of the server is reached; nothing was done."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QuotaReached(RetryLater):
    """The caller's tenant has used up its quota of sessions, of steps or of bytes a second."""


class QueueFull(RetryLater):
    """The server's queue of steps is full."""


class SessionsFull(RetryLater):
    """The model holds as many sessions as it may."""


class TooManyCalls(RetryLater):
    """More calls are under way than the server takes at once."""


class MessageTooLarge(TidegateError):
    """A request or reply is larger than gRPC's limit on that side."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(TidegateError):
    """The server could not be reached, or the connection to it was lost."""

    default_code = grpc.StatusCode.UNAVAILABLE


class Starting(Unavailable):
    """The server is still loading its models."""


class Draining(Unavailable):
    """The server is shutting down and takes no more steps."""


class SessionMoved(Unavailable):
    """Another server has taken the session over, and this one has done nothing."""


class StoreDown(Unavailable):
    """The server's store does not answer, and the call cannot be done without it."""


class DeadlineExceeded(TidegateError):
    """No reply within the timeout."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(TidegateError):
    """The call was cancelled."""

    default_code = grpc.StatusCode.CANCELLED


class Internal(TidegateError):
    """An unexpected failure: in the server, whose log has it, or in this library, and then
    `__cause__` is what went wrong."""

    default_code = grpc.StatusCode.INTERNAL


class RunFailed(Internal):
    """The engine's run that was to hold the step failed before it began; nothing changed."""


class EndedUnread(Unavailable):
    """A stream ended while it was written to, in which case grpc.aio does not tell why."""


class Unauthenticated(TidegateError):
    """The call carries no token, or one that is not good, or not any more."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class NotAllowed(TidegateError):
    """The caller has none of the roles that the call needs."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


FOR_NOW = (RetryLater, Draining, Starting, SessionMoved, StoreDown)
"""The server refused for now, and did nothing: the same may succeed later."""

_BY_REASON: dict[int, type[TidegateError]] = {
    pb.REASON_INTERNAL: Internal,
    pb.REASON_UNKNOWN_MODEL: UnknownModel,
    pb.REASON_UNKNOWN_VERSION: UnknownVersion,
    pb.REASON_UNKNOWN_SESSION: UnknownSession,
    pb.REASON_EXPIRED: SessionExpired,
    pb.REASON_CLOSED: SessionClosed,
    pb.REASON_STEP_GAP: StepGap,
    pb.REASON_STEP_TOO_OLD: StepTooOld,
    pb.REASON_STEP_CONFLICT: StepConflict,
    pb.REASON_BAD_INPUT: BadInput,
    pb.REASON_QUEUE_FULL: QueueFull,
    pb.REASON_SESSIONS_FULL: SessionsFull,
    pb.REASON_DRAINING: Draining,
    pb.REASON_DEADLINE: DeadlineExceeded,
    pb.REASON_CANCELLED: Cancelled,
    pb.REASON_RUN_FAILED: RunFailed,
    pb.REASON_NOT_FINITE: NotFinite,
    pb.REASON_STARTING: Starting,
    pb.REASON_BAD_MODEL: BadModel,
    pb.REASON_SESSION_EXISTS: SessionExists,
    pb.REASON_BAD_SNAPSHOT: BadSnapshot,
    pb.REASON_LOST: SessionLost,
    pb.REASON_TOO_MANY_CALLS: TooManyCalls,
    pb.REASON_MOVED: SessionMoved,
    pb.REASON_STORE_DOWN: StoreDown,
    pb.REASON_BAD_RECORD: BadRecord,
    pb.REASON_UNAUTHENTICATED: Unauthenticated,
    pb.REASON_NOT_ALLOWED: NotAllowed,
    pb.REASON_QUOTA: QuotaReached,
}

_CODES = {code.value[0]: code for code in grpc.StatusCode}

_BY_CODE: dict[grpc.StatusCode, type[TidegateError]] = {
    kind.default_code: kind
    for kind in (Unavailable, DeadlineExceeded, Cancelled, Internal, Unauthenticated, NotAllowed)
}


WRITTEN_TO_THE_END = "Internal error from Core"
"""What grpc.aio says of a stream that ended while it was written to, whatever its status was."""


def from_rpc(error: grpc.RpcError) -> TidegateError:
    """The exception for a failed call, on either of gRPC's two faces."""
    code, message = error.code(), error.details() or ""
    detail = _detail(error.trailing_metadata())
    if detail is not None:
        kind = _BY_REASON.get(detail.reason) or _BY_CODE.get(code, TidegateError)
        return kind(detail.message or message, code, detail)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return MessageTooLarge(message, code)
    if message == WRITTEN_TO_THE_END:
        return EndedUnread("the server ended the stream while it was written to")
    return _BY_CODE.get(code, TidegateError)(message or code.name, code)


def from_detail(detail: pb.ErrorDetail) -> TidegateError:
    """The exception for a failed row of a stream's message."""
    kind = _BY_REASON.get(detail.reason, TidegateError)
    return kind(detail.message, _CODES.get(detail.code), detail)


def bad_input(message: str, field: str = "features") -> BadInput:
    """The exception for what this library cannot send."""
    detail = pb.ErrorDetail(reason=pb.REASON_BAD_INPUT, message=message, field=field)
    return BadInput(message, detail=detail)


def steps_lost(session_id: str, number: int, expected: int) -> StepsLost:
    """The exception for a session that is back at step `expected`, where the inputs from there to
    before step `number` are not known any more."""
    message = (
        f"session {session_id!r}: the server is back at step {expected}, and the inputs from there "
        f"to step {number} are not kept here"
    )
    detail = pb.ErrorDetail(
        reason=pb.REASON_STEP_GAP,
        message=message,
        expected_step=expected,
        code=StepsLost.default_code.value[0],
    )
    return StepsLost(message, detail=detail)


def internal(cause: BaseException) -> Internal:
    """The exception for a failure of this library itself."""
    error = Internal(f"the client failed: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _detail(metadata: Iterable[Any] | None) -> pb.ErrorDetail | None:
    for key, value in metadata or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            try:
                return pb.ErrorDetail.FromString(value)
            except DecodeError:  # somebody on the way has spoiled it: the status still tells
                return None
    return None
