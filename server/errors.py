"""Every way a call can fail, typed. A leaf: the core raises these, the transport translates them.

Each class owns its gRPC status name and its `Reason` in the protocol, as words, so that the core
stays free of gRPC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from server.names import own


class ServingError(Exception):
    """A failure the caller is told of, in words and in fields."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    expected_step: int | None = None
    ended_at: float | None = None
    retry_after: float | None = None
    field: str = ""
    feature: str = ""
    index: int | None = None
    counted = False
    """Whether the metrics have it already."""


class Internal(ServingError):
    """An unexpected failure. The text is fixed; the trace is in the log alone."""

    def __init__(self) -> None:
        super().__init__("internal error; the server's log has the details")


class UnknownModel(ServingError):
    code, reason = "NOT_FOUND", "UNKNOWN_MODEL"

    def __init__(self, model: str) -> None:
        super().__init__(f"unknown model {model[:300]!r}")


class UnknownVersion(ServingError):
    code, reason = "NOT_FOUND", "UNKNOWN_VERSION"

    def __init__(self, model: str, version: int) -> None:
        super().__init__(f"model {model!r} has no version {version}")


class VersionLeaves(UnknownVersion):
    """The version is served for the sessions that it has, and takes no others."""

    def __init__(self, model: str, version: int) -> None:
        text = (
            f"version {version} of model {model!r} takes no new sessions; version 0 is the newest"
        )
        ServingError.__init__(self, text)


class BadModel(ServingError):
    """A bundle that cannot be served: corrupt, unsafe or too new."""

    code, reason = "FAILED_PRECONDITION", "BAD_MODEL"


class UnknownSession(ServingError):
    code, reason = "NOT_FOUND", "UNKNOWN_SESSION"

    def __init__(self, model: str, session_id: str = "") -> None:
        which = f"session {own(session_id)[:300]!r}" if session_id else "such session"
        super().__init__(f"model {model!r} has no {which}")


class SessionEnded(ServingError):
    """The session was live once; `ended_at` (seconds since the epoch) tells when it ended."""

    code = "NOT_FOUND"
    how: ClassVar[str] = "ended"

    def __init__(self, model: str, session_id: str, ended_at: float) -> None:
        when = datetime.fromtimestamp(ended_at, UTC).isoformat(timespec="milliseconds")
        super().__init__(f"session {own(session_id)!r} of model {model!r} {self.how} at {when}")
        self.ended_at = ended_at


class SessionExpired(SessionEnded):
    reason = "EXPIRED"
    how = "expired"


class SessionClosed(SessionEnded):
    reason = "CLOSED"
    how = "was closed"


class SessionLost(SessionEnded):
    """A run failed after it had begun to move the session's state, which is worth nothing now."""

    code, reason = "DATA_LOSS", "LOST"
    how = "was lost in a run that failed"


class SessionMoved(SessionEnded):
    """Another server has taken the session over; asking for it again brings it back here."""

    code, reason = "UNAVAILABLE", "MOVED"
    how = "was taken over by another server"


class SessionSetBack(SessionMoved):
    """A run failed midway: the session goes on from its stored record once it is asked for."""

    how = "was set back to its last stored step, by a run that failed"


class SessionVanished(SessionEnded):
    """Whoever had the session last has closed it, or it expired there, or was lost with the
    store."""

    reason = "UNKNOWN_SESSION"
    how = "is in the store no more, and left this server"


class SessionMigrated(SessionMoved):
    """Another version of the model has the session; asking for it with version 0 finds it."""

    def __init__(self, model: str, session_id: str, ended_at: float, *, version: int) -> None:
        self.how = f"went to version {version}"  # type: ignore[misc]
        super().__init__(model, session_id, ended_at)


class BadRecord(ServingError):
    """What the store holds of a session cannot be used."""

    code, reason = "DATA_LOSS", "BAD_RECORD"

    def __init__(self, session_id: str, why: str) -> None:
        super().__init__(f"the stored record of session {own(session_id)!r} cannot be used: {why}")


class StoreDown(ServingError):
    """The store does not answer."""

    code, reason = "UNAVAILABLE", "STORE_DOWN"

    def __init__(self, retry_after: float = 0.5) -> None:
        super().__init__("the store of sessions does not answer, and the call needs it")
        self.retry_after = retry_after


class StateAway(StoreDown):
    """A session's state is in the store alone. Whoever asked for it has it fetched and asks again,
    so that no caller hears of it."""


class SessionExists(ServingError):
    code, reason = "ALREADY_EXISTS", "SESSION_EXISTS"

    def __init__(self, model: str, session_id: str) -> None:
        super().__init__(f"model {model!r} has a live session {own(session_id)!r} already")


