"""Sessions in shards: a stream each, whose header a proxy routes by; streams that grow old."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.client.fake import NAME, FakeServer, applied, detail, refused
from tidegate import (
    Client,
    ClientOptions,
    Coalescing,
    ManySteps,
    RetryPolicy,
    Session,
    errors,
    shard_of,
)
from tidegate._stream import stream
from tidegate.shards import SHARD_KEY
from tidegate.v1 import tidegate_pb2 as pb

X = [0.5, -1.0]
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.02)
SHARDS = 64
EIGHT = ClientOptions(timeout=20.0, shards=8, retry=QUICK)


class ShardedServer(FakeServer):
    """A fake server that notes by which shard each call would have been routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[tuple[str, str | None]] = []
        self.by_shard: dict[str | None, list[pb.StepBatch]] = defaultdict(list)
        self.held: dict[str, asyncio.Event] = {}
        """Shards whose messages wait."""
        self.refusing: dict[str, pb.Reason.ValueType] = {}
        """Shards whose next message is refused, and why."""

    async def _refuse(self, call: str, context: Any) -> None:
        self.headers.append((call, shard(context)))
        await super()._refuse(call, context)

    async def StepStream(  # noqa: N802
        self, requests: AsyncIterator[pb.StepBatch], context: Any
    ) -> AsyncIterator[pb.StepBatchReply]:
        await self._refuse("StepStream", context)
        mine = shard(context) or ""
        async for batch in requests:
            self.by_shard[mine].append(batch)
            if mine in self.held:
                await self.held[mine].wait()
            reason = self.refusing.pop(mine, None)
            yield applied(batch) if reason is None else refused(batch, detail(reason))

    async def Peek(self, request: Any, context: Any) -> pb.PeekReply:  # noqa: N802
        await self._refuse("Peek", context)
        return pb.PeekReply()

    async def Forecast(self, request: Any, context: Any) -> pb.ForecastReply:  # noqa: N802
        await self._refuse("Forecast", context)
        return pb.ForecastReply(outputs=[0.0])

    async def Export(self, request: Any, context: Any) -> pb.Snapshot:  # noqa: N802
        await self._refuse("Export", context)
        return pb.Snapshot(session_id=request.session_id)

    async def Import(self, request: Any, context: Any) -> pb.ImportReply:  # noqa: N802
        await self._refuse("Import", context)
        return pb.ImportReply(session=self._session(request))

    async def Fork(self, request: Any, context: Any) -> pb.Session:  # noqa: N802
        await self._refuse("Fork", context)
        return self._session(request)


def shard(context: Any) -> str | None:
    """The shard in a call's headers."""
    told: str | None = dict(context.invocation_metadata()).get(SHARD_KEY)
    return told


def of_shards(count: int, shards: int = 8) -> list[str]:
    """Sessions of so many different shards, by their first."""
    found: dict[int, str] = {}
    at = 0
    while len(found) < count:
        found.setdefault(shard_of(f"s{at}", shards), f"s{at}")
        at += 1
    return list(found.values())


def play(
    test: Callable[[ShardedServer, Client], Awaitable[None]], options: ClientOptions = EIGHT
) -> None:
    """Run a test with a server and a client of it."""

    async def run() -> None:
        async with (
            ShardedServer() as server,  # type: ignore[abstract]  # gRPC refuses the other calls
            Client(server.address, options) as client,
        ):
            await asyncio.wait_for(test(server, client), 20)

    asyncio.run(run())


async def opened(client: Client, session_id: str) -> Session:
    session = client.session(NAME, session_id, keep=True)
    await session.open()
    return session


def test_a_shard_is_the_crc_32_of_the_id_as_documented() -> None:
    """The check value of CRC-32 is that of "123456789"; docs/protocol.md has the others."""
    assert shard_of("123456789", 1 << 32) == 0xCBF43926
    assert [shard_of(each, 64) for each in ("watch-7", "call-381", "größe")] == [62, 38, 9]
    counts = np.bincount([shard_of(f"session-{k}", 64) for k in range(6400)], minlength=64)
    assert counts.min() > 50 and counts.max() < 150


