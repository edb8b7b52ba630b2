"""gRPC's health service, and in it names for whoever restarts a server that hangs or needs a model.

The other names say whether calls are served: not while models load, not while the server drains.
`tidegate.live` says SERVING for as long as the transport's loop goes round: in those times too, and
however much is asked of it. Where a loop hangs, it does not answer. `tidegate.model/NAME` and
`tidegate.model/NAME/VERSION` say whether that model takes steps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from server.errors import ServingError, UnknownModel, UnknownVersion
from server.serving.registry import Registry

LIVE, MODEL = "tidegate.live", "tidegate.model/"
LOOK_SECONDS = 1.0
States: Any = health_pb2.HealthCheckResponse  # grpc_health has no types

ALIVE = States(status=States.SERVING)


async def _at_once() -> None:
    """Until there is a transport, the loop that answers is the only one."""


class HealthServicer(health.HealthServicer):  # type: ignore[misc]
    """`turn` returns once the transport's loop has gone round."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry, self._going = registry, asyncio.Event()
        self.turn: Callable[[], Awaitable[None]] = _at_once

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802
        """The state of a name."""
        if request.service.startswith(MODEL):
            if (status := self._of_model(request.service)) == States.SERVICE_UNKNOWN:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            return States(status=status)
        if request.service != LIVE:
            return await super().Check(request, context)
        await self.turn()
        return ALIVE

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """The states of a name, as they change; that of `tidegate.live` ends with the process."""
        if request.service.startswith(MODEL):
            await self._watch_model(request.service, context)
        elif request.service != LIVE:
            await super().Watch(request, context)
        else:
            await self.turn()
            await context.write(ALIVE)
            await asyncio.get_running_loop().create_future()

    async def enter_graceful_shutdown(self) -> None:
        """The server is going: say so under every name but `tidegate.live`."""
        await super().enter_graceful_shutdown()
        self._going.set()

    async def _watch_model(self, service: str, context: Any) -> None:
        told: object = None
        while True:
            going = self._going.is_set()  # before the state: what it is told last says so
            if (status := self._of_model(service)) != told:
                await context.write(States(status=status))
                told = status
            if going:
                await asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._going.wait(), LOOK_SECONDS)

    def _of_model(self, service: str) -> object:
        """Whether a model takes steps: not while it loads, nor if it cannot be, nor in a drain."""
        name, _, version = service.removeprefix(MODEL).partition("/")
        try:
            self._registry.resolve(name, _number(version))
        except (UnknownModel, UnknownVersion):
            return States.SERVICE_UNKNOWN
        except ServingError:
            return States.NOT_SERVING
        return States.NOT_SERVING if self._going.is_set() else States.SERVING


def _number(version: str) -> int:
    """A version; the newest where none is named. Raises UnknownVersion."""
    if not version:
        return 0
    if len(version) < 10 and version.isascii() and version.isdigit() and int(version):
        return int(version)
    raise UnknownVersion("", 0)
