"""Streams sessions through the client library of whichever version it is run with.

    python streamer.py ADDRESS NAME NETWORK SESSIONS

It is run as a file, with an earlier version's code on the path as well as with today's, and so uses
nothing but what `tests.durability.walks` has had all along. For each line that it reads it waits
until every session has gone on, and tells how far they are; after another line than "go on" it
ends, and tells what was lost and doubled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.durability.walks import Walk, check_all, counting_replays, walking
from training.network import Network, network_from_bytes

PAUSE = 0.02


async def play(address: str, name: str, network: Network, sessions: int) -> None:
    """Stream until told to stop."""
    stop = asyncio.Event()
    with counting_replays() as replays:
        async with walking(address, network, sessions, name) as walks:
            async with asyncio.TaskGroup() as tasks:
                for each in walks:
                    tasks.create_task(each.go(stop, PAUSE))
                while await asyncio.to_thread(sys.stdin.readline) == "go on\n":
                    await _tell(walks)
                stop.set()
            lost, doubled = await check_all(walks)
    steps = sum(each.steps for each in walks)
    _say({"steps": steps, "lost": lost, "doubled": doubled, "replayed": replays.steps})


async def _tell(walks: Sequence[Walk]) -> None:
    """Once every session has gone on, check all replies, and say how far they are."""
    stood = [each.steps for each in walks]
    async with asyncio.timeout(60):
        while any(w.steps <= at for w, at in zip(walks, stood, strict=True)):
            await asyncio.sleep(0.05)
    pause = max(each.longest_pause for each in walks)
    for each in walks:
        each.check()
        each.longest_pause = 0.0
    _say({"steps": sum(each.steps for each in walks), "pause": pause})


def _say(told: dict[str, float]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _address, _name, _weights, _sessions = sys.argv[1:]
    _network = network_from_bytes(Path(_weights).read_bytes())
    asyncio.run(play(_address, _name, _network, int(_sessions)))
