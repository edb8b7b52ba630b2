"""The rpcs of `tidegate.v1.Tidegate`, each a few lines over the sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import BadInput, ServingError
from server.sessions.models import Models
from server.transport import convert, unary
from server.transport.mailbox import Mailbox
from server.transport.stream import StepStream
from server.transport.translate import Context, translated
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

PAGE, LARGEST_PAGE = 100, 1000


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
        async with self._call(context, request.model, request.version):
            model = self._models.holder(request.model, request.version, request.session_id)
            return pb.CloseReply(steps=model.close(request.session_id))

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.Session:  # noqa: N802
        """Look at a session."""
        async with self._call(context, request.model, request.version):
            model = self._models.holder(request.model, request.version, request.session_id)
            return convert.session(model.get(request.session_id))

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
