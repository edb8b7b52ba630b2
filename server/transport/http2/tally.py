"""What becomes of calls, counted a turn of the loop at a time.

What came together and left together is one observation with a weight: a reply costs an entry of a
dictionary, and the clock is read once a turn. Times run from a message's arrival, as far as the
loop can know it (see `Loop.since`), until its reply is in the kernel's hands, or waits for a peer
that does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from server.metrics import LONG_SECONDS, Weighted

if TYPE_CHECKING:
    from server.scheduler.submission import Submission
    from server.transport.http2.call import Call

CODES: Final = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange",
    "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
"""gRPC's status codes by number, as Go's library names them."""


class Method:
    """What the calls of one method came to. One thread counts; any may read."""

    __slots__ = ("ended", "kind", "name", "seconds", "service", "started")

    def __init__(self, service: str, name: str, kind: str) -> None:
        self.service, self.name, self.kind = service, name, kind
        self.started = 0
        self.ended: dict[int, int] = {}
        """By status code."""
        self.seconds = Weighted(LONG_SECONDS)
        """Of whole calls."""

    @property
    def streams(self) -> bool:
        """Whether a call has more than one message each way."""
        return self.kind != "unary"

    @property
    def under_way(self) -> int:
        """Calls that have begun and are not over."""
        return max(0, self.started - sum(self.ended.copy().values()))


class Told:
    """Replies of a tally that came together, left together, and fared alike: the first of them
    stands for all.

    Attributes:
        count: how many they are.
        since: when they arrived.
        submission: the first one's, if it stepped.
        rows: the first one's.
    """

    __slots__ = ("call", "code", "count", "rows", "since", "submission")

    def __init__(
        self, call: Call, since: float, code: int, submission: Submission | None, rows: int
    ) -> None:
        self.count, self.call, self.since, self.code = 1, call, since, code
        self.submission, self.rows = submission, rows

    @property
    def status(self) -> str:
        """The status code's name."""
        return CODES[self.code]


class Tally:
    """Counts the ends of a method's calls, or the replies on its streams; of one model, if they
    name one. The loop's thread alone uses it.

    Args:
        due: where it enters itself once it has something to count.
        seconds: the histograms in which each counts.
        ends: whether calls end here, or messages are replied to.
        model: name and version.
    """

    __slots__ = ("_due", "_ended", "_held", "_lasting", "_seconds", "method", "model", "streams")

    def __init__(
        self,
        due: list[Tally],
        method: Method,
        seconds: Sequence[Weighted],
        ends: bool = True,
        model: tuple[str, str] = ("", ""),
    ) -> None:
        self.method, self.model, self.streams = method, model, method.streams
        self._due, self._seconds = due, seconds
        self._ended = method.ended if ends else None
        self._lasting = ends and method.streams  # calls that may last, and are not slow for it
        self._held: dict[Any, Told] = {}

    def add(
        self, call: Call, since: float, code: int, submission: Submission | None, rows: int
    ) -> None:
        """A call is over, or a message has its reply; `flush` follows in the same turn."""
        held = self._held
        key = (since, code) if code else since
        told = held.get(key)
        if told is not None:
            told.count += 1
            return
        if not held:
            self._due.append(self)
        held[key] = Told(call, since, code, submission, rows)

    def flush(self, now: float, slow: float, tell: Callable[[Tally, Told, float], None]) -> None:
        """The replies have left: count them. `tell` hears of those that took longer than `slow`
        seconds."""
        held, self._held = self._held, {}
        for told in held.values():
            took = now - told.since
            for seconds in self._seconds:
                seconds.observe(took, told.count)
            if self._ended is not None:
                self._ended[told.code] = self._ended.get(told.code, 0) + told.count
            if took > slow and not self._lasting:
                tell(self, told, now)
