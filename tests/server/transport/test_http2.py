"""HTTP/2 and gRPC on the wire, frame by frame, with callers that do as they like (RFC 9113; gRPC's
PROTOCOL-HTTP2)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from server.transport.http2 import frames, framing, lookout, outgoing
from server.transport.http2.call import Call
from server.transport.http2.incoming import WINDOW
from tests.server.transport.serving import LARGEST, Raw, echo, echoes, loop, prefixed

WINDOWS = (1, 10, 100, 16_384)


@pytest.fixture
def port() -> Iterator[int]:
    """Of a loop that answers every call with its message."""
    with loop(echo) as (_, port):
        yield port


@pytest.fixture
def raw(port: int) -> Iterator[Raw]:
    """A connection to it."""
    with closing(Raw(port)) as opened:
        yield opened


def answer_of(raw: Raw, stream: int) -> tuple[bytes, dict[bytes, bytes]]:
    """A call's reply, as bytes, and its trailers."""
    data, said = b"", dict[bytes, bytes]()
    while not raw.closed:
        for event in raw.events():
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, DataReceived):
                data += event.data
                raw.http2.acknowledge_received_data(event.flow_controlled_length, stream)
                raw.flush()
            elif isinstance(event, ResponseReceived | TrailersReceived):
                said |= dict(event.headers or ())
            elif isinstance(event, StreamEnded):
                return data, said
            elif isinstance(event, StreamReset):
                raise AssertionError(f"reset: {event.error_code}")
    raise AssertionError("the connection ended")


def test_a_reply_is_headers_a_message_and_a_status(raw: Raw) -> None:
    data, said = answer_of(raw, raw.call(b"hello"))
    assert data == prefixed(b"hello")
    assert said[b":status"] == b"200" and said[b"content-type"] == b"application/grpc"
    assert said[b"grpc-status"] == b"0"


def test_pings_are_answered_with_what_they_said(raw: Raw) -> None:
    raw.http2.ping(b"12345678")
    raw.flush()
    assert raw.until(PingAckReceived).ping_data == b"12345678"


def test_padding_priorities_and_unknown_frames_change_nothing(raw: Raw) -> None:
    stream = raw.http2.get_next_available_stream_id()
    raw.http2.send_headers(stream, raw.head(), priority_weight=3, priority_depends_on=0)
    raw.http2.send_data(stream, prefixed(b"padded"), end_stream=True, pad_length=200)
    raw.flush()
    raw.raw(frames.frame(0xBE, 0xFF, stream, b"whatever"))
    raw.raw(frames.frame(frames.PRIORITY, 0, stream, bytes(5)))
    assert answer_of(raw, stream)[0] == prefixed(b"padded")


def test_headers_may_come_in_many_frames(raw: Raw) -> None:
    stream = raw.http2.get_next_available_stream_id()
    raw.http2.send_headers(stream, [*raw.head(), *((f"x-{k}", "v" * 700) for k in range(20))])
    raw.flush()
    raw.say(stream, prefixed(b"long"), last=True)
    assert answer_of(raw, stream)[0] == prefixed(b"long")


def test_the_caller_s_trailers_end_its_side(raw: Raw) -> None:
    stream = raw.begin()
    raw.say(stream, prefixed(b"then trailers"))
    raw.http2.send_headers(stream, [("x-end", "1")], end_stream=True)
    raw.flush()
    assert answer_of(raw, stream)[0] == prefixed(b"then trailers")


def test_what_the_peer_s_table_forgets_is_not_remembered_for_it(raw: Raw) -> None:
    """The same block of headers means something else once the table has changed."""

    def repeat(call: Call) -> None:
        call.end(5, str(dict(call.metadata)["x-name"]))

    with loop(repeat) as (_, port), closing(Raw(port)) as other:
        for name in ["a", "a", "b", "b", "a", "c" * 3000, "b", "a", "d" * 3000, "a"]:
            _, said = answer_of(other, other.call(b"", x_name=name))
            assert said[b"grpc-message"] == name.encode()
    assert answer_of(raw, raw.call(b"on"))[0] == prefixed(b"on")


