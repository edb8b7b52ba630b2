"""The rpcs of `tidegate.v1.Tidegate`, each a few lines over the api. Unary ones raise what they
cannot do; `calls.unary` tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from server.access.caller import CALLER, Caller
from server.api import description, snapshot, step
from server.api.errors import Details, raise_first
from server.errors import Draining, ServingError, StateAway
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.rpcs.births import Births
from server.transport.rpcs.calls import Context, tell, translated
from server.transport.rpcs.mailbox import Deliver, Mailbox
from server.transport.rpcs.step_stream import StepStream
from server.transport.rpcs.stream import Streams
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

T = TypeVar("T")


class OfSession(Protocol):
    """A request about one session."""

    model: str
    version: int
    session_id: str


class Servicer(tidegate_pb2_grpc.TidegateServicer):
    """Serves the protocol on the event loop."""

    def __init__(
        self,
        registry: Registry,
        mailbox: Mailbox,
        inflight: int,
        enter: Callable[[Context], Caller | None],
    ) -> None:
        self._registry, self._mailbox, self._inflight = registry, mailbox, inflight
        self._enter = enter
        self._births, self.streams = Births(registry), Streams()
        self._lister = ThreadPoolExecutor(1, "list")

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepReply:  # noqa: N802
        """Apply one or more consecutive steps."""
        model = await self._sought(request)
        tell(context, model)
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
            caller = self._enter(context)
            stream = StepStream(self._registry, self._mailbox, context, self._inflight, caller)
            await self.streams.serve(stream)

    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenReply:  # noqa: N802
        """Open a session or attach to it."""
        ids = [request.session_id]
        (outcome,) = await self._births.open(request.model, request.version, ids)
        return description.opened(*_good(outcome))

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseReply:  # noqa: N802
        """End a session."""
        ids = [request.session_id]
        (outcome,) = await self._births.close(request.model, request.version, ids)
        return pb.CloseReply(steps=_good(outcome))

    async def OpenMany(  # noqa: N802
        self, request: pb.OpenManyRequest, context: Context
    ) -> pb.OpenManyReply:
        """Open many sessions."""
        details = Details(self._registry.resolve(request.model, request.version).metrics.error)
        named = request.model, request.version, request.session_ids
        return description.all_opened(await self._births.open(*named), details)

    async def CloseMany(  # noqa: N802
        self, request: pb.CloseManyRequest, context: Context
    ) -> pb.CloseManyReply:
        """End many sessions."""
        details = Details(self._registry.resolve(request.model, request.version).metrics.error)
        named = request.model, request.version, request.session_ids
        return description.all_closed(await self._births.close(*named), details)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Look at a session."""
        return description.session((await self._sought(request)).get(request.session_id))

    async def Export(self, request: pb.ExportRequest, context: Context) -> pb.Snapshot:  # noqa: N802
        """Take a session's snapshot."""
        model, name = await self._sought(request), request.session_id
        return snapshot.exported(await _at_hand(model, name, lambda: model.operations.export(name)))

    async def Import(self, request: pb.ImportRequest, context: Context) -> pb.ImportReply:  # noqa: N802
        """Make a session from a snapshot."""
        message = request.snapshot
        snapshot.check_format(message)
        model = self._registry.resolve(message.model, message.version)
        if self._registry.draining:  # even in place of a live session: it would be lost
            raise Draining
        taken = snapshot.imported(message, model)
        session_id = request.session_id or taken.session_id
        model.operations.check(taken)  # before anything is made
        await self._made(model, session_id)
        made = model.operations.take_in(taken, session_id, request.replace)
        info = await asyncio.wrap_future(made)
        return pb.ImportReply(session=await self._stored(model, info.session_id))

    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.Session:  # noqa: N802
        """Copy a session."""
        model, name, new_name = (
            await self._sought(request),
            request.session_id,
            request.new_session_id,
        )
        model.get(name)  # before the copy is made
        await self._made(model, new_name)
        await _at_hand(model, name, lambda: model.operations.fork(name, new_name))
        return await self._stored(model, new_name)

    async def Reset(self, request: pb.ResetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Put a session back to its start."""
        model = await self._sought(request)
        await asyncio.wrap_future(model.operations.reset(request.session_id))
        return await self._stored(model, request.session_id)

    async def Forecast(  # noqa: N802
        self, request: pb.ForecastRequest, context: Context
    ) -> pb.ForecastReply:
        """Look ahead from a session's state."""
        model, name = await self._sought(request), request.session_id
        ahead, operations = snapshot.forecast(request, model), model.operations
        first = await _at_hand(model, name, lambda: operations.begin(ahead, name))
        while ahead.outputs is None:
            await asyncio.wrap_future(operations.advance(ahead))
        return pb.ForecastReply(first_step=first, outputs=ahead.outputs.ravel().tolist())

    async def Peek(self, request: pb.PeekRequest, context: Context) -> pb.PeekReply:  # noqa: N802
        """Read a session's state."""
        model, name = await self._sought(request), request.session_id
        return snapshot.peeked(*await _at_hand(model, name, lambda: model.operations.peek(name)))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListReply:  # noqa: N802
        """List live sessions, a version after the other."""
        # To put very many ids in order takes long, so it is done elsewhere, one after another.
        work = asyncio.get_running_loop().run_in_executor
        prefix = "" if (caller := CALLER.get()) is None else caller.prefix
        return await work(self._lister, description.sessions, self._registry, request, prefix)

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsReply:
        """The models served."""
        return description.models(self._registry)

    async def _sought(self, request: OfSession) -> ServedModel:
        """The model version that holds the session a request names, which comes out of the store if
        it is there."""
        named = request.model, request.version, request.session_id
        for sought in self._registry.seek(*named):
            raise_first(await asyncio.wrap_future(sought))
        return self._registry.holder(*named)

    async def _made(self, model: ServedModel, session_id: str) -> None:
        """The store has the session from now on, if it can be one."""
        if (sought := model.seek({session_id: True})) is not None:
            raise_first(await asyncio.wrap_future(sought))

    async def _stored(self, model: ServedModel, session_id: str) -> pb.Session:
        """The session, which is stored as it is."""
        await asyncio.wrap_future(model.confirm(session_id))
        return description.session(model.get(session_id))


async def _at_hand(model: ServedModel, session_id: str, work: Callable[[], Future[T]]) -> T:
    """What is read of a session, whose state is fetched from the store as often as it is away."""
    while True:
        try:
            return await asyncio.wrap_future(work())
        except StateAway:
            await asyncio.wrap_future(model.fetch(session_id))


def _good(outcome: T | ServingError) -> T:
    """What was asked for.

    Raises:
        ServingError: it could not be done.
    """
    if isinstance(outcome, ServingError):
        raise outcome
    return outcome


def _resolve(done: asyncio.Future[Submission]) -> Deliver:
    def resolve(submission: Submission) -> None:
        if not done.done():
            done.set_result(submission)

    return resolve
