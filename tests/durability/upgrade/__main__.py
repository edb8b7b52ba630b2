"""Servers of an earlier version replaced by today's and back, one after the other, under load.

    python -m tests.durability.upgrade [COMMIT] [--images OLD NEW] [--envoy] [--kill]

Three servers share a redis. They run the code of COMMIT at first, which is taken from this
repository's history, or an image of it; then each is drained (or killed) and today's is started in
its place; then each is put back. Sessions stream all the while through today's client library and
the earlier one's, each reply compared with NumPy's LSTM; with old and new servers side by side,
sessions are exported from the one and imported at the other. Exit status 1 where a step was lost or
doubled or an answer wrong, 2 where there is no such commit.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.envoy import Envoy
from tests.durability.service import Service, free_port, on_redis
from tests.durability.upgrade.versions import Stream, Version, extracted, remove_containers
from tests.durability.walks import PATIENT
from tests.harness import ROOT, small_model
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client
from training.network import Network
from training.reference import NumpyNetwork

RELEASED = "5c2b641"  # where nothing else is asked for
SERVERS = 3
SETTLE = 3.0  # seconds of streaming after each replacement


class Fleet:
    """The servers: each keeps its port, whichever version it runs."""

    def __init__(self, repository: Path, url: str, kill: bool, stack: ExitStack) -> None:
        self._repository, self._kill, self._stack = repository, kill, stack
        self._flags = (*on_redis(url), "--checkpoint-interval", "1", "--lease-seconds", "5")
        self.services: list[Service] = []

    @property
    def addresses(self) -> list[str]:
        return [each.address for each in self.services]

    def start(self, version: Version) -> None:
        """All of them."""
        for _ in range(SERVERS):
            self.services.append(self._service(version))
            self.services[-1].start()

    def replace(self, at: int, version: Version) -> None:
        """End one, and start another version in its place."""
        former, service = self.services[at], self._service(version)
        service.port, service.address = former.port, former.address
        if self._kill:
            former.kill()
        elif status := former.running.terminate(60):
            print(f"the drained server ended with {status}:\n{former.running.log()}")
            sys.exit(1)
        service.start()
        self.services[at] = service

    def _service(self, version: Version) -> Service:
        service = Service(self._repository, *self._flags, before=version.serves(self._repository))
        self._stack.callback(lambda: service.kill() if hasattr(service, "_begun") else None)
        return service


async def carry_over(source: str, target: str, network: Network, name: str) -> None:
    """Export a session at one server, import it at another, and step it there."""
    xs, lstm = observations(1, 20), NumpyNetwork(network)
    expected = lstm.run(xs, lstm.initial())[0]
    async with Client(source, PATIENT) as there, Client(target, PATIENT) as here:
        session = there.session("small", name, keep=True)
        await session.open()
        await session.chunk(xs[:10])
        await here.import_session(await session.export(), session_id=f"{name}-taken")
        taken = here.session("small", f"{name}-taken", keep=True)
        await taken.open()
        got = await taken.chunk(xs[10:])
    if not abs(got - expected[10:]).max() <= 1e-5:
        raise AssertionError(f"{name} went on otherwise at {target}")


class Check:
    """The whole course of an upgrade and a roll back."""

    def __init__(self, fleet: Fleet, streams: Sequence[Stream], network: Network) -> None:
        self._fleet, self._streams, self._network = fleet, streams, network

    def replace_all(self, by: Version) -> None:
        """One after the other; sessions go on after each."""
        for at in range(SERVERS):
            started = time.monotonic()
            self._fleet.replace(at, by)
            took = time.monotonic() - started
            self._tell(f"server {at + 1} is {by.name} after {took:.1f} s")
            if at == 0:
                self._carry_over(f"{by.name}-{started}")

    def start(self) -> None:
        self._tell(f"{SERVERS} servers of {self._streams[0].version.name}")

    def end(self) -> bool:
        """Compare all counts and states; whether all is well."""
        well = True
        for each in self._streams:
            told = each.ask("stop")
            print(f"client {each.version.name}: {told}")
            well &= told["lost"] == told["doubled"] == 0 < told["steps"]
        return well

    def _tell(self, what: str) -> None:
        time.sleep(SETTLE)
        told = [(each.version.name, each.ask("go on")) for each in self._streams]
        steps = ", ".join(f"client {n}: {t['steps']:,} steps, {t['pause']:.2f} s" for n, t in told)
        print(f"{what}; {steps} longest pause", flush=True)

    def _carry_over(self, name: str) -> None:
        replaced, other, *_ = self._fleet.addresses
        for at, (source, target) in enumerate(((replaced, other), (other, replaced))):
            asyncio.run(carry_over(source, target, self._network, f"{name}-{at}"))
        print("snapshots go from the one version to the other, and back")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="?", default=RELEASED)
    parser.add_argument("--sessions", type=int, default=60, help="of each version's client")
    parser.add_argument("--envoy", action="store_true", help="a proxy routes to the servers")
    parser.add_argument("--images", nargs=2, default=("", ""), metavar=("OLD", "NEW"))
    parser.add_argument("--kill", action="store_true", help="SIGKILL in place of SIGTERM")
    told = parser.parse_args()
    if told.kill and told.images[0]:
        parser.error("--kill is for servers that are no containers")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # an image's user reads the models
        old = extracted(told.commit, folder / "old", told.images[0])
        new = Version("now", ROOT, told.images[1])
        if told.images[0]:
            stack.callback(remove_containers)
        old.check()
        new.check()
        network = small_model(folder / "models")
        port = free_port()
        redis = RedisServer("--bind", "127.0.0.1", "--port", str(port))
        stack.callback(redis.stop)
        fleet = Fleet(folder / "models", f"redis://127.0.0.1:{port}/0", told.kill, stack)
        fleet.start(old)
        targets = _targets(fleet, told.envoy, stack)
        weights = folder / "models" / "small" / "1" / "network.npz"
        streams = [
            Stream(version, target, weights, told.sessions)
            for version, target in zip((old, new), targets, strict=True)
        ]
        for each in streams:
            stack.callback(each.end)
        check = Check(fleet, streams, network)
        check.start()
        check.replace_all(new)
        check.replace_all(old)
        well = check.end()
    print("passed" if well else "FAILED")
    sys.exit(not well)


def _targets(fleet: Fleet, envoy: bool, stack: ExitStack) -> list[str]:
    """Where each client streams to: servers in different orders, or the proxy."""
    if envoy:
        proxy = Envoy(fleet.addresses)
        stack.callback(proxy.stop)
        proxy.await_healthy(fleet.addresses)
        return [proxy.address] * 2
    return [f"ipv4:{','.join(each)}" for each in (fleet.addresses, fleet.addresses[::-1])]


if __name__ == "__main__":
    main()
