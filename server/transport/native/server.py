"""The transport over our own HTTP/2: steps and descriptions where they arrive, everything else over
the bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from server.api.gathering import Gathering
from server.config import Config
from server.errors import ServingError
from server.metrics import Metrics
from server.serving.registry import Registry
from server.transport.files import room_for
from server.transport.http2.call import Call
from server.transport.http2.loop import Limits, Loop
from server.transport.http2.tally import Method, Tally
from server.transport.lag import Lag
from server.transport.listening import LAST_WORDS, address, taken, until
from server.transport.methods import Handlers, Methods
from server.transport.native.bridge import Bridge
from server.transport.native.connections import Connections
from server.transport.native.inference import Requests
from server.transport.native.prompt import Prompt
from server.transport.native.sizes import Most, most
from server.transport.native.slow import SlowReplies
from server.transport.native.step_stream import StepStream
from server.transport.native.steps import LongWay, Steps
from server.transport.native.stream import Streams
from server.transport.native.tallies import Tallies
from server.transport.native.tracing import traces
from server.transport.rpcs.calls import Handler
from server.transport.rpcs.services import (
    INFER,
    INFER_STREAM,
    PROMPT,
    STEP,
    STEP_STREAM,
    Services,
)
from server.transport.tls import certificates

MOST_CALLS = 4_096
"""Calls of one connection at the same time; further ones wait at the caller's."""
UNIMPLEMENTED: int = grpc.StatusCode.UNIMPLEMENTED.value[0]


@dataclass(slots=True, eq=False)
class Route:
    """A method, and how its calls begin."""

    method: Method
    tally: Tally
    begin: Callable[[Call], object]
    most: Most | None = None
    """What tells the bytes of its largest message, if anything can."""


class NativeServer:
    """Implements `listening.Transport`."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        services: Services,
        on_death: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._services, self._access = services, services.access
        self._gathering = Gathering(lambda: self._loop.send_now())
        self._streams = Streams()
        self._loop = Loop(
            self._on_call,
            self._gathering.submit_some,
            on_death,
            largest_message=config.max_message_bytes,
            most_calls=MOST_CALLS,
            busy=config.busy_poll,
            secure=None if (files := certificates(config)) is None else files.context,
            limits=Limits(
                connections=room_for(config.max_connections),
                bytes=config.max_inflight_bytes,
                message_seconds=config.message_seconds,
            ),
            refused=registry.count_error,
        )
        self._config, self._traces = config, traces(config)
        self._routes, self._unknown = self._connect(registry, metrics)
        metrics.registry.register(Connections(self._loop))
        metrics.inflight_bytes.set_function(lambda: self.held)
        metrics.registry.register(SlowReplies(self._loop, config.slow_seconds))

    @property
    def held(self) -> int:
        """Bytes that calls hold, beyond connections' own parts."""
        return self._loop.budget.held

    @property
    def lag(self) -> Lag:
        """How late its loop runs."""
        return self._loop.lag

    def _connect(self, registry: Registry, metrics: Metrics) -> tuple[dict[str, Route], Route]:
        """How each method's calls begin; and how those of none."""
        handlers, due = Handlers(), self._loop.tallies
        self._services.add_to(handlers)
        methods = Methods(handlers.by_path)
        metrics.registry.register(methods)
        of_steps = Tallies(due, methods[STEP], ends=True, trace=self._traces)
        bridge = self._bridge = Bridge({STEP: of_steps})

        def bridged(handler: Handler) -> LongWay:
            def begin(call: Call, packed: bytes | None = None) -> None:
                call.streams = handler.request_streaming
                bridge.serve(call, handler, packed)

            return begin

        ways = {path: bridged(handler) for path, handler in handlers.by_path.items()}
        begins: dict[str, Callable[[Call], object]] = {
            **ways,
            **{path: Prompt(bridge, handlers.by_path[path]).begin for path in PROMPT},
            **self._natives(registry, methods, of_steps, ways[STEP]),
        }
        routes = {
            path: Route(
                method := methods[path],
                self._calls(method),
                begin,
                most(path, handlers.by_path[path], registry),
            )
            for path, begin in begins.items()
        }
        return routes, Route(methods.unknown, self._calls(methods.unknown), _refuse)

    def _calls(self, method: Method) -> Tally:
        """Where the ends of a method's calls are counted."""
        return Tally(self._loop.tallies, method, [method.seconds], trace=self._traces)

    def _natives(
        self, registry: Registry, methods: Methods, of_steps: Tallies, long_way: LongWay
    ) -> dict[str, Callable[[Call], object]]:
        """The methods that step."""
        gathering, streams = self._gathering, self._streams
        inflight = self._config.max_inflight_messages

        def tallies(path: str) -> Tallies:
            method = methods[path]
            return Tallies(self._loop.tallies, method, not method.streams, self._traces)

        steps = Steps(registry, gathering, self._services.gate, of_steps, long_way)
        requests = Requests(
            registry, gathering, self._services, tallies(INFER), tallies(INFER_STREAM)
        )
        of_streams = tallies(STEP_STREAM)

        def stream(call: Call) -> None:
            StepStream(call, streams, registry, gathering, inflight, of_streams).begin()

        return {
            STEP: steps.begin,
            STEP_STREAM: stream,
            INFER: requests.begin,
            INFER_STREAM: lambda call: requests.stream(call, streams, inflight),
        }

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
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        return finished and not self._loop.lost

    def _idle(self) -> bool:
        if not self._loop.lives:  # nothing more will begin, nor be sent
            return self._services.idle
        idle = self._services.idle and not self._streams
        return idle and not (self._bridge.waits or self._loop.has_unsent)

    def _on_call(self, call: Call) -> None:
        route = self._routes.get(call.method, self._unknown)
        route.method.started += 1
        call.tally, call.most = route.tally, route.most
        if self._access is not None and route is not self._unknown and not self._let_in(call):
            return
        route.begin(call)

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


def _refuse(call: Call) -> None:
    call.connection.tire()
    call.end(UNIMPLEMENTED, "Method not found!")
