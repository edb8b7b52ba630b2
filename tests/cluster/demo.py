"""Sessions through Envoy over servers that are killed, drained, added, cut off and hang, an Envoy
that is started again and a redis that stands still, or loses everything: `make cluster-demo`.

Every reply is compared with NumPy's LSTM, every final state and count with what was sent. Exit
status 1 where a step was lost, or applied twice.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.client.proxy import Proxy
from tests.cluster.envoy import Envoy
from tests.durability.service import Service, free_port, on_redis
from tests.durability.walks import PATIENT, Walk, check_all, walking
from tests.harness import small_model
from tests.server.store.redis_server import RedisServer
from training.network import Network

SHARDS = 64
STREAM_AGE = 5.0
SETTLE = 6.0  # seconds of streaming before and after each event
STILL = 3.0


class Demo:
    """Three servers on one redis, behind Envoy, and what befalls them."""

    def __init__(
        self,
        services: list[Service],
        add: Callable[[], Service],
        envoy: Envoy,
        redis: RedisServer,
        cable: Proxy,
    ) -> None:
        self._services, self._add, self._envoy = services, add, envoy
        self._redis, self._cable = redis, cable
        self._hangs: Service | None = None
        self._walks: Sequence[Walk] = ()

    async def play(
        self, network: Network, sessions: int, rate: float, losses: int = 1
    ) -> tuple[int, int]:
        """Stream through it all; returns the steps lost and doubled."""
        options = replace(PATIENT, shards=SHARDS, stream_age=STREAM_AGE)
        async with walking(self._envoy.address, network, sessions, "demo", options) as walks:
            self._walks, stop = walks, asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for walk in walks:
                    tasks.create_task(_paced(walk, stop, 1 / rate))
                await self._phase(f"{sessions} sessions, {len(self._services)} servers", _nothing)
                await self._phase("one is killed (SIGKILL)", self._kill)
                await self._phase("one is drained (SIGTERM)", self._drain)
                await self._phase("one is added", self._scale_up)
                await self._phase("Envoy is killed, and started again", self._restart_envoy)
                await self._phase(f"redis stands still for {STILL:g} s", self._pause_redis)
                for _ in range(losses):
                    await self._phase(
                        f"redis is killed, and empty {STILL:g} s later", self._lose_redis
                    )
                await self._phase("one is cut off from redis", self._cut_off)
                await self._phase("it is so no longer", self._mend)
                await self._phase("one hangs (SIGSTOP)", self._hang)
                stop.set()
            return await check_all(walks)

    async def _phase(self, what: str, event: Callable[[], Awaitable[None]]) -> None:
        """Have something happen, let every session go on, check all replies, tell what came of
        it."""
        before = self._steps()
        for walk in self._walks:
            walk.longest_pause = 0.0
        await event()
        await asyncio.sleep(SETTLE)
        stood = [walk.steps for walk in self._walks]  # who waits now is waited for
        async with asyncio.timeout(60):
            while any(w.steps <= at for w, at in zip(self._walks, stood, strict=True)):
                await asyncio.sleep(0.1)
        pause = max(walk.longest_pause for walk in self._walks)
        for walk in self._walks:
            walk.check()
        print(f"{what}: {self._steps() - before:,} steps, longest pause {pause:.2f} s")
        for at, service in enumerate(self._services):
            running = service.running
            if running.process.poll() is None and service is not self._hangs:
                live = await asyncio.to_thread(running.metric, "tidegate_sessions_live")
                steps = await asyncio.to_thread(running.metric, "tidegate_steps_total")
                print(f"    server {at + 1}: {live:5,.0f} sessions, {steps:8,.0f} steps so far")
        sys.stdout.flush()

    def _steps(self) -> int:
        return sum(walk.steps for walk in self._walks)

    async def _kill(self) -> None:
        await asyncio.to_thread(self._services[0].kill)

    async def _drain(self) -> None:
        status = await asyncio.to_thread(self._services[1].running.terminate)
        if status:
            raise SystemExit(f"the drained server ended with {status}")

    async def _scale_up(self) -> None:
        service = await asyncio.to_thread(self._add)
        self._services.append(service)
        self._envoy.route_to([self._services[2].address, service.address])

    async def _restart_envoy(self) -> None:
        await asyncio.to_thread(self._envoy.kill)
        await asyncio.to_thread(self._envoy.start)

    async def _pause_redis(self) -> None:
        self._redis.pause()
        await asyncio.sleep(STILL)
        self._redis.resume()

    async def _lose_redis(self) -> None:
        await asyncio.to_thread(self._redis.kill)
        await asyncio.sleep(STILL)
        await asyncio.to_thread(self._redis.start)

    async def _cut_off(self) -> None:
        self._cable.partition()

    async def _mend(self) -> None:
        self._cable.mend()

    async def _hang(self) -> None:
        self._hangs = self._services[2]
        self._hangs.pause()


async def _nothing() -> None:
    pass


async def _paced(walk: Walk, stop: asyncio.Event, pause: float) -> None:
    """Step at a rate, not all sessions together."""
    await asyncio.sleep(random.uniform(0, pause))
    await walk.go(stop, pause)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=1.0, help="steps a second and session")
    parser.add_argument("--lease-seconds", type=float, default=5.0, help="the servers' own default")
    parser.add_argument("--losses", type=int, default=1, help="how often redis loses everything")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        network = small_model(Path(folder))
        port = free_port()
        redis = RedisServer("--port", str(port), "--bind", "127.0.0.1")
        stack.callback(redis.stop)
        cable = stack.enter_context(Proxy(f"127.0.0.1:{port}"))
        flags = ("--checkpoint-interval", "1", "--lease-seconds", str(told.lease_seconds))

        def serve(url: str = redis.url) -> Service:
            service = Service(Path(folder), *on_redis(url), *flags)
            service.start()
            stack.callback(service.kill)
            return service

        services = [serve(), serve(), serve(f"redis://{cable.address}/0")]
        envoy = Envoy([each.address for each in services])
        stack.callback(envoy.stop)
        envoy.await_healthy([each.address for each in services])
        demo = Demo(services, serve, envoy, redis, cable)
        lost, doubled = asyncio.run(demo.play(network, told.sessions, told.rate, told.losses))
        print(f"lost {lost}, doubled {doubled}")
        if lost or doubled:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
