"""A real server under attack: bystanders are answered, and rightly; it keeps its memory, lives, and
ends well afterwards."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.abuse import Bystanders, peak_bytes
from benchmarks.attacks import ATTACKS, attacked
from benchmarks.models import H64
from server.transport.http2 import frames
from tests.harness import RunningServer, await_ready, running_server, start

MOST = 600 << 20
"""Bytes that the server may have resident at any time: 256 MiB in flight, twice over, and itself.
Compose gives it 1 GB."""
KEPT, LEFT = 300 << 20, 2 << 20
"""Bytes that it may have resident, and in flight, once the attackers have gone."""
SECONDS = 0.4


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    H64.write(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with running_server(repository, store="none", max_connections=1_000) as running:
        yield running


@pytest.mark.parametrize("name", ATTACKS)
def test_bystanders_are_served_and_memory_is_bounded(server: RunningServer, name: str) -> None:
    pid = server.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak counts from now
    with attacked(name, server.address):
        while not server.metric("tidegate_connections"):  # it has begun
            time.sleep(0.01)
        assert Bystanders(server.address, name).go(SECONDS)  # every reply is compared
        assert server.process.poll() is None
    assert peak_bytes(pid) < MOST


def test_after_all_of_it_memory_comes_back_and_the_server_ends_well(server: RunningServer) -> None:
    """But for what a flood left behind in the system's buffers, which is taken in by and by."""
    pid, until = server.process.pid, time.monotonic() + 60
    while server.metric("tidegate_inflight_bytes") > LEFT or machine.resident_bytes(pid) > KEPT:
        assert time.monotonic() < until  # it takes a few seconds
        time.sleep(0.1)
    assert Bystanders(server.address, "after").go(SECONDS)
    assert server.terminate(60) == 0


FEW_FILES = ("bash", "-c", 'ulimit -n 120; exec "$0" "$@"')
UNAWARE = """
import sys
from server.transport import files
files.OTHERS = -10_000  # so that files run out before places do
from server.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("code", ["", UNAWARE], ids=["places", "files"])
def test_nobody_waits_where_there_is_no_room_and_who_was_there_is_served(
    repository: Path, code: str
) -> None:
    process, log = start(repository, "--store", "none", before=FEW_FILES, code=code)
    try:
        running = await_ready(process, log)
        before = Bystanders(running.address, "before")
        host, _, port = running.address.rpartition(":")
        crowd = [socket.create_connection((host, int(port)), timeout=60) for _ in range(150)]
        turned_away = [each for each in crowd if b"too many connections" in _first_words(each)]
        assert turned_away
        assert before.go(SECONDS)
        for each in crowd:
            each.close()
        assert Bystanders(running.address, "after").go(SECONDS)
        assert "turned away" in running.log()
        assert running.log().count("turned away") < 5
        assert ("are all that 120 open files allow" in running.log()) == (not code)
        assert running.terminate(60) == 0
    finally:
        process.kill()
        process.wait()


def _first_words(sock: socket.socket) -> bytes:
    """What the server says first: its settings, and perhaps goodbye."""
    said = b""
    while len(said) < frames.HEAD_SIZE:
        if not (came := sock.recv(4_096)):
            break
        said += came
    return said
