"""The gRPC server: both services, health and reflection on one port. A transport, replaceable."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from inference import grpc_service_pb2, grpc_service_pb2_grpc
from server.api import parsing
from server.config import Config
from server.serving.registry import Registry
from server.transport.aio.calls import Gate, parsed
from server.transport.aio.inference_servicer import InferenceServicer
from server.transport.aio.mailbox import Mailbox
from server.transport.aio.servicer import Servicer
from tidegate.v1 import tidegate_pb2, tidegate_pb2_grpc

SERVICE = tidegate_pb2.DESCRIPTOR.services_by_name["Tidegate"].full_name
INFERENCE = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class PortTaken(RuntimeError):
    """The gRPC port cannot be listened on."""


class GrpcServer:
    """grpc.aio behind start, ready, drain."""

    def __init__(self, config: Config, registry: Registry) -> None:
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
        gate, inflight = Gate(config.max_calls), config.max_inflight_messages
        self._servicer = Servicer(registry, mailbox, gate, inflight)
        self._inference = InferenceServicer(registry, mailbox, gate, inflight)
        self._health = health.HealthServicer()
        tidegate_pb2_grpc.add_TidegateServicer_to_server(self._servicer, self._server)
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            self._inference, self._server
        )
        self._parse_within_bounds()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, INFERENCE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._address = f"{config.host}:{config.port}"

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

    async def unwell(self) -> None:
        """The server serves no more: tell health checks so."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def refuse(self) -> None:
        """Tell health checks that the server is going."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """End the streams, let calls finish for `grace` seconds, then close."""
        self._servicer.drain()
        self._inference.drain()
        await self._server.stop(grace)

    def _parse_within_bounds(self) -> None:
        """In place of the generated handlers of calls whose messages may unfold to a multiple."""
        ours: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "StepStream": grpc.stream_stream_rpc_method_handler(
                self._servicer.StepStream,
                parsing.step_batch,
                tidegate_pb2.StepBatchReply.SerializeToString,
            ),
            "Import": grpc.unary_unary_rpc_method_handler(
                parsed(self._servicer.Import, parsing.import_request),
                None,
                tidegate_pb2.ImportReply.SerializeToString,
            ),
        }
        theirs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                parsed(self._inference.ModelInfer, parsing.infer_request),
                None,
                grpc_service_pb2.ModelInferResponse.SerializeToString,
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                self._inference.ModelStreamInfer,
                parsing.infer_request,
                grpc_service_pb2.ModelStreamInferResponse.SerializeToString,
            ),
        }
        self._server.add_registered_method_handlers(SERVICE, ours)
        self._server.add_registered_method_handlers(INFERENCE, theirs)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE, INFERENCE):
            await self._health.set(service, status)
