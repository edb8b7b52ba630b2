"""SIGTERM when something hangs: the process is gone by its deadline, and its status tells whether
everything was answered and stored."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from server.transport.http2 import frames, headers
from tests.conftest import SmallModel
from tests.harness import RunningServer, await_ready, start
from tests.server.store.redis_server import RedisServer
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

MINUTES = 300.0
"""Far longer than any test waits."""


@contextmanager
def serving(repository: Path, *flags: str, code: str = "") -> Iterator[RunningServer]:
    process, log = start(repository, *flags, code=code)
    try:
        yield await_ready(process, log)
    finally:
        process.kill()
        process.wait()
        log.unlink()


def unread(running: RunningServer, method: str, message: bytes) -> socket.socket:
    """A call whose reply may not come: its window is shut."""
    host, _, port = running.address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=60)
    block = headers.block(
        (":method", "POST"), (":scheme", "http"), (":path", f"/tidegate.v1.Tidegate/{method}"),
        ("content-type", "application/grpc"),
    )  # fmt: skip
    packed = b"\0" + len(message).to_bytes(4, "big") + message
    sock.sendall(
        frames.PREFACE
        + frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)])
        + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, packed)
    )
    came = b""
    while headers.BEGINNING not in came:  # the reply has begun
        came += sock.recv(4_096)
    return sock


def test_a_unary_reply_that_is_not_read_was_not_answered(small: SmallModel) -> None:
    with serving(small.repository, "--store", "none", "--drain-seconds", "1") as running:
        with unread(running, "ListModels", pb.ListModelsRequest().SerializeToString()):
            assert running.terminate() == 1
        assert "NOT answered" in running.log()


def test_a_stream_that_is_not_read_was_not_answered(small: SmallModel) -> None:
    opens = [pb.LaneOpen(lane=0, session_id="unread", create=True)]
    message = pb.StepBatch(model="small", opens=opens).SerializeToString()
    with serving(small.repository, "--store", "none", "--drain-seconds", "1") as running:
        with unread(running, "StepStream", message):
            assert running.terminate() == 1
        assert "NOT answered" in running.log()


def test_a_second_signal_ends_it_at_once(small: SmallModel) -> None:
    message = pb.ListModelsRequest().SerializeToString()
    with (
        serving(small.repository, "--store", "none", "--drain-seconds", str(MINUTES)) as running,
        unread(running, "ListModels", message),
    ):
        running.process.send_signal(signal.SIGTERM)
        while "draining" not in running.log():
            time.sleep(0.01)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 1


def test_what_a_stopped_redis_does_not_take_was_not_stored(
    small: SmallModel, redis: RedisServer
) -> None:
    flags = ("--store", "redis", "--redis-url", redis.url, "--checkpoint-interval", "60")
    with serving(small.repository, *flags, "--drain-seconds", "1.5") as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = tidegate_pb2_grpc.TidegateStub(channel)
            stub.Open(pb.OpenRequest(model="small", session_id="kept"), timeout=60)
            step = pb.StepRequest(model="small", session_id="kept", features=[0.0] * 5)
            stub.Step(step, timeout=60)
        redis.pause()
        try:
            assert running.terminate() == 1
        finally:
            redis.resume()


STUCK = """
import sys, time
from server.serving.registry import Registry
Registry.{what} = lambda *_: time.sleep({seconds})
from server.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("what", ["drain", "flush", "stop", "refuse"])
def test_whatever_hangs_the_process_ends_and_says_that_not_all_was_done(
    small: SmallModel, what: str
) -> None:
    """`refuse` is called on the event loop: with that, nothing of the server's own runs on."""
    code = STUCK.format(what=what, seconds=MINUTES)
    flags = ("--store", "none", "--drain-seconds", "0.5")
    with serving(small.repository, *flags, code=code) as running:
        assert running.terminate() == 1
