"""Whatever goes wrong in the client or in a reply, every caller is told and the next call works."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest

from tests.client.bundles import CHUNK, MODEL
from tests.client.fake import NAME, Broken, FakeServer, Gate, applied, detail
from tests.client.observations import assert_close, expected, observations
from tests.client.proxy import Proxy
from tests.harness import RunningServer
from tidegate import (
    Client,
    ClientOptions,
    Coalescing,
    ManySteps,
    RetryPolicy,
    Session,
    SyncClient,
    errors,
)
from tidegate._stream.message import Message
from tidegate._stream.outbox import Outbox
from tidegate._stream.replies import Settler
from tidegate._stream.stream import Stream
from tidegate.v1 import tidegate_pb2 as pb

X = np.ones(2, np.float32)
QUICK = ClientOptions(retry=RetryPolicy(3, 0.01, 0.02))


def run(play: Callable[[FakeServer, Client], Awaitable[None]], options: ClientOptions) -> None:
    """Play with a server of the test's words; whoever hangs fails."""

    async def bounded() -> None:
        async with (
            asyncio.timeout(60),
            FakeServer() as server,  # type: ignore[abstract]  # gRPC refuses the other calls
            Client(server.address, options) as client,
        ):
            await play(server, client)

    asyncio.run(bounded())


async def opened(client: Client, session_id: str = "a") -> Session:
    session = client.session(NAME, session_id, keep=True)
    await session.open()
    return session


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (Message, "encode"),
        (Message, "add"),
        (Outbox, "fill"),
        (Settler, "settle"),
        (Stream, "_write"),
        (Stream, "_settle"),
        (Stream, "_due"),
        (Stream, "_converse"),
    ],
)
def test_a_fault_within_ends_every_waiter_and_the_next_call_works(
    owner: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    async def play(server: FakeServer, client: Client) -> None:
        one, two = await opened(client, "a"), await opened(client, "b")
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, fault)
            waiting = [one.step(X), one.step(X), two.step(X), two.chunk([X] * 20)]
            many = client.step_many(NAME, ["c"], [0], [X], version=1)  # which is known already
            *told, rows = await asyncio.gather(*waiting, many, return_exceptions=True)
        for error in told:
            assert isinstance(error, errors.Internal), error
            assert isinstance(error.__cause__, ZeroDivisionError)
            assert "ZeroDivisionError" in str(error)
        assert isinstance(rows, ManySteps) and isinstance(rows.errors[0], errors.Internal)
        stream = await client.stream_of(NAME, 1, "")
        assert stream.backlog.steps == 0
        assert len(await one.step(X)) == len(await two.step(X)) == 1

    run(play, QUICK)


def test_a_fault_of_the_watch_over_timeouts_ends_waiting_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.answer = gate = Gate()
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "_expire", fault)
            with pytest.raises(errors.Internal):
                await session.step(X)
        gate.open.set()
        assert len(await session.step(X)) == 1

    run(play, QUICK)


def spoiled_lane(reply: pb.StepBatchReply) -> None:
    reply.opened.add(lane=99, error=detail(pb.REASON_UNKNOWN_SESSION))


def spoiled_outputs(reply: pb.StepBatchReply) -> None:
    reply.outputs += b"\0"


def spoiled_rows(reply: pb.StepBatchReply) -> None:
    reply.status += b"\0"


def spoiled_also(reply: pb.StepBatchReply) -> None:
    reply.errors.add(row=0, error=detail(pb.REASON_BAD_INPUT), also=b"\7\0\0\0")


def spoiled_column(reply: pb.StepBatchReply) -> None:
    reply.errors.add(row=0, error=detail(pb.REASON_BAD_INPUT), also=b"\7")


@pytest.mark.parametrize(
    "spoil", [spoiled_lane, spoiled_outputs, spoiled_rows, spoiled_also, spoiled_column]
)
def test_a_reply_that_does_not_fit_fails_its_message_alone(
    spoil: Callable[[pb.StepBatchReply], None],
) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            reply = applied(batch)
            if len(server.batches) == 1:
                spoil(reply)
            return reply

        server.answer = answer
        with pytest.raises(errors.Internal):
            await session.step(X)
        assert len(await session.step(X)) == 1

    run(play, QUICK)


def test_a_stream_that_somebody_on_the_way_cancels_is_opened_again() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.refusals = [(grpc.StatusCode.CANCELLED, None)] * 2
        assert len(await session.step(X)) == 1

    run(play, QUICK)


def test_a_program_that_cancels_all_tasks_may_call_again() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.answer = gate = Gate()
        step = asyncio.ensure_future(session.step(X))
        await gate.reached.wait()
        stream = await client.stream_of(NAME, 1, "")
        for task in stream._tasks:
            task.cancel()
        with pytest.raises(errors.Cancelled):
            await step
        gate.open.set()
        assert len(await session.step(X)) == 1

    run(play, QUICK)


def test_a_session_used_after_its_client_was_closed_is_told_so() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        await session.step(X)
        stream = await client.stream_of(NAME, 1, "")
        await client.close()
        for call in (session.step(X), session.chunk([X] * 20)):
            with pytest.raises(errors.Cancelled, match="client was closed"):
                await call
        assert stream.backlog.steps == 0

    run(play, QUICK)