class BadSnapshot(ServingError):
    """A snapshot of another model, version or format, or not of this bundle's states."""

    code, reason = "FAILED_PRECONDITION", "BAD_SNAPSHOT"


class CannotMigrate(BadSnapshot):
    """A session, or any of a version's, cannot go on in another version."""


class UnknownLane(ServingError):
    """Rows of these lanes, of which `lane` is the first."""

    code, reason = "NOT_FOUND", "UNKNOWN_LANE"

    def __init__(self, lane: int, others: int = 0) -> None:
        more = f" (nor do those of {others} more rows)" if others else ""
        super().__init__(f"lane {lane} names no session on this stream{more}")
        self.field = "lanes"


class StepMismatch(ServingError):
    """The step's number does not fit the session's count, which is `expected_step`."""

    code = "FAILED_PRECONDITION"

    why: ClassVar[str]

    def __init__(self, session_id: str, step: int, expected: int, why: str = "") -> None:
        what = f"step {step} {why or self.why}"
        super().__init__(f"session {own(session_id)!r}: {what}; expected step {expected}")
        self.expected_step = expected


class StepGap(StepMismatch):
    reason, why = "STEP_GAP", "is ahead of the session"


class StepTooOld(StepMismatch):
    reason, why = "STEP_TOO_OLD", "was applied and is no longer remembered"


class StepConflict(StepMismatch):
    reason, why = "STEP_CONFLICT", "was applied with other features"


class BadInput(ServingError):
    """A value or column is malformed. `field`, `feature` and `index` name it."""

    code, reason = "INVALID_ARGUMENT", "BAD_INPUT"

    def __init__(
        self, message: str, *, field: str, feature: str = "", index: int | None = None
    ) -> None:
        super().__init__(message)
        self.field, self.feature, self.index = field, feature, index


class NoMessage(BadInput):
    """Bytes that are no message of the call. They may be of an old or another client."""

    def __init__(self, why: object) -> None:
        super().__init__(f"the bytes received are no message of this call: {why}", field="")


class Full(ServingError):
    """No room; `retry_after` (seconds) tells when to try again."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(f"{message}; retry after {retry_after:.3g} s")
        self.retry_after = retry_after


class QueueFull(Full):
    reason = "QUEUE_FULL"


class SessionsFull(Full):
    reason = "SESSIONS_FULL"


class TooManyCalls(Full):
    reason = "TOO_MANY_CALLS"

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(f"{limit} calls are under way, as many as the server takes", retry_after)


class TooManyBytes(TooManyCalls):
    """As `TooManyCalls`, of bytes."""

    def __init__(self, retry_after: float) -> None:
        text = "the calls under way hold as many bytes as the server takes"
        Full.__init__(self, text, retry_after)


class QuotaReached(Full):
    """The caller's tenant has used up what it may use of this server."""

    reason = "QUOTA"

    def __init__(self, tenant: str, limit: str, retry_after: float) -> None:
        whose = f"tenant {tenant}" if tenant else "the caller"
        super().__init__(f"{whose} has its quota of {limit}", retry_after)


class Unauthenticated(ServingError):
    """The call does not say whose it is, or not truly."""

    code, reason = "UNAUTHENTICATED", "UNAUTHENTICATED"


class NotAllowed(ServingError):
    """The caller is known, and may not do this."""

    code, reason = "PERMISSION_DENIED", "NOT_ALLOWED"

    def __init__(self, method: str, roles: list[str]) -> None:
        needs = f"the role {' or '.join(roles)}" if roles else "what nobody may"
        super().__init__(f"the caller may not call {method}: it needs {needs}")


class Starting(ServingError):
    code, reason = "UNAVAILABLE", "STARTING"

    def __init__(self) -> None:
        super().__init__("the server is still loading its models")
        self.retry_after = 0.25


class Draining(ServingError):
    code, reason = "UNAVAILABLE", "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class DeadlinePassed(ServingError):
    code, reason = "DEADLINE_EXCEEDED", "DEADLINE"

    def __init__(self) -> None:
        super().__init__("the deadline passed before the step entered a run; nothing changed")


class StepCancelled(ServingError):
    code, reason = "CANCELLED", "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the step was cancelled before it entered a run; nothing changed")


class RunFailed(ServingError):
    """The engine was not entered. Once it was, a failure costs the session: `SessionLost`."""

    code, reason = "INTERNAL", "RUN_FAILED"

    def __init__(self) -> None:
        super().__init__(
            "the run that was to hold the step failed before it began; nothing changed, and the "
            "server's log has the details"
        )


class NotFinite(ServingError):
    """The model overflowed on this input; the graph kept the session's former state."""

    code, reason = "INVALID_ARGUMENT", "NOT_FINITE"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {own(session_id)!r}: the model's result for this step is not finite; "
            "the session is as before"
        )
        self.field = "features"
