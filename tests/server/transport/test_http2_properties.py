"""HTTP/2 however it is cut: messages, headers and whole connections come out as they went in."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from server.transport.http2 import frames, headers
from server.transport.http2.call import Call
from server.transport.http2.connection import Connection
from server.transport.http2.headers import Fields, Heads
from server.transport.http2.loop import Loop
from server.transport.http2.sockets import Plain
from tests.server.transport.serving import LARGEST, METHOD, echoes, prefixed

REQUEST = headers.block(
    (":method", "POST"), (":scheme", "http"), (":path", METHOD),
    ("content-type", "application/grpc"),
)  # fmt: skip
WORDS = st.text("abcdef-", min_size=1, max_size=12)
FIELDS = st.lists(st.tuples(WORDS, st.text("abc ", max_size=20), st.booleans()), max_size=6)


@given(st.lists(st.one_of(FIELDS, st.integers(0, 4096)), max_size=30))
def test_headers_mean_what_they_say_whatever_the_table_keeps(
    said: list[list[tuple[str, str, bool]] | int],
) -> None:
    """Blocks are remembered by their bytes, which mean something else in another table."""
    encoder, heads = Encoder(), Heads[Fields](lambda fields: fields)
    for each in said:
        if isinstance(each, int):
            if each != encoder.header_table_size:  # hpack forgets what it has to say of a change
                encoder.header_table_size = each
            continue
        kinds = {True: HeaderTuple, False: NeverIndexedHeaderTuple}
        packed = encoder.encode([kinds[kept](name, value) for name, value, kept in each])
        wanted = [(name.encode(), value.encode()) for name, value, _ in each]
        assert heads.read(packed) == wanted
        again = encoder.encode([kinds[kept](name, value) for name, value, kept in each])
        assert heads.read(again) == wanted


@contextmanager
def connected(on_call: object = echoes) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection that this thread serves, and the peer's socket."""
    loop = Loop(
        on_call, lambda: None, lambda: None, largest_message=LARGEST, most_calls=100  # type: ignore[arg-type]
    )  # fmt: skip
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    opened = Connection(loop, Plain(ours))
    loop._connections[ours.fileno()] = opened
    loop._epoll.register(ours)
    opened.shake()
    try:
        yield opened, theirs
    finally:
        opened.close()
        theirs.close()
        loop._clear()


def _pieces(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted(
        {min(cut, len(whole)) for cut in cuts} | {*range(0, len(whole), 16_384), len(whole)}
    )
    return [whole[a:b] for a, b in pairwise(at)]


def _come(theirs: socket.socket) -> bytes:
    come = b""
    while True:
        try:
            more = theirs.recv(1 << 20)
        except BlockingIOError:
            return come
        if not more:
            return come
        come += more


def _data(come: bytes) -> bytes:
    """The payloads of all DATA frames."""
    at, data = 0, b""
    while at < len(come):
        high, low, kind, _, _ = frames.HEAD.unpack_from(come, at)
        end = at + frames.HEAD_SIZE + (high << 8 | low)
        data += come[at + frames.HEAD_SIZE : end] if kind == frames.DATA else b""
        at = end
    return data


CUTS = st.lists(st.integers(0, 20_000), max_size=8)


@given(st.lists(st.binary(max_size=6_000), max_size=6), CUTS, CUTS)
def test_messages_come_whole_however_they_are_cut(
    messages: list[bytes], frames_cut: list[int], reads_cut: list[int]
) -> None:
    """Into frames that know nothing of messages, and into reads that know nothing of frames."""
    whole = b"".join(map(prefixed, messages))
    said = frames.PREFACE + frames.settings([]) + frames.headers(1, REQUEST, 0, 16_384)
    for piece in _pieces(whole, frames_cut):
        said += frames.frame(frames.DATA, 0, 1, piece)
    said += frames.frame(frames.DATA, frames.END_STREAM, 1)
    with connected() as (opened, theirs):
        come = b""
        for piece in _pieces(said, reads_cut):
            opened.take(piece)
            opened.flush()
            come += _come(theirs)
        assert _data(come) == whole
        assert not opened.calls and not opened.over


FRAMES = st.tuples(
    st.integers(0, 12), st.integers(0, 255), st.integers(0, 6),
    st.one_of(st.binary(max_size=40), st.just(REQUEST), st.just(prefixed(b"x"))),
)  # fmt: skip


@given(st.lists(FRAMES, max_size=30), st.booleans())
def test_whatever_frames_come_the_connection_goes_on_or_says_why_not(
    said: list[tuple[int, int, int, bytes]], begins: bool
) -> None:
    calls: list[Call] = []

    def handle(call: Call) -> None:
        calls.append(call)
        echoes(call)

    with connected(handle) as (opened, theirs):
        opened.take(frames.PREFACE + frames.settings([]))
        if begins:
            opened.take(frames.headers(1, REQUEST, 0, 16_384))
        for kind, flags, stream, payload in said:
            opened.take(frames.frame(kind, flags, stream, payload))
            opened.flush()
        come = _come(theirs)
        kinds = _kinds(come)
        assert not opened._closing or kinds[-1] == frames.GOAWAY
        assert opened._closing or frames.GOAWAY not in kinds
        assert {call.stream for call in calls if not call.over} == set(opened.calls)


def _kinds(come: bytes) -> list[int]:
    at, kinds = 0, []
    while at < len(come):
        high, low, kind, _, _ = frames.HEAD.unpack_from(come, at)
        at += frames.HEAD_SIZE + (high << 8 | low)
        kinds.append(kind)
    assert at == len(come)
    return kinds
