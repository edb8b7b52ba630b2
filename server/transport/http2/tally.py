"""What becomes of calls, counted a turn of the loop at a time.

What came together and left together is one observation with a weight: a reply costs an entry of a
dictionary, and the clock is read once a turn. Times run from a message's arrival, as far as the
loop can know it (see `Loop.since`), until its reply is in the kernel's hands, or waits for a peer
that does not read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from server.histograms import Weighted
from server.metrics import LONG_SECONDS

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


@dataclass(frozen=True, slots=True)
class Told:
    """Replies of a tally that came together, left together, and fared alike: the first of them
    stands for all.

    Attributes:
        count: how many they are.
        since: when they arrived.
        submission: the first one's, if it stepped.
        rows: the first one's.
    """

    count: int
    call: Call
    since: float
    code: int
    submission: Submission | None
    rows: int

    @property
    def status(self) -> str:
        """The status code's name."""
        return CODES[self.code]


class Trace(Protocol):
    """Hears of every reply, where calls are traced."""

    def note(
        self,
        tally: Tally,
        call: Call,
        since: float,
        code: int,
        submission: Submission | None,
        rows: int,
    ) -> None:
        """A call is over, or a message has its reply; `end` follows in the same turn."""

    def end(self, now: float) -> None:
        """The replies have left."""


class Tally:
    """Counts the ends of a method's calls, or the replies on its streams; of one model, if they
    name one. The loop's thread alone uses it.

    Args:
        due: where it enters itself once it has something to count.
        seconds: the histograms in which each counts.
        ends: whether calls end here, or messages are replied to.
        model: name and version.
        trace: who hears of each reply, if anybody.
    """

    __slots__ = (
        "_code", "_due", "_ended", "_held", "_seconds", "_since", "_told", "_trace",
        "lasting", "method", "model", "streams",
    )  # fmt: skip

    def __init__(
        self,
        due: list[Tally],
        method: Method,
        seconds: Sequence[Weighted],
        ends: bool = True,
        model: tuple[str, str] = ("", ""),
        trace: Trace | None = None,
    ) -> None:
        self.method, self.model, self.streams = method, model, method.streams
        self._due, self._seconds = due, seconds
        self._ended = method.ended if ends else None
        self.lasting = ends and method.streams
        """Whether it counts calls that may last, and are not slow for it."""
        self._trace = trace
        self._held: dict[tuple[float, int], list[Any]] = {}  # what `Told` has
        self._since, self._code, self._told = -1.0, 0, list[Any]()  # of the latest

    def add(
        self, call: Call, since: float, code: int, submission: Submission | None, rows: int
    ) -> None:
        """A call is over, or a message has its reply; `flush` follows in the same turn."""
        if self._trace is not None:
            self._trace.note(self, call, since, code, submission, rows)
        if since == self._since and code == self._code:  # as the one before
            self._told[0] += 1
            return
        held, self._since, self._code = self._held, since, code
        if not held:
            self._due.append(self)
        self._told = held.setdefault((since, code), [0, call, since, code, submission, rows])
        self._told[0] += 1

    def exemplify(self, took: float, trace: str) -> None:
        """Remember a trace as the example of what took about as long."""
        for seconds in self._seconds:
            seconds.exemplify(took, trace)

    def flush(self, now: float, slow: float, tell: Callable[[Tally, Told, float], None]) -> None:
        """The replies have left: count them. `tell` hears of those that took longer than `slow`
        seconds."""
        if self._trace is not None:
            self._trace.end(now)
        held, self._held, self._since, self._told = self._held, {}, -1.0, []
        for told in held.values():
            count, took, code = told[0], now - told[2], told[3]
            bucket = bisect_left(LONG_SECONDS, took)
            for seconds in self._seconds:
                seconds.note(bucket, took, count)
            if self._ended is not None:
                self._ended[code] = self._ended.get(code, 0) + count
            if took > slow and not self.lasting:
                tell(self, Told(*told), now)
