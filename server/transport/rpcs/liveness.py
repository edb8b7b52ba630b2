"""gRPC's health service, and in it the name for whoever restarts a server that hangs.

The other names say whether calls are served: not while models load, not while the server drains.
`tidegate.live` says SERVING for as long as the transport's loop goes round: in those times too, and
however much is asked of it. Where a loop hangs, it does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

LIVE = "tidegate.live"

ALIVE = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def _at_once() -> None:
    """Until there is a transport, the loop that answers is the only one."""


class HealthServicer(health.HealthServicer):  # type: ignore[misc]  # it has no types
    """`turn` returns once the transport's loop has gone round."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Callable[[], Awaitable[None]] = _at_once

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802
        """The state of a name."""
        if request.service != LIVE:
            return await super().Check(request, context)
        await self.turn()
        return ALIVE

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The states of a name, as they change; that of `tidegate.live` ends with the process."""
        if request.service != LIVE:
            await super().Watch(request, context)
            return
        await self.turn()
        await context.write(ALIVE)
        await asyncio.get_running_loop().create_future()
