"""The server's life: start, load, serve, drain, stop. Reads as the story it is."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time

from prometheus_client import start_http_server

from server.config import Config
from server.engine.device import choose
from server.loading import load_models
from server.metrics import Metrics
from server.sessions.models import Models
from server.transport.grpc_server import GrpcServer

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5


class App:
    """One server process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._device = choose(config.device)
        self._metrics = Metrics()
        self._models = Models(self._metrics)
        self._stop = asyncio.Event()

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT; returns whether everything queued was answered in time."""
        self._catch_signals()
        transport = GrpcServer(self._config, self._models)
        port = await transport.start()
        metrics_port = self._serve_metrics()
        await asyncio.to_thread(
            load_models, self._config, self._device, self._metrics, self._models
        )
        # What is loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        await self._announce(transport, port, metrics_port)
        expiry = asyncio.create_task(self._expire())
        await self._stop.wait()
        expiry.cancel()
        return await self._drain(transport)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    def _serve_metrics(self) -> int:
        server, _ = start_http_server(
            self._config.metrics_port, self._config.host, self._metrics.registry
        )
        return int(server.server_port)

    async def _announce(self, transport: GrpcServer, port: int, metrics_port: int) -> None:
        names = ",".join(f"{model.name}/{model.version}" for model in self._models)
        if names:
            await transport.ready()
        log.info(
            "serving grpc=%s:%d metrics=%s:%d device=%s models=%s",
            self._config.host, port, self._config.host, metrics_port, self._device.name, names,
        )  # fmt: skip

    async def _expire(self) -> None:
        pause = min(1.0, self._config.session_ttl / 4)
        while True:
            await asyncio.sleep(pause)
            self._models.expire()

    async def _drain(self, transport: GrpcServer) -> bool:
        """Refuse what is new, finish what is queued, end the streams."""
        log.info("draining for at most %g s", self._config.drain_seconds)
        deadline = time.monotonic() + self._config.drain_seconds
        await transport.refuse()
        self._models.refuse()
        finished = await asyncio.to_thread(self._models.drain, deadline)
        # gRPC cuts calls that arrive while it stops; give callers the time to hear that it will.
        await asyncio.sleep(min(LINGER_SECONDS, max(0.0, deadline - time.monotonic())))
        await transport.stop(max(0.1, deadline - time.monotonic()))
        if finished:
            await asyncio.to_thread(self._models.stop)
        log.info("stopped; everything queued was %s", "answered" if finished else "NOT answered")
        return finished
