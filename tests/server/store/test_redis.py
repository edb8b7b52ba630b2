"""The store in redis: histories, records that come, go and stay, and how durable they are."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from server.config import Config
from server.store.choose import open_store
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
from server.store.redis import RedisSettings, RedisStore
from server.store.sqlite import SqliteStore
from tests.server.store.histories import Histories
from tests.server.store.redis_server import RedisServer


class RedisHistories(Histories):
    asks_owners: ClassVar[bool] = True
    expires_by_itself: ClassVar[bool] = True
    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.server.client().flushall()

    def open_store(self) -> Store:
        return self.server.store()


class TestHistories(RedisHistories.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

    @pytest.fixture(autouse=True)
    def redis(self, started: RedisServer) -> None:
        RedisHistories.server = started


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    store = server.store()
    yield store
    store.close()


def raw_key(session_id: str) -> str:
    return f"tidegate:{{small/1/{session_id}}}"


def test_many_sessions_are_claimed_written_and_read_at_once(store: RedisStore) -> None:
    table = store.table("small", 1)
    ids = [f"s{k}" for k in range(1300)]
    made = table.claim([Claim(each, b"old") for each in ids])
    assert {each.hold for each in made} == {Hold.CREATED}
    writes = [Write(i, c.epoch, 1, 5e9, i.encode()) for i, c in zip(ids, made, strict=True)]
    assert set(table.write(writes)) == {Wrote.STORED}
    assert table.read(ids) == [each.encode() for each in ids]


def test_records_of_any_bytes_come_back(store: RedisStore) -> None:
    table, record = store.table("small", 1), bytes(range(256)) * 3
    table.claim([Claim("a", record), Claim("b", b"")])
    assert table.read(["a", "b"]) == [record, b""]
    assert [each.record for each in table.claim([Claim("a", None)])] == [record]


def test_a_record_vanishes_an_hour_after_its_time_to_live(
    server: RedisServer, store: RedisStore
) -> None:
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    used_at = made.used_at + 500.25
    table.write([Write("a", made.epoch, 1, used_at, b"second")])
    expires = server.client().execute_command("PEXPIRETIME", raw_key("a"))
    assert abs(expires - (used_at + 3600 + 3600) * 1000) < 60_000


def test_a_session_that_a_server_closed_is_not_brought_back_by_one_that_owned_it(
    server: RedisServer, store: RedisStore
) -> None:
    former = server.store()
    [old] = former.table("small", 1).claim([Claim("a", b"first")])
    server.client().delete(f"tidegate:owner:{former.owner}")
    [new] = store.table("small", 1).claim([Claim("a", None)])
    assert store.table("small", 1).delete([End("a", new.epoch)]) == [Wrote.STORED]
    assert former.table("small", 1).write([Write("a", old.epoch, 9, 5.0, b"late")]) == [Wrote.MOVED]
    assert store.table("small", 1).read(["a"]) == [None]
    assert server.client().pttl(raw_key("a")) > 0
    [again] = store.table("small", 1).claim([Claim("a", b"anew")])
    assert again.hold is Hold.CREATED and again.epoch > new.epoch
    assert server.client().pttl(raw_key("a")) > 3_600_000
    former.close()


def test_a_write_repeated_is_stored_once(store: RedisStore) -> None:
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    write = Write("a", made.epoch, 1, 5e9, b"second")
    assert table.write([write]) == table.write([write]) == [Wrote.STORED]


def test_a_store_that_failed_over_to_an_older_copy_is_written_over(
    server: RedisServer, store: RedisStore
) -> None:
    table = store.table("small", 1)
    table.claim([Claim("a", b"first")])
    older = server.client().dump(raw_key("a"))
    [now] = table.claim([Claim("a", None)])
    server.client().restore(raw_key("a"), 0, older, replace=True)
    assert table.write([Write("a", now.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    assert table.read(["a"]) == [b"second"]


def test_a_record_that_vanished_while_the_lease_lived_is_made_again(
    server: RedisServer, store: RedisStore
) -> None:
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    server.client().delete(raw_key("a"))
    assert table.write([Write("a", made.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    server.client().delete(raw_key("a"), f"tidegate:owner:{store.owner}")
    assert table.write([Write("a", made.epoch, 2, 5e9, b"third")]) == [Wrote.MOVED]
    assert table.read(["a"]) == [None]


def test_a_change_that_no_replica_confirms_is_told(server: RedisServer) -> None:
    store = server.store(durability="replicated", timeout=0.2)
    with pytest.raises(StoreUnreachable, match="0 of 1 replicas"):
        store.table("small", 1).claim([Claim("a", b"first")])
    store.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def test_a_change_that_a_replica_confirmed_is_on_it() -> None:
    port = free_port()
    first = RedisServer(
        "--port", str(port), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"
    )
    second = RedisServer("--replicaof", "127.0.0.1", str(port))
    try:
        second.await_that(lambda: second.client().info()["master_link_status"] == "up")
        store = first.store(durability="replicated")
        assert store.table("small", 1).claim([Claim("a", b"x")])[0].hold is Hold.CREATED
        assert second.client().hget(raw_key("a"), "record") == b"x"
        store.close()
    finally:
        first.stop()
        second.stop()


def test_a_redis_that_syncs_nothing_is_refused_for_durability_on_the_disk(
    server: RedisServer,
) -> None:
    with pytest.raises(StoreUnusable, match="appendonly"):
        server.store(durability="fsync")


def test_a_synced_record_outlives_redis() -> None:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    try:
        store = server.store(durability="fsync")
        store.table("small", 1).claim([Claim("a", b"first")])
        server.kill()
        server.start()
        assert store.table("small", 1).read(["a"]) == [b"first"]
        store.close()
    finally:
        server.stop()


def test_an_older_redis_that_does_not_sync_each_change_is_refused() -> None:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "everysec")
    try:
        version = server.client().info()["redis_version"]
        if tuple(map(int, version.split(".")[:2])) < (7, 2):
            with pytest.raises(StoreUnusable, match="appendfsync to always"):
                server.store(durability="fsync")
        else:  # it can be asked to sync, change by change
            store = server.store(durability="fsync")
            assert store.table("small", 1).claim([Claim("a", b"x")])[0].hold is Hold.CREATED
            store.close()
    finally:
        server.stop()


def test_a_redis_that_evicts_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with caplog.at_level(logging.WARNING):
            server.store().close()
        assert "evicts (allkeys-lru)" in caplog.text
    finally:
        server.stop()


def test_a_full_redis_is_told_and_passes(own_server: RedisServer) -> None:
    store = own_server.store()
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    own_server.client().config_set("maxmemory", 1)
    write = Write("a", made.epoch, 1, 5e9, b"second")
    with pytest.raises(StoreUnreachable, match="memory"):
        table.write([write])
    own_server.client().config_set("maxmemory", 0)
    assert table.write([write]) == [Wrote.STORED]
    store.close()


def test_a_wrong_password_is_told_and_no_password_is_shown() -> None:
    server = RedisServer("--port", str(port := free_port()), "--bind", "127.0.0.1")
    try:
        server.client().config_set("requirepass", "correct")
        url = f"redis://:wrong-secret@127.0.0.1:{port}/3"
        with pytest.raises(StoreUnusable) as caught:
            RedisStore(RedisSettings(url, "memory", 1, 5.0, 5.0, 60.0))
        assert f"127.0.0.1:{port}/3" in str(caught.value)
        assert "wrong-secret" not in str(caught.value)
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["http://x", "redis://127.0.0.1:no/0"])
def test_a_malformed_address_is_told(url: str) -> None:
    with pytest.raises(StoreUnusable, match="malformed"):
        RedisStore(RedisSettings(url, "memory", 1, 5.0, 5.0, 60.0))


def test_the_settings_name_the_store(server: RedisServer, tmp_path: Any) -> None:
    folder = tmp_path / "data"
    common = {"model_repository": tmp_path, "data_folder": folder, "redis_url": server.url}
    assert open_store(Config(store="none", **common)) is None
    kept = open_store(Config(store="sqlite", **common))
    shared = open_store(Config(store="redis", **common))
    assert isinstance(kept, SqliteStore) and kept.exclusive
    assert isinstance(shared, RedisStore) and not shared.exclusive
    assert kept.place == str(folder / "sessions.db") and str(server.socket) in shared.place
    kept.close()
    shared.close()
