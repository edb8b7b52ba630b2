"""The loop, with real callers: nothing that comes is lost, and what is ready together is settled
together."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest

from server.transport.http2.call import Call
from tests.server.transport.serving import LARGEST, METHOD, channel, echo, echoes, loop, unary


def from_elsewhere(call: Call) -> None:
    """Answers out of another thread, by way of the loop's."""

    def take(packed: bytes | None) -> None:
        answer = call.address(call.answer)
        threading.Thread(target=answer, args=(packed or b"nothing",)).start()

    call.receive(take)


@pytest.mark.parametrize("handle", [echo, from_elsewhere])
def test_of_thousands_of_calls_at_once_none_is_lost(handle: Callable[[Call], None]) -> None:
    with channel(handle) as opened:
        say = unary(opened)
        calls = [say.future(str(k).encode(), timeout=60) for k in range(2_000)]
        assert [int(call.result()) for call in calls] == list(range(2_000))


def test_a_call_whose_handling_fails_is_told_so_and_costs_others_nothing() -> None:
    def fail(call: Call) -> None:
        if call.method == "/fails":
            raise RuntimeError("made up")
        echo(call)

    with channel(fail) as opened:
        with pytest.raises(grpc.RpcError) as failed:
            unary(opened, "/fails")(b"", timeout=60)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert unary(opened)(b"on", timeout=60) == b"on"


def test_a_handler_that_fails_on_a_message_is_told_for_and_costs_others_nothing() -> None:
    def fail(_: bytes | None) -> None:
        raise RuntimeError("made up")

    def handle(call: Call) -> None:
        call.receive(fail if call.method == "/fails" else call.answer)  # type: ignore[arg-type]

    with channel(handle) as opened:
        with pytest.raises(grpc.RpcError) as failed:
            unary(opened, "/fails")(b"", timeout=60)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert unary(opened)(b"on", timeout=60) == b"on"


def test_a_watched_call_is_told_that_its_caller_has_gone() -> None:
    told, begun, calls = threading.Event(), threading.Event(), list[Call]()

    def watch(call: Call) -> None:
        calls.append(call)
        call.watch(told.set)
        begun.set()

    with channel(watch) as opened:
        call = unary(opened).future(b"", timeout=60)
        assert begun.wait(60)
        call.cancel()
        assert told.wait(60)
        posted = threading.Event()
        calls[0].post(lambda: calls[0].answer(b"late"))  # nobody is there to be answered
        calls[0].post(posted.set)
        assert posted.wait(60)
        assert calls[0].over


def test_a_call_whose_deadline_passes_is_ended_and_its_handler_told() -> None:
    told = threading.Event()
    with channel(lambda call: call.watch(told.set)) as opened:
        with pytest.raises(grpc.RpcError) as late:
            unary(opened)(b"", timeout=0.1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert told.wait(60)


def test_deadlines_of_calls_that_are_over_are_not_kept() -> None:
    with loop(echo) as (served, port), grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        say = unary(opened)
        for call in [say.future(b"", timeout=3600) for _ in range(5_000)]:
            call.result()
        assert len(served.timers) < 3_000


def test_what_is_ready_at_once_is_settled_together() -> None:
    """That is what makes one run of many calls."""
    taken: list[Call] = []
    sizes: list[int] = []

    def settle() -> None:
        if taken:
            sizes.append(len(taken))
        for call in taken:
            call.answer(b"")
        taken.clear()

    def gather(call: Call) -> None:
        call.receive(lambda _: taken.append(call))

    with channel(gather, settle) as opened:
        say = unary(opened)
        say(b"", timeout=60)
        for call in [say.future(b"", timeout=60) for _ in range(500)]:
            call.result()
    assert sum(sizes) == 501
    assert max(sizes) > 1


def test_what_was_settled_is_sent_before_the_rest_is_settled() -> None:
    taken: list[Call] = []
    heard, waited = threading.Semaphore(0), list[bool]()

    def settle() -> bool:
        if not taken or len(taken) + len(waited) < 3:
            return False
        waited.append(not waited or heard.acquire(timeout=60))
        taken.pop().answer(b"")
        return bool(taken)

    def gather(call: Call) -> None:
        call.receive(lambda _: taken.append(call))

    with channel(gather, settle) as opened:
        calls = [unary(opened).future(b"", timeout=60) for _ in range(3)]
        for call in calls:
            call.add_done_callback(lambda _: heard.release())
        for call in calls:
            call.result()
    assert waited == [True] * 3


def test_a_reply_may_leave_while_what_nobody_waits_for_is_still_done() -> None:
    taken: list[Call] = []
    heard, waited = threading.Semaphore(0), list[bool]()

    def settle() -> None:
        for call in taken:
            call.answer(b"")
            call.connection.loop.send_now()
            waited.append(heard.acquire(timeout=60))
        taken.clear()

    def gather(call: Call) -> None:
        call.connection.loop.send_now()  # there may be more to take in: nothing leaves yet
        call.receive(lambda _: taken.append(call))

    with channel(gather, settle) as opened:
        call = unary(opened).future(b"", timeout=60)
        call.add_done_callback(lambda _: heard.release())
        call.result()
    assert waited == [True]


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 300_000, LARGEST])
def test_messages_of_any_size_come_and_go_whole(size: int) -> None:
    message = bytes(k % 251 for k in range(size))
    with channel(echoes) as opened:
        say: Any = opened.stream_stream(METHOD)
        assert list(say(iter([message] * 5), timeout=60)) == [message] * 5
        assert list(say(iter([b"x"]), timeout=60)) == [b"x"]


