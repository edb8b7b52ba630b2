"""Steps awaited at the same time travel together, in order, bounded, and without harm to others."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from tests.client.bundles import CHUNK, LABELS, MODEL
from tests.client.observations import assert_close, expected, observations
from tests.client.proxy import Proxy
from tests.harness import RunningServer, running_server
from tidegate import Client, ClientOptions, Coalescing, Session, SyncClient, errors
from tidegate._stream.message import Message
from tidegate._stream.outbox import MANY
from tidegate._stream.replies import Settler
from tidegate._stream.stream import Stream
from tidegate.model import FloatArray
from tidegate.v1 import tidegate_pb2 as pb
from training.bundle import random_bundle
from training.network import random_network
from training.reference import NumpyNetwork


def name() -> str:
    return f"watch-{uuid4()}"


async def sessions(client: Client, count: int) -> list[Session]:
    opened = [client.session(MODEL, name()) for _ in range(count)]
    await asyncio.gather(*(session.open() for session in opened))
    return opened


async def play(session: Session, xs: FloatArray) -> FloatArray:
    return np.array([await session.step(x) for x in xs])


def batch_mean(server: RunningServer) -> tuple[float, float]:
    return server.metric("tidegate_batch_rows_sum"), server.metric("tidegate_batch_rows_count")


def test_steps_of_many_sessions_share_messages_and_runs(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client:
            xs = [observations(20, seed) for seed in range(200)]
            opened = await sessions(client, len(xs))
            answers = await asyncio.gather(*map(play, opened, xs))
            for x, answer in zip(xs, answers, strict=True):
                assert_close(answer, expected(x))

    rows, runs = batch_mean(serving)
    asyncio.run(run())
    rows_after, runs_after = batch_mean(serving)
    assert rows_after - rows == 200 * 20
    assert (rows_after - rows) / (runs_after - runs) > 20


@pytest.mark.parametrize("count", [MANY - 1, MANY, 3 * MANY])
def test_many_that_step_in_step_have_two_messages_under_way_so_that_neither_side_waits(
    count: int, serving: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, rows, settle = list[int](), list[int](), Stream._settle

    def settling(stream: Stream, reply: pb.StepBatchReply) -> None:
        under_way.append(len(stream._in_flight))
        rows.append(len(reply.status))
        settle(stream, reply)

    async def run() -> None:
        async with Client(serving.address) as client:
            xs = [observations(20, seed) for seed in range(count)]
            opened = await sessions(client, count)
            await asyncio.gather(
                *(session.step(x[0]) for session, x in zip(opened, xs, strict=True))
            )
            with monkeypatch.context() as patched:
                patched.setattr(Stream, "_settle", settling)
                answers = await asyncio.gather(
                    *(play(s, x[1:]) for s, x in zip(opened, xs, strict=True))
                )
            for x, answer in zip(xs, answers, strict=True):
                assert_close(answer, expected(x)[1:])

    asyncio.run(run())
    assert sum(rows) == 19 * count
    if count < MANY:
        assert set(under_way) == {1} and set(rows) == {count}
    else:
        assert under_way.count(2) >= 19 // 2 and np.median(rows) <= (count + 1) // 2


def test_steps_of_one_session_keep_the_order_in_which_they_were_asked_for(
    serving: RunningServer,
) -> None:
    async def run() -> None:
        xs = observations(3 * CHUNK + 40)
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            calls: list[Coroutine[Any, Any, FloatArray]]
            calls = [session.step(x) for x in xs[:20]]
            calls += [session.chunk(xs[20 : 20 + 3 * CHUNK])]
            calls += [session.step(x) for x in xs[20 + 3 * CHUNK :]]
            answers = await asyncio.gather(*calls)
            assert_close(np.vstack(answers), expected(xs))

    asyncio.run(run())


def test_a_bad_row_and_a_cancelled_one_harm_no_other(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client:
            opened = await sessions(client, 60)
            xs = [observations(6, seed) for seed in range(len(opened))]
            await asyncio.gather(*(s.step(x[0]) for s, x in zip(opened, xs, strict=True)))
            bad = np.full(6, np.nan, np.float32)
            steps = [
                asyncio.ensure_future(s.step(bad if k % 3 == 0 else x[1]))
                for k, (s, x) in enumerate(zip(opened, xs, strict=True))
            ]
            await asyncio.sleep(0)
            for task in steps[1::3]:
                task.cancel()  # before they were sent
            done = await asyncio.gather(*steps, return_exceptions=True)
            for k, (session, x) in enumerate(zip(opened, xs, strict=True)):
                if k % 3 == 0:
                    assert isinstance(done[k], errors.BadInput)
                    assert "accel_x" in str(done[k])
                elif k % 3 == 1:
                    assert isinstance(done[k], asyncio.CancelledError)
                rest = x[1:] if k % 3 < 2 else x[2:]
                assert_close(await play(session, rest), expected(x)[len(x) - len(rest) :])
                assert (await session.info()).steps == len(x)

    asyncio.run(run())


def test_a_chunk_that_fails_within_takes_its_rest_along(serving: RunningServer) -> None:
    async def run() -> None:
        xs = observations(4 * CHUNK)
        spoiled = xs.copy()
        spoiled[2 * CHUNK + 3, 4] = np.inf
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            with pytest.raises(errors.BadInput) as caught:
                await session.chunk(spoiled)
            assert caught.value.index == 2 * CHUNK + 3
            assert caught.value.feature == "gyro_y"
            assert session.steps == 2 * CHUNK
            assert_close(await session.chunk(xs), expected(xs))
            assert (await session.info()).steps == len(xs)

    asyncio.run(run())


def test_callers_wait_where_more_steps_are_awaited_than_may(serving: RunningServer) -> None:
    limits = Coalescing(waiting_steps=8, message_steps=4, in_flight=1)

    async def run() -> None:
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address, ClientOptions(coalescing=limits)) as client:
                opened = await sessions(client, 40)
                xs = [observations(3, seed) for seed in range(len(opened))]
                await asyncio.gather(*(s.step(x[0]) for s, x in zip(opened, xs, strict=True)))
                proxy.holding.set()
                plays = [
                    asyncio.ensure_future(play(s, x[1:])) for s, x in zip(opened, xs, strict=True)
                ]
                await asyncio.sleep(0.3)
                stream = await client.stream_of(MODEL, 1, "")
                assert stream.backlog.steps == 8  # and no more, with 40 callers
                proxy.cut()
                proxy.holding.clear()
                for x, answer in zip(xs, await asyncio.gather(*plays), strict=True):
                    assert_close(answer, expected(x)[1:])
                assert stream.backlog.steps == 0

    asyncio.run(run())


def test_a_caller_that_finds_no_room_in_time_is_told_so(serving: RunningServer) -> None:
    limits = Coalescing(waiting_steps=1)

    async def run() -> None:
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address, ClientOptions(coalescing=limits)) as client:
                one, two = await sessions(client, 2)
                proxy.holding.set()
                first = asyncio.ensure_future(one.step(observations(1)[0]))
                await asyncio.sleep(0.05)
                with pytest.raises(errors.DeadlineExceeded, match="no room"):
                    await two.step(observations(1)[0], timeout=0.1)
                proxy.cut()
                proxy.holding.clear()
                await first
                assert two.steps == 0
                assert_close(await play(two, observations(2)), expected(observations(2)))

    asyncio.run(run())


@pytest.mark.parametrize("limits", [Coalescing(message_bytes=100), Coalescing(message_steps=3)])
def test_messages_keep_to_their_bounds(serving: RunningServer, limits: Coalescing) -> None:
    async def run() -> None:
        async with Client(serving.address, ClientOptions(coalescing=limits)) as client:
            opened = await sessions(client, 20)
            xs = [observations(2 * CHUNK, seed) for seed in range(len(opened))]
            answers = await asyncio.gather(*(s.chunk(x) for s, x in zip(opened, xs, strict=True)))
            for x, answer in zip(xs, answers, strict=True):
                assert_close(answer, expected(x))

    asyncio.run(run())


def test_messages_shrink_to_what_the_server_takes(repository: Path) -> None:
    """Its queue and its message size are smaller than what would have travelled together."""
    flags = {"max_message_bytes": 4096, "max_queued_steps": 60}

    async def run(address: str) -> None:
        async with Client(address) as client:
            opened = await sessions(client, 400)
            xs = [observations(4, seed) for seed in range(len(opened))]
            answers = await asyncio.gather(*map(play, opened, xs))
            for x, answer in zip(xs, answers, strict=True):
                assert_close(answer, expected(x))

    with running_server(repository, **flags) as small:
        asyncio.run(run(small.address))


def test_a_row_too_large_for_the_server_fails_alone(tmp_path: Path) -> None:
    weights = random_network(6, 8, 1, 3, seed=1)
    random_bundle(tmp_path / "long" / "1", weights)  # its chunks have up to 64 steps

    async def run(address: str) -> None:
        xs = observations(64)
        async with Client(address) as client:
            opened = [client.session("long", name()) for _ in range(30)]
            await asyncio.gather(*(session.open() for session in opened))
            steps = [session.step(xs[0]) for session in opened[1:]]
            failed, *answers = await asyncio.gather(
                opened[0].chunk(xs), *steps, return_exceptions=True
            )
            assert isinstance(failed, errors.MessageTooLarge)
            wanted = NumpyNetwork(weights).run(xs[:20], NumpyNetwork(weights).initial())[0]
            for answer in answers:
                assert isinstance(answer, np.ndarray)
                assert_close(answer, wanted[0].astype(np.float32))
            assert_close(await opened[0].chunk(xs[:20]), wanted.astype(np.float32))

    with running_server(tmp_path, max_message_bytes=1024) as small:
        asyncio.run(run(small.address))


def test_steps_of_many_sessions_in_arrays(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client:
            names = [name() for _ in range(3000)]
            xs = observations(2 * len(names)).reshape(2, len(names), 6)
            zeros, ones = np.zeros(len(names), int), np.ones(len(names), int)
            first = await client.step_many(MODEL, names, zeros, xs[0])
            first.raise_first()
            assert first.outputs.shape == (len(names), len(LABELS))
            again = await client.step_many(MODEL, names, zeros, xs[0])
            assert again.remembered.all() and not first.remembered.any()
            np.testing.assert_array_equal(again.outputs, first.outputs)
            second = await client.step_many(MODEL, names, ones, xs[1])
            for k in (0, 1, 1500, 2999):
                both = np.stack([first.outputs[k], second.outputs[k]])
                assert_close(both, expected(xs[:, k]))

    asyncio.run(run())


def test_chunks_of_many_sessions_in_arrays_and_their_errors_by_row(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client, client.session(MODEL, name()) as live:
            xs = observations(5 * CHUNK).reshape(5, CHUNK, 6)
            xs[3, 2, 1] = np.nan
            names = [live.session_id, name(), live.session_id, live.session_id, "x" * 300]
            done = await client.step_many(MODEL, names, [0, 0, CHUNK, 2 * CHUNK, 0], xs)
            assert done.outputs.shape == (5, CHUNK, len(LABELS))
            assert_close(done.outputs[[0, 2]].reshape(-1, 3), expected(xs[[0, 2]].reshape(-1, 6)))
            assert_close(done.outputs[1], expected(xs[1]))
            assert sorted(done.errors) == [3, 4]
            assert isinstance(done.errors[3], errors.BadInput) and done.errors[3].index == 2
            assert isinstance(done.errors[4], errors.BadInput)
            assert done.errors[4].field == "session_id"
            assert np.isnan(done.outputs[3:]).all()
            with pytest.raises(errors.BadInput):
                done.raise_first()
            gone = await client.step_many(MODEL, [name()], [0], xs[:1], create=False)
            assert isinstance(gone.errors[0], errors.UnknownSession)
            none = await client.step_many(MODEL, [], [], np.empty((0, 6)))
            assert none.outputs.shape == (0, len(LABELS))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("coalescing", "most"),
    [
        (Coalescing(message_steps=100), 100),  # as asked for
        (Coalescing(message_bytes=24 * 50), 50),  # six features of four bytes
        (Coalescing(message_steps=100_000), 16_384),  # no more lanes than the server names at once
    ],
)
def test_a_block_travels_in_as_many_messages_as_it_takes(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    coalescing: Coalescing,
    most: int,
) -> None:
    """Once a large one went whole, whatever the limits: one that the server refused for its size
    was sent again and again, until its time was over."""
    many = 20_000 if most > 10_000 else 1_000
    names, answered = [f"block-{k}" for k in range(many)], list[int]()
    settle = Settler.settle

    def settling(self: Settler, message: Message, reply: pb.StepBatchReply) -> None:
        settle(self, message, reply)
        if not reply.errors:
            answered.append(len(reply.status))

    monkeypatch.setattr(Settler, "settle", settling)

    async def run(server: RunningServer) -> None:
        async with Client(server.address, ClientOptions(coalescing=coalescing)) as client:
            xs = observations(many, 9)
            done = await client.step_many(MODEL, names, np.zeros(many, int), xs, timeout=60)
            done.raise_first()
            for k in (0, many // 2, many - 1):
                assert_close(done.outputs[k : k + 1], expected(xs[k : k + 1]))

    with running_server(repository, max_sessions=many) as server:
        asyncio.run(run(server))
        assert server.metric("tidegate_steps_total") == many
    assert sum(answered) == many
    assert max(answered) <= most


def test_steps_of_many_open_sessions_that_have_ended_since(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client:
            ids, xs = [name() for _ in range(3)], observations(3)
            first = await client.step_many(MODEL, ids, [0, 0, 0], xs)
            for session_id in ids[1:]:
                await client.close_session(MODEL, session_id)
            again = await client.step_many(MODEL, ids, [0, 0, 1], xs)
            assert again.remembered.tolist() == [True, False, False]
            assert_close(again.outputs[:2], first.outputs[:2])
            assert sorted(again.errors) == [2]
            assert isinstance(again.errors[2], errors.SessionClosed)  # its step 0 is gone

    asyncio.run(run())


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2], [0.0, 1.0], [0, -1], "no"])
def test_numbers_that_are_none_are_refused_before_they_travel(
    serving: RunningServer, numbers: object
) -> None:
    async def run() -> None:
        async with Client(serving.address) as client:
            with pytest.raises(errors.BadInput) as caught:
                await client.step_many(MODEL, ["a", "b"], numbers, np.zeros((2, 6)))  # type: ignore[arg-type]
            assert caught.value.field == "first_steps"

    asyncio.run(run())


def test_a_session_opened_again_after_its_end_is_another_one(serving: RunningServer) -> None:
    async def run() -> None:
        xs, session_id = observations(5), name()
        async with Client(serving.address) as client:
            one = client.session(MODEL, session_id)
            await one.open()
            await play(one, xs)
            await one.close()
            with pytest.raises(errors.SessionClosed):
                await one.step(xs[0])
            await one.open()
            assert_close(await play(one, xs), expected(xs))
            await one.close()

    asyncio.run(run())


def test_threads_share_messages_too(serving: RunningServer) -> None:
    xs = [observations(30, seed) for seed in range(24)]
    answers: dict[int, FloatArray] = {}
    with SyncClient(serving.address) as client:

        def run(k: int) -> None:
            with client.session(MODEL, name()) as session:
                answers[k] = np.array([session.step(x) for x in xs[k]])

        threads = [threading.Thread(target=run, args=(k,)) for k in range(len(xs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k, x in enumerate(xs):
        assert_close(answers[k], expected(x))


def test_a_session_forks_looks_ahead_moves_and_starts_anew(serving: RunningServer) -> None:
    async def run() -> None:
        xs = observations(12)
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            await session.chunk(xs[:4])
            assert_close(await session.forecast(8, xs[4:]), expected(xs)[4:])
            async with await session.fork(name()) as branch:
                assert (branch.steps, branch.created) == (4, True)
                assert_close(await branch.chunk(xs[4:]), expected(xs)[4:])
            packed = await session.export()
            moved = await client.import_session(packed, session_id=name())
            assert moved.steps == 4
            state = await client.peek(MODEL, moved.session_id)
            for key, values in (await session.peek()).items():
                np.testing.assert_array_equal(values, state[key])
            with pytest.raises(errors.SessionExists):
                await client.import_session(packed)
            with pytest.raises(errors.BadSnapshot):
                await client.import_session(b"\xff\xff rubbish")
            await session.reset()
            assert session.steps == 0
            assert_close(await play(session, xs), expected(xs))

    asyncio.run(run())


def test_sessions_that_come_and_go_use_the_same_lanes_again(serving: RunningServer) -> None:
    async def run() -> None:
        xs = observations(2)
        async with Client(serving.address) as client:
            for _ in range(60):
                async with client.session(MODEL, name()) as session:
                    assert_close(await play(session, xs), expected(xs))
            assert len((await client.stream_of(MODEL, 1, "")).lanes.names) == 1

    asyncio.run(run())


def test_a_closed_client_leaves_nobody_waiting(serving: RunningServer) -> None:
    async def run() -> None:
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address) as client:
                one, two = await sessions(client, 2)
                await one.step(observations(1)[0])
                proxy.holding.set()
                waiting: list[asyncio.Future[Any]] = [
                    asyncio.ensure_future(session.chunk(observations(3 * CHUNK)))
                    for session in (one, two)
                ]
                steps = client.step_many(MODEL, [name()], [0], observations(1), version=1)
                many = asyncio.ensure_future(steps)
                waiting.append(asyncio.ensure_future(one.export()))
                await asyncio.sleep(0.05)
            for task in waiting:
                with pytest.raises(errors.Cancelled):
                    await task
            assert isinstance((await many).errors[0], errors.Cancelled)

    asyncio.run(run())


def test_a_lost_step_asked_for_again_may_run_out_of_time_again(serving: RunningServer) -> None:
    async def run() -> None:
        x = observations(2)
        with Proxy(serving.address) as proxy:
            async with Client(proxy.address) as client, client.session(MODEL, name()) as session:
                await session.step(x[0])
                proxy.holding.set()
                for _ in range(3):
                    with pytest.raises(errors.DeadlineExceeded):
                        await session.step(x[1], timeout=0.1)
                with pytest.raises(errors.DeadlineExceeded):
                    await session.reset(timeout=0.1)
                proxy.cut()
                proxy.holding.clear()
                assert_close(await session.step(x[1]), expected(x)[1])
                assert (await session.info()).steps == session.steps == 2

    asyncio.run(run())
