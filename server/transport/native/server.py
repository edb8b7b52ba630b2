"""The transport over our own HTTP/2: steps where they arrive, everything else over the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from server.api.gathering import Gathering
from server.config import Config
from server.errors import ServingError
from server.serving.registry import Registry
from server.transport.http2.call import Call
from server.transport.http2.loop import Loop
from server.transport.listening import LAST_WORDS, address, taken, until
from server.transport.native.bridge import Bridge, Methods
from server.transport.native.inference import Requests
from server.transport.native.step_stream import StepStream
from server.transport.native.steps import Steps
from server.transport.native.stream import Streams
from server.transport.rpcs.services import (
    INFER_STREAM,
    INFERENCE,
    SERVICE,
    STEP_STREAM,
    Services,
)
from server.transport.tls import certificates

STEP, INFER = f"/{SERVICE}/Step", f"/{INFERENCE}/ModelInfer"
MOST_CALLS = 4_096
"""Calls of one connection at the same time; further ones wait at the caller's."""
UNIMPLEMENTED: int = grpc.StatusCode.UNIMPLEMENTED.value[0]


class NativeServer:
    """Implements `listening.Transport`."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        services: Services,
        on_death: Callable[[], None],
    ) -> None:
        self._services, self._access = services, services.access
        self._bridge, methods = Bridge(), Methods()
        services.add_to(methods)
        self._handlers = methods.handlers
        self._gathering = Gathering()
        steps = Steps(
            registry,
            self._gathering,
            services.gate,
            lambda call, packed: self._bridge.serve(call, self._handlers[STEP], packed),
        )
        self._streams = Streams()
        inflight = config.max_inflight_messages

        def stream(call: Call) -> None:
            StepStream(call, self._streams, registry, self._gathering, inflight).begin()

        requests = Requests(registry, self._gathering, services)
        self._natives: dict[str, Callable[[Call], None]] = {
            STEP: steps.begin,
            STEP_STREAM: stream,
            INFER: requests.begin,
            INFER_STREAM: lambda call: requests.stream(call, self._streams, inflight),
        }
        self._loop = Loop(
            self._on_call,
            self._gathering.submit,
            on_death,
            largest_message=config.max_message_bytes,
            most_calls=MOST_CALLS,
            busy=config.busy_poll,
            secure=None if (files := certificates(config)) is None else files.context,
        )
        self._config = config

    async def start(self) -> int:
        """Listen, not serving yet; returns the port."""
        try:
            port = self._loop.listen(self._config.host, self._config.port)
        except OSError as error:
            raise taken(address(self._config), error) from error
        self._loop.start()
        return port

    async def turn(self) -> None:
        """Returns once the loop's thread has gone round: never, where that hangs."""
        await self._bridge.turn(self._loop)

    async def stop(self, grace: float) -> bool:
        """End the streams, let our calls finish for `grace` seconds, then close whatever else is
        open, such as a watch of the health; returns whether every call of ours has finished."""
        self._services.drain()
        self._streams.drain()
        finished = await until(self._idle, grace)
        await asyncio.to_thread(self._loop.stop, LAST_WORDS if finished else 0)
        return finished

    def _idle(self) -> bool:
        return self._services.idle and not self._streams

    def _on_call(self, call: Call) -> None:
        native, handler = self._natives.get(call.method), self._handlers.get(call.method)
        if self._access is not None and handler is not None and not self._let_in(call):
            return
        if native is not None:
            native(call)
        elif handler is None:
            call.end(UNIMPLEMENTED, "Method not found!")
        else:
            self._bridge.serve(call, handler)

    def _let_in(self, call: Call) -> bool:
        """Whether its caller may make it; who may not is told."""
        assert self._access is not None
        try:
            call.caller = self._access.enter(call.method, call.metadata)
        except ServingError as error:
            self._services.count(error, None)
            call.refuse(error)
            return False
        return True
