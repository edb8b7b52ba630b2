"""The store in one file: histories, two servers, damage, full disks, and death in mid-write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import apsw
import pytest
from hypothesis import settings

from server.errors import BadRecord
from server.store.interface import (
    Claim,
    End,
    Hold,
    Store,
    StoreUnreachable,
    StoreUnusable,
    Write,
    Wrote,
)
from server.store.sqlite import SqliteStore
from tests.harness import ROOT
from tests.server.store.histories import Histories
from tests.server.store.test_record import CODEC, a_record


class SqliteHistories(Histories):
    asks_owners: ClassVar[bool] = False
    expires_by_itself: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())

    def open_store(self) -> Store:
        return SqliteStore(self.folder, lock=False)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


class TestHistories(SqliteHistories.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data")
    yield store
    store.close()


def writes_of(count: int, epoch: int, revision: int, record: bytes) -> list[Write]:
    return [Write(f"s{k}", epoch, revision, 5.0, record) for k in range(count)]


def claims_of(count: int, record: bytes | None) -> list[Claim]:
    return [Claim(f"s{k}", record) for k in range(count)]


def test_a_second_server_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    with pytest.raises(StoreUnusable, match="is used by another server"):
        SqliteStore(tmp_path)
    first.close()
    SqliteStore(tmp_path).close()


def test_records_outlive_the_store_and_are_nobody_s_then(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    [made] = first.table("small", 1).claim([Claim("a", b"old")])
    first.table("small", 1).write([Write("a", made.epoch, 1, 7.0, b"new")])
    first.close()
    second = SqliteStore(tmp_path)
    assert second.table("small", 1).expire(8.0, 10) == 1
    assert second.table("small", 1).read(["a"]) == [None]
    second.close()


def test_a_write_of_a_former_owner_changes_nothing(tmp_path: Path) -> None:
    former, present = (SqliteStore(tmp_path, lock=False).table("small", 1) for _ in range(2))
    [old] = former.claim([Claim("a", b"first")])
    [new] = present.claim([Claim("a", None)])
    assert (new.hold, new.record) == (Hold.OWNED, b"first") and new.epoch > old.epoch
    assert former.write([Write("a", old.epoch, 1, 5.0, b"late")]) == [Wrote.MOVED]
    assert former.write([Write("a", new.epoch, 1, 5.0, b"late")]) == [Wrote.MOVED]
    assert former.delete([End("a", old.epoch)]) == [Wrote.MOVED]
    assert present.read(["a"]) == [b"first"]


def test_models_and_versions_have_tables_of_their_own(store: SqliteStore) -> None:
    for model, version in (("m", 1), ("m", 2), ("n", 1)):
        store.table(model, version).claim([Claim("a", f"{model}{version}".encode())])
    assert store.table("m", 2).read(["a"]) == [b"m2"]
    assert store.table("n", 2).read(["a"]) == [None]


def test_tables_of_two_models_are_written_from_two_threads(store: SqliteStore) -> None:
    outcomes: dict[str, set[Wrote]] = {}

    def serve(model: str) -> None:
        table = store.table(model, 1)
        epoch = table.claim(claims_of(50, b"first"))[0].epoch
        outcomes[model] = set()
        for revision in range(1, 31):
            record = f"{model}{revision}".encode()
            outcomes[model] |= set(table.write(writes_of(50, epoch, revision, record)))

    threads = [threading.Thread(target=serve, args=(model,)) for model in "mn"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert outcomes == {"m": {Wrote.STORED}, "n": {Wrote.STORED}}
    assert [store.table(model, 1).read(["s49"]) for model in "mn"] == [[b"m30"], [b"n30"]]


def test_a_record_that_vanished_is_made_again(store: SqliteStore) -> None:
    table = store.table("small", 1)
    table.claim([Claim("a", b"first")])
    other = apsw.Connection(store.place)
    other.execute("DELETE FROM sessions")
    other.close()
    assert table.write([Write("a", 1, 1, 5.0, b"again")]) == [Wrote.STORED]
    assert table.read(["a"]) == [b"again"]


def test_the_log_of_writes_stays_bounded(store: SqliteStore) -> None:
    table, record = store.table("small", 1), b"x" * 4000
    epoch = table.claim(claims_of(2000, record))[0].epoch
    for revision in range(1, 25):
        table.write(writes_of(2000, epoch, revision, record))
    assert Path(f"{store.place}-wal").stat().st_size < 2 * (64 << 20)


@pytest.mark.parametrize("at", [0, 20, 100])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, at: int) -> None:
    store = SqliteStore(tmp_path)
    store.table("small", 1).claim([Claim("a", b"first")])
    store.close()
    file = tmp_path / "sessions.db"
    data = bytearray(file.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    file.write_bytes(data)
    with pytest.raises(StoreUnusable, match=r"sessions\.db cannot be used"):
        SqliteStore(tmp_path)


def test_a_file_of_a_newer_server_is_refused(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    db = apsw.Connection(str(tmp_path / "sessions.db"))
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StoreUnusable, match="has version 2 of the tables"):
        SqliteStore(tmp_path)


def test_a_flipped_byte_of_a_record_in_the_file_is_told(tmp_path: Path) -> None:
    store, data = SqliteStore(tmp_path), CODEC.pack("a", a_record())
    store.table("small", 1).claim([Claim("a", data)])
    store.close()
    file = tmp_path / "sessions.db"
    content = bytearray(file.read_bytes())
    content[content.index(data) + len(data) // 2] ^= 4
    file.write_bytes(content)
    again = SqliteStore(tmp_path)
    [found] = again.table("small", 1).read(["a"])
    again.close()
    with pytest.raises(BadRecord, match="damaged"):
        CODEC.unpack("a", found or b"")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    assert done.returncode == 0, f"this test mounts a small disk, as root: {done.stderr}"
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_told_changes_nothing_and_passes(small_disk: Path) -> None:
    store = SqliteStore(small_disk)
    table = store.table("small", 1)
    epoch = table.claim(claims_of(50, b"old" * 100))[0].epoch
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (small_disk_free(small_disk) - 20_000))
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="full"):
            table.write(writes_of(50, epoch, 1, b"new" * 5000))
        assert table.read(["s0", "s49"]) == [b"old" * 100] * 2
    ballast.unlink()
    assert set(table.write(writes_of(50, epoch, 1, b"new" * 500))) == {Wrote.STORED}
    assert table.read(["s49"]) == [b"new" * 500]
    store.close()


def small_disk_free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


WRITER = """
import sys
from pathlib import Path
from server.store.sqlite import SqliteStore
from tests.server.store.test_record import CODEC, a_record
from server.store.interface import Claim, Write
table = SqliteStore(Path(sys.argv[1])).table("small", 1)
packed = [CODEC.pack(f"s{k}", a_record(steps=1, kept=1)) for k in range(200)]
made = table.claim([Claim(f"s{k}", packed[k]) for k in range(200)])
for steps in range(2, 10**6):
    packed = [CODEC.pack(f"s{k}", a_record(steps=steps, kept=1)) for k in range(200)]
    table.write([Write(f"s{k}", made[k].epoch, steps, 5.0, packed[k]) for k in range(200)])
    print(steps, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 3, 8])
def test_a_writer_killed_in_mid_write_leaves_whole_records_of_one_write(
    tmp_path: Path, acknowledged: int
) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as writer:
        assert writer.stdout is not None
        last = [int(writer.stdout.readline()) for _ in range(acknowledged)][-1]
        writer.send_signal(signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().splitlines())])
    store = SqliteStore(tmp_path)
    ids = [f"s{k}" for k in range(200)]
    found = store.table("small", 1).read(ids)
    steps = {CODEC.unpack(i, data or b"").steps for i, data in zip(ids, found, strict=True)}
    store.close()
    assert len(steps) == 1 and steps <= {last, last + 1}


def test_waiting_for_requests_ends_when_the_store_is_closed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    answers: list[object] = []
    waiter = threading.Thread(target=lambda: answers.append(store.asked_for(3600.0)))
    waiter.start()
    store.close()
    waiter.join(30)
    assert answers == [[]]
    with pytest.raises(StoreUnreachable, match="closed"):
        store.table("small", 1).read(["a"])