@pytest.mark.parametrize("window", WINDOWS)
def test_no_more_is_sent_than_the_caller_has_room_for(window: int) -> None:
    """h2 itself fails should a byte be too many."""
    with loop(echoes) as (_, port), closing(Raw(port)) as raw:
        raw.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        raw.flush()
        messages = [bytes(40), bytes(3), bytes(1500)]
        stream = raw.begin()
        for message in messages:
            raw.say(stream, prefixed(message))
        raw.http2.end_stream(stream)
        raw.flush()
        data, said = answer_of(raw, stream)
        assert data == b"".join(map(prefixed, messages)) and said[b"grpc-status"] == b"0"


def test_a_window_that_shrinks_under_a_reply_is_kept_to() -> None:
    message = bytes(200_000)
    with loop(echo) as (_, port), closing(Raw(port)) as raw:
        stream = raw.call(message)
        come = b""
        while len(come) < 65_535:
            for event in raw.events():
                come += event.data if isinstance(event, DataReceived) else b""
        assert len(come) == 65_535 and raw.silent()
        raw.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})  # its window: below zero
        raw.http2.increment_flow_control_window(200_000)
        raw.flush()
        assert all(not isinstance(event, DataReceived) for event in _quiet(raw))
        raw.http2.increment_flow_control_window(200_000, stream)
        raw.flush()
        assert come + answer_of(raw, stream)[0] == prefixed(message)


def _quiet(raw: Raw) -> list[Any]:
    events: list[Any] = []
    while not raw.silent():
        events += raw.events()
    return events


def test_a_caller_may_send_more_only_as_messages_are_taken() -> None:
    """Messages nobody asks for fill the call's window, and no more."""
    calls: list[Call] = []
    taken: list[bytes | None] = []
    with loop(calls.append) as (_, port), closing(Raw(port)) as raw:
        stream = raw.begin()
        raw.http2.clear_outbound_data_buffer()
        raw.until(WindowUpdated)  # the connection's
        _quiet(raw)
        message = prefixed(bytes(16_000))
        sent = 0
        while raw.http2.local_flow_control_window(stream) >= len(message):
            raw.say(stream, message)
            sent += 1
        assert WINDOW - len(message) < sent * len(message) <= WINDOW
        assert not any(isinstance(e, WindowUpdated) and e.stream_id for e in _quiet(raw))

        def take(packed: bytes | None) -> None:
            taken.append(packed)
            calls[0].receive(take)

        calls[0].post(lambda: calls[0].receive(take))
        assert raw.until(WindowUpdated, stream_id=stream).delta > 0
        assert len(taken) == sent


def test_one_large_message_is_let_in_beyond_the_window(raw: Raw) -> None:
    stream = raw.call(bytes(LARGEST))
    assert answer_of(raw, stream)[0] == prefixed(bytes(LARGEST))


def test_a_call_without_a_message_or_cut_off_within_one_is_told(raw: Raw) -> None:
    stream = raw.begin()
    raw.http2.end_stream(stream)
    raw.flush()
    assert answer_of(raw, stream)[0] == prefixed(b"nothing")
    stream = raw.begin()
    raw.say(stream, prefixed(b"whole")[:-1], last=True)
    assert answer_of(raw, stream)[1][b"grpc-status"] == b"13"


@pytest.mark.parametrize(
    ("more", "status"),
    [({":method": "GET"}, b"405"), ({"content-type": "text/html"}, b"415")],
)
def test_what_is_not_grpc_is_told_so_in_http_s_words(
    raw: Raw, more: dict[str, str], status: bytes
) -> None:
    stream = raw.begin(**more)
    assert dict(raw.until(ResponseReceived, stream_id=stream).headers)[b":status"] == status


@pytest.mark.parametrize(
    "more",
    [{"connection": "close"}, {"X-Upper": "1"}, {"x-bin-bin": "!"}, {":path": None}],
)
def test_a_malformed_request_is_reset_and_the_connection_goes_on(
    raw: Raw, more: dict[str, str | None]
) -> None:
    stream = raw.http2.get_next_available_stream_id()
    said = {name: value for name, value in (dict(raw.head()) | more).items() if value is not None}
    raw.http2.send_headers(stream, list(said.items()))
    raw.flush()
    assert raw.until(StreamReset, stream_id=stream).error_code == ErrorCodes.PROTOCOL_ERROR
    assert answer_of(raw, raw.call(b"on"))[0] == prefixed(b"on")


