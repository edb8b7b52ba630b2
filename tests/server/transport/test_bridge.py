"""Rpcs on the event loop take few turns at a time; those that wait for nothing never go there."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from server.transport.http2.call import Call
from server.transport.native.bridge import MOST_BEGINNING, Bridge
from server.transport.native.prompt import Prompt
from server.transport.rpcs.calls import Handler
from tests.server.transport.serving import loop, unary

Play = Callable[[grpc.Channel, list[Call]], Awaitable[None]]
"""Given the client's channel, and the calls that have come to the server so far."""
Rpc = Callable[[bytes, Any], Awaitable[bytes]]


def bridged(rpc: Rpc, play: Play) -> None:
    """Serve calls by a coroutine of this thread's event loop."""

    async def bounded() -> None:
        bridge = Bridge({})
        handler: Handler = grpc.unary_unary_rpc_method_handler(rpc)
        come: list[Call] = []

        def begin(call: Call) -> None:
            bridge.serve(call, handler)
            come.append(call)

        with (
            loop(begin) as (_, port),
            grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
        ):
            await asyncio.wait_for(play(opened, come), 60)
            while bridge.waits:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(bounded(), 120))


def test_calls_given_up_while_the_event_loop_is_busy_are_never_begun() -> None:
    begun: list[bytes] = []
    hold = threading.Event()

    async def rpc(packed: bytes, context: Any) -> bytes:
        begun.append(packed)
        if packed == b"hold":
            hold.wait(60)  # what the event loop should not do, but for a moment
        return packed

    async def play(opened: grpc.Channel, come: list[Call]) -> None:
        def give_up() -> None:
            call = unary(opened)
            first = call.future(b"hold", timeout=60)
            while not begun:
                pass
            late = [call.future(b"late", timeout=60) for _ in range(50)]
            while len(come) < 51:
                pass
            assert all(each.cancel() for each in late)
            while not all(each.over for each in come[1:]):
                pass
            hold.set()
            assert first.result() == b"hold"
            assert call(b"last", timeout=60) == b"last"

        await asyncio.to_thread(give_up)
        assert len(begun) <= 2 + MOST_BEGINNING and begun[-1] == b"last"

    bridged(rpc, play)


def test_a_call_that_is_handed_over_is_waited_for_before_it_begins() -> None:
    async def rpc(packed: bytes, context: Any) -> bytes:
        return packed

    async def main() -> None:
        bridge, handed_over = Bridge({}), threading.Event()
        handler: Handler = grpc.unary_unary_rpc_method_handler(rpc)

        def begin(call: Call) -> None:
            bridge.serve(call, handler, b"come")
            handed_over.set()

        with (
            loop(begin) as (_, port),
            grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
        ):
            called = unary(opened).future(b"", timeout=60)
            assert handed_over.wait(60)  # this event loop stands still meanwhile
            assert bridge.waits
            assert await asyncio.to_thread(called.result) == b"come"
            while bridge.waits:
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_calls_that_wait_for_something_do_not_keep_others_from_beginning() -> None:
    go = asyncio.Event()

    async def rpc(packed: bytes, context: Any) -> bytes:
        if packed == b"wait":
            await go.wait()
        return packed

    async def play(opened: grpc.Channel, come: list[Call]) -> None:
        call = unary(opened)
        waiting = [call.future(b"wait", timeout=60) for _ in range(10 * MOST_BEGINNING)]
        gone = [call.future(b"wait", timeout=60) for _ in range(10 * MOST_BEGINNING)]
        others = [call.future(b"%d" % k, timeout=60) for k in range(50)]
        told = await asyncio.gather(*(asyncio.to_thread(each.result) for each in others))
        assert told == [b"%d" % k for k in range(50)]
        assert not any(each.done() for each in waiting)
        for each in gone:
            each.cancel()
        go.set()
        told = await asyncio.gather(*(asyncio.to_thread(each.result) for each in waiting))
        assert set(told) == {b"wait"}

    bridged(rpc, play)


def test_what_waits_for_nothing_is_told_though_the_event_loop_stands_still() -> None:
    async def main() -> None:
        handler: Handler = grpc.unary_unary_rpc_method_handler(echo)
        with (
            loop(Prompt(Bridge({}), handler).begin) as (_, port),
            grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
        ):
            assert unary(opened)(b"hello", timeout=60) == b"hello"  # which stops this loop
            with pytest.raises(grpc.RpcError) as refused:
                unary(opened)(b"abort", timeout=60)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert refused.value.details() == "none"

    async def echo(packed: bytes, context: Any) -> bytes:
        if packed == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return packed

    asyncio.run(main())


def test_an_rpc_that_waits_where_it_must_not_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        handler: Handler = grpc.unary_unary_rpc_method_handler(rpc)
        with (
            loop(Prompt(Bridge({}), handler).begin) as (_, port),
            grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
            caplog.at_level(logging.ERROR),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                unary(opened)(b"wait", timeout=60)
            assert refused.value.code() is grpc.StatusCode.INTERNAL
            assert unary(opened)(b"on", timeout=60) == b"on"

    async def rpc(packed: bytes, context: Any) -> bytes:
        if packed == b"wait":
            await asyncio.sleep(0)
        return packed

    asyncio.run(main())
    assert "waits that is to wait for nothing" in caplog.text
