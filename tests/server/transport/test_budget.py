"""What calls hold together is bounded: what is refused, what waits, and that it all comes back."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
import pytest
from h2.events import Event, PingAckReceived, ResponseReceived, TrailersReceived, WindowUpdated
from h2.settings import SettingCodes

from server.transport.http2 import frames, lookout
from server.transport.http2.budget import WEIGHT, Budget
from server.transport.http2.call import Call, held_by
from server.transport.http2.loop import Limits, Loop
from tests.server.transport.serving import (
    LARGEST,
    METHOD,
    OnCall,
    Raw,
    echo,
    echoes,
    loop,
    prefixed,
    unary,
)
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY

ROOM = 8 * LARGEST
"""Of which two of the largest messages may take their part, and no third."""
EXHAUSTED, LATE = b"8", b"4"


@contextmanager
def small(on_call: OnCall, **limits: float) -> Iterator[tuple[Loop, int]]:
    """A loop with little room, of which nothing is held in the end."""
    told = {"connections": 8, "bytes": ROOM} | limits
    with loop(on_call, limits=Limits(**told)) as (served, port):  # type: ignore[arg-type]
        yield served, port
        budget = served.budget
        await_that(lambda: not (budget.held or budget.calls or served.connections))


class Caller(Raw):
    """Remembers how its calls ended."""

    def __init__(self, port: int) -> None:
        self.statuses: dict[int, bytes] = {}
        super().__init__(port)

    def events(self) -> list[Event]:
        """As `Raw`."""
        events = super().events()
        for event in events:
            if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id:
                said = dict(event.headers or ())
                if b"grpc-status" in said:
                    self.statuses[event.stream_id] = said[b"grpc-status"]
        return events

    def ended(self, stream: int) -> bytes:
        """How a call ends."""
        while stream not in self.statuses:
            assert not self.closed
            self.events()
        return self.statuses[stream]


def done(call: Call) -> None:
    """Answer a call with nothing."""
    call.receive(lambda _: call.answer(b""))


def await_that(holds: Callable[[], bool]) -> None:
    """Wait until it does."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def fits(opened: grpc.Channel) -> bool:
    """Whether a large message is let in."""
    try:
        return bool(unary(opened)(bytes(LARGEST), timeout=60))
    except grpc.RpcError:
        return False


def fill(served: Loop, raw: Raw) -> None:
    """Begin calls whose large messages are let come, and do not, until there is no room for one."""
    while (before := served.budget.held) + WEIGHT * LARGEST <= served.budget.large:
        raw.say(raw.begin(), prefixed(bytes(LARGEST))[:1_000])
        await_that(lambda: served.budget.held > before + LARGEST)


