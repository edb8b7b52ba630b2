"""A server that starts, or has no room for now, is waited for; what it says of many rows is each
row's."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.fake import NAME, Broken, FakeServer, applied, detail, refused
from tests.client.test_client_faults import QUICK, X, opened, run
from tidegate import Client, ClientOptions, ManySteps, RetryPolicy, errors
from tidegate._stream.answers import row_errors
from tidegate.v1 import tidegate_pb2 as pb

STARTING = (grpc.StatusCode.UNAVAILABLE, detail(pb.REASON_STARTING, retry_after_ms=5, code=14))
BUSY = detail(pb.REASON_TOO_MANY_CALLS, retry_after_ms=1, code=8)

UNARY: dict[str, Callable[[Client], Awaitable[object]]] = {
    "models": lambda client: client.models(),
    "model": lambda client: client.model(NAME),
    "session": lambda client: client.session(NAME, "a").open(),
    "info": lambda client: client.get_session(NAME, "a"),
    "reset": lambda client: client.reset_session(NAME, "a"),
    "step_many": lambda client: client.step_many(NAME, ["a"], [0], [X]),
}


@pytest.mark.parametrize("call", UNARY)
def test_a_server_that_starts_is_waited_for_longer_than_grpc_tries(call: str) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        server.refusals = [STARTING] * 17
        await UNARY[call](client)
        assert not server.refusals

    run(play, QUICK)


def test_a_stream_that_waited_for_a_server_to_start_may_break_as_often_as_any() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        stepped = await opened(client)
        lost = (grpc.StatusCode.UNAVAILABLE, None)
        server.refusals = [STARTING] * 17 + [lost] * (QUICK.retry.attempts - 1)
        await stepped.step(X)
        assert not server.refusals

    run(play, QUICK)


@pytest.mark.parametrize("call", UNARY)
def test_a_server_that_never_ends_to_start_is_named_within_the_timeout(call: str) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        server.refusals = [STARTING] * 100_000
        with pytest.raises(errors.Starting) as caught:
            await UNARY[call](client)
        assert caught.value.retry_after == 0.005

    run(play, ClientOptions(timeout=0.5, retry=QUICK.retry))


def test_who_asked_for_no_retries_is_told_at_once_that_the_server_starts() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        server.refusals = [STARTING]
        with pytest.raises(errors.Starting):
            await client.models()
        assert server.calls == ["ListModels"]

    run(play, ClientOptions(retry=RetryPolicy(attempts=1)))


def test_steps_wait_for_a_server_that_starts_again_until_their_own_timeout() -> None:
    async def broken(batch: pb.StepBatch) -> pb.StepBatchReply:
        raise Broken

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)
        server.refusals = [STARTING] * 17
        assert len(await session.step(X)) == 1
        server.refusals, server.answer = [STARTING] * 100_000, broken
        with pytest.raises(errors.DeadlineExceeded):
            await session.step(X, timeout=0.3)

    run(play, QUICK)


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        detail(pb.REASON_QUEUE_FULL, retry_after_ms=1, code=8),
        detail(pb.REASON_SESSIONS_FULL, retry_after_ms=1, code=8),
        detail(pb.REASON_STARTING, retry_after_ms=1, code=14),
    ],
    ids=lambda failure: pb.Reason.Name(failure.reason),
)
def test_rows_refused_for_now_are_sent_again(failure: pb.ErrorDetail) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        one, two = await opened(client, "a"), await opened(client, "b")

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            return refused(batch, failure) if len(server.batches) < 3 else applied(batch)

        server.answer = answer
        many = client.step_many(NAME, ["c", "d"], [0, 0], [X, X])
        *ys, rows = await asyncio.gather(one.step(X), two.step(X), many)
        assert [len(y) for y in ys] == [1, 1] and not rows.errors

    run(play, ClientOptions(retry=RetryPolicy(4, 0.01, 0.02)))


def test_of_many_steps_those_refused_for_now_alone_are_sent_again() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            reply = applied(batch)
            if len(server.batches) == 1:
                reply.status = b"\0\2\2\0\2\2"
                reply.outputs = np.array([1, 4], "<f4").tobytes()
                reply.errors.add(row=1, error=BUSY, also=np.array([2, 4], "<u4").tobytes())
                reply.errors.add(row=5, error=detail(pb.REASON_NOT_FINITE))
            return reply

        server.answer = answer
        done = await client.step_many(NAME, list("abcdef"), np.zeros(6, int), [X] * 6)
        assert sorted(done.errors) == [5] and isinstance(done.errors[5], errors.NotFinite)
        assert done.outputs[:5, 0].tolist() == [1, 0, 0, 4, 0]
        assert [len(batch.lanes) // 4 for batch in server.batches] == [6, 3]

    run(play, QUICK)


def test_too_many_calls_are_told_after_the_retries() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        server.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, BUSY)] * 2
        await client.reset_session(NAME, "a")  # which a lost connection would not repeat
        server.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, BUSY)] * 3
        with pytest.raises(errors.TooManyCalls) as caught:
            await client.models()
        assert isinstance(caught.value, errors.RetryLater) and caught.value.retry_after == 0.001

    run(play, QUICK)


def test_the_shortest_pauses_between_attempts_end_too() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        for _ in range(20):
            server.refusals = [(grpc.StatusCode.UNAVAILABLE, None)] * 2
            await client.get_session(NAME, "a")

    run(play, ClientOptions(timeout=3, retry=RetryPolicy(3, 0.001, 0.001)))


def test_a_lost_session_has_certainly_ended() -> None:
    """Also after its row was sent twice: nothing of it is asked for again."""

    async def play(server: FakeServer, client: Client) -> None:
        session = await opened(client)

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            if len(server.batches) == 1:
                raise Broken
            lost = detail(pb.REASON_LOST, code=15)
            lost.ended_at.FromSeconds(1_700_000_000)
            return refused(batch, lost)

        server.answer = answer
        for number in range(2):
            with pytest.raises(errors.SessionLost) as caught:
                await session.step((number + 1) * X)
            assert isinstance(caught.value, errors.SessionGone)
            assert caught.value.code is grpc.StatusCode.DATA_LOSS
            assert caught.value.ended_at is not None
        assert [len(batch.lanes) for batch in server.batches] == [4, 4, 4]  # nothing was probed

    run(play, QUICK)


STEP_REASONS = (pb.REASON_STEP_GAP, pb.REASON_STEP_TOO_OLD, pb.REASON_STEP_CONFLICT)
OTHER_REASONS = (pb.REASON_EXPIRED, pb.REASON_NOT_FINITE, pb.REASON_RUN_FAILED)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, *STEP_REASONS, *OTHER_REASONS]), st.integers(0, 2**62)),
        max_size=40,
    )
)
def test_rows_that_failed_alike_have_each_its_own_error(
    rows: list[tuple[pb.Reason.ValueType | None, int]],
) -> None:
    reply = pb.StepBatchReply(first_steps=np.array([n for _, n in rows], "<u8").tobytes())
    for reason in {reason for reason, _ in rows if reason is not None}:
        first, *also = [at for at, (each, _) in enumerate(rows) if each == reason]
        failure = detail(reason)
        if reason in STEP_REASONS:
            failure.expected_step = rows[first][1]
        reply.errors.add(row=first, error=failure, also=np.array(also, "<u4").tobytes())
    found = row_errors(reply)
    assert sorted(found) == [at for at, (reason, _) in enumerate(rows) if reason is not None]
    assert len({id(error) for error in found.values()}) == len(found)
    for at, error in found.items():
        asked, number = rows[at]
        assert asked is not None and error.reason == pb.Reason.Name(asked)[7:].lower()
        if isinstance(error, errors.WrongStep):
            assert error.expected_step == number


def test_a_message_whose_rows_all_failed_alike_tells_every_caller() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        held = [await opened(client, name) for name in "abc"]

        async def answer(batch: pb.StepBatch) -> pb.StepBatchReply:
            reply = refused(batch, detail(pb.REASON_STEP_GAP, expected_step=0))
            reply.first_steps = np.arange(len(reply.status), dtype="<u8").tobytes()
            return reply

        server.answer = answer
        many = client.step_many(NAME, ["d", "e"], [7, 7], [X, X], version=1)
        *told, rows = await asyncio.gather(
            *(session.step(X) for session in held), many, return_exceptions=True
        )
        assert [getattr(error, "expected_step", None) for error in told] == [0, 1, 2]
        assert isinstance(rows, ManySteps)
        assert [getattr(rows.errors[row], "expected_step", None) for row in (0, 1)] == [3, 4]

    run(play, QUICK)
