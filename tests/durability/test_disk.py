"""SQLite on a disk that is full, damaged, or written by a newer server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.store.record import MAGIC
from tests.conftest import SmallModel
from tests.durability.service import Service, on_sqlite, serving
from tests.durability.walks import (
    PATIENT,
    Walk,
    all_stored,
    check_all,
    step_all,
    until,
    walking,
)
from tests.harness import start
from tidegate import Client, errors

# A namespace of its own lets anybody mount; the server takes the shell's place.
MOUNTED = (
    "unshare", "--user", "--map-root-user", "--mount",
    "sh", "-c", 'folder=$0; size=$1; shift; mount -t tmpfs -o size=$size none $folder && exec "$@"',
)  # fmt: skip
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def inside(service: Service, folder: Path) -> Path:
    """The folder as the server sees it."""
    return Path(f"/proc/{service.running.process.pid}/root{folder}")


def fill(folder: Path) -> Path:
    """Take all the room there is; returns what to remove to have it back."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def health(address: str, service: str = "tidegate.store") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return int(stub.Check(request, timeout=10, wait_for_ready=True).status)


def test_steps_go_on_over_a_full_disk_and_are_stored_once_there_is_room(
    small: SmallModel, tmp_path: Path
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 10) as walks:
            await step_all(walks, 5)
            await until(lambda: health(service.address) == SERVING)
            ballast = fill(inside(service, tmp_path))
            await step_all(walks, 30)
            await until(lambda: not service.running.metric("tidegate_store_up"))
            assert health(service.address) == NOT_SERVING
            for served in ("", "tidegate.live"):
                assert health(service.address, served) == SERVING
            await step_all(walks, 30)
            ballast.unlink()
            await until(lambda: bool(service.running.metric("tidegate_store_up")))
            await until(lambda: health(service.address) == SERVING)
            await all_stored(walks)
            assert await check_all(walks) == (0, 0)

    before = (*MOUNTED, str(tmp_path), "32m")
    with serving(small.repository, *on_sqlite(tmp_path), before=before) as service:
        asyncio.run(play())


def test_a_disk_that_the_log_has_filled_has_room_once_the_log_is_moved_into_the_file(
    small: SmallModel, tmp_path: Path
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 200) as walks:
            await store_round(walks)
            folder = inside(service, tmp_path)
            await asyncio.to_thread(move_log, service, tmp_path)
            ballast = fill(folder)
            os.truncate(ballast, ballast.stat().st_size - 600_000)
            while not service.running.metric("tidegate_store_failures_total"):
                await store_round(walks)
            await store_round(walks)
            assert await check_all(walks) == (0, 0)

    before = (*MOUNTED, str(tmp_path), "8m")
    with serving(small.repository, *on_sqlite(tmp_path), before=before) as service:
        asyncio.run(asyncio.wait_for(play(), 60))


def move_log(service: Service, folder: Path) -> None:
    """Move the log into the file, from where the server's disk can be seen."""
    file = repr(str(folder / "sessions.db"))
    code = f"import sqlite3; sqlite3.connect({file}).execute('PRAGMA wal_checkpoint(TRUNCATE)')"
    there = ["--target", str(service.running.process.pid), "--user", "--mount"]
    inner = [sys.executable, "-c", code]
    subprocess.run(["nsenter", *there, "--preserve-credentials", *inner], check=True)


async def store_round(walks: list[Walk]) -> None:
    """A step of each, and all of them stored."""
    await step_all(walks, 1)
    await all_stored(walks)


def flipped(record: bytes) -> bytes:
    """With one bit of its last bytes another."""
    return record[:-9] + bytes([record[-9] ^ 1]) + record[-8:]


def newer(record: bytes) -> bytes:
    """As a newer server would begin it."""
    numbered = MAGIC + (99).to_bytes(4, "little")
    return numbered + zlib.crc32(numbered).to_bytes(4, "little") + record[12:]


@pytest.mark.parametrize("spoil", [flipped, newer])
def test_a_record_that_cannot_be_used_costs_its_own_session_alone(
    small: SmallModel, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    async def play() -> None:
        async with walking(service.address, small.weights, 10) as walks:
            await step_all(walks, 5)
            await asyncio.to_thread(service.running.terminate)
            change(tmp_path / "sessions.db", "walk-3", spoil)
            await asyncio.to_thread(service.start)
            others = walks[:3] + walks[4:]
            await step_all(others, 5)
            async with Client(service.address, PATIENT) as client:
                session = client.session("small", "walk-3", keep=True)
                for _ in range(2):
                    with pytest.raises(errors.BadRecord):
                        await session.open()
                await client.close_session("small", "walk-3")
                await session.open()
                assert (session.created, session.steps) == (True, 0)
                await session.step([0.0] * 5)
            await step_all(others, 5)
            assert await check_all(others) == (0, 0)

    with serving(small.repository, *on_sqlite(tmp_path)) as service:
        asyncio.run(play())


def change(file: Path, session_id: str, spoil: Callable[[bytes], bytes]) -> None:
    """Spoil a session's record where it lies."""
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        named = "WHERE session_id = ?"
        (record,) = db.execute(f"SELECT record FROM sessions {named}", (session_id,)).fetchone()
        db.execute(f"UPDATE sessions SET record = ? {named}", (spoil(record), session_id))


def test_a_file_of_a_newer_server_is_left_alone(small: SmallModel, tmp_path: Path) -> None:
    with serving(small.repository, *on_sqlite(tmp_path)) as service:
        assert service.running.terminate() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "sessions.db")) as db, db:
        db.execute("PRAGMA user_version = 99")
    process, log = start(small.repository, *on_sqlite(tmp_path))
    assert process.wait(30) == 2
    assert "version 99" in log.read_text()
    log.unlink()
