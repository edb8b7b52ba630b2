"""The rpcs of `tidegate.v1.Tidegate`, each a few lines over the sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from server.errors import BadInput, ServingError
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport import convert, unary, whole
from server.transport.mailbox import Mailbox
from server.transport.stream import StepStream
from server.transport.translate import Context, translated
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

PAGE, LARGEST_PAGE = 100, 1000


class OfSession(Protocol):
    """A request about one session."""

    model: str
    version: int
    session_id: str


class Servicer(tidegate_pb2_grpc.TidegateServicer):
    """Serves the protocol on the event loop."""

    def __init__(self, models: Models, mailbox: Mailbox, inflight: int) -> None:
        self._models, self._mailbox, self._inflight = models, mailbox, inflight
        self._streams: set[StepStream] = set()

    def drain(self) -> None:
        """End every stream once what it has read is answered."""
        for stream in self._streams:
            stream.drain()

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepReply:  # noqa: N802
        """Apply one or more consecutive steps."""
        async with self._call(context, request.model, request.version):
            remaining = context.time_remaining()
            return await unary.step(self._models, self._mailbox, request, remaining)

    async def StepStream(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StepBatch], context: Context
    ) -> None:
        """Step many sessions in columns; reads and writes through `context`."""
        stream = StepStream(self._models, self._mailbox, context, self._inflight)
        self._streams.add(stream)
        try:
            async with translated(context):
                await stream.run()
        finally:
            self._streams.discard(stream)

    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenReply:  # noqa: N802
        """Open a session or attach to it."""
        async with self._call(context, request.model, request.version):
            model = self._models.resolve(request.model, request.version)
            holder = self._models.holder(request.model, request.version, request.session_id)
            model = holder if holder.holds(request.session_id) else model
            info, created = model.open(request.session_id)
            return pb.OpenReply(session=convert.session(info), created=created)

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseReply:  # noqa: N802
        """End a session."""
        async with self._holder(context, request) as model:
            return pb.CloseReply(steps=model.close(request.session_id))

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Look at a session."""
        async with self._holder(context, request) as model:
            return convert.session(model.get(request.session_id))

    async def Export(self, request: pb.ExportRequest, context: Context) -> pb.Snapshot:  # noqa: N802
        """Take a session's snapshot."""
        async with self._holder(context, request) as model:
            return await whole.export(model, request.session_id)

    async def Import(self, request: pb.ImportRequest, context: Context) -> pb.ImportReply:  # noqa: N802
        """Make a session from a snapshot."""
        snapshot = request.snapshot
        async with self._call(context, snapshot.model, snapshot.version):
            info = await whole.take_in(self._models, request)
            return pb.ImportReply(session=convert.session(info))

    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.Session:  # noqa: N802
        """Copy a session."""
        async with self._holder(context, request) as model:
            forked = model.states.fork(request.session_id, request.new_session_id)
            return convert.session(await asyncio.wrap_future(forked))

    async def Reset(self, request: pb.ResetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Put a session back to its start."""
        async with self._holder(context, request) as model:
            return convert.session(
                await asyncio.wrap_future(model.states.reset(request.session_id))
            )

    async def Forecast(  # noqa: N802
        self, request: pb.ForecastRequest, context: Context
    ) -> pb.ForecastReply:
        """Look ahead from a session's state."""
        async with self._holder(context, request) as model:
            return await whole.forecast(model, request)

    async def Peek(self, request: pb.PeekRequest, context: Context) -> pb.PeekReply:  # noqa: N802
        """Read a session's state."""
        async with self._holder(context, request) as model:
            return await whole.peek(model, request.session_id)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListReply:  # noqa: N802
        """List live sessions, a version after the other."""
        async with self._call(context, request.model, request.version):
            return self._list(request)

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsReply:
        """The models served."""
        return pb.ListModelsReply(models=[convert.model(model) for model in self._models])

    def _list(self, request: pb.ListRequest) -> pb.ListReply:
        """A page token is VERSION/ID, the last session of the page before."""
        size = min(request.page_size or PAGE, LARGEST_PAGE)
        models = self._models.versions(request.model, request.version)
        at, after = _page_token(request.page_token)
        models = [model for model in models if not at or model.version <= at]
        sessions: list[pb.Session] = []
        for model in models:
            start = after if model.version == at else ""
            sessions += map(convert.session, model.list(start, size + 1 - len(sessions)))
            if len(sessions) > size:
                last = sessions[size - 1]
                return pb.ListReply(
                    sessions=sessions[:size], next_page_token=f"{last.version}/{last.session_id}"
                )
        return pb.ListReply(sessions=sessions)

    @asynccontextmanager
    async def _holder(self, context: Context, request: OfSession) -> AsyncIterator[ServedModel]:
        """The model version that holds the session a request names."""
        async with self._call(context, request.model, request.version):
            yield self._models.holder(request.model, request.version, request.session_id)

    @asynccontextmanager
    async def _call(self, context: Context, model: str, version: int) -> AsyncIterator[None]:
        """Translates what fails inside, and counts it under its model where there is one."""
        async with translated(context):
            try:
                yield
            except ServingError as error:
                self._models.count_error(error, model, version)
                raise


def _page_token(token: str) -> tuple[int, str]:
    version, slash, session_id = token.partition("/")
    if token and not (slash and version.isascii() and version.isdigit() and len(version) < 19):
        raise BadInput(f"page_token {token[:300]!r} is none of ours", field="page_token")
    return int(version or 0), session_id