def test_a_message_that_is_too_large_is_refused_before_it_has_come() -> None:
    with channel(echo) as opened:
        with pytest.raises(grpc.RpcError) as refused:
            unary(opened)(bytes(LARGEST + 1), timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert unary(opened)(b"on", timeout=60) == b"on"


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_unpacked(kind: grpc.Compression) -> None:
    message = b"again and again " * 5_000
    with channel(echo) as opened:
        assert unary(opened)(message, timeout=60, compression=kind) == message


def test_a_compressed_message_that_unfolds_beyond_the_limit_is_refused() -> None:
    with channel(echo) as opened:
        with pytest.raises(grpc.RpcError) as refused:
            unary(opened)(bytes(LARGEST + 1), timeout=60, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_of_both_kinds_comes_and_goes() -> None:
    said: list[tuple[str, str | bytes]] = []

    def repeat(call: Call) -> None:
        said.extend(entry for entry in call.metadata if entry[0].startswith("x-"))
        call.end(5, "ende: ü %", (("x-text", "täxt"), ("x-bytes-bin", b"\x00\xff")))

    with channel(repeat) as opened:
        with pytest.raises(grpc.RpcError) as ended:
            unary(opened)(b"", timeout=60, metadata=(("x-a", "1"), ("x-b-bin", b"\x00\xfe")))
        assert said == [("x-a", "1"), ("x-b-bin", b"\x00\xfe")]
        assert ended.value.code() is grpc.StatusCode.NOT_FOUND
        assert ended.value.details() == "ende: ü %"
        trailing: Any = ended.value.trailing_metadata()
        assert ("x-bytes-bin", b"\x00\xff") in [tuple(each) for each in trailing]


def test_calls_beyond_the_limit_of_a_connection_wait_at_the_caller_s() -> None:
    waiting: list[Call] = []
    at_once: list[int] = []  # counted in the loop's thread, where none begins or ends meanwhile

    def begins(call: Call) -> None:
        waiting.append(call)
        at_once.append(sum(not each.over for each in waiting))

    with (
        loop(begins, most_calls=3) as (_, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        calls = [unary(opened).future(b"", timeout=60) for _ in range(9)]
        answered = 0
        while answered < 9:
            for call in waiting[answered:]:
                answered += 1
                call.post(partial(call.answer, b""))
        assert [call.result() for call in calls] == [b""] * 9
        assert max(at_once) <= 3


def test_a_stop_lets_calls_finish_and_refuses_new_ones() -> None:
    held: list[Call] = []
    with loop(held.append) as (served, port), grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        call = unary(opened).future(b"", timeout=60)
        while not held:
            time.sleep(0.001)
        stopping = threading.Thread(target=served.stop, args=(30,))
        stopping.start()
        while _takes_connections(port):
            time.sleep(0.001)
        held[0].post(lambda: held[0].answer(b"after all"))
        assert call.result() == b"after all"
        stopping.join(60)
        assert not stopping.is_alive()


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