@pytest.mark.parametrize("more", [{"grpc_timeout": "soon"}, {"grpc_encoding": "snappy"}])
def test_what_cannot_be_honoured_is_refused_in_words(raw: Raw, more: dict[str, str]) -> None:
    _, said = answer_of(raw, raw.call(b"", **more))
    assert said[b"grpc-status"] != b"0" and said[b"grpc-message"]


HEAD = b"\x83\x86\x44\x01/\x5f\x10application/grpc"  # POST, http, path /, content-type
BROKEN = {
    "SETTINGS of an odd size": frames.frame(frames.SETTINGS, 0, 0, b"1"),
    "SETTINGS of a stream": frames.frame(frames.SETTINGS, 0, 1),
    "an initial window too large": frames.settings([(frames.INITIAL_WINDOW_SIZE, 2**31)]),
    "a largest frame too small": frames.settings([(frames.MAX_FRAME_SIZE, 1)]),
    "a push": frames.frame(frames.PUSH_PROMISE, 0, 1, bytes(4)),
    "PING of an odd size": frames.frame(frames.PING, 0, 0, b"1"),
    "PING of a stream": frames.frame(frames.PING, 0, 1, bytes(8)),
    "RST_STREAM of no stream": frames.reset(0, 0),
    "RST_STREAM of a stream to come": frames.reset(99, 0),
    "DATA of a stream to come": frames.frame(frames.DATA, 0, 99, b"1"),
    "DATA of no stream": frames.frame(frames.DATA, 0, 0, b"1"),
    "WINDOW_UPDATE by nothing": frames.window_update(0, 0),
    "WINDOW_UPDATE too far": frames.window_update(0, frames.LARGEST_WINDOW),
    "WINDOW_UPDATE of an odd size": frames.frame(frames.WINDOW_UPDATE, 0, 0, b"1"),
    "headers of an even stream": frames.frame(frames.HEADERS, 4, 2, HEAD),
    "headers of no stream": frames.frame(frames.HEADERS, 4, 0, HEAD),
    "headers that cannot be decoded": frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
    "headers that do not go on": frames.frame(frames.HEADERS, 0, 1, HEAD)
    + frames.frame(frames.PING, 0, 0, bytes(8)),
    "a continuation of nothing": frames.frame(frames.CONTINUATION, 4, 1, HEAD),
    "padding without end": frames.frame(frames.HEADERS, 4 | 8, 1, b"\xff" + HEAD),
    "a frame too large": frames.frame(frames.DATA, 0, 1, bytes(16_385)),
    "headers without end": frames.frame(frames.HEADERS, 0, 1, HEAD)
    + 20 * frames.frame(frames.CONTINUATION, 0, 1, b"\x00\x01a\x7e" + bytes(16_000)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_who_breaks_the_protocol_is_told_and_let_go(port: int, what: str) -> None:
    with closing(Raw(port)) as raw, closing(Raw(port)) as bystander:
        raw.raw(BROKEN[what])
        assert raw.until(ConnectionTerminated).error_code != ErrorCodes.NO_ERROR
        while not raw.closed:
            raw.events()
        assert answer_of(bystander, bystander.call(b"on"))[0] == prefixed(b"on")


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02"])
def test_who_does_not_speak_http2_is_let_go(port: int, words: bytes) -> None:
    with closing(Raw(port, greets=False)) as raw:
        raw.raw(words)
        while raw.socket.recv(1 << 16):
            pass


def test_a_call_given_up_is_told_and_its_late_frames_harm_nobody() -> None:
    told, calls = threading.Event(), list[Call]()

    def hold(call: Call) -> None:
        calls.append(call)
        call.watch(told.set)

    with loop(hold) as (_, port), closing(Raw(port)) as raw:
        stream = raw.begin()
        raw.http2.reset_stream(stream)
        raw.flush()
        assert told.wait(60) and calls[0].over
        for late in (
            frames.frame(frames.DATA, 0, stream, b"late"),
            frames.window_update(stream, 5),
            frames.reset(stream, 8),
            frames.frame(frames.HEADERS, 5, stream, HEAD),
        ):
            raw.raw(late)
        raw.http2.ping(b"12345678")
        raw.flush()
        assert raw.until(PingAckReceived)


def test_every_call_of_a_connection_that_breaks_is_told() -> None:
    told = [threading.Event() for _ in range(3)]
    begun: list[Call] = []

    def hold(call: Call) -> None:
        call.watch(told[len(begun)].set)
        begun.append(call)

    with loop(hold) as (_, port):
        raw = Raw(port)
        for _ in told:
            raw.begin()
        while len(begun) < len(told):
            time.sleep(0.001)
        raw.close()
        assert all(each.wait(60) for each in told)


def test_a_peer_that_does_not_read_is_not_read_either() -> None:
    """What it is sent piles up no further than what it has asked for so far."""
    sent: list[bytes] = []

    def pour(call: Call) -> None:
        def take(packed: bytes | None) -> None:
            sent.append(packed or b"")
            call.answer(bytes(1_000_000))

        call.receive(take)

    with loop(pour) as (served, port), closing(Raw(port)) as raw:
        raw.raw(frames.settings([(frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW)]))
        raw.raw(frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW))
        raw.socket.settimeout(1)
        asked = prefixed(b"1" * 10_000)
        with pytest.raises(TimeoutError):  # nothing more is taken
            for stream in range(1, 20_000, 2):
                raw.raw(frames.frame(frames.HEADERS, 4, stream, HEAD))
                raw.raw(frames.frame(frames.DATA, 1, stream, asked))
        held = sum(each._out_bytes for each in served._connections.values())
        at_once = framing.READ // len(asked) + 1  # those that came in one turn
        assert held <= outgoing.BACKLOG + at_once * 1_000_100
        assert len(sent) < 1_000


FLOODS = {
    "resets": b"".join(
        frames.frame(frames.HEADERS, 4, stream, HEAD) + frames.reset(stream, 8)
        for stream in range(1, 40_001, 2)
    ),
    "pings": 20_000 * frames.frame(frames.PING, 0, 0, bytes(8)),
    "settings": 20_000 * frames.settings([(frames.INITIAL_WINDOW_SIZE, 5)]),
    "priorities": 20_000 * frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
    "frames of no known kind": 20_000 * frames.frame(0xBE, 0, 0, b"whatever"),
    "data of nothing": frames.frame(frames.HEADERS, 4, 1, HEAD)
    + 20_000 * frames.frame(frames.DATA, 0, 1),
    "data byte by byte": frames.frame(frames.HEADERS, 4, 1, HEAD)
    + frames.frame(frames.DATA, 0, 1, prefixed(bytes(90_000))[:5])
    + 90_000 * frames.frame(frames.DATA, 0, 1, b"1"),
}


@pytest.mark.parametrize("what", FLOODS)
def test_frames_without_end_are_slowed_down_and_others_are_served(port: int, what: str) -> None:
    with closing(Raw(port)) as raw, closing(Raw(port)) as bystander:
        attack = threading.Thread(target=_flood, args=(raw, FLOODS[what]), daemon=True)
        attack.start()
        for _ in range(20):
            assert answer_of(bystander, bystander.call(b"on"))[0] == prefixed(b"on")
        assert attack.is_alive(), "all of it was taken at once"


@pytest.mark.parametrize(("timeout", "slowed"), [(b"1m", True), (b"50m", False)])
def test_calls_with_no_time_to_be_answered_are_slowed_down(timeout: bytes, slowed: bool) -> None:
    brief = HEAD + b"\x00\x0cgrpc-timeout" + bytes((len(timeout),)) + timeout
    calls, ended = 4_000, []
    with loop(lambda call: call.watch(lambda: ended.append(call))) as (served, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(frames.PREFACE + frames.settings([]))
            for stream in range(1, 2 * calls, 2):
                sock.sendall(frames.frame(frames.HEADERS, 4, stream, brief))
            deadline = time.monotonic() + 60
            while len(ended) < calls and time.monotonic() < deadline:
                time.sleep(0.001)
            sock.sendall(frames.frame(frames.PING, 0, 0, b"the last"))
            said = b""
            while b"the last" not in said:
                said += sock.recv(65_536)
        assert len(ended) == calls
        assert (served.throttled > 0) == slowed


def test_calls_answered_within_the_little_time_they_had_are_not_slowed_down() -> None:
    """Their time passes afterwards, which says nothing against their connection."""
    brief = HEAD + b"\x00\x0cgrpc-timeout\x021m"
    with loop(lambda call: call.answer(b"")) as (served, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(frames.PREFACE + frames.settings([]))
            calls = (frames.frame(frames.HEADERS, 5, each, brief) for each in range(1, 8_001, 2))
            for what in (b"".join(calls), b""):
                sock.sendall(what + frames.frame(frames.PING, 0, 0, b"the last"))
                said = b""
                while b"the last" not in said:
                    said += sock.recv(65_536)
                time.sleep(0.01)  # the time of all has passed
        assert served.throttled == 0


IN_VAIN = {
    "malformed calls": b"".join(  # HTTP's own fields come first
        frames.frame(frames.HEADERS, 5, stream, HEAD + b"\x83") for stream in range(1, 8_001, 2)
    ),
    "windows of a call that is over": frames.frame(frames.HEADERS, 5, 1, HEAD)
    + 20_000 * frames.window_update(1, 1),
}


@pytest.mark.parametrize("what", IN_VAIN)
def test_what_comes_to_nothing_without_end_is_slowed_down(what: str) -> None:
    with loop(echo) as (served, port), socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(60)
        sock.sendall(frames.PREFACE + frames.settings([]) + IN_VAIN[what])
        sock.sendall(frames.frame(frames.PING, 0, 0, b"the last"))
        said = b""
        while b"the last" not in said:
            said += sock.recv(65_536)
        assert served.throttled > 0


def _flood(raw: Raw, flood: bytes) -> None:
    try:
        raw.raw(flood)
        raw.http2.ping(b"12345678")
        raw.flush()
        raw.until(PingAckReceived, ping_data=b"12345678")
    except (OSError, AssertionError, ProtocolError):
        pass  # the test is over


def test_a_silent_peer_is_asked_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "IDLE", 0.05)
    monkeypatch.setattr(lookout, "ANSWER", 2.0)  # for the one that answers, on a busy machine too
    monkeypatch.setattr(lookout, "GREETING", 0.05)
    monkeypatch.setattr(lookout, "LOOK_ROUND", 0.05)
    with loop(echo) as (served, port), closing(Raw(port)) as deaf, closing(Raw(port)) as alive:
        over = threading.Event()
        answering = threading.Thread(target=_answer_pings, args=(alive, over))
        answering.start()
        with closing(Raw(port, greets=False)) as mute:
            while deaf.socket.recv(1 << 16):  # nothing is answered
                pass
            while mute.socket.recv(1 << 16):
                pass
        over.set()
        answering.join()
        assert served.ended == {"keepalive": 1, "greeting": 1}
        assert answer_of(alive, alive.call(b"on"))[0] == prefixed(b"on")


def _answer_pings(raw: Raw, over: threading.Event) -> None:
    while not over.is_set():
        if not raw.silent(0.01):
            raw.events()


def test_a_stop_says_goodbye_twice_and_answers_what_was_begun() -> None:
    held: list[Call] = []
    with loop(held.append) as (served, port), closing(Raw(port)) as raw:
        stream = raw.call(b"")
        while not held:
            time.sleep(0.001)
        stopping = threading.Thread(target=served.stop, args=(60,))
        stopping.start()
        goodbyes: list[int] = []
        while len(goodbyes) < 2:
            kind, payload = _frame(raw)
            if kind == frames.GOAWAY:
                goodbyes.append(int.from_bytes(payload[:4], "big"))
            elif kind == frames.PING:
                raw.raw(frames.frame(frames.PING, frames.ACK, 0, payload))
        assert goodbyes == [frames.LAST_STREAM, stream]
        held[0].post(lambda: held[0].answer(b"after all"))
        while (came := _frame(raw))[0] != frames.DATA:
            pass
        assert came[1] == prefixed(b"after all")
        stopping.join(60)
        assert not stopping.is_alive()


def _frame(raw: Raw) -> tuple[int, bytes]:
    """The next frame's kind and payload, without h2: it takes no ping after a goodbye."""
    head = raw.socket.recv(frames.HEAD_SIZE, socket.MSG_WAITALL)
    high, low, kind, _, _ = frames.HEAD.unpack(head)
    size = high << 8 | low
    return kind, raw.socket.recv(size, socket.MSG_WAITALL) if size else b""
