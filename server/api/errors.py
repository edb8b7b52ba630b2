"""The one place where typed errors become protocol messages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from server.errors import ServingError
from server.scheduler.submission import Rows
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY

Problems = dict[str, ServingError]
"""By id: why the store cannot give a session."""

LONGEST_TEXT = 480
IN_FULL = 64  # errors of a kind in a reply that are told in full
LIKEWISE = "likewise"

CODES = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""gRPC's status codes by name, those in use."""


def detail(error: ServingError) -> pb.ErrorDetail:
    """The failure in typed form."""
    message = pb.ErrorDetail(
        reason=pb.Reason.Value(f"REASON_{error.reason}"),
        message=words(error),
        expected_step=error.expected_step,
        field=error.field,
        feature=error.feature,
        index=error.index,
        code=CODES[error.code],
    )
    if error.ended_at is not None:
        message.ended_at.FromMicroseconds(int(error.ended_at * 1e6))
    if error.retry_after is not None:
        message.retry_after_ms = _milliseconds(error.retry_after)
    return message


class Details:
    """Failures of many parts of one message in typed form, only so many of a kind in full: the
    reply must not be many times the message.

    Args:
        count: takes note of each; `ModelMetrics.error`.
    """

    def __init__(self, count: Callable[[str, str], None]) -> None:
        self._count, self._told = count, Counter[str]()

    def of(self, error: ServingError) -> pb.ErrorDetail:
        """One part's failure."""
        self._count(error.code, error.reason)
        self._told[error.reason] += 1
        failure = detail(error)
        if self._told[error.reason] > IN_FULL:
            failure.message = LIKEWISE
        return failure


def words(error: ServingError) -> str:
    """The failure in words, not too many: they travel in headers, of which clients take some
    kilobytes and no more, and may repeat what a caller sent."""
    text = str(error)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def trailing(error: ServingError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: the typed form, and gRPC's own retry delay where there is one."""
    entries: list[tuple[str, str | bytes]] = [(DETAIL_KEY, detail(error).SerializeToString())]
    if error.retry_after is not None:
        entries.append(("grpc-retry-pushback-ms", str(_milliseconds(error.retry_after))))
    return tuple(entries)


def row_errors(
    failures: list[tuple[Rows, ServingError]], numbers: NDArray[np.int64]
) -> Iterator[pb.RowError]:
    """Why rows failed, those that share an error in one entry, which says of the first of them what
    number was expected; `numbers` has it of each."""
    for rows, error in failures:
        first, failure = int(rows[0]), detail(error)
        if failure.HasField("expected_step"):
            failure.expected_step = int(numbers[first])
        also = rows[1:].astype(np.dtype("<u4")).tobytes()
        yield pb.RowError(row=first, error=failure, also=also)


def raise_first(problems: Problems) -> None:
    """Raise why the store could not give a session."""
    for problem in problems.values():
        raise problem


def _milliseconds(seconds: float) -> int:
    return min(2**31 - 1, max(1, math.ceil(seconds * 1000)))
