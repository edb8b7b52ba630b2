"""What is served, whatever carries it: both protocols, administration, health and reflection, as
coroutines over the api. A transport asks for their handlers, and calls them as grpc.aio would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from inference import grpc_service_pb2
from server.access.caller import Caller
from server.api import parsing
from server.config import Config
from server.errors import ServingError
from server.serving.administration import Administration
from server.serving.process import Process
from server.serving.registry import Registry
from server.transport.rpcs.admin_servicer import AdminServicer
from server.transport.rpcs.audit import AUDITED, Audit
from server.transport.rpcs.calls import Context, Gate, Handler, unary
from server.transport.rpcs.inference_servicer import InferenceServicer
from server.transport.rpcs.liveness import HealthServicer
from server.transport.rpcs.mailbox import Mailbox
from server.transport.rpcs.servicer import Servicer
from tidegate.v1 import admin_pb2, tidegate_pb2

if TYPE_CHECKING:
    from server.access.access import Access

SERVICE = tidegate_pb2.DESCRIPTOR.services_by_name["Tidegate"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
INFERENCE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
STORE = "tidegate.store"
STEP, STEP_STREAM = f"/{SERVICE}/Step", f"/{SERVICE}/StepStream"
INFER, INFER_STREAM = f"/{INFERENCE}/ModelInfer", f"/{INFERENCE}/ModelStreamInfer"

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "StepStream": parsing.step_batch,
    "Import": parsing.import_request,
    "ModelInfer": parsing.infer_request,
    "ModelStreamInfer": parsing.infer_request,
}
"""Of the messages that could unfold to many times their bytes."""

PROBES = ("ServerLive", "ServerReady", "ModelReady")
"""Asked by whoever decides whether the server lives: answered however busy it is."""

PROMPT = (
    f"/{SERVICE}/ListModels",
    f"/{INFERENCE}/ServerMetadata",
    f"/{INFERENCE}/ModelMetadata",
    f"/{INFERENCE}/ModelConfig",
    f"/{INFERENCE}/ModelStatistics",
    f"/{INFERENCE}/RepositoryIndex",
)
"""Told from what is in memory: their coroutines wait for nothing."""


class Takes(Protocol):
    """A server that takes handlers, as `grpc.aio.Server` does."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, Handler], /
    ) -> None:
        """Serve the methods of a service."""

    def add_generic_rpc_handlers(self, handlers: Any, /) -> None:
        """Serve whatever these handlers know."""


class Services:
    """Made in the event loop's thread, where their handlers run."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        administration: Administration,
        process: Process,
        access: Access | None = None,
    ) -> None:
        self.access = access
        self._reflects = config.reflection
        mailbox = Mailbox(asyncio.get_running_loop())
        self._registry, self.gate = registry, Gate(config.max_calls)
        inflight = config.max_inflight_messages
        self._tidegate = Servicer(registry, mailbox, inflight, self._door(STEP_STREAM))
        infer_stream = self._door(INFER_STREAM)
        self._inference = InferenceServicer(registry, mailbox, inflight, infer_stream)
        self._admin, self._audit = AdminServicer(administration, process), Audit()
        self.health = HealthServicer(registry)

    def add_to(self, server: Takes) -> None:
        """Have all of it served."""
        self._handle(server, tidegate_pb2.DESCRIPTOR, "Tidegate", self._tidegate)
        self._handle(server, admin_pb2.DESCRIPTOR, "Admin", self._admin)
        self._handle(server, grpc_service_pb2.DESCRIPTOR, "GRPCInferenceService", self._inference)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if not self._reflects:
            return
        names = (SERVICE, ADMIN, INFERENCE, HEALTH, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)

    async def starting(self) -> None:
        """Nothing is served yet: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def ready(self) -> None:
        """The models are warm: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def store_is(self, up: bool) -> None:
        """Tell health checks whether the store answers, as a service of its own: the server serves
        on."""
        states = health_pb2.HealthCheckResponse
        await self.health.set(STORE, states.SERVING if up else states.NOT_SERVING)

    async def unwell(self) -> None:
        """The server serves no more: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def refuse(self) -> None:
        """Tell health checks that the server is going."""
        await self.health.enter_graceful_shutdown()

    def drain(self) -> None:
        """End the streams once what they have read is answered."""
        self._tidegate.streams.drain()
        self._inference.streams.drain()

    @property
    def idle(self) -> bool:
        """Whether no call is under way, but for those that others serve: health, reflection."""
        return not (self.gate.under_way or self._tidegate.streams or self._inference.streams)

    def _handle(self, server: Takes, file: FileDescriptor, name: str, servicer: object) -> None:
        """In place of the generated handlers: calls are bounded, bytes become messages within
        bounds, and whatever fails is told in typed words and counted."""
        service = file.services_by_name[name]
        handlers: dict[str, Handler] = {}
        for method in service.methods:
            call = getattr(servicer, method.name)
            parse = PARSERS.get(method.name) or GetMessageClass(method.input_type).FromString
            reply = GetMessageClass(method.output_type).SerializeToString
            if method.client_streaming:  # the stream itself tells what it cannot parse
                handler = grpc.stream_stream_rpc_method_handler(call, parse, reply)
            else:
                gate = None if method.name in PROBES else self.gate
                enter = self._door(f"/{service.full_name}/{method.name}")
                audited = servicer is self._admin or method.name in AUDITED
                note = self._audit.of(method.name) if audited else None
                call = unary(call, parse, gate, self.count, enter, note)
                handler = grpc.unary_unary_rpc_method_handler(call, None, reply)
            handlers[method.name] = handler
        server.add_registered_method_handlers(service.full_name, handlers)

    def count(self, error: ServingError, request: Any) -> None:
        """A unary call failed: count it under the model that its request names, if it does."""
        about = getattr(request, "snapshot", request)
        name = getattr(about, "model", "") or getattr(about, "model_name", "")
        version = getattr(about, "version", 0)
        self._registry.count_error(error, name, version if isinstance(version, int) else 0)

    def _door(self, method: str) -> Callable[[Context], Caller | None]:
        """Whose call of a method it is."""
        if (access := self.access) is None:
            return lambda context: None
        return lambda context: access.enter(method, context.invocation_metadata() or ())

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE, INFERENCE):
            await self.health.set(service, status)
