"""Servers that share a redis: leases, takeovers, requests; and a redis that stops or is emptied."""

from __future__ import annotations

import threading

import pytest

from server.store.interface import Claim, End, Hold, Lease, StoreUnreachable, Write, Wrote
from tests.server.store.redis_server import RedisServer


def test_a_living_owner_is_asked_and_hands_over(server: RedisServer) -> None:
    owner, wanting = server.store(), server.store()
    [made] = owner.table("small", 1).claim([Claim("päß", b"first")])
    for _ in range(2):
        [refused] = wanting.table("small", 1).claim([Claim("päß", b"other")])
        assert refused.hold is Hold.ELSEWHERE
    assert owner.asked_for(30.0) == [("small", 1, "päß")]
    assert owner.asked_for(0.01) == []
    owner.table("small", 1).release([End("päß", made.epoch)])
    [got] = wanting.table("small", 1).claim([Claim("päß", b"other")])
    assert (got.hold, got.record) == (Hold.OWNED, b"first") and got.epoch > made.epoch
    late = Write("päß", made.epoch, 1, 5e9, b"late")
    assert owner.table("small", 1).write([late]) == [Wrote.MOVED]
    owner.close()
    wanting.close()


def test_a_request_wakes_the_owner_that_waits(server: RedisServer) -> None:
    owner, wanting = server.store(), server.store()
    owner.table("small", 1).claim([Claim("a", b"first")])
    answers: list[object] = []
    waiter = threading.Thread(target=lambda: answers.append(owner.asked_for(60.0)))
    waiter.start()
    wanting.table("small", 1).claim([Claim("a", None)])
    waiter.join(30)
    assert answers == [[("small", 1, "a")]]
    owner.close()
    wanting.close()


def test_waiting_for_requests_ends_when_the_store_is_closed(server: RedisServer) -> None:
    store = server.store()
    answers: list[object] = []
    waiter = threading.Thread(target=lambda: answers.append(store.asked_for(3600.0)))
    waiter.start()
    store.close()
    waiter.join(30)
    assert answers == [[]]


def test_a_server_that_closes_leaves_its_sessions_to_be_taken_at_once(server: RedisServer) -> None:
    owner, wanting = server.store(), server.store()
    owner.table("small", 1).claim([Claim("a", b"first")])
    owner.close()
    [got] = wanting.table("small", 1).claim([Claim("a", None)])
    assert (got.hold, got.record) == (Hold.OWNED, b"first")
    wanting.close()


def test_sessions_of_the_dead_are_taken_and_those_of_the_living_asked_for(
    server: RedisServer,
) -> None:
    dead, living, wanting = server.store(lease=0.05), server.store(), server.store()
    dead.table("small", 1).claim([Claim("d", b"of the dead")])
    living.table("small", 1).claim([Claim("l", b"of the living")])
    server.await_that(lambda: not server.client().exists(f"tidegate:owner:{dead.owner}"))
    claims = [Claim("l", None), Claim("d", None), Claim("n", None), Claim("m", b"made")]
    got = wanting.table("small", 1).claim(claims)
    assert [each.hold for each in got] == [Hold.ELSEWHERE, Hold.OWNED, Hold.ABSENT, Hold.CREATED]
    assert got[1].record == b"of the dead"
    for each in (dead, living, wanting):
        each.close()


def test_a_lease_that_ran_out_is_told_once_and_held_again(server: RedisServer) -> None:
    store = server.store(lease=0.2)
    lease = f"tidegate:owner:{store.owner}"
    server.await_that(lambda: not server.client().exists(lease))
    assert store.renew() == Lease(0.2, lapsed=True)
    assert server.client().exists(lease)
    store.close()


def test_a_lease_that_is_renewed_does_not_run_out(server: RedisServer) -> None:
    store = server.store(lease=50.0)
    server.client().pexpire(f"tidegate:owner:{store.owner}", 20_000)
    assert store.renew() == Lease(50.0)
    assert server.client().pttl(f"tidegate:owner:{store.owner}") > 20_000
    store.close()


def test_a_redis_that_starts_empty_is_told_and_written_again(own_server: RedisServer) -> None:
    store = own_server.store()
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    own_server.kill()
    with pytest.raises(StoreUnreachable):
        store.renew()
    own_server.start()
    assert store.renew() == Lease(60.0, emptied=True)
    assert store.renew() == Lease(60.0)
    assert table.write([Write("a", made.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    assert table.read(["a"]) == [b"second"]
    store.close()


def test_what_an_emptied_redis_has_not_may_be_a_live_servers_until_that_has_written_it_again(
    own_server: RedisServer,
) -> None:
    owner, wanting = own_server.store(lease=1.0), own_server.store(lease=1.0)
    mine, theirs = owner.table("small", 1), wanting.table("small", 1)
    [made] = mine.claim([Claim("a", b"first")])
    own_server.client().flushall()
    [before] = theirs.claim([Claim("a", None)])
    assert before.hold is Hold.ELSEWHERE  # though nobody has noticed the loss yet
    assert wanting.renew().emptied
    after, new = theirs.claim([Claim("a", None), Claim("n", b"new")])
    assert (after.hold, new.hold) == (Hold.ELSEWHERE, Hold.CREATED)
    assert mine.write([Write("a", made.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    owner.close()
    [got] = theirs.claim([Claim("a", None)])
    assert (got.hold, got.record) == (Hold.OWNED, b"second")
    own_server.await_that(lambda: theirs.claim([Claim("b", None)])[0].hold is Hold.ABSENT)
    wanting.close()


def test_what_is_written_before_the_loss_is_known_is_kept_too(own_server: RedisServer) -> None:
    store = own_server.store()
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    own_server.client().flushall()
    assert table.write([Write("a", made.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    assert store.renew().emptied
    store.close()


def test_a_redis_that_does_not_answer_is_told_and_passes(own_server: RedisServer) -> None:
    store = own_server.store(timeout=0.2)
    table = store.table("small", 1)
    [made] = table.claim([Claim("a", b"first")])
    own_server.pause()
    try:
        for call in (store.renew, lambda: table.read(["a"]), lambda: store.asked_for(0.1)):
            with pytest.raises(StoreUnreachable):
                call()
    finally:
        own_server.resume()
    own_server.await_that(lambda: own_server.client().ping())
    assert table.write([Write("a", made.epoch, 1, 5e9, b"second")]) == [Wrote.STORED]
    assert not store.renew().emptied
    store.close()


def test_a_redis_that_is_not_there_is_told(own_server: RedisServer) -> None:
    own_server.kill()
    with pytest.raises(StoreUnreachable):
        own_server.store()
