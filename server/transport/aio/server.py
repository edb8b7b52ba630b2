"""The gRPC server: its services, health and reflection on one port. A transport, replaceable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from inference import grpc_service_pb2, grpc_service_pb2_grpc
from server.api import parsing
from server.config import Config
from server.errors import ServingError
from server.serving.administration import Administration
from server.serving.registry import Registry
from server.transport.aio.admin_servicer import AdminServicer
from server.transport.aio.calls import Gate, unary
from server.transport.aio.inference_servicer import InferenceServicer
from server.transport.aio.mailbox import Mailbox
from server.transport.aio.servicer import Servicer
from tidegate.v1 import admin_pb2, admin_pb2_grpc, tidegate_pb2, tidegate_pb2_grpc

SERVICE = tidegate_pb2.DESCRIPTOR.services_by_name["Tidegate"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
INFERENCE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
STORE = "tidegate.store"
LAST_WORDS = 0.1  # seconds for statuses on their way
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "StepStream": parsing.step_batch,
    "Import": parsing.import_request,
    "ModelInfer": parsing.infer_request,
    "ModelStreamInfer": parsing.infer_request,
}
"""Of the messages that could unfold to many times their bytes."""

PROBES = ("ServerLive", "ServerReady", "ModelReady")
"""Asked by whoever decides whether the server lives: answered however busy it is."""


class PortTaken(RuntimeError):
    """The gRPC port cannot be listened on."""


class GrpcServer:
    """grpc.aio behind start, ready, drain."""

    def __init__(self, config: Config, registry: Registry, administration: Administration) -> None:
        size = config.max_message_bytes
        # What gRPC's core holds for us before it cancels calls: more than we let in ourselves, so
        # that whoever is refused hears it from us.
        pending = max(20_000, 4 * config.max_calls)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.server.max_pending_requests", pending),
                ("grpc.server.max_pending_requests_hard_limit", pending),
            ]
        )
        mailbox = Mailbox(asyncio.get_running_loop())
        self._registry, self._gate = registry, Gate(config.max_calls)
        self._servicer = Servicer(registry, mailbox, config.max_inflight_messages)
        self._inference = InferenceServicer(registry, mailbox, config.max_inflight_messages)
        self._admin = AdminServicer(administration)
        self._health = health.HealthServicer()
        tidegate_pb2_grpc.add_TidegateServicer_to_server(self._servicer, self._server)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            self._inference, self._server
        )
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, self._server)
        self._handle(tidegate_pb2.DESCRIPTOR, "Tidegate", self._servicer)
        self._handle(admin_pb2.DESCRIPTOR, "Admin", self._admin)
        self._handle(grpc_service_pb2.DESCRIPTOR, "GRPCInferenceService", self._inference)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, ADMIN, INFERENCE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        host = f"[{config.host}]" if ":" in config.host else config.host
        self._address = f"{host}:{config.port}"

    async def start(self) -> int:
        """Listen, not serving yet; returns the port.

        Raises:
            PortTaken: the address cannot be listened on.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise PortTaken(f"cannot listen on {self._address}: {error}") from error
        await self._server.start()
        return port

    async def ready(self) -> None:
        """The models are warm: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def store_is(self, up: bool) -> None:
        """Tell health checks whether the store answers, as a service of its own: the server serves
        on."""
        states = health_pb2.HealthCheckResponse
        await self._health.set(STORE, states.SERVING if up else states.NOT_SERVING)

    async def unwell(self) -> None:
        """The server serves no more: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def refuse(self) -> None:
        """Tell health checks that the server is going."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> bool:
        """End the streams, let our calls finish for `grace` seconds, then close whatever else is
        open, such as a watch of the health; returns whether every call of ours has finished."""
        self._servicer.streams.drain()
        self._inference.streams.drain()
        deadline = time.monotonic() + grace
        while not self._idle and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        finished = self._idle
        await self._server.stop(LAST_WORDS if finished else 0)
        return finished

    @property
    def _idle(self) -> bool:
        return not (self._gate.under_way or self._servicer.streams or self._inference.streams)

    def _handle(self, file: FileDescriptor, name: str, servicer: object) -> None:
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
                gate = None if method.name in PROBES else self._gate
                call = unary(call, parse, gate, self._count)
                handler = grpc.unary_unary_rpc_method_handler(call, None, reply)
            handlers[method.name] = handler
        self._server.add_registered_method_handlers(service.full_name, handlers)

    def _count(self, error: ServingError, request: Any) -> None:
        """A unary call failed: count it under the model that its request names, if it does."""
        about = getattr(request, "snapshot", request)
        name = getattr(about, "model", "") or getattr(about, "model_name", "")
        version = getattr(about, "version", 0)
        self._registry.count_error(error, name, version if isinstance(version, int) else 0)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE, INFERENCE):
            await self._health.set(service, status)
