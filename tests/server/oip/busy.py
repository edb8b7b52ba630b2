"""Keeps a server's engine busy over our own protocol, so that what arrives meanwhile must wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np

from tests.harness import RunningServer
from tidegate.v1 import tidegate_pb2, tidegate_pb2_grpc

MESSAGES, LANES, WIDTH = 24, 1000, 5
ROWS = 8
"""A busy server's `max_batch`: so few rows a run that the messages take some tenths of a second."""


@contextmanager
def busy(server: RunningServer) -> Iterator[None]:
    """Some tenths of a second of work are queued while the block begins; done when it ends."""
    with grpc.insecure_channel(server.address) as channel:
        stub = tidegate_pb2_grpc.TidegateStub(channel)
        replies = stub.StepStream(_messages())
        deadline = time.monotonic() + 10
        while server.metric("tidegate_queue_steps") < 2 * LANES:
            assert time.monotonic() < deadline, "the server never was busy"
            time.sleep(0.002)
        yield
        assert all(not reply.errors for reply in replies)


def _messages() -> Iterator[tidegate_pb2.StepBatch]:
    """The same sessions in each, so that the messages run one after the other."""
    for k in range(MESSAGES):
        yield tidegate_pb2.StepBatch(
            id=k,
            model="small",
            opens=[] if k else [_open(lane, f"busy-{lane}") for lane in range(LANES)],
            lanes=np.arange(LANES, dtype="<u4").tobytes(),
            features=np.zeros((LANES, WIDTH), "<f4").tobytes(),
        )


def _open(lane: int, session_id: str) -> tidegate_pb2.LaneOpen:
    return tidegate_pb2.LaneOpen(lane=lane, session_id=session_id, create=True)
