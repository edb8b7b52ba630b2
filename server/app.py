"""The server's life: start, load, serve, drain, stop. Reads as the story it is."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from server import heap
from server.config import Config
from server.ending import Ending
from server.engine.device import choose
from server.metrics import Metrics
from server.process_metrics import expose
from server.serving.administration import Administration
from server.serving.assembly import Keeping
from server.serving.loader import Loader
from server.serving.process import Process
from server.serving.registry import Registry
from server.serving.tenure import Tenure
from server.store.choose import open_store
from server.store.health import Health
from server.store.interface import RENEWALS
from server.transport.aio import AioServer
from server.transport.health import HealthPort
from server.transport.lag import Lag, LagCollector
from server.transport.listening import Transport, bracketed, host
from server.transport.metrics_port import MetricsPort
from server.transport.native.server import NativeServer
from server.transport.rpcs.services import Services

if TYPE_CHECKING:
    from server.access.access import Access

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5
SWITCH_SECONDS = 0.0005
"""After which a thread that is busy in Python lets another have its turn: what is not stepping must
not hold the transport up for 5 ms each time, as it would by default."""


class App:
    """One server process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._host = host(config)
        self._device = choose(config.device, config.cuda_graphs)
        self._metrics = Metrics()
        self._registry = Registry(self._metrics)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ending = Ending(config.drain_seconds, self._stop.set)
        self._died = False
        self._health: asyncio.Task[None] | None = None
        self._keeping = self._open_store(config)
        self._tenure: Tenure | None = None
        if self._keeping is not None:
            pause = config.lease_seconds / RENEWALS
            died = partial(self._on_death, "the keeping of the lease ended")
            self._tenure = Tenure(self._keeping, self._registry, pause, died)
        self._access = _open_access(config, self._metrics)
        self._loader = Loader(
            config, self._device, self._metrics, self._registry, self._on_death, self._keeping,
            None if self._access is None else self._access.tenants,
        )  # fmt: skip
        self._administration = Administration(
            config, self._loader, self._registry, self._metrics, self._on_change,
            partial(self._on_death, "the watcher of the model repository died"),
        )  # fmt: skip
        self._process = Process(config, self._registry, self._stop_soon)
        self._services: Services | None = None
        self._lags = {"events": Lag()}
        self._metrics.registry.register(LagCollector(self._lags))
        expose(self._metrics.registry, self._device)
        self._health_port: HealthPort | None = None
        self._metrics_port: MetricsPort | None = None

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT, or until a part of the server dies; returns whether
        everything queued was answered in time, and nothing died."""
        self._ending.catch_signals()
        heap.settle()
        sys.setswitchinterval(SWITCH_SECONDS)
        lag = self._loop.create_task(self._lags["events"].keep())
        try:
            return await self._serve()
        finally:
            lag.cancel()
            if self._access is not None:
                self._access.stop()
            if self._health_port is not None:
                await self._health_port.stop()
            if self._metrics_port is not None:
                self._metrics_port.stop()
            if self._tenure is not None and self._keeping is not None:
                await self._ending.wait_for(self._tenure.stop)
                await self._ending.wait_for(self._keeping.store.close)

    async def _serve(self) -> bool:
        if self._tenure is not None:
            self._tenure.start()
        services = Services(
            self._config, self._registry, self._administration, self._process, self._access
        )
        transport = self._choose_transport(services)
        services.health.turn = transport.turn
        metrics = self._serve_metrics()
        await services.starting()
        port = await transport.start()
        await self._open_health(services)
        log.info("listening on %s:%d; loading", self._host, port)
        loaded = _in_thread(self._loader.load)
        if not await self._unless_stopped(loaded):
            self._loader.given_up = True
            await transport.stop(0.1)
            log.info("stopped while loading")
            return not self._died
        # What is loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        await asyncio.to_thread(self._administration.start)
        await self._announce(services, port, metrics)
        expiry = asyncio.create_task(self._expire(services))
        tending = asyncio.create_task(heap.tend(lambda: transport.held))
        if await self._unless_stopped(expiry):
            self._die("the expiry of sessions ended")
        expiry.cancel()
        tending.cancel()
        if self._died:
            await services.unwell()
        return await self._drain(services, transport) and not self._died

    async def _open_health(self, services: Services) -> None:
        if self._config.health_port is not None:
            opened = HealthPort(self._config, services, self._config.health_port)
            port = await opened.start()
            self._health_port = opened
            log.info("health checks in clear on %s:%d", self._host, port)

    def _choose_transport(self, services: Services) -> Transport:
        if self._config.transport == "aio":
            if self._config.traces_endpoint:
                log.warning("no call is traced: only --transport native can")
            return AioServer(self._config, services, self._metrics)
        died = partial(self._on_death, "the transport's loop died")
        native = NativeServer(self._config, self._registry, services, died, self._metrics)
        self._lags["transport"] = native.lag
        return native

    def _open_store(self, config: Config) -> Keeping | None:
        store = open_store(config)
        if store is None:
            log.info("sessions live as long as this process: --store none")
            return None
        late = "before a step is answered"
        if config.durability == "write-behind":
            late = f"at most {config.checkpoint_interval:g} s after a step"
        log.info("sessions are kept in %s, %s", store.place, late)
        policy = config.on_store_failure
        refuse = policy == "refuse" or (policy == "auto" and not store.exclusive)
        return Keeping(store, Health(refuse, self._metrics.store_failures.inc))

    def _stop_soon(self) -> None:
        """As SIGTERM; told from any thread."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def _on_death(self, why: str = "a model's scheduler died") -> None:
        """A part serves no more; told from another thread."""
        self._loop.call_soon_threadsafe(self._die, why)

    def _on_change(self) -> None:
        """Models came or went; told from another thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._tell_health)

    def _tell_health(self) -> None:
        if self._services is not None and not self._stop.is_set() and any(self._registry):
            self._health = self._loop.create_task(self._services.ready())

    def _die(self, why: str) -> None:
        log.critical("stopping: %s", why)
        self._died = True
        self._stop.set()

    async def _unless_stopped(self, work: asyncio.Future[None]) -> bool:
        """Wait until `work` is done, or the server has to stop: then False.

        Raises:
            Exception: whatever `work` failed with.
        """
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._stop.is_set():
            return False
        await work
        return True

    def _serve_metrics(self) -> str:
        """Where the metrics are."""
        config = self._config
        if config.metrics_port == "off":
            return "off"
        name = config.metrics_host or config.host
        opened = MetricsPort(self._metrics.registry, name, config.metrics_port)
        port = opened.start()
        self._metrics_port = opened
        return f"{bracketed(name)}:{port}"

    async def _announce(self, services: Services, port: int, metrics: str) -> None:
        names = ",".join(f"{model.name}/{model.version}" for model in self._registry)
        if names:
            await services.ready()
        self._services = services
        log.info(
            "serving grpc=%s:%d metrics=%s device=%s models=%s",
            self._host, port, metrics, self._device.name, names,
        )  # fmt: skip

    async def _expire(self, services: Services) -> None:
        """End idle sessions, look who may call, tell health checks how the store is, again and
        again."""
        pause = min(1.0, self._config.session_ttl / 4)
        while True:
            if self._keeping is not None:
                up = not self._keeping.health.down
                self._metrics.store_up.labels(self._config.store).set(up)
                await services.store_is(up)
            await asyncio.sleep(pause)
            await asyncio.to_thread(self._registry.expire)
            if self._access is not None:
                await asyncio.to_thread(self._access.look)

    async def _drain(self, services: Services, transport: Transport) -> bool:
        """Refuse what is new, finish what is queued, store what has moved, end the streams."""
        log.info("draining for at most %g s", self._config.drain_seconds)
        deadline, within = self._ending.begin(), self._ending.wait_for
        await services.refuse()
        self._registry.refuse()
        await within(self._administration.stop)
        finished = bool(await within(lambda: self._registry.drain(deadline)))
        if not await within(lambda: self._registry.flush(deadline)):
            finished = False
            log.error("sessions could not be stored as they are")
        if self._tenure is not None:  # before callers are sent elsewhere
            await within(self._tenure.stop)
        # gRPC cuts calls that arrive while it stops; give callers the time to hear that it will.
        await asyncio.sleep(min(LINGER_SECONDS, max(0.0, deadline - time.monotonic())))
        finished &= await transport.stop(max(0.1, deadline - time.monotonic()))
        if finished:
            finished = bool(await within(self._end_models))
        log.info("stopped; everything queued was %s", "answered" if finished else "NOT answered")
        return finished

    def _end_models(self) -> bool:
        self._registry.stop()
        return True


def _open_access(config: Config, metrics: Metrics) -> Access | None:
    """Who may call, if that is asked."""
    if config.access is None:
        return None
    from server.access.access import Access  # cryptography: 12 MB that others do without

    return Access(config.access, metrics)


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Do `work` in a thread that the end of the event loop does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error = None
        try:
            work()
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, error)
        except RuntimeError:
            log.debug("loaded after the end")  # the loop is closed; nobody waits

    threading.Thread(target=run, name="loader", daemon=True).start()
    return done