def test_a_large_message_without_room_is_refused_with_a_delay_and_small_ones_are_not() -> None:
    with small(echo) as (served, port), closing(Caller(port)) as raw:
        fill(served, raw)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            with pytest.raises(grpc.RpcError) as refused:
                unary(opened)(bytes(LARGEST), timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            told: Any = refused.value.trailing_metadata()
            trailing = dict(told)
            detail = pb.ErrorDetail.FromString(trailing[DETAIL_KEY])
            assert detail.reason == pb.REASON_TOO_MANY_CALLS and detail.retry_after_ms > 0
            assert unary(opened)(b"small", timeout=60) == b"small"
            raw.close()
            await_that(lambda: not served.budget.held)
            assert len(unary(opened)(bytes(LARGEST), timeout=60)) == LARGEST


def test_a_stream_without_room_waits_until_there_is_some() -> None:
    with (
        small(echoes) as (served, port),
        closing(Caller(port)) as hog,
        grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        fill(served, hog)
        say: Any = opened.stream_stream(METHOD)
        replies = say(iter([bytes(LARGEST)]), timeout=60)
        await_that(lambda: served.budget.waited_for)
        hog.close()
        assert [len(each) for each in replies] == [LARGEST]


def test_calls_beyond_what_there_is_room_for_are_refused_but_for_a_few_of_everybody() -> None:
    with small(echo, bytes=1 << 20) as (served, port), closing(Caller(port)) as hog:
        streams = [hog.begin() for _ in range(served.budget.most_calls + 1)]
        assert hog.ended(streams[-1]) == EXHAUSTED
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            assert unary(opened)(b"on", timeout=60) == b"on"


def test_what_comes_unasked_without_room_ends_its_own_call() -> None:
    """A call may be sent its first window; those of many calls together are too much."""
    message = prefixed(bytes(200_000))
    with small(done) as (served, port), closing(Caller(port)) as hog:
        begun = [hog.begin() for _ in range(40)]
        for stream in begun:
            hog.say(stream, message[:100_000])
            assert served.budget.held <= served.budget.common
        with closing(Caller(port)) as other:
            assert other.ended(other.call(b"on")) == b"0"
        for stream in begun:
            hog.say(stream, message[100_000:], last=True)
        assert {hog.ended(stream) for stream in begun} == {b"0", EXHAUSTED}


@pytest.mark.parametrize("message", [b"", b"\0\0", prefixed(bytes(1_000))[:500]])
def test_a_unary_call_whose_message_does_not_come_whole_is_ended(
    message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_ROUND", 0.05)
    with small(echo, message_seconds=0.1) as (_, port), closing(Caller(port)) as raw:
        stream = raw.begin()
        raw.say(stream, message)
        assert raw.ended(stream) == LATE


def test_a_stream_may_wait_for_its_next_message_but_not_in_the_midst_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookout, "LOOK_ROUND", 0.05)
    with small(echoes, message_seconds=0.1) as (_, port), closing(Caller(port)) as raw:
        silent, late = raw.begin(), raw.begin()
        raw.say(late, prefixed(b"whole") + prefixed(b"not whole")[:-1])
        assert raw.ended(late) == LATE
        raw.say(silent, prefixed(b"at last"), last=True)
        assert raw.ended(silent) == b"0"


def test_a_reply_that_is_not_read_gives_way_once_others_wait_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookout, "LOOK_ROUND", 0.05)
    with (
        small(echo, message_seconds=0.3) as (served, port),
        closing(Caller(port)) as deaf,
        grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        deaf.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        deaf.flush()
        streams = []
        while not served.budget.pressed:
            streams.append(deaf.call(bytes(LARGEST // 4)))
            assert len(streams) < 100
        while not deaf.statuses:
            deaf.events()
        assert set(deaf.statuses.values()) == {EXHAUSTED}
        await_that(lambda: fits(opened))


def test_messages_that_unfold_are_weighed_as_they_do() -> None:
    most = 0

    def note(call: Call) -> None:
        def take(message: bytes | None) -> None:
            nonlocal most
            most = max(most, served.budget.held)
            call.answer(b"")

        call.receive(take)

    packed = gzip.compress(bytes(LARGEST))
    message = b"\1" + len(packed).to_bytes(4, "big") + packed
    with small(note) as (served, port), closing(Caller(port)) as raw:
        streams = []
        for _ in range(40):
            streams.append(raw.begin(grpc_encoding="gzip"))
            raw.say(streams[-1], message, last=True)
        statuses = {raw.ended(each) for each in streams}
        assert statuses <= {b"0", EXHAUSTED} and b"0" in statuses
        assert LARGEST < most <= served.budget.common + 2 * WEIGHT * LARGEST


def test_a_small_piece_of_a_message_does_not_keep_all_that_came_with_it() -> None:
    calls: list[Call] = []
    with small(calls.append) as (_, port), closing(Caller(port)) as raw:
        stream = raw.begin()
        begun = frames.frame(frames.DATA, 0, stream, prefixed(bytes(9_000))[:5_000])
        raw.raw(begun + frames.frame(0xBE, 0, 0, bytes(16_000)) * 15)
        raw.http2.ping(b"12345678")
        raw.flush()
        raw.until(PingAckReceived)
        (part,) = calls[0]._parts
        assert held_by(part) < 20_000


def test_beyond_the_most_connections_a_silent_one_gives_way_and_else_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookout, "LOOK_ROUND", 0.05)
    held: list[Call] = []
    with small(held.append, connections=2) as (_, port), closing(Caller(port)) as busy:
        stream = busy.begin()
        with closing(Caller(port)) as silent:
            silent.until(WindowUpdated)
            time.sleep(0.1)
            with closing(Caller(port)) as third:
                third.begin()
                while not silent.closed:
                    silent.events()
                while len(held) < 2:
                    time.sleep(0.005)
                with closing(Raw(port, greets=False)) as fourth:
                    said = b""
                    while come := fourth.socket.recv(4_096):
                        said += come
                    assert b"too many connections" in said
        held[0].post(lambda: held[0].answer(b""))
        assert busy.ended(stream) == b"0"


class Holder:
    held = 0


def test_the_budget_adds_up_whatever_is_taken_and_given() -> None:
    """Against sums over all holders."""
    drawn = random.Random(5)
    budget, holders = Budget(1 << 20, 16, lambda _: None), [Holder() for _ in range(16)]
    taken: list[tuple[Holder, int]] = []
    for _ in range(20_000):
        if taken and drawn.random() < 0.5:
            budget.give(*taken.pop(drawn.randrange(len(taken))))
        else:
            each = drawn.choice(holders), drawn.choice((1, 500, 9_000, 70_000))
            if budget.take(*each, budget.common):
                taken.append(each)
            else:
                assert budget.held + each[1] > budget.common
        assert budget.held == sum(max(0, each.held - budget.own) for each in holders)
        assert 0 <= budget.held <= budget.common
        assert budget.pressed == (budget.held > budget.large)