def test_without_shards_there_is_no_header() -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        session = await opened(client, "a")
        await session.step(X)
        await session.close()
        assert {told for _, told in server.headers} == {None}
        assert set(server.by_shard) == {""}

    play(test, ClientOptions())


def test_every_call_for_a_session_carries_its_shard() -> None:
    name, other = "watch-7", of_shards(8, SHARDS)[7]
    mine, theirs = str(shard_of(name, SHARDS)), str(shard_of(other, SHARDS))

    async def test(server: ShardedServer, client: Client) -> None:
        session = await opened(client, name)
        await session.step(X)
        await session.peek()
        await session.forecast(1)
        packed = await session.export()
        await client.import_session(packed)
        await client.import_session(packed, session_id=other)
        await client.get_session(NAME, name)
        await client.fork_session(NAME, name, other)
        await client.reset_session(NAME, name)
        await session.close()
        assert [told for call, told in server.headers if call == "Import"] == [mine, theirs]
        assert {told for call, told in server.headers if call not in ("Import", "ListModels")} == {
            mine
        }
        assert mine != theirs

    play(test, ClientOptions(shards=SHARDS))


def test_opens_that_are_asked_for_together_travel_by_shard() -> None:
    names = [f"s{k}" for k in range(100)]

    async def test(server: ShardedServer, client: Client) -> None:
        await asyncio.gather(*(opened(client, each) for each in names))
        calls = [call for call, _ in server.headers if call in ("Open", "OpenMany")]
        assert 8 <= len(calls) < len(names)
        told = {told for call, told in server.headers if call in ("Open", "OpenMany")}
        assert told == {str(shard_of(each, 8)) for each in names}

    play(test)


