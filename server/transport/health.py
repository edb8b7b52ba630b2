"""Health checks in clear, on a port of their own: for those who have no certificate, as an
orchestrator's probes, where everything else is encrypted."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2_grpc

from server.config import Config
from server.transport.listening import host, taken
from server.transport.rpcs.services import Services


class HealthPort:
    """Serves gRPC's health service alone. `port` 0 takes a free one."""

    def __init__(self, config: Config, services: Services, port: int) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(services.health, self._server)
        self._address = f"{host(config)}:{port}"

    async def start(self) -> int:
        """Listen; returns the port. Raises PortTaken."""
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise taken(self._address, error) from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Serve no more."""
        await self._server.stop(0)
