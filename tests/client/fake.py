"""A server that says what a test has it say: for replies that a real one gives seldom or never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
import numpy as np
from grpc import aio

from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc as pb_grpc
from tidegate.wire import DETAIL_KEY

NAME, WIDTH, OUTPUTS = "fake", 2, 1

Answer = Callable[[pb.StepBatch], Awaitable[pb.StepBatchReply]]


def detail(reason: pb.Reason.ValueType, **more: Any) -> pb.ErrorDetail:
    """A failure in typed form."""
    return pb.ErrorDetail(reason=reason, message=pb.Reason.Name(reason), **more)


class Broken(Exception):
    """Raised in place of an answer: the stream ends as where a connection breaks."""


async def refuse(
    context: Any, code: grpc.StatusCode, failure: pb.ErrorDetail | None = None
) -> None:
    """End a call with a failure as a Tidegate server does, or as somebody else on the way."""
    if failure is None:
        await context.abort(code, "somebody else's words")
    else:
        await context.abort(code, failure.message, ((DETAIL_KEY, failure.SerializeToString()),))


def applied(batch: pb.StepBatch, steps: int = 0) -> pb.StepBatchReply:
    """Every lane named, whose session has so many steps, and every row applied."""
    rows = len(batch.lanes) // 4
    return pb.StepBatchReply(
        id=batch.id,
        opened=[pb.LaneOpened(lane=each.lane, steps=steps) for each in batch.opens],
        status=bytes(rows),
        first_steps=batch.first_steps,
        outputs=np.zeros((len(batch.features) // (4 * WIDTH), OUTPUTS), "<f4").tobytes(),
    )


def refused(batch: pb.StepBatch, failure: pb.ErrorDetail) -> pb.StepBatchReply:
    """Every row refused in the same way."""
    reply = applied(batch)
    rows = len(reply.status)
    reply.status, reply.outputs = b"\2" * rows, b""
    also = np.arange(1, rows, dtype="<u4").tobytes()
    reply.errors.append(pb.RowError(row=0, error=failure, also=also))
    return reply


class FakeServer(pb_grpc.TidegateServicer):
    """A server of one model of two features and one output, inside the test's event loop."""

    def __init__(self) -> None:
        self.answer: Answer = self._applied
        """What answers each message."""
        self.refusals: list[tuple[grpc.StatusCode, pb.ErrorDetail | None]] = []
        """How the next calls end, before any is answered."""
        self.unopened: dict[str, list[pb.ErrorDetail]] = {}
        """Why sessions cannot be opened with others, the next times."""
        self.calls: list[str] = []
        self.batches: list[pb.StepBatch] = []
        self._server = aio.server()
        pb_grpc.add_TidegateServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsReply:  # noqa: N802
        await self._refuse("ListModels", context)
        features = [pb.Feature(name=f"x{k}") for k in range(WIDTH)]
        model = pb.Model(name=NAME, version=1, features=features, max_chunk=8)
        model.outputs.append(pb.Output(name="y", size=OUTPUTS))
        return pb.ListModelsReply(models=[model])

    async def Open(self, request: Any, context: Any) -> pb.OpenReply:  # noqa: N802
        await self._refuse("Open", context)
        return pb.OpenReply(session=self._session(request), created=True)

    async def OpenMany(self, request: Any, context: Any) -> pb.OpenManyReply:  # noqa: N802
        await self._refuse("OpenMany", context)
        return pb.OpenManyReply(outcomes=[self._outcome(each) for each in request.session_ids])

    async def CloseMany(self, request: Any, context: Any) -> pb.CloseManyReply:  # noqa: N802
        await self._refuse("CloseMany", context)
        closed = pb.CloseOutcome(closed=pb.CloseReply(steps=7))
        return pb.CloseManyReply(outcomes=[closed] * len(request.session_ids))

    async def Get(self, request: Any, context: Any) -> pb.Session:  # noqa: N802
        await self._refuse("Get", context)
        return self._session(request)

    async def Close(self, request: Any, context: Any) -> pb.CloseReply:  # noqa: N802
        await self._refuse("Close", context)
        return pb.CloseReply()

    async def Reset(self, request: Any, context: Any) -> pb.Session:  # noqa: N802
        await self._refuse("Reset", context)
        return self._session(request)

    async def StepStream(  # noqa: N802
        self, requests: AsyncIterator[pb.StepBatch], context: Any
    ) -> AsyncIterator[pb.StepBatchReply]:
        await self._refuse("StepStream", context)
        async for batch in requests:
            self.batches.append(batch)
            try:
                reply = await self.answer(batch)
            except Broken:
                await refuse(context, grpc.StatusCode.UNAVAILABLE)
            yield reply

    async def _refuse(self, call: str, context: Any) -> None:
        self.calls.append(call)
        if self.refusals:
            await refuse(context, *self.refusals.pop(0))

    async def _applied(self, batch: pb.StepBatch) -> pb.StepBatchReply:
        return applied(batch)

    def _session(self, request: Any) -> pb.Session:
        return pb.Session(model=NAME, version=1, session_id=request.session_id)

    def _outcome(self, session_id: str) -> pb.OpenOutcome:
        failures = self.unopened.get(session_id)
        if failures:
            return pb.OpenOutcome(error=failures.pop(0))
        session = pb.Session(model=NAME, version=1, session_id=session_id)
        return pb.OpenOutcome(opened=pb.OpenReply(session=session, created=True))


class Gate:
    """Answers that wait until the test lets them go."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, batch: pb.StepBatch) -> pb.StepBatchReply:
        self.reached.set()
        await self.open.wait()
        return applied(batch)
