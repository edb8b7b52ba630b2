"""The rpcs of `inference.GRPCInferenceService`, each a few lines over the api. Unary ones raise
what they cannot do; `calls.unary` tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from inference import grpc_service_pb2 as pb
from inference import grpc_service_pb2_grpc
from server.access.caller import Caller
from server.api.oip import description, requests
from server.api.oip.inference import Inference
from server.errors import ServingError
from server.serving.registry import Registry
from server.transport.rpcs.calls import Context, translated
from server.transport.rpcs.infer_stream import InferStream, begin
from server.transport.rpcs.mailbox import Mailbox
from server.transport.rpcs.stream import Streams


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves the Open Inference Protocol on the event loop."""

    def __init__(
        self,
        registry: Registry,
        mailbox: Mailbox,
        inflight: int,
        enter: Callable[[Context], Caller | None],
    ) -> None:
        self._registry, self._inflight, self._enter = registry, inflight, enter
        self._inference = Inference(registry, mailbox.address)
        self.streams = Streams()

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """One step of one sequence."""
        call = await begin(self._inference, request, context.time_remaining())
        try:
            return await call.reply
        except asyncio.CancelledError:
            call.cancel()
            raise

    async def ModelStreamInfer(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        """Steps of many sequences; reads and writes through `context`."""
        async with translated(context, self._registry.count_error):
            caller = self._enter(context)
            stream = InferStream(self._inference, context, self._inflight, caller)
            await self.streams.serve(stream)

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """It answers, so it is."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Whether every model is loaded, and the server is not going."""
        return pb.ServerReadyResponse(ready=self._registry.ready and not self._registry.draining)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether the model takes steps."""
        try:
            requests.model(self._registry, request.name, request.version)
        except ServingError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._registry.draining)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """What this is."""
        return description.server()

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """A model's tensors."""
        model = requests.model(self._registry, request.name, request.version)
        return description.metadata(model, self._registry.versions(model.name))

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """A model's configuration."""
        return description.config(requests.model(self._registry, request.name, request.version))

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """What models have done."""
        found = requests.models_of(self._registry, request.name, request.version)
        return pb.ModelStatisticsResponse(model_stats=map(description.statistics, found))

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """All models."""
        return description.index(self._registry, request.ready)
