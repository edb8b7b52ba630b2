"""Servers with many sessions, stepping in turn: 1,024 a message, four messages under way.

First with room on the device for a tenth of them: a step of any other brings its state back there
from the host, and puts another's out. Then with room for all, by how many there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.durability import ROWS, Sessions
from benchmarks.gpu.hardware import the_device
from benchmarks.gpu.options import Options, Say
from benchmarks.gpu.served import WINDOW, serving
from benchmarks.models import H64
from benchmarks.residents import KNOWN_BYTES
from server.engine import memory
from server.engine.device import Device

SHARE, MOST = 10, 100_000
BESIDE = 4096
"""Bytes of the host's memory that a session takes beside its replies, with all that clients have;
generously."""
STATE = 2 * 4 * H64.layers * H64.hidden


def run(options: Options, say: Say) -> None:
    """Say a line for the sessions that are spilled, and one for each number of resident ones that
    there is memory for."""
    device, seconds = the_device(options), options.seconds * WINDOW
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        say("spill", device=device.name, **_spilled(Path(folder), device, options, seconds))
        for count in sorted(options.sessions):
            if why := _no_room(device, count):
                say("left out", part=f"{count:,} resident sessions", why=why)
            else:
                say(
                    "resident",
                    device=device.name,
                    **_resident(Path(folder), device, count, seconds),
                )


@contextmanager
def _served(
    repository: Path, device: Device, count: int, resident: int
) -> Iterator[tuple[Sessions, float]]:
    """That many sessions of a server, and the seconds that it took to open them."""
    flags = ("--store", "none", "--max-sessions", str(count), "--max-resident", str(resident))
    with serving(repository, device.kind, *flags) as server:
        sessions = Sessions(server, count)
        yield sessions, sessions.name(create=True)
        sessions.close()


def _spilled(
    repository: Path, device: Device, options: Options, seconds: float
) -> dict[str, float]:
    count = max(each for each in (*options.sessions, ROWS) if each <= MOST)
    resident = max(min(count, ROWS), count // SHARE)
    with _served(repository, device, count, resident) as (sessions, _):
        put_out = (count - resident) / sessions.step_all()
        sessions.window(seconds / 4, resident)
        there, cpu_there = sessions.window(seconds, resident)
        sessions.step_all()
        in_turn, cpu_in_turn = sessions.window(seconds)
    return {
        "sessions": count, "resident": resident, "put_out_per_second": put_out,
        "there_steps_per_second": there, "there_microseconds": cpu_there,
        "in_turn_steps_per_second": in_turn, "in_turn_microseconds": cpu_in_turn,
    }  # fmt: skip


def _resident(repository: Path, device: Device, count: int, seconds: float) -> dict[str, float]:
    with _served(repository, device, count, 0) as (sessions, naming):
        first = sessions.step_all()
        rate, cpu = sessions.window(seconds)
    return {
        "sessions": count, "opened_per_second": count / naming,
        "first_steps_per_second": count / first, "steps_per_second": rate,
        "server_microseconds": cpu, "state_bytes": count * STATE,
    }  # fmt: skip


def _no_room(device: Device, count: int) -> str:
    """What is missing, if anything."""
    host, there = memory.free_on_host(), memory.free_on(device)
    wants = count * (KNOWN_BYTES + BESIDE)
    if host is not None and wants > host:
        return f"{wants:,} bytes of the host's memory wanted, {host:,} free"
    if there is not None and count * STATE > there:
        return f"{count * STATE:,} bytes on {device.name} wanted, {there:,} free"
    return ""
