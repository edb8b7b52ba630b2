"""What one caller may ask of the server at once, and that nobody else is kept waiting by it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.oip.busy import ROWS as ROWS_A_RUN
from tests.server.oip.busy import busy
from tests.server.wire.session_rpcs import assert_close, begin, expected
from tests.server.wire.wire import WIDTH, batch, connected, observations, row_errors, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from tidegate.wire import DETAIL_KEY, FAILED

ROWS, CALLS = 3_000, 3_000


def naming(lane: int, session_id: str, create: bool = True) -> pb.LaneOpen:
    return pb.LaneOpen(lane=lane, session_id=session_id, create=create)


@pytest.fixture(scope="module")
def packed(transport: str, small: SmallModel) -> Iterator[RunningServer]:
    """A server that is full of sessions."""
    with running_server(small.repository, max_sessions=50) as server, connected(server) as stub:
        for k in range(50):
            stub.Open(pb.OpenRequest(model="small", session_id=f"s{k}"))
        yield server


def test_steps_of_every_width_are_answered_while_one_session_s_rows_go_through(
    server: RunningServer, small: SmallModel
) -> None:
    """Once they waited for all of them: 65,000 rows, sent in two kilobytes, half a minute."""
    xs, chain = observations(31, 400), observations(32, ROWS)
    with connected(server) as stub, connected(server) as other:
        begin(other, "aside", xs[:0])
        message = batch(1, [0] * ROWS, chain, range(ROWS), opens=[naming(0, "chain")])
        replies = stub.StepStream(iter([message]), compression=grpc.Compression.Gzip)
        answered, over = 0, threading.Event()
        replies.add_callback(over.set)
        while not over.is_set() and answered < 200:
            chunk = xs[2 * answered : 2 * answered + 2]
            reply = other.Step(step_request("aside", 2 * answered, chunk), timeout=60)
            assert_close(np.array(reply.outputs, np.float32).reshape(2, 3),
                         expected(small, xs[: 2 * answered + 2])[-2:])  # fmt: skip
            answered += 1
        assert answered > 20
        (told,) = replies
    assert not told.errors
    last = np.frombuffer(told.outputs, "<f4").reshape(ROWS, 3)[-1]
    assert_close(last, expected(small, chain)[-1])


@pytest.mark.parametrize("bad", [np.inf, "unknown lane", "ahead", "full"])
def test_a_message_that_is_wrong_in_every_row_is_answered_in_few_words(
    packed: RunningServer, bad: object
) -> None:
    lanes, features = np.arange(20_000) % 50, np.zeros((20_000, WIDTH), np.float32)
    opens = [naming(k, f"s{k}") for k in range(50)]
    first = None
    if bad == np.inf:
        features += np.inf
    elif bad == "ahead":
        first = [1_000_000] * 20_000
    elif bad == "full":
        opens = [naming(k, f"t{k}") for k in range(50)]
    else:
        lanes = lanes + 100
    with connected(packed) as stub:
        (reply,) = stub.StepStream(iter([batch(1, lanes.tolist(), features, first, opens=opens)]))
    assert list(reply.status) == [FAILED] * 20_000
    assert len(row_errors(reply)) == 20_000
    assert len(reply.errors) <= 300
    if bad == "ahead":
        assert np.frombuffer(reply.first_steps, "<u8").tolist() == [0] * 20_000


def test_a_name_of_too_many_bytes_harms_only_its_own_lane(packed: RunningServer) -> None:
    opens = [naming(0, "x" * 257), naming(1, "s1")]
    with connected(packed) as stub:
        (reply,) = stub.StepStream(
            iter([batch(1, [0, 1], np.zeros((2, WIDTH), np.float32), opens=opens)])
        )
    assert [each.HasField("error") for each in reply.opened] == [True, False]
    assert list(reply.status) == [FAILED, 0]


def test_many_streams_that_name_far_lanes_take_little_memory(server: RunningServer) -> None:
    """Once 16 MB each: two hundred streams, of sixty bytes each, 3.3 GB."""
    before, go_on = _resident(server), threading.Event()

    def messages() -> Iterator[pb.StepBatch]:
        yield pb.StepBatch(id=1, model="small", opens=[naming(1_048_575, "far")])
        go_on.wait(60)

    with connected(server) as stub:
        calls = [stub.StepStream(messages()) for _ in range(100)]
        assert not any(next(call).opened[0].HasField("error") for call in calls)
        grown = _resident(server) - before
        go_on.set()
        assert all(not list(call) for call in calls)
    assert grown < 200 << 20


def _resident(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


async def _many(address: str, calls: int, step: int, timeout: float) -> Counter[str]:
    """So many unary calls at once, each of a session of its own; what became of them."""
    told: Counter[str] = Counter()
    x = np.zeros((1, WIDTH), np.float32)

    async def one(stub: tidegate_pb2_grpc.TidegateAsyncStub, k: int) -> None:
        try:
            await stub.Step(step_request(f"m{k}", step, x), timeout=timeout)
            told["applied"] += 1
        except grpc.aio.AioRpcError as error:
            metadata = dict(error.trailing_metadata() or ())
            if DETAIL_KEY in metadata:
                detail = pb.ErrorDetail.FromString(metadata[DETAIL_KEY])
                assert detail.retry_after_ms > 0
                assert int(metadata["grpc-retry-pushback-ms"]) == detail.retry_after_ms
                told[pb.Reason.Name(detail.reason)] += 1
            else:
                told[error.code().name] += 1

    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        stub: tidegate_pb2_grpc.TidegateAsyncStub = tidegate_pb2_grpc.TidegateStub(channel)
        await asyncio.gather(*[one(stub, k) for k in range(calls)])
    return told


def _opened(server: RunningServer, count: int) -> None:
    opens = [naming(k, f"m{k}") for k in range(count)]
    with connected(server) as stub:
        (reply,) = stub.StepStream(iter([pb.StepBatch(id=1, model="small", opens=opens)]))
    assert not any(each.HasField("error") for each in reply.opened)


def test_thousands_of_calls_at_once_are_all_answered(server: RunningServer) -> None:
    """Once gRPC cancelled a third of them, without a word of ours."""
    _opened(server, CALLS)
    assert asyncio.run(_many(server.address, CALLS, 0, 120)) == {"applied": CALLS}


def test_calls_past_the_bound_are_told_when_to_come_again_and_none_is_cancelled(
    small: SmallModel,
) -> None:
    with running_server(small.repository, max_calls=20, max_batch=ROWS_A_RUN) as server:
        _opened(server, CALLS // 2)
        with busy(server):
            told = asyncio.run(_many(server.address, CALLS // 2, 0, 120))
        refused = told.pop("REASON_TOO_MANY_CALLS")
        assert told.pop("applied") == CALLS // 2 - refused
        assert not told
        counted = server.metric("tidegate_errors_total", reason="too_many_calls")
        assert counted == refused > 0