def test_callers_that_wait_for_room_are_told_of_the_end_as_well() -> None:
    options = ClientOptions(coalescing=Coalescing(waiting_steps=1))

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.answer = gate = Gate()
        waiting = [asyncio.ensure_future(session.step(X)) for _ in range(3)]
        waiting.append(asyncio.ensure_future(session.chunk([X] * 20)))
        many = asyncio.ensure_future(client.step_many(NAME, ["b"], [0], [X]))
        await gate.reached.wait()
        await client.close()
        for task in waiting:
            with pytest.raises(errors.Cancelled):
                await task
        with pytest.raises(errors.Cancelled):
            (await many).raise_first()

    run(play, options)


def test_threads_that_wait_when_the_client_is_closed_are_told_so(serving: RunningServer) -> None:
    told: list[BaseException] = []
    with Proxy(serving.address) as proxy:
        client = SyncClient(proxy.address)
        client.connect()
        session = client.session(MODEL, "closed-under-threads", keep=True)
        session.open()
        session.step(observations(1)[0])
        proxy.holding.set()
        ready = threading.Barrier(9)

        def wait(call: Callable[[], object]) -> None:
            ready.wait()
            try:
                while True:
                    call()
            except (errors.TidegateError, RuntimeError) as error:
                told.append(error)

        calls: list[Callable[[], object]] = [
            lambda: session.step(observations(1)[0], timeout=60),
            lambda: session.info(timeout=60),
        ]
        threads = [threading.Thread(target=wait, args=(calls[k % 2],)) for k in range(8)]
        for thread in threads:
            thread.start()
        ready.wait()
        client.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert len(told) == 8
    for error in told:
        assert isinstance(error, errors.Cancelled) or "not connected" in str(error)


def test_a_chunk_larger_than_the_backlog_frees_what_it_took(serving: RunningServer) -> None:
    options = ClientOptions(coalescing=Coalescing(waiting_steps=4))

    async def play() -> None:
        xs = observations(3 * CHUNK)
        async with (
            Client(serving.address, options) as client,
            client.session(MODEL, "long-chunk") as session,
        ):
            assert_close(await session.chunk(xs), expected(xs))
            assert (await client.stream_of(MODEL, 1, "")).backlog.steps == 0

    asyncio.run(play())


def test_steps_of_many_wait_for_room_no_longer_than_their_timeout() -> None:
    options = ClientOptions(coalescing=Coalescing(waiting_steps=1))

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.answer = gate = Gate()
        first = asyncio.ensure_future(session.step(X))
        await gate.reached.wait()
        with pytest.raises(errors.DeadlineExceeded, match="no room"):
            await client.step_many(NAME, ["b"], [0], [X], timeout=0.05)
        gate.open.set()
        await first
        assert all(len(batch.opens) == 1 for batch in server.batches)

    run(play, options)


@pytest.mark.parametrize("other", [X, 2 * X], ids=["the same", "other"])
def test_two_tasks_that_follow_a_step_given_up_get_their_own_answers(other: Any) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.answer = gate = Gate()
        with pytest.raises(errors.DeadlineExceeded):
            await session.step(X, timeout=0.05)
        again = asyncio.ensure_future(session.step(X))
        await asyncio.sleep(0)
        further = asyncio.ensure_future(session.step(other))
        await asyncio.sleep(0)
        gate.open.set()
        assert [len(each) for each in await asyncio.gather(again, further)] == [1, 1]
        assert session.steps == 2

    run(play, QUICK)


def test_a_step_refused_after_it_was_sent_twice_is_settled_by_the_count() -> None:
    """It may have been applied by the first attempt: the next one asks, over the same lane."""

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        messages = 0

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            nonlocal messages
            messages += 1
            if messages == 1:
                raise Broken
            reply = applied(batch, steps=1)
            if messages == 2:
                reply.status, reply.outputs = b"\2", b""
                reply.errors.add(row=0, error=detail(pb.REASON_RUN_FAILED, code=13))
            return reply

        server.answer = answer
        with pytest.raises(errors.RunFailed):
            await session.step(X)
        assert len(await session.step(2 * X, timeout=10)) == 1
        assert session.steps == 2
        assert [len(batch.lanes) for batch in server.batches] == [4, 4, 0, 4]

    run(play, QUICK)


def test_a_step_that_the_count_tells_of_is_read_again_and_not_applied_again() -> None:
    """Two steps are given up; the second one's count shows that the first had been applied."""

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        gate, numbers = Gate(), list[int]()

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            if len(server.batches) == 1:
                await gate(batch)
                raise Broken
            numbers.extend(np.frombuffer(batch.first_steps, "<u8").tolist())
            return applied(batch, steps=1)

        server.answer = answer
        first = asyncio.ensure_future(session.step(X))
        await gate.reached.wait()
        second = asyncio.ensure_future(session.step(2 * X))
        await asyncio.sleep(0)
        first.cancel()
        gate.open.set()
        assert len(await second) == 1
        assert (numbers, session.steps) == ([1], 2)
        assert len(await session.step(X)) == 1
        assert (numbers, session.steps) == ([1, 0], 2)
        assert len(await session.step(3 * X)) == 1
        assert (numbers, session.steps) == ([1, 0, 2], 3)

    run(play, QUICK)


def test_the_newest_version_is_not_pinned_by_a_call_that_names_one() -> None:
    class Two(FakeServer):
        async def ListModels(self, request: Any, context: Any) -> pb.ListModelsReply:  # noqa: N802
            reply = await super().ListModels(request, context)
            reply.models.add().CopyFrom(reply.models[0])
            reply.models[1].version = 2
            return reply

    async def play() -> None:
        async with Two() as server, Client(server.address) as client:  # type: ignore[abstract]
            for version in (1, 0):
                await client.step_many(NAME, ["a"], [0], [X], version=version)
            assert [batch.version for batch in server.batches] == [1, 2]

    asyncio.run(play())
