"""The transport over grpc.aio: plain, public interfaces alone, and the slower one."""

from __future__ import annotations

import logging

import grpc
from google.protobuf.message import DecodeError

from server.config import Config
from server.metrics import Metrics
from server.transport.counting import Counting
from server.transport.listening import LAST_WORDS, address, options, taken, until
from server.transport.methods import Handlers, Methods
from server.transport.rpcs.services import Services
from server.transport.tls import certificates


class _Serious(logging.Filter):
    """That a caller sent what is no message, and is told so, or has left, is no error of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is one."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (DecodeError, grpc.aio.InternalError))


class AioServer:
    """Implements `listening.Transport`."""

    def __init__(self, config: Config, services: Services, metrics: Metrics) -> None:
        self._services = services
        handlers = Handlers()
        services.add_to(handlers)
        methods = Methods(handlers.by_path)
        metrics.registry.register(methods)
        self._server = grpc.aio.server(interceptors=[Counting(methods)], options=options(config))
        services.add_to(self._server)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_Serious())
        self._address, self._certificates = address(config), certificates(config)

    @property
    def held(self) -> int:
        """It is not known."""
        return 0

    async def start(self) -> int:
        """Listen, not serving yet; returns the port."""
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(self._address)
            else:
                credentials = self._certificates.credentials()
                port = self._server.add_secure_port(self._address, credentials)
        except RuntimeError as error:
            raise taken(self._address, error) from error
        await self._server.start()
        return port

    async def turn(self) -> None:
        """Who asks is on its loop."""

    async def stop(self, grace: float) -> bool:
        """End the streams, let our calls finish for `grace` seconds, then close whatever else is
        open, such as a watch of the health; returns whether every call of ours has finished."""
        self._services.drain()
        finished = await until(lambda: self._services.idle, grace)
        await self._server.stop(LAST_WORDS if finished else 0)
        return finished
