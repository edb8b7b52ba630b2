"""The rpcs of `tidegate.v1.Tidegate`, each a few lines over the api. Unary ones raise what they
cannot do; `calls.unary` tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from server.api import description, snapshot, step
from server.errors import Draining
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.aio.calls import Context, translated
from server.transport.aio.mailbox import Deliver, Mailbox
from server.transport.aio.step_stream import StepStream
from server.transport.aio.stream import Streams
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc


class OfSession(Protocol):
    """A request about one session."""

    model: str
    version: int
    session_id: str


class Servicer(tidegate_pb2_grpc.TidegateServicer):
    """Serves the protocol on the event loop."""

    def __init__(self, registry: Registry, mailbox: Mailbox, inflight: int) -> None:
        self._registry, self._mailbox, self._inflight = registry, mailbox, inflight
        self.streams = Streams()
        self._lister = ThreadPoolExecutor(1, "list")

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepReply:  # noqa: N802
        """Apply one or more consecutive steps."""
        model = self._holder(request)
        done: asyncio.Future[Submission] = asyncio.get_running_loop().create_future()
        deliver = self._mailbox.address(_resolve(done))
        submission = step.read(request, model, context.time_remaining(), deliver)
        model.submit(submission)
        try:
            await done
        except asyncio.CancelledError:
            submission.cancelled = True
            raise
        return step.reply(submission, model)

    async def StepStream(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StepBatch], context: Context
    ) -> None:
        """Step many sessions in columns; reads and writes through `context`."""
        async with translated(context, self._registry.count_error):
            stream = StepStream(self._registry, self._mailbox, context, self._inflight)
            await self.streams.serve(stream)

    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenReply:  # noqa: N802
        """Open a session or attach to it."""
        model = self._registry.resolve(request.model, request.version)
        holder = self._holder(request)
        model = holder if request.session_id in holder.directory else model
        info, created = model.open(request.session_id)
        return pb.OpenReply(session=description.session(info), created=created)

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseReply:  # noqa: N802
        """End a session."""
        return pb.CloseReply(steps=self._holder(request).close(request.session_id))

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Look at a session."""
        return description.session(self._holder(request).get(request.session_id))

    async def Export(self, request: pb.ExportRequest, context: Context) -> pb.Snapshot:  # noqa: N802
        """Take a session's snapshot."""
        operations = self._holder(request).operations
        return snapshot.exported(await asyncio.wrap_future(operations.export(request.session_id)))

    async def Import(self, request: pb.ImportRequest, context: Context) -> pb.ImportReply:  # noqa: N802
        """Make a session from a snapshot."""
        message = request.snapshot
        snapshot.check_format(message)
        model = self._registry.resolve(message.model, message.version)
        if self._registry.draining:  # even in place of a live session: it would be lost
            raise Draining
        taken = snapshot.imported(message, model)
        session_id = request.session_id or taken.session_id
        made = model.operations.take_in(taken, session_id, request.replace)
        return pb.ImportReply(session=description.session(await asyncio.wrap_future(made)))

    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.Session:  # noqa: N802
        """Copy a session."""
        operations = self._holder(request).operations
        forked = operations.fork(request.session_id, request.new_session_id)
        return description.session(await asyncio.wrap_future(forked))

    async def Reset(self, request: pb.ResetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Put a session back to its start."""
        reset = self._holder(request).operations.reset(request.session_id)
        return description.session(await asyncio.wrap_future(reset))

    async def Forecast(  # noqa: N802
        self, request: pb.ForecastRequest, context: Context
    ) -> pb.ForecastReply:
        """Look ahead from a session's state."""
        model = self._holder(request)
        ahead, operations = snapshot.forecast(request, model), model.operations
        first = await asyncio.wrap_future(operations.begin(ahead, request.session_id))
        while ahead.outputs is None:
            await asyncio.wrap_future(operations.advance(ahead))
        return pb.ForecastReply(first_step=first, outputs=ahead.outputs.ravel().tolist())

    async def Peek(self, request: pb.PeekRequest, context: Context) -> pb.PeekReply:  # noqa: N802
        """Read a session's state."""
        operations = self._holder(request).operations
        return snapshot.peeked(*await asyncio.wrap_future(operations.peek(request.session_id)))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListReply:  # noqa: N802
        """List live sessions, a version after the other."""
        # To put very many ids in order takes long, so it is done elsewhere, one after another.
        work = asyncio.get_running_loop().run_in_executor
        return await work(self._lister, description.sessions, self._registry, request)

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsReply:
        """The models served."""
        return description.models(self._registry)

    def _holder(self, request: OfSession) -> ServedModel:
        """The model version that holds the session a request names."""
        return self._registry.holder(request.model, request.version, request.session_id)


def _resolve(done: asyncio.Future[Submission]) -> Deliver:
    def resolve(submission: Submission) -> None:
        if not done.done():
            done.set_result(submission)

    return resolve
