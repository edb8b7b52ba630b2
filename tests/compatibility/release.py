"""Writes `released/VERSION`: this version's protos, a bundle, and sessions at rest in every form.

    python -m tests.compatibility.release

is run once a release, and its folder committed; `test_released` has all later versions read it. A
folder that is there already is not written again, for it is what was released.

| in the folder | what |
|---|---|
| `protos/` | the protocol |
| `models/small/1` | a bundle |
| `sessions.db` | a sqlite store, drained |
| `redis.json` | a redis store, drained: every session's hash by key, values in base64 |
| `snapshot` | what `Export` gave of session `b` |
| `answers.npz` | each session's inputs and their answers; the first `STEPS` were applied |
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tidegate
from tests.durability.service import Service, on_redis, on_sqlite
from tests.harness import ROOT, small_model
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import observations
from tidegate import Client
from training.network import Network
from training.reference import NumpyNetwork

RELEASED = Path(__file__).parent / "released"
STEPS = {"a": 0, "b": 7, "c": 70}
"""Sessions without a step, with some, and with more than a server remembers, each longer by AHEAD
steps in `answers.npz`."""
AHEAD = 5
CLOSED = "closed"


def write(folder: Path) -> None:
    """Write a release's folder."""
    shutil.copytree(ROOT / "protos", folder / "protos")
    network = small_model(folder / "models")
    _write_answers(folder / "answers.npz", network)
    _write_sqlite(folder)
    _write_redis(folder)


def _write_answers(file: Path, network: Network) -> None:
    told: dict[str, Any] = {}
    for seed, (name, steps) in enumerate(STEPS.items()):
        lstm, xs = NumpyNetwork(network), observations(seed, steps + AHEAD)
        told[f"{name}.inputs"] = xs
        told[f"{name}.answers"] = lstm.run(xs, lstm.initial())[0].astype(np.float32)
    np.savez_compressed(file, **told)


def _write_sqlite(folder: Path) -> None:
    data = folder / "data"
    snapshots = _play(folder, *on_sqlite(data))
    (data / "sessions.db").rename(folder / "sessions.db")
    shutil.rmtree(data)
    (folder / "snapshot").write_bytes(snapshots["b"])


def _write_redis(folder: Path) -> None:
    redis = RedisServer()
    try:
        _play(folder, *on_redis(redis.url))
        (folder / "redis.json").write_text(json.dumps(dumped(redis), indent=1) + "\n")
    finally:
        redis.stop()


def dumped(redis: RedisServer) -> dict[str, dict[str, str]]:
    """Every session's hash."""
    client = redis.client()
    keys = sorted(key for key in client.scan_iter("tidegate:{*") if client.type(key) == b"hash")
    return {
        key.decode(): {
            name.decode(): base64.b64encode(value).decode()
            for name, value in sorted(client.hgetall(key).items())
        }
        for key in keys
    }


def restore(redis: RedisServer, hashes: dict[str, dict[str, str]]) -> None:
    """Put them back."""
    client = redis.client()
    for key, values in hashes.items():
        client.hset(key, mapping={n: base64.b64decode(value) for n, value in values.items()})


def _play(folder: Path, *flags: str) -> dict[str, bytes]:
    """Have a server keep the sessions, and drain it; returns their snapshots."""
    service = Service(folder / "models", *flags)
    running = service.start()
    try:
        snapshots = asyncio.run(_step(service.address, np.load(folder / "answers.npz")))
        assert running.terminate() == 0
    finally:
        service.kill()
    return snapshots


async def _step(address: str, answers: dict[str, np.ndarray]) -> dict[str, bytes]:
    snapshots = {}
    async with Client(address) as client:
        for name, steps in STEPS.items():
            session = client.session("small", name, keep=True)
            await session.open()
            for x in answers[f"{name}.inputs"][:steps]:
                await session.step(x)
            snapshots[name] = await session.export()
        async with client.session("small", CLOSED) as session:
            await session.step(np.zeros(5, np.float32))
    return snapshots


def main() -> None:
    """The command."""
    folder = RELEASED / tidegate.__version__
    if folder.exists():
        sys.exit(f"{folder} is there: version {tidegate.__version__} was released already")
    write(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
