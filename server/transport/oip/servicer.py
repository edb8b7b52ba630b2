"""The rpcs of `inference.GRPCInferenceService`, each a few lines over the models."""

from __future__ import annotations

from collections.abc import AsyncIterator

from inference import grpc_service_pb2 as pb
from inference import grpc_service_pb2_grpc
from server.errors import ServingError
from server.sessions.models import Models
from server.transport.mailbox import Mailbox
from server.transport.oip import description, lookup
from server.transport.oip.inference import Inference
from server.transport.oip.stream import InferStream
from server.transport.translate import Context, translated


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves the Open Inference Protocol on the event loop."""

    def __init__(self, models: Models, mailbox: Mailbox, inflight: int) -> None:
        self._models, self._inflight = models, inflight
        self._inference = Inference(models, mailbox)
        self._streams: set[InferStream] = set()

    def drain(self) -> None:
        """End every stream once what it has read is answered."""
        for stream in self._streams:
            stream.drain()

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """One step of one sequence."""
        async with translated(context):
            return await self._inference.start(request, context.time_remaining()).reply()

    async def ModelStreamInfer(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        """Steps of many sequences; reads and writes through `context`."""
        async with translated(context):
            stream = InferStream(self._inference, context, self._inflight)
            self._streams.add(stream)
            try:
                await stream.run()
            finally:
                self._streams.discard(stream)

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """It answers, so it is."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Whether every model is loaded, and the server is not going."""
        return pb.ServerReadyResponse(ready=self._models.ready and not self._models.draining)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether the model takes steps."""
        try:
            lookup.model(self._models, request.name, request.version)
        except ServingError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._models.draining)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """What this is."""
        return description.server()

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """A model's tensors."""
        async with translated(context):
            model = lookup.model(self._models, request.name, request.version)
            return description.metadata(model, self._models.versions(model.name))

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """A model's configuration."""
        async with translated(context):
            return description.config(lookup.model(self._models, request.name, request.version))

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """What models have done."""
        async with translated(context):
            found = lookup.models_of(self._models, request.name, request.version)
            return pb.ModelStatisticsResponse(model_stats=map(description.statistics, found))

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """All models."""
        return description.index(self._models, request.ready)
