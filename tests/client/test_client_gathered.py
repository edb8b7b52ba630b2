"""Opens and closes asked for at the same time travel together, each with its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from tests.client.fake import NAME, FakeServer, detail
from tidegate import Client, ClientOptions, RetryPolicy, errors
from tidegate.v1 import tidegate_pb2 as pb

Play = Callable[[FakeServer, Client], Awaitable[None]]
QUICK = RetryPolicy(attempts=3, initial_backoff=0.001, max_backoff=0.01)


def run(play: Play, options: ClientOptions | None = None) -> None:
    async def whole() -> None:
        async with (
            FakeServer() as server,  # type: ignore[abstract]  # gRPC refuses the other calls
            Client(server.address, options) as client,
        ):
            await play(server, client)

    asyncio.run(whole())


async def open_all(client: Client, count: int) -> list[pb.OpenReply | BaseException]:
    opens = [client.open_session(NAME, f"s-{k}") for k in range(count)]
    return await asyncio.gather(*opens, return_exceptions=True)


def test_a_thousand_opens_and_closes_are_a_few_calls() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        opened = await open_all(client, 1000)
        assert [each.session.session_id for each in opened] == [f"s-{k}" for k in range(1000)]  # type: ignore[union-attr]
        closes = [client.close_session(NAME, f"s-{k}") for k in range(1000)]
        assert await asyncio.gather(*closes) == [7] * 1000
        assert server.calls.count("OpenMany") <= 2 and server.calls.count("CloseMany") <= 2
        assert not {"Open", "Close"} & set(server.calls)

    run(play)


def test_a_single_open_is_the_plain_call() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        await client.open_session(NAME, "alone")
        await client.close_session(NAME, "alone")
        assert server.calls == ["Open", "Close"]

    run(play)


def test_a_session_that_cannot_be_opened_costs_the_others_nothing() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        server.unopened = {"s-3": [detail(pb.REASON_BAD_RECORD)]}
        outcomes = await open_all(client, 8)
        assert isinstance(outcomes.pop(3), errors.BadRecord)
        assert all(isinstance(each, pb.OpenReply) for each in outcomes)

    run(play)


def test_what_is_refused_for_now_is_asked_for_again_and_in_the_end_told() -> None:
    full = detail(pb.REASON_SESSIONS_FULL, retry_after_ms=1)

    async def play(server: FakeServer, client: Client) -> None:
        # The later attempts go with each other, since both sessions are refused.
        server.unopened = {"s-1": [full] * 2, "s-2": [full] * 3, "s-3": [full] * 3}
        outcomes = await open_all(client, 4)
        kinds = [type(each) for each in outcomes]
        assert kinds == [pb.OpenReply, pb.OpenReply, errors.SessionsFull, errors.SessionsFull]

    run(play, ClientOptions(retry=QUICK))


def test_a_whole_call_that_is_refused_for_now_is_made_again() -> None:
    busy = grpc.StatusCode.RESOURCE_EXHAUSTED, detail(pb.REASON_TOO_MANY_CALLS, retry_after_ms=1)

    async def play(server: FakeServer, client: Client) -> None:
        server.refusals = [busy, busy]
        assert all(isinstance(each, pb.OpenReply) for each in await open_all(client, 50))
        server.refusals = [busy] * 100
        outcomes = await open_all(client, 50)
        assert all(isinstance(each, errors.TooManyCalls) for each in outcomes)

    run(play, ClientOptions(retry=QUICK))


def test_a_server_that_fails_ends_every_waiter_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play(server: FakeServer, client: Client) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(server, "_outcome", lambda _: 1 / 0)
            outcomes = await open_all(client, 5)
            assert all(isinstance(each, errors.TidegateError) for each in outcomes)
        assert all(isinstance(each, pb.OpenReply) for each in await open_all(client, 5))

    run(play)


def test_a_caller_that_gives_up_leaves_the_others_theirs() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        tasks = [asyncio.ensure_future(client.open_session(NAME, f"s-{k}")) for k in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        first, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert all(isinstance(each, pb.OpenReply) for each in others)

    run(play)


def test_a_program_that_cancels_all_tasks_leaves_a_client_that_works() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        waiting = [client.open_session(NAME, f"s-{k}") for k in range(5)]
        asked = asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.001)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if "_carry" in repr(task.get_coro()):
                task.cancel()
        for outcome in await asked:
            assert isinstance(outcome, errors.Cancelled | pb.OpenReply)
        assert all(isinstance(each, pb.OpenReply) for each in await open_all(client, 5))

    run(play)


def test_a_closed_client_tells_whoever_waits_and_whoever_asks() -> None:
    async def play(server: FakeServer, client: Client) -> None:
        asked = asyncio.ensure_future(open_all(client, 5))
        await asyncio.sleep(0)
        await client.close()
        for outcome in await asked:
            assert isinstance(outcome, errors.Cancelled | pb.OpenReply)
        with pytest.raises(errors.Cancelled):
            await client.open_session(NAME, "late")

    run(play)
