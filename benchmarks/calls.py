"""Unary calls as fast as one core can make them: gRPC's completion queue, without a coroutine or a
thread a call, so that the server's core is the one that is full.

The private interface of grpcio, as in `server/transport/cq/core.py`. Requests are packed by hand
where only a number changes; every reply is looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from numpy.typing import NDArray

Reply = Callable[[bytes], None]
"""Looks at a reply; raises where it is wrong."""


class Calls:
    """One connection, on which calls of one method are under way."""

    def __init__(self, address: str, method: str) -> None:
        options = [("grpc.enable_retries", 0)]
        self._channel = cygrpc.Channel(address.encode(), options, None)
        self._method = method.encode()
        self._handle = self._channel.get_registered_call_handle(self._method)

    def begin(self, request: bytes, answered: Reply) -> None:
        """Make a call."""
        received, ended = cygrpc.ReceiveMessageOperation(0), cygrpc.ReceiveStatusOnClientOperation(0)

        def done(_: Any) -> None:
            if ended.code() != cygrpc.StatusCode.ok:
                raise AssertionError(f"{ended.code()}: {ended.details()}")
            answered(received.message())

        operations = (
            cygrpc.SendInitialMetadataOperation(None, 0),
            cygrpc.SendMessageOperation(request, 0),
            cygrpc.SendCloseFromClientOperation(0),
            cygrpc.ReceiveInitialMetadataOperation(0),
            received,
            ended,
        )
        self._channel.integrated_call(
            0, self._method, None, None, None, None, ((operations, done),), None, self._handle
        )

    def turn(self) -> None:
        """Wait for a reply, and look at it."""
        event = self._channel.next_call_event()
        event.tag(event)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close(cygrpc.StatusCode.cancelled, "done")


def latencies(seconds: list[float]) -> tuple[float, float]:
    """p50 and p99, in microseconds."""
    values: NDArray[np.float64] = np.array(seconds) * 1e6
    low, high = np.percentile(values, [50, 99])
    return float(low), float(high)


class Caller:
    """Makes its next call whenever one is answered, until told to stop.

    Args:
        request: the bytes of a step's request, by its number.
        check: looks at a step's reply.
    """

    def __init__(
        self,
        calls: Calls,
        request: Callable[[int], bytes],
        check: Callable[[int, bytes], None],
    ) -> None:
        self._calls, self._request, self._check = calls, request, check
        self.steps, self.running, self.waits = 0, True, False
        self.took: list[float] = []
        self._since = math.nan

    def go(self) -> None:
        """Make the next call."""
        self.waits, self._since = True, time.perf_counter()
        self._calls.begin(self._request(self.steps), self._answered)

    def _answered(self, packed: bytes) -> None:
        self.took.append(time.perf_counter() - self._since)
        self._check(self.steps, packed)
        self.steps += 1
        self.waits = False
        if self.running:
            self.go()