def test_steps_of_a_shard_travel_together_on_its_stream() -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        sessions = [await opened(client, f"s{k}") for k in range(40)]
        await asyncio.gather(*(each.step(X) for each in sessions))
        await asyncio.gather(*(each.step(X) for each in sessions))
        assert server.calls.count("StepStream") == len(server.by_shard)
        for number, batches in server.by_shard.items():
            names = {each.session_id for batch in batches for each in batch.opens}
            assert {str(shard_of(each, 8)) for each in names} == {number}
        sent = [batch for batches in server.by_shard.values() for batch in batches]
        assert sum(len(each.lanes) // 4 for each in sent) == 80 and len(sent) < 40

    play(test)


def test_a_shard_that_is_not_answered_and_one_that_moves_disturb_no_other() -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        stuck, going, moving = [await opened(client, each) for each in of_shards(3)]
        server.held[str(shard_of(stuck.session_id, 8))] = free = asyncio.Event()
        waiting = asyncio.create_task(stuck.step(X))
        for _ in range(20):
            await going.step(X)
            await moving.step(X)
        server.refusing[str(shard_of(moving.session_id, 8))] = pb.REASON_MOVED
        await moving.step(X)
        streams = [told for call, told in server.headers if call == "StepStream"]
        assert streams.count(str(shard_of(moving.session_id, 8))) == 2
        assert len(streams) == 4 and not waiting.done()
        free.set()
        assert len(await waiting) == 1

    play(test)


def test_many_steps_of_several_shards_are_answered_in_their_order() -> None:
    names = [f"s{k}" for k in range(50)]

    async def test(server: ShardedServer, client: Client) -> None:
        ids: list[Any] = [*names[:10], "", *names[10:]]
        done = await client.step_many(NAME, ids, [0] * 51, [X] * 51)
        assert set(done.errors) == {10} and isinstance(done.errors[10], errors.BadInput)
        assert not np.isnan(np.delete(done.outputs, 10, axis=0)).any()
        assert np.isnan(done.outputs[10]).all()
        sent = {
            (each.session_id, number)
            for number, batches in server.by_shard.items()
            for batch in batches
            for each in batch.opens
        }
        assert sent == {(each, str(shard_of(each, 8))) for each in names}

    play(test)


def test_many_steps_tell_of_a_shard_that_is_not_answered_in_its_rows_alone() -> None:
    names = of_shards(4)

    async def test(server: ShardedServer, client: Client) -> None:
        server.held[str(shard_of(names[2], 8))] = asyncio.Event()
        done = await client.step_many(NAME, names, [0] * 4, [X] * 4, timeout=0.4)
        assert set(done.errors) == {2} and isinstance(done.errors[2], errors.DeadlineExceeded)
        assert np.isnan(done.outputs).any(axis=1).tolist() == [False, False, True, False]
        with pytest.raises(errors.DeadlineExceeded):
            await client.step_many(NAME, [names[2]], [1], [X], timeout=0.1)

    play(test)


def test_what_may_wait_is_bounded_over_all_shards() -> None:
    one, two = of_shards(2)

    async def test(server: ShardedServer, client: Client) -> None:
        first, second = await opened(client, one), await opened(client, two)
        server.held[str(shard_of(one, 8))] = free = asyncio.Event()
        waiting = asyncio.create_task(first.step(X))
        await asyncio.sleep(0.05)
        with pytest.raises(errors.DeadlineExceeded, match="no room"):
            await second.step(X, timeout=0.1)
        free.set()
        await waiting
        assert len(await second.step(X)) == 1

    play(test, ClientOptions(shards=8, coalescing=Coalescing(waiting_steps=1)))


@pytest.mark.parametrize("age", [0.1, 0.001])
def test_a_stream_that_grew_old_is_opened_anew_and_no_step_goes_twice(age: float) -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        sessions = [await opened(client, f"s{k}") for k in range(5)]
        while server.calls.count("StepStream") < 4:
            await asyncio.gather(*(each.step(X) for each in sessions))
        sent = [
            (opens[lane], number)
            for batches, opens in named(server)
            for batch in batches
            for lane, number in zip(
                np.frombuffer(batch.lanes, "<u4").tolist(),
                np.frombuffer(batch.first_steps, "<u8").tolist(),
                strict=True,
            )
        ]
        assert len(sent) == len(set(sent)) == 5 * sessions[0].steps

    play(test, ClientOptions(stream_age=age))


def named(server: ShardedServer) -> list[tuple[list[pb.StepBatch], dict[int, str]]]:
    """The batches of each shard, and its lanes, which stay the same over its streams."""
    return [
        (batches, {each.lane: each.session_id for batch in batches for each in batch.opens})
        for batches in server.by_shard.values()
    ]


def test_an_idle_stream_that_grew_old_costs_nothing_until_the_next_step() -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        session = await opened(client, "a")
        await session.step(X)
        await asyncio.sleep(0.3)
        assert server.calls.count("StepStream") == 1
        await session.step(X)
        assert server.calls.count("StepStream") == 2

    play(test, ClientOptions(stream_age=0.1))


@pytest.mark.parametrize("reason", [pb.REASON_DRAINING, pb.REASON_STORE_DOWN])
def test_a_server_that_is_going_or_has_lost_its_store_is_left_for_another(
    reason: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not again and again: a stream is kept for a while."""

    async def test(server: ShardedServer, client: Client) -> None:
        session = await opened(client, "a")
        await session.step(X)
        server.refusing[""] = reason
        await session.step(X)
        assert server.calls.count("StepStream") == 1
        monkeypatch.setattr(stream, "LEAST_AGE", 0.0)
        server.refusing[""] = reason
        await session.step(X)
        assert server.calls.count("StepStream") == 2

    monkeypatch.setattr(stream, "LEAST_AGE", 3600.0)
    play(test, ClientOptions(retry=QUICK))


@pytest.mark.parametrize(
    ("field", "value"),
    [("shards", 0), ("shards", 5000), ("shards", 1.5), ("shards", True), ("stream_age", 0),
     ("stream_age", float("nan")), ("stream_age", "1")],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"ClientOptions\.{field}"):
        ClientOptions(**{field: value})


def test_no_rows_are_no_steps() -> None:
    async def test(server: ShardedServer, client: Client) -> None:
        done = await client.step_many(NAME, [], [], np.empty((0, 2), np.float32))
        assert isinstance(done, ManySteps) and len(done.outputs) == 0

    play(test)
