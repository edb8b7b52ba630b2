"""The transport over gRPC's completion queue: steps natively, everything else over the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from server.api.gathering import Gathering
from server.config import Config
from server.serving.registry import Registry
from server.transport.cq.bridge import Bridge, Methods
from server.transport.cq.core import Call, Core
from server.transport.cq.inference import Requests
from server.transport.cq.step_stream import StepStream
from server.transport.cq.steps import Steps
from server.transport.cq.stream import Streams
from server.transport.listening import LAST_WORDS, address, options, taken, until
from server.transport.rpcs.services import INFERENCE, SERVICE, Services

STEP = f"/{SERVICE}/Step"
STEP_STREAM = f"/{SERVICE}/StepStream"
INFER, INFER_STREAM = f"/{INFERENCE}/ModelInfer", f"/{INFERENCE}/ModelStreamInfer"
UNIMPLEMENTED: int = grpc.StatusCode.UNIMPLEMENTED.value[0]


class CqServer:
    """Implements `listening.Transport`."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        services: Services,
        on_death: Callable[[], None],
    ) -> None:
        self._services = services
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
        self._core = Core(options(config), self._on_call, self._settle, on_death)
        self._address = address(config)

    async def start(self) -> int:
        """Listen, not serving yet; returns the port."""
        try:
            port = self._core.listen(self._address)
        except RuntimeError as error:
            raise taken(self._address, error) from error
        self._core.start()
        return port

    async def stop(self, grace: float) -> bool:
        """End the streams, let our calls finish for `grace` seconds, then close whatever else is
        open, such as a watch of the health; returns whether every call of ours has finished."""
        self._services.drain()
        self._streams.drain()
        finished = await until(self._idle, grace)
        await asyncio.to_thread(self._core.stop, LAST_WORDS if finished else 0)
        return finished

    def _idle(self) -> bool:
        return self._services.idle and not self._streams

    def _on_call(self, call: Call) -> None:
        native, handler = self._natives.get(call.method), self._handlers.get(call.method)
        if native is not None:
            native(call)
        elif handler is None:
            call.end(UNIMPLEMENTED, "Method not found!")
        else:
            self._bridge.serve(call, handler)

    def _settle(self) -> None:
        """Everything that was ready has been taken in."""
        self._gathering.submit()
